"""Random search: keep a random change when the loss rises."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


class Best(NamedTuple):
    """The best parameters so far and their loss."""

    p: Tensor
    loss: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class RandomSearch(Rule[Best]):
    """Redraw a random share of the parameters and keep the result when the loss rises.

    Needs scores, no gradient. Source: Rastrigin, "The convergence of the random search method in
    the extremal control of a many-parameter system", Automation and Remote Control 24, 1963.
    New values are drawn where the set is largest, along a random direction as far as eps goes
    (under Linf, corners of the cube): the worst case of a nearly linear model lies there.
    ``share`` is the expected share of the parameters that a step redraws. Cost: steps forward
    passes.
    """

    access: ClassVar[Access] = "scores"
    scores_last: ClassVar[bool] = False

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    steps: int = 1000
    share: float = 0.1
    restarts: int = 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=30), cls(perturbation=L2(), steps=20, share=0.3, restarts=2)

    def init(self, problem: Problem) -> Best:
        """Start with nothing, worse than anything."""
        loss = torch.full_like(problem.eps, -torch.inf)
        return Best(self.perturbation.zero(problem.x), loss)

    def step(self, state: Best, query: Query, problem: Problem) -> Best:
        """Try one change: all parameters at first, a share of them afterwards."""
        fresh = self.perturbation.extreme(problem.x, problem.eps, problem.draws)
        chance = problem.draws.fork(1).uniform(fresh.shape[1:], fresh.dtype)
        redrawn = (chance < self.share) | lift(problem.t == 0, fresh)
        p = torch.where(redrawn, fresh, state.p)
        p = self.perturbation.project(problem.x, p, problem.eps)
        loss = query(p).loss
        better = loss > state.loss
        return Best(torch.where(lift(better, p), p, state.p), torch.where(better, loss, state.loss))
