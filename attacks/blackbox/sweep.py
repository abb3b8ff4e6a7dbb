"""Sweep: along each coordinate alone, from the middle outwards, to the first mistake."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.attacks.blackbox.coarse import dimensions
from advbench.attacks.gradient.steepest import Iterate
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class Sweep(Rule[Iterate]):
    """Try ever larger values of one coordinate at a time, to both sides, up to the first mistake.

    The answer is the smallest change along any single axis, to within one of ``points`` equal
    parts of a range: for a pose with a single free angle, the smallest turn that fools. Success
    need not be monotone in the angle, so a bisection can miss it; this cannot, but by the width of
    a part. As in Alcorn et al., "Strike (with) a pose", CVPR 2019, arXiv:1811.11553, section 4.
    Cost: at most 2 * points * coordinates forward passes. ``blocks`` counts the contiguous groups
    that share a value in a set whose parameters have no names.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    ascending: ClassVar[bool] = True
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    points: int = 90
    blocks: int = 4

    @property
    def steps(self) -> int:
        """All values of all coordinates."""
        return 2 * self.points * dimensions(self.perturbation, self.blocks)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(points=4), cls(perturbation=L2(), points=6, blocks=2)

    def init(self, problem: Problem) -> Iterate:
        """Start with nothing."""
        return Iterate(self.perturbation.zero(problem.x))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Try the next value."""
        count = dimensions(self.perturbation, self.blocks)
        part, turn = problem.t // (2 * count) + 1, problem.t % (2 * count)
        share = ((1 - 2 * (turn % 2)) * part).to(problem.eps) / self.points
        u = torch.nn.functional.one_hot(turn // 2, count) * share.unsqueeze(1)
        p = self.perturbation.lattice(problem.x, problem.eps, u)
        query(p)
        return Iterate(p)
