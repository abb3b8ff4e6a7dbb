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
    """Try all combinations of evenly spaced values, from one end of the set to the other.

    Pixels are cut into ``blocks`` contiguous groups that share a value; of a set whose parameters
    have names, the first ``blocks`` are searched, the others stay in the middle of their range.
    Each takes ``points`` values: points ** blocks forward passes. As in
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
        place = self.points ** torch.arange(self.blocks, device=problem.t.device)
        digit = (problem.t.unsqueeze(1) // place) % self.points
        values = torch.linspace(-1, 1, self.points, dtype=state.p.dtype, device=state.p.device)
        lattice = self.perturbation.lattice(problem.x, problem.eps, values[digit])
        query(lattice)
        return Iterate(lattice)
