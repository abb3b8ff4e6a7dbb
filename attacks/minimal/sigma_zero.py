"""sigma-zero: the fewest changed coordinates, by a smooth stand-in for their number."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.adam import Moments, adam
from advbench.attacks.checks import above_zero
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L0, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_LAST = 0.1  # of the step size, at the end of the cosine


class Sparse(NamedTuple):
    """The change, the moments of its gradients, and the size below which coordinates are cut.

    Then the answer so far with its number of coordinates and its gradient, how often less was
    tried in vain, and whether the row is done.
    """

    p: Tensor
    moments: Moments
    cut: Tensor
    best: Tensor
    least: Tensor
    slope: Tensor
    failures: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class SigmaZero(Rule[Sparse]):
    """sigma-zero: few changed coordinates, by Adam on a smooth count and a threshold that adapts.

    Minimises ``max(lead of the label, 0) + mean(p^2 / (p^2 + sigma))`` with gradients of maximum
    1. After each step coordinates below a threshold are set back to 0; the threshold rises while
    the change succeeds and falls while it fails.
    Source: Cina, Villani, Pintor, Schonherr, Biggio, Pelillo, "sigma-zero: gradient-based
    optimization of l0-norm adversarial examples", ICLR 2025, arXiv:2402.01879, algorithm 1.
    Deviations: targets are possible; inputs have any shape; the last tenth of the steps prunes the
    answer instead. By its gradient it is tried with one coordinate less, those that should gain
    most moved to their bounds; in vain, the coordinates are left out one by one, the least useful
    first. A row is done when none can be spared. Cost: at most ``steps`` forward and as many
    backward passes.

    Fields:
        step_size: the first one of Adam, in pixel units; along half a cosine it falls to a tenth.
        sigma: below its root, a change counts less than one coordinate.
        threshold: the first size below which coordinates are set back to 0.
        adaptation: of the threshold at each step, a share of the step size.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    perturbation: ClassVar[Perturbation] = L0()
    loss: ClassVar[Loss] = Margin()

    steps: int = 1000
    step_size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    adaptation: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("SigmaZero", "sigma", self.sigma)
        above_zero("SigmaZero", "adaptation", self.adaptation)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=40), cls(steps=60, step_size=0.5, threshold=0.1, adaptation=0.05)

    @property
    def _descent(self) -> int:
        return self.steps - self.steps // 10

    def init(self, problem: Problem) -> Sparse:
        """Start at the image."""
        zero, nothing = torch.zeros_like(problem.x), torch.zeros_like(problem.eps)
        none = torch.zeros_like(problem.t)
        cut, least = nothing + self.threshold, nothing + torch.inf
        return Sparse(zero, Moments.zero(zero), cut, zero, least, zero, none, none.bool())

    def step(self, state: Sparse, query: Query, problem: Problem) -> Sparse:
        """Descend by one step of Adam and cut; in the end, leave out a coordinate."""
        x, t = problem.x, problem.t
        probe = query(state.p, grad=True)
        count = self.perturbation.size(x, state.p)
        better = probe.success & (count < state.least)
        best = torch.where(lift(better, x), state.p, state.best)
        slope = torch.where(lift(better, x), probe.grad, state.slope)
        least = torch.where(better, count, state.least)

        share = (t / self._descent).to(x)
        step_size = self.step_size * (_LAST + (1 - _LAST) * (1 + torch.cos(math.pi * share)) / 2)
        crowd = 2 * self.sigma * state.p / (state.p.square() + self.sigma).square()
        uphill = lift(probe.loss < 0, x) * probe.grad - crowd / x[0].numel()
        peak = uphill.flatten(1).abs().amax(1)
        uphill = uphill / lift(torch.where(peak > 0, peak, 1), x)
        step, moments = adam(state.moments, uphill, t + 1, lift(step_size, x))
        side = torch.where(probe.success, 1, -1)
        cut = (state.cut + self.adaptation * step_size * side).clamp(0, 1)
        p = (state.p + step).clamp(-x, 1 - x)
        p = torch.where(p.abs() < lift(cut, x), 0, p)

        pruning = t + 1 >= self._descent
        failures = torch.where(better | (t < self._descent), 0, state.failures + 1)
        if pruning.any():
            p = torch.where(lift(pruning, x), self._pruned(x, best, slope, least, failures), p)
        done = pruning & (least.isinf() | (failures > least) | (least <= 1))
        return Sparse(p, moments, cut, best, least, slope, failures, done)

    def _pruned(
        self, x: Tensor, best: Tensor, slope: Tensor, least: Tensor, failures: Tensor
    ) -> Tensor:
        """Return a change of one coordinate less: the best one for the slope, or ``best`` without.

        After ``k`` failures, ``best`` is left without its k-th least useful coordinate.
        """
        anew = self.perturbation.steepest(x, torch.zeros_like(x), slope, least - 1)
        room = torch.where(slope > 0, 1 - x, -x)
        moved = torch.where((best != 0) & (slope != 0), room, best).flatten(1)
        gains = torch.where(best.flatten(1) != 0, slope.flatten(1) * moved, torch.inf)
        order = gains.argsort(dim=1, stable=True)
        place = (failures - 1).clamp(0, gains.shape[1] - 1).unsqueeze(1)
        without = moved.scatter(1, order.gather(1, place), 0).view_as(best)
        return torch.where(lift(failures == 0, x), anew, without)
