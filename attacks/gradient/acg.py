"""Auto conjugate gradient: directions that remember the last one."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.gradient.apgd import Watch, accept, first_watch, observe, start, windows
from advbench.attacks.gradient.steepest import move, origin
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


class Conjugate(NamedTuple):
    """The iterate, and how the run is going.

    ``g`` and ``s`` are the last gradient and direction, ``best_before_g`` and ``best_before_s``
    those that led to the best point.
    """

    p: Tensor
    g: Tensor
    s: Tensor
    best_before_g: Tensor
    best_before_s: Tensor
    watch: Watch


def conjugate(g: Tensor, before_g: Tensor, before_s: Tensor) -> Tensor:
    """Return ``g`` plus that multiple of the last direction which makes it conjugate to it.

    Hestenes and Stiefel's: the new direction is orthogonal to ``y = before_g - g``. Where this is
    not known beyond rounding, or there is no last direction, it is ``g``.
    """
    flat, y, s = g.flatten(1), (before_g - g).flatten(1), before_s.flatten(1)
    curvature = (s * y).sum(1)
    doubt = torch.finfo(g.dtype).eps ** 0.5 * s.norm(dim=1) * flat.norm(dim=1)
    known = curvature.abs() > doubt
    beta = torch.where(known, -(flat * y).sum(1) / torch.where(known, curvature, 1), 0)
    return g + lift(beta, g) * before_s


@final
@dataclass(frozen=True, kw_only=True)
class ACG(Rule[Conjugate]):
    """Auto conjugate gradient: Auto-PGD with conjugate directions in the place of momentum.

    Source: Yamamura et al., "Diversified adversarial attacks based on conjugate gradient method",
    ICML 2022, arXiv:2206.09628, algorithm 1, with the multiple of Hestenes and Stiefel, whatever
    its sign; in the authors' program the sign is the opposite one, and what is then negative is
    read as zero, which is weaker. Deviations: a multiple that is mere rounding is zero, as is the
    first; the start in L2 is the input; and those of ``APGD``, which it shares.

    Fields:
        rho: share of the steps between two checkpoints in which the loss has to rise.

    Cost of a run: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        accept("ACG", self.perturbation)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=12), cls(perturbation=L2(), steps=12, restarts=2)

    def init(self, problem: Problem) -> Conjugate:
        """Start in the middle of what ball and box leave; later runs at random, at distance eps."""
        again = lift(problem.draws.stream > 0, problem.x)
        p = torch.where(again, start(self.perturbation, problem), self._middle(problem))
        none = torch.zeros_like(p)
        return Conjugate(p, none, none, none, none, first_watch(p, problem))

    def _middle(self, problem: Problem) -> Tensor:
        if isinstance(self.perturbation, L2):
            return origin(self.perturbation, problem)
        eps, x = lift(problem.eps, problem.x), problem.x
        return (torch.maximum(-eps, -x) + torch.minimum(eps, 1 - x)) / 2

    def step(self, state: Conjugate, query: Query, problem: Problem) -> Conjugate:
        """Ask, judge the step at a checkpoint, and follow the conjugate direction."""
        probe = query(state.p, grad=True)
        window = windows(self.steps, problem.t)
        watch = observe(state.watch, state.p, probe, window, self.rho)
        better = lift(watch.best > state.watch.best, state.p)
        best_before_g = torch.where(better, state.g, state.best_before_g)
        best_before_s = torch.where(better, state.s, state.best_before_s)
        back = lift((window > 0) & watch.halved, state.p)
        p = torch.where(back, watch.best_p, state.p)
        g = torch.where(back, watch.best_g, probe.grad)
        s = conjugate(
            g,
            torch.where(back, best_before_g, state.g),
            torch.where(back, best_before_s, state.s),
        )
        there = move(self.perturbation, p, s, problem, watch.step_size)
        return Conjugate(there, g, s, best_before_g, best_before_s, watch)
