"""Grid: every point of a coarse lattice."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.attacks.gradient.steepest import Iterate
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class Grid(Rule[Iterate]):
    """Try all combinations of evenly spaced values from -eps to eps, projected onto the set.

    The parameters are cut into ``blocks`` contiguous groups that share a value (fewer when there
    are fewer parameters), each taking ``points`` values: points ** blocks forward passes. As in
    Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness",
    ICML 2019, arXiv:1712.02779, where the parameters are an angle and two shifts.
    """

    access: ClassVar[Access] = "labels"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    points: int = 3
    blocks: int = 4

    @property
    def steps(self) -> int:
        """The number of lattice points."""
        return int(self.points**self.blocks)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2(), points=5, blocks=2)

    def init(self, problem: Problem) -> Iterate:
        """Start with nothing."""
        return Iterate(self.perturbation.zero(problem.x))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Try the lattice point whose number is the step's."""
        p = state.p.flatten(1)
        place = self.points ** torch.arange(self.blocks, device=p.device)
        digit = (problem.t.unsqueeze(1) // place) % self.points
        values = torch.linspace(-1, 1, self.points, dtype=p.dtype, device=p.device)[digit]
        block = torch.arange(p.shape[1], device=p.device) * self.blocks // p.shape[1]
        lattice = (values[:, block] * problem.eps.unsqueeze(1)).view_as(state.p)
        lattice = self.perturbation.project(problem.x, lattice, problem.eps)
        query(lattice)
        return Iterate(lattice)
