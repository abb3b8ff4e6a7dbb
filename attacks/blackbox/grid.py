"""Grid: every point of a coarse lattice."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks.gradient.steepest import Iterate
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class Grid(Rule[Iterate]):
    """Try all combinations of evenly spaced values, from one end of the set to the other.

    ``points`` is the number of values: one for all coordinates, or one for each of the first of
    them, in the order of the set's ``names``; the others, and those with a single point, stay in
    the middle of their range. Pixels have no names: they are cut into ``blocks`` contiguous groups
    that share a value. A circle has no ends, so no value is tried twice. A sample that falls is
    asked about no more. Cost: at most the product of the points, forward passes. As in
    Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness",
    ICML 2019, arXiv:1712.02779, who try 31 angles and 5 by 5 shifts.
    """

    access: ClassVar[Access] = "labels"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    points: int | tuple[int, ...] = 3
    blocks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.perturbation.names
        if names and len(self._points) > len(names):
            raise ValueError(
                f"Grid: points has {len(self._points)} numbers, but {self.perturbation!r} has "
                f"{len(names)} coordinates: {', '.join(names)}"
            )

    @property
    def steps(self) -> int:
        """The number of lattice points."""
        return prod(self._points)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2(), points=(5, 1, 3))

    def init(self, problem: Problem) -> Iterate:
        """Start with nothing."""
        return Iterate(self.perturbation.zero(problem.x))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Try the lattice point whose number is the step's."""
        points = torch.tensor(self._points, device=problem.t.device)
        place = points.cumprod(0) // points
        digit = (problem.t.unsqueeze(1) // place) % points
        closed = self.perturbation.closed(problem.eps, len(points))
        lattice = self.perturbation.lattice(
            problem.x, problem.eps, _spread(digit.to(state.p), points, closed)
        )
        query(lattice)
        return Iterate(lattice)

    @property
    def _points(self) -> tuple[int, ...]:
        if isinstance(self.points, tuple):
            return self.points
        return (self.points,) * (len(self.perturbation.names) or self.blocks)


def _spread(digit: Tensor, points: Tensor, closed: Tensor) -> Tensor:
    """Return the values in [-1, 1] of the numbers ``digit`` (B, k) of evenly spread points."""
    gaps = torch.where(closed, points, points - 1).clamp_min(1)
    return torch.where(points == 1, 0.0, 2 * digit / gaps - 1)
