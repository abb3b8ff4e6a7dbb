"""The attack of Carlini and Wagner for the maximum norm."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.adam import Moments, adam
from advbench.attacks.checks import above_zero
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.minimal.carlini_wagner import boxed, fresh
from advbench.attacks.minimal.weight import HALVINGS, Smallest
from advbench.attacks.perturbations import Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_LEAST = 1e-3  # the threshold at which the search ends
_SHRINK = 0.9
_GROWTH = 2.0
_SOLVED = 1e-4
_STRIDE = 0.02  # the longest step, a share of the threshold
_CHECKS = 10
_PROGRESS = 0.9999


class Squeeze(NamedTuple):
    """Where the next query is, ``v`` behind it, the moments of its gradients and the answer.

    Then the weight ``c`` and the threshold ``tau`` of the descent, whether it has found a smaller
    success, its age and its objective at the last check; and whether the row is done.
    """

    p: Tensor
    v: Tensor
    moments: Moments
    smallest: Smallest
    c: Tensor
    tau: Tensor
    found: Tensor
    age: Tensor
    checked: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class CWLinf(Rule[Squeeze]):
    """Carlini and Wagner's attack on the maximum: squeezes what exceeds a falling threshold.

    Minimises ``sum max(|p| - tau, 0) + c max(lead of the label, 0)`` by Adam over ``v`` as in
    ``CWL2``. After a descent that found a smaller success, ``tau`` becomes 0.9 of it; after one
    that found none, ``c`` doubles; each descent starts where the last one ended. The search ends
    with ``tau`` at 0.001 or ``c`` at its largest.
    Source: Carlini, Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    arXiv:1608.04644, section VI.C and the authors' code. Deviations: thresholds and weights are
    per sample, and so is the end of a descent, which also comes when a tenth of its steps gains
    nothing; the success has to be smaller by half of what was asked; where none is, ``tau`` goes
    half-way back; no step is longer than ``tau / 50``, lest it leads far past ``tau``; that ends at
    0.001 for 1/255; the box of tanh and the missing confidence as in ``CWL2``; at the end the
    answer is clipped to smaller maxima by ten halvings. Cost: at most ``steps`` forward and as many
    backward passes, but descents mostly end early.

    Fields:
        steps_per_search: most iterations for one threshold and weight.
        step_size: the longest of Adam, in units of ``v``.
        weight: the first ``c``.
        largest_weight: the ``c`` at which the search ends.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    perturbation: ClassVar[Perturbation] = Linf()
    loss: ClassVar[Loss] = Margin()

    steps_per_search: int = 1000
    step_size: float = 0.01
    weight: float = 1e-5
    largest_weight: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("CWLinf", "weight", self.weight)
        if not self.weight < self.largest_weight < math.inf:
            raise ValueError(
                f"CWLinf: largest_weight must be finite and above weight, {self.weight!r}; got "
                f"{self.largest_weight!r}"
            )

    @property
    def steps(self) -> int:
        """The most queries of a run: every threshold and every weight is used to the end."""
        weights = math.ceil(math.log(self.largest_weight / self.weight, _GROWTH))
        thresholds = math.ceil(math.log(_LEAST, _SHRINK))
        return (weights + thresholds) * self.steps_per_search + HALVINGS

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        quick = cls(steps_per_search=8, step_size=0.05, weight=1.0)
        return quick, cls(steps_per_search=12, step_size=0.1, weight=0.1, largest_weight=5.0)

    def init(self, problem: Problem) -> Squeeze:
        """Start at the image."""
        zero, nothing = torch.zeros_like(problem.x), torch.zeros_like(problem.eps)
        none = torch.zeros_like(problem.t)
        return Squeeze(
            p=zero,
            v=zero,
            moments=Moments.zero(zero),
            smallest=Smallest.none(problem, zero),
            c=nothing + self.weight,
            tau=nothing + 1,
            found=none.bool(),
            age=none,
            checked=nothing + torch.inf,
            done=none.bool(),
        )

    def _squeezing(self, c: Tensor, tau: Tensor) -> Tensor:
        return (tau > _LEAST) & (c < self.largest_weight)

    def step(self, state: Squeeze, query: Query, problem: Problem) -> Squeeze:
        """Descend by one step of Adam; after the last descent, trim the answer."""
        x, c, tau = problem.x, state.c, state.tau
        probe = query(state.p, grad=True)
        size = self.perturbation.size(x, state.p)
        squeezing = self._squeezing(c, tau)
        found = state.found | (probe.success & (size < (state.smallest.size + tau) / 2))
        smallest = state.smallest.after(state.p, size, probe.success, ~squeezing)

        excess = (state.p.abs() - lift(tau, x)).clamp_min(0).flatten(1).sum(1)
        objective = excess + c * (-probe.loss).clamp_min(0)
        age = state.age + 1
        check = age % max(self.steps_per_search // _CHECKS, 1) == 0
        stuck = check & (objective > _PROGRESS * state.checked)
        over = stuck | (objective < _SOLVED * c) | (age >= self.steps_per_search)
        over = over & squeezing

        here = boxed(x, state.v)
        uphill = lift(torch.where(probe.loss < 0, c, 0), x) * probe.grad
        uphill = torch.where(here.beyond == 0, uphill, -here.beyond)
        uphill = uphill - torch.where(here.p.abs() > lift(tau, x), here.p.sign(), 0)
        step_size = lift((_STRIDE * tau).clamp_max(self.step_size), x)
        step, moments = adam(state.moments, uphill * here.slope, age, step_size)
        v = state.v + step

        lower = _SHRINK * torch.minimum(tau, smallest.size)
        back = torch.where(smallest.size < torch.inf, (tau + smallest.size) / 2, tau)
        tau = torch.where(over, torch.where(found, lower, back), tau)
        c = torch.where(over & ~found, _GROWTH * c, c)
        squeezing = self._squeezing(c, tau)
        trimmed = smallest.trim(self.perturbation, problem)
        return Squeeze(
            p=torch.where(lift(squeezing, x), boxed(x, v).p, trimmed),
            v=v,
            moments=fresh(over, moments),
            smallest=smallest,
            c=c,
            tau=tau,
            found=found & ~over,
            age=torch.where(over, 0, age),
            checked=torch.where(over, torch.inf, torch.where(check, objective, state.checked)),
            done=~squeezing & smallest.trimmed,
        )
