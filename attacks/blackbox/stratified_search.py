"""Stratified random search: first find the depth that is worth a search, then search there."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.blackbox.coarse import dimensions, uniform
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


class Strata(NamedTuple):
    """Where the last query was, and the best loss of each stratum, (B, strata)."""

    p: Tensor
    best: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class StratifiedSearch(Rule[Strata]):
    """Cut one coordinate into strata, draw in each, then draw only where the loss was largest.

    With the depth of an object as the coordinate this is the z-constrained random search of
    Alcorn et al., "Strike (with) a pose", CVPR 2019, arXiv:1811.11553, supplement: 30 depths with
    10 draws each, and afterwards draws between the two best of them. Needs scores, no gradient.
    Cost: strata * samples + refinements forward passes.

    Fields:
        axis: the coordinate by its name in the set; None for the first.
        strata: equal parts of its range.
        samples: draws in each of them.
        refinements: draws from the interval that the two best strata span.
        blocks: contiguous groups that share a value, of a set whose parameters have no names.
    """

    access: ClassVar[Access] = "scores"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    axis: str | None = None
    strata: int = 30
    samples: int = 10
    refinements: int = 700
    blocks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.perturbation.names
        if self.axis is not None and self.axis not in names:
            raise ValueError(
                f"StratifiedSearch: {type(self.perturbation).__name__} has no axis {self.axis!r}; "
                f"expected one of {', '.join(names) or 'none: leave it out'}"
            )

    @property
    def steps(self) -> int:
        """All draws."""
        return self.strata * self.samples + self.refinements

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        first = cls(strata=4, samples=2, refinements=12)
        return first, cls(perturbation=L2(), strata=3, samples=3, refinements=6)

    def init(self, problem: Problem) -> Strata:
        """Start with nothing known."""
        nothing = problem.eps.new_full((len(problem.eps), self.strata), -torch.inf)
        return Strata(self.perturbation.zero(problem.x), nothing)

    def step(self, state: Strata, query: Query, problem: Problem) -> Strata:
        """Draw once: in the stratum whose turn it is, or between the best."""
        count = dimensions(self.perturbation, self.blocks)
        u = uniform(problem, count)
        stratum = problem.t % self.strata
        first = problem.t < self.strata * self.samples
        best = state.best.topk(min(2, self.strata), 1).indices
        low = torch.where(first, stratum, best.amin(1))
        high = torch.where(first, stratum, best.amax(1)) + 1
        place = 0 if self.axis is None else self.perturbation.names.index(self.axis)
        along = 2 * (low + (u[:, place] + 1) / 2 * (high - low)) / self.strata - 1
        u = torch.cat([u[:, :place], along.unsqueeze(1), u[:, place + 1 :]], 1)
        p = self.perturbation.lattice(problem.x, problem.eps, u)
        loss = query(p).loss
        own = torch.arange(self.strata, device=u.device) == stratum.unsqueeze(1)
        seen = own & first.unsqueeze(1)
        known = torch.where(seen, state.best.maximum(loss.unsqueeze(1)), state.best)
        return Strata(p, known)
