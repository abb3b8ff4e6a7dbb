"""SPSA: gradients out of random signs, followed by Adam."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.adam import Moments, adam
from advbench.attacks.blackbox.antithetic import Pairs, ask_one, check_set, no_pairs
from advbench.attacks.gradient.steepest import origin
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift, map_rows
from advbench.attacks.search import Rule


class Climb(NamedTuple):
    """The iterate, the pairs asked about it, and the moments of the gradients estimated."""

    p: Tensor
    pairs: Pairs
    moments: Moments


@final
@dataclass(frozen=True, kw_only=True)
class SPSA(Rule[Climb]):
    """Estimate the gradient from the loss at random sign patterns to both sides; follow by Adam.

    Simultaneous perturbation stochastic approximation. Source: Uesato, O'Donoghue, van den Oord,
    Kohli, "Adversarial risk and the dangers of evaluating against weak attacks", ICML 2018,
    arXiv:1802.05666, algorithm 1; Adam with averages of 0.9 and 0.999. Needs scores. Each sample
    has directions of its own. Deviations: every point asked about is brought back into the set and
    counts as a try; where there is no room to one side the estimate is smaller. Cost of a run:
    2 * rounds * samples + 1 forward passes.

    Fields:
        rounds: steps of Adam.
        samples: directions for each of them, two queries each.
        difference: distance to either side in every pixel, in pixel units.
        step_size: of Adam, in pixel units, whatever eps is.
        restarts: runs with other directions.
    """

    access: ClassVar[Access] = "scores"

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    rounds: int = 100
    samples: int = 128
    difference: float = 0.01
    step_size: float = 0.01
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_set("SPSA", self.perturbation)

    @property
    def steps(self) -> int:
        """All queries of a run but the last."""
        return 2 * self.rounds * self.samples

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(rounds=4, samples=5),
            cls(perturbation=L2(), rounds=3, samples=4, difference=0.001, restarts=2),
        )

    def init(self, problem: Problem) -> Climb:
        """Start at the input."""
        start = origin(self.perturbation, problem)
        return Climb(start, no_pairs(problem), Moments.zero(start))

    def step(self, state: Climb, query: Query, problem: Problem) -> Climb:
        """Ask about one point; after the last of a round, move."""

        def signs(draws: Draws) -> Tensor:
            return packed_signs(draws, problem.x.shape[1:], problem.x.dtype)

        pairs, g, over = ask_one(
            self.perturbation,
            state.p,
            state.pairs,
            query,
            problem,
            self.samples,
            self.difference,
            signs,
        )
        if not over.any():
            return state._replace(pairs=pairs)
        number = problem.t // (2 * self.samples) + 1
        step, moments = adam(state.moments, g, number, self.step_size)
        moved = self.perturbation.project(problem.x, state.p + step, problem.eps)
        kept = map_rows(partial(_where, over), moments, state.moments)
        return Climb(torch.where(lift(over, g), moved, state.p), pairs, kept)


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(lift(rows, new), new, old)


def packed_signs(draws: Draws, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Draw -1 or +1 with equal chance, shape (B, *shape), 32 of them from each random word."""
    count = torch.Size(shape).numel()
    words = draws.bits((-(-count // 32),))
    bits = words.unsqueeze(2) >> torch.arange(32, device=words.device) & 1
    return (bits.flatten(1)[:, :count] * 2 - 1).to(dtype).reshape(len(words), *shape)
