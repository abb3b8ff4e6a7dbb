"""NES: gradients out of Gaussian directions, followed by steepest steps."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.blackbox.antithetic import Pairs, ask_one, check_set, no_pairs
from advbench.attacks.gradient.steepest import move, origin
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


class Estimate(NamedTuple):
    """The iterate and the pairs asked about it."""

    p: Tensor
    pairs: Pairs


@final
@dataclass(frozen=True, kw_only=True)
class NES(Rule[Estimate]):
    """Estimate the gradient from the loss at Gaussian pairs of points; take steepest steps.

    Natural evolution strategies. Source: Ilyas, Engstrom, Athalye, Lin, "Black-box adversarial
    attacks with limited queries and information", ICML 2018, arXiv:1804.08598, algorithm 1, with
    the projected steps of its section 3. Needs scores. Deviations: the loss is the margin of the
    logits instead of a probability; every point asked about is brought back into the set and counts
    as a try. Cost of a run: 2 * rounds * samples + 1 forward passes.

    Fields:
        rounds: steepest steps.
        samples: directions for each of them, two queries each.
        difference: standard deviation of a direction in each pixel, in pixel units.
        step_size: a fraction of eps; the paper's is 0.01 where eps is 0.05.
        restarts: runs with other directions.
    """

    access: ClassVar[Access] = "scores"

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    rounds: int = 100
    samples: int = 50
    difference: float = 0.001
    step_size: float = 0.2
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_set("NES", self.perturbation)

    @property
    def steps(self) -> int:
        """All queries of a run but the last."""
        return 2 * self.rounds * self.samples

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(rounds=4, samples=5), cls(perturbation=L2(), rounds=3, samples=4, restarts=2)

    def init(self, problem: Problem) -> Estimate:
        """Start at the input."""
        return Estimate(origin(self.perturbation, problem), no_pairs(problem))

    def step(self, state: Estimate, query: Query, problem: Problem) -> Estimate:
        """Ask about one point; after the last of a round, move."""

        def normal(draws: Draws) -> Tensor:
            return draws.normal(problem.x.shape[1:], problem.x.dtype)

        pairs, g, over = ask_one(
            self.perturbation,
            state.p,
            state.pairs,
            query,
            problem,
            self.samples,
            self.difference,
            normal,
        )
        if not over.any():
            return state._replace(pairs=pairs)
        moved = move(self.perturbation, state.p, g, problem, self.step_size)
        return Estimate(torch.where(lift(over, g), moved, state.p), pairs)
