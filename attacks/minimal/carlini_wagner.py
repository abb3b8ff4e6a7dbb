"""The attack of Carlini and Wagner for the Euclidean norm, and its change of variables."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.adam import Moments, adam
from advbench.attacks.checks import above_zero
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.minimal.weight import HALVINGS, Smallest, Weight
from advbench.attacks.perturbations import L2, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift, map_rows
from advbench.attacks.search import Rule

_HALF = 1.0
"""Half the width of the box that tanh maps onto, twice that of [0, 1]."""


class Boxed(NamedTuple):
    """Images written as ``0.5 + h tanh(u + v)``, with ``v = 0`` for the image itself."""

    p: Tensor
    slope: Tensor
    beyond: Tensor


def boxed(x: Tensor, v: Tensor) -> Boxed:
    """Return the change that ``v`` makes, its derivative, and by how much it was clipped.

    On [0, 1] itself black and white pixels lie at infinity, and 1e-6 short of it they take some 700
    steps of 0.01; on an interval twice as wide they move as readily as others.
    """
    u = ((x - 0.5) / _HALF).atanh()
    after = (u + v).tanh()
    change = _HALF * (after - u.tanh())
    p = change.clamp(-x, 1 - x)
    return Boxed(p, _HALF * (1 - after.square()), change - p)


class Descent(NamedTuple):
    """Where the next query is, ``v`` behind it, the moments of its gradients, weight and answer."""

    p: Tensor
    v: Tensor
    moments: Moments
    weight: Weight
    smallest: Smallest
    done: Tensor


def fresh(rows: Tensor, moments: Moments) -> Moments:
    """Return the moments with those of some rows (B,) set to zero."""
    return map_rows(lambda part: torch.where(lift(rows, part), 0, part), moments)


@final
@dataclass(frozen=True, kw_only=True)
class CWL2(Rule[Descent]):
    """Carlini and Wagner's attack: small squared length and a lead, weighed by a binary search.

    Minimises ``|p|^2 + c max(lead of the label, 0)`` by Adam over ``v``, where tanh of ``v`` keeps
    the image in the box. Each search has its own ``c``, per sample: from ``weight`` on ten times as
    large until a success, then half-way between failure and success. It ends early when a tenth of
    its steps brings no success and gains nothing.
    Source: Carlini, Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    arXiv:1608.04644, section V. Deviations: 1000 steps a search, as most use it, for 10000;
    the step size falls from 0.1 along half a cosine, for 0.01 throughout, with which short searches
    do not arrive and small distances are stepped over; tanh maps onto [-0.5, 1.5] and is clipped,
    so that black and white pixels move like others, which leads to smaller changes; a search has
    succeeded if its last tenth did; no confidence, since any success is an answer; at the end the
    answer is drawn towards the image by ten halvings. Cost: at most ``searches * steps_per_search +
    10`` forward and as many backward passes, less what early ends save.

    Fields:
        searches: how many weights are tried.
        steps_per_search: iterations for one weight.
        step_size: of Adam at first, in units of ``v``.
        anneal: whether the step size falls within a search.
        weight: the first ``c``.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    perturbation: ClassVar[Perturbation] = L2()
    loss: ClassVar[Loss] = Margin()

    searches: int = 9
    steps_per_search: int = 1000
    step_size: float = 0.1
    anneal: bool = True
    weight: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("CWL2", "weight", self.weight)

    @property
    def steps(self) -> int:
        """All queries of a run."""
        return self.searches * self.steps_per_search + HALVINGS

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        quick = cls(searches=5, steps_per_search=10, step_size=0.1, weight=0.1)
        return quick, cls(searches=3, steps_per_search=20, step_size=0.05, weight=1.0)

    def _step_size(self, age: Tensor) -> Tensor:
        if not self.anneal:
            return torch.full_like(age, self.step_size)
        return self.step_size * (1 + torch.cos(math.pi * age / self.steps_per_search)) / 2

    def init(self, problem: Problem) -> Descent:
        """Start at the image."""
        zero = torch.zeros_like(problem.x)
        none = Smallest.none(problem, zero)
        weight = Weight.first(problem, self.weight)
        done = torch.zeros_like(problem.t, dtype=torch.bool)
        return Descent(zero, zero, Moments.zero(zero), weight, none, done)

    def step(self, state: Descent, query: Query, problem: Problem) -> Descent:
        """Descend by one step of Adam; after the last search, trim the answer."""
        x, c = problem.x, state.weight.c
        probe = query(state.p, grad=True)
        size = self.perturbation.size(x, state.p)
        searching = state.weight.number < self.searches
        smallest = state.smallest.after(state.p, size, probe.success, ~searching)
        objective = size.square() + c * (-probe.loss).clamp_min(0)
        weight, over = state.weight.after(probe.success, objective, self.steps_per_search)

        here = boxed(x, state.v)
        uphill = lift(torch.where(probe.loss < 0, c, 0), x) * probe.grad
        uphill = torch.where(here.beyond == 0, uphill, 0) - 2 * (here.p + here.beyond)
        age = state.weight.age
        step_size = lift(self._step_size(age.to(x)), x)
        step, moments = adam(state.moments, uphill * here.slope, age + 1, step_size)
        v = torch.where(lift(over, x), 0, state.v + step)

        searching = weight.number < self.searches
        trimmed = smallest.trim(self.perturbation, problem)
        p = torch.where(lift(searching, x), boxed(x, v).p, trimmed)
        return Descent(p, v, fresh(over, moments), weight, smallest, ~searching & smallest.trimmed)
