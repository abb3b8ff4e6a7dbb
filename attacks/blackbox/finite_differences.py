"""Finite differences: the gradient attack for a victim that gives scores alone."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.blackbox.coarse import dimensions, uniform, within
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


class Slope(NamedTuple):
    """Where the last query was, the middle ``u`` (B, k), the partials so far and their sum."""

    p: Tensor
    u: Tensor
    partials: Tensor
    momentum: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class FiniteDifferences(Rule[Slope]):
    """Measure the loss to both sides along every coordinate, then step along the signs.

    All partials of a round are taken about the same point, each along its own coordinate, and
    every point asked about counts as a try. As in the searches of Alcorn et al., "Strike (with) a
    pose", CVPR 2019, arXiv:1811.11553, but with momentum, in shares of the ranges. Needs scores.
    Cost of a run: 2 * rounds * coordinates forward passes.

    Fields:
        rounds: steps along a measured slope.
        difference: distance to either side, a share of the range.
        step_size: of a round, a share of the range.
        decay: share of the earlier slopes, each of L1 norm 1, that is kept.
        restarts: runs from other points.
        blocks: contiguous groups that share a value, of a set whose parameters have no names.
    """

    access: ClassVar[Access] = "scores"
    scores_last: ClassVar[bool] = False

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    rounds: int = 10
    difference: float = 0.08
    step_size: float = 0.35
    decay: float = 0.6
    restarts: int = 1
    blocks: int = 4

    @property
    def steps(self) -> int:
        """All queries of a run."""
        return 2 * self.rounds * dimensions(self.perturbation, self.blocks)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(rounds=2), cls(perturbation=L2(), rounds=2, blocks=2, restarts=2)

    def init(self, problem: Problem) -> Slope:
        """Start in the middle of the set, then at random."""
        count = dimensions(self.perturbation, self.blocks)
        u = uniform(problem, count) * (problem.draws.stream > 0).unsqueeze(1)
        nothing = torch.zeros_like(u)
        return Slope(self.perturbation.zero(problem.x), u, nothing, nothing)

    def step(self, state: Slope, query: Query, problem: Problem) -> Slope:
        """Ask to one side along one coordinate; after the last one, move."""
        count = state.u.shape[1]
        turn = problem.t % (2 * count)
        along = torch.nn.functional.one_hot(turn // 2, count).to(state.u)
        side = (1 - 2 * (turn % 2)).to(state.u).unsqueeze(1)
        u = within(self.perturbation, state.u + side * self.difference * along, problem)
        p = self.perturbation.lattice(problem.x, problem.eps, u)
        loss = query(p).loss
        partials = state.partials + side * along * loss.unsqueeze(1)
        momentum = self.decay * state.momentum + self._slope(state.u, partials, problem)
        there = within(self.perturbation, state.u + self.step_size * _signs(momentum), problem)
        over = (turn == 2 * count - 1).unsqueeze(1)
        return Slope(
            p,
            torch.where(over, there, state.u),
            torch.where(over, 0, partials),
            torch.where(over, momentum, state.momentum),
        )

    def _slope(self, u: Tensor, partials: Tensor, problem: Problem) -> Tensor:
        """Divide by the distances asked across, shorter at the end of a range; the L1 norm is 1."""
        up = within(self.perturbation, u + self.difference, problem)
        slope = partials / (up - within(self.perturbation, u - self.difference, problem))
        length = slope.abs().sum(1, keepdim=True)
        return slope / length.clamp_min(torch.finfo(length.dtype).tiny)


def _signs(slope: Tensor) -> Tensor:
    """Return signs (B, k), 0 for a slope that is rounding next to the largest one of its row."""
    noise = torch.finfo(slope.dtype).eps ** 0.5 * slope.abs().amax(1, keepdim=True)
    return torch.where(slope.abs() > noise, slope.sign(), 0)
