"""EAD: Carlini and Wagner's attack with an elastic-net size, for sparse changes."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.checks import above_zero
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.minimal.weight import HALVINGS, Smallest, Weight
from advbench.attacks.perturbations import L1, L2, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


class Shrunk(NamedTuple):
    """Where the next query is, the last shrunk iterate, the weight, the answer, the end."""

    p: Tensor
    shrunk: Tensor
    weight: Weight
    smallest: Smallest
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class EAD(Rule[Shrunk]):
    """Elastic-net attack: a lead at a small sum and squared length, by shrinking every step.

    Accelerated gradient steps on ``c max(lead of the label, 0) + |p|_2^2``, each followed by
    drawing every coordinate ``shrinkage`` towards 0, so that most stay there; ``c`` is searched for
    as in ``CWL2``.
    Source: Chen, Sharma, Zhang, Yi, Hsieh, "EAD: elastic-net attacks to deep neural networks via
    adversarial examples", AAAI 2018, arXiv:1709.04114, algorithm 1. The answer is the smallest
    success in the norm of the set: L1 is the paper's L1 decision rule, and there is no elastic-net
    rule; L2 is there to compare with ``CWL2``, which this comes close to as ``shrinkage`` falls.
    Deviations: success is judged where the gradient is taken, one forward pass a step for two, and
    always inside the box; a search ends, and has succeeded, as in ``CWL2``; at the end the answer
    is drawn towards the image by ten halvings. Cost: at most ``searches * steps_per_search + 10``
    forward and as many backward passes, less what early ends save.

    Fields:
        searches: how many weights are tried.
        steps_per_search: iterations for one weight.
        step_size: of the first gradient step; it falls as ``sqrt(1 - k / steps_per_search)``.
        shrinkage: how far every coordinate is drawn to 0 in a step, the paper's beta.
        weight: the first ``c``.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L1()
    searches: int = 9
    steps_per_search: int = 1000
    step_size: float = 0.01
    shrinkage: float = 0.01
    weight: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("EAD", "weight", self.weight)
        above_zero("EAD", "shrinkage", self.shrinkage)
        if not isinstance(self.perturbation, L1 | L2):
            raise TypeError(f"EAD: perturbation must be L1() or L2(); got {self.perturbation!r}")

    @property
    def steps(self) -> int:
        """All queries of a run."""
        return self.searches * self.steps_per_search + HALVINGS

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        quick = cls(searches=5, steps_per_search=15, step_size=0.05, weight=0.1)
        return quick, cls(perturbation=L2(), searches=4, steps_per_search=20, step_size=0.05)

    def init(self, problem: Problem) -> Shrunk:
        """Start at the image."""
        zero = torch.zeros_like(problem.x)
        none = Smallest.none(problem, zero)
        done = torch.zeros_like(problem.t, dtype=torch.bool)
        return Shrunk(zero, zero, Weight.first(problem, self.weight), none, done)

    def step(self, state: Shrunk, query: Query, problem: Problem) -> Shrunk:
        """Take a gradient step, shrink and look ahead; after the last search, trim the answer."""
        x, y, c, k = problem.x, state.p, state.weight.c, state.weight.age
        probe = query(y, grad=True)
        size = self.perturbation.size(x, y)
        searching = state.weight.number < self.searches
        smallest = state.smallest.after(y, size, probe.success, ~searching)
        # The weight of the sum that the shrinking amounts to.
        beta = self.shrinkage / self.step_size
        price = y.flatten(1).square().sum(1) + beta * y.flatten(1).abs().sum(1)
        objective = price + c * (-probe.loss).clamp_min(0)
        weight, over = state.weight.after(probe.success, objective, self.steps_per_search)

        step_size = lift(self.step_size * (1 - k / self.steps_per_search).sqrt(), x).to(x)
        uphill = lift(torch.where(probe.loss < 0, c, 0), x) * probe.grad - 2 * y
        z = y + step_size * uphill
        shrunk = (z.sign() * (z.abs() - self.shrinkage).clamp_min(0)).clamp(-x, 1 - x)
        ahead = shrunk + lift(k / (k + 3), x).to(x) * (shrunk - state.shrunk)
        shrunk = torch.where(lift(over, x), 0, shrunk)
        ahead = torch.where(lift(over, x), 0, ahead.clamp(-x, 1 - x))

        searching = weight.number < self.searches
        trimmed = smallest.trim(self.perturbation, problem)
        p = torch.where(lift(searching, x), ahead, trimmed)
        return Shrunk(p, shrunk, weight, smallest, ~searching & smallest.trimmed)
