"""VMI-FGSM and VNI-FGSM: momentum whose gradient is corrected by those of neighbours."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.gradient.mi_fgsm import Momentum, accumulate
from advbench.attacks.gradient.ni_fgsm import look_ahead
from advbench.attacks.gradient.steepest import move, origin
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


class Tuned(NamedTuple):
    """The iterate, the running sum of gradients, and the correction of the next one."""

    p: Tensor
    g: Tensor
    v: Tensor


def _start(perturbation: Perturbation, problem: Problem) -> Tuned:
    p = origin(perturbation, problem)
    return Tuned(p, torch.zeros_like(p), torch.zeros_like(p))


def _among_neighbours(
    rule: "VMIFGSM | VNIFGSM", p: Tensor, query: Query, problem: Problem
) -> Tensor:
    """Return the mean gradient of points drawn around ``p``."""
    total = torch.zeros_like(p)
    for number in range(rule.neighbours):
        draws = problem.draws.fork(number)
        shift = rule.perturbation.draw(problem.x, rule.reach * problem.eps, draws)
        near = rule.perturbation.project(problem.x, p + shift, problem.eps)
        total = total + query(near, grad=True).grad
    return total / rule.neighbours


def _check(rule: "VMIFGSM | VNIFGSM") -> None:
    who = type(rule).__name__
    if not isinstance(rule.perturbation, Linf | L2 | L1):
        raise ValueError(
            f"{who}: perturbation must be Linf(), L2() or L1(), whose points have neighbours at "
            f"every distance; got {rule.perturbation!r:.200}"
        )
    if not 0 <= rule.reach < float("inf"):
        raise ValueError(f"{who}: reach must be a number of at least 0; got {rule.reach!r}")


@final
@dataclass(frozen=True, kw_only=True)
class VMIFGSM(Rule[Tuned]):
    """Variance-tuned momentum: each gradient is corrected by what those around the last one said.

    The correction is the mean gradient of random neighbours less the gradient itself; it enters
    the next step. Source: Wang and He, "Enhancing the transferability of adversarial attacks
    through variance tuning", CVPR 2021, arXiv:2103.15571, algorithm 1. Deviations: gradients are
    divided by their mean absolute value, a neighbour is projected onto the set, so that every query
    is a legal answer, and in L2 and L1 it is drawn from the ball instead of the cube. ``step_size``
    is a fraction of eps; None means 1 / steps. Cost: steps * (1 + neighbours) + 1 forward and
    steps * (1 + neighbours) backward passes.

    Fields:
        neighbours: points per step whose gradients are averaged.
        reach: how far they may lie from the iterate, a multiple of eps.
    """

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    neighbours: int = 20
    reach: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    @property
    def queries_per_step(self) -> int:  # type: ignore[override]
        """The most queries of one step."""
        return 1 + self.neighbours

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(neighbours=3), cls(perturbation=L2(), steps=20, step_size=0.1, neighbours=1)

    def init(self, problem: Problem) -> Tuned:
        """Start at the input without momentum and correction."""
        return _start(self.perturbation, problem)

    def step(self, state: Tuned, query: Query, problem: Problem) -> Tuned:
        """Move along the corrected momentum, and find the next correction."""
        gradient = query(state.p, grad=True).grad
        g = accumulate(state.g, gradient + state.v, self.decay)
        p = move(self.perturbation, state.p, g, problem, self.step_size or 1 / self.steps)
        return Tuned(p, g, _among_neighbours(self, state.p, query, problem) - gradient)


@final
@dataclass(frozen=True, kw_only=True)
class VNIFGSM(Rule[Tuned]):
    """Variance-tuned momentum with the gradient taken where the momentum leads.

    The neighbours are those of the iterate, not of the point looked at. Source, deviations, fields
    and cost are those of ``VMIFGSM``, section 3.3; the neighbours are as in the authors' code.
    """

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    neighbours: int = 20
    reach: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    @property
    def queries_per_step(self) -> int:  # type: ignore[override]
        """The most queries of one step."""
        return 1 + self.neighbours

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(neighbours=3), cls(perturbation=L2(), steps=20, step_size=0.1, neighbours=1)

    def init(self, problem: Problem) -> Tuned:
        """Start at the input without momentum and correction."""
        return _start(self.perturbation, problem)

    def step(self, state: Tuned, query: Query, problem: Problem) -> Tuned:
        """Move along the corrected momentum, and find the next correction."""
        step_size = self.step_size or 1 / self.steps
        ahead = look_ahead(
            self.perturbation, Momentum(state.p, state.g), problem, step_size * self.decay
        )
        gradient = query(ahead, grad=True).grad
        g = accumulate(state.g, gradient + state.v, self.decay)
        p = move(self.perturbation, state.p, g, problem, step_size)
        return Tuned(p, g, _among_neighbours(self, state.p, query, problem) - gradient)
