"""Salt and pepper: more and more pixels become white or black."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

from torch import Tensor

from advbench.attacks.blackbox import ramp
from advbench.attacks.blackbox.ramp import Ramp
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L0, L2, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.search import Rule


class Grains(NamedTuple):
    """The strengths so far, the pixels' order (B, ...) in (0, 1) and what they become."""

    p: Tensor
    ramp: Ramp
    order: Tensor
    colour: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class SaltAndPepper(Rule[Grains]):
    """Turn pixels white or black at random, more and more of them, until it fools.

    A run draws an order of the pixels and a colour for each; a pixel counts as one, with all its
    channels, in images (C, H, W). Its share grows in ``points`` equal parts; once one fools, ten
    halvings narrow it down. Runs differ in their draws. The set only measures; in Linf nearly any
    such change has the size 1. Cost: at most restarts * (points + 10) forward passes.
    Source: Rauber, Brendel, Bethge, "Foolbox: a Python toolbox to benchmark the robustness of
    machine learning models", 2017, arXiv:1707.04131. Deviation: that draws anew at each share.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L0()
    points: int = 100
    restarts: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        ramp.check("SaltAndPepper", self.perturbation)

    @property
    def steps(self) -> int:
        """All shares and halvings."""
        return self.points + ramp.HALVINGS

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(points=10, restarts=2), cls(perturbation=L2(), points=5, restarts=1)

    def init(self, problem: Problem) -> Grains:
        """Draw the order and the colours of the pixels."""
        x = problem.x
        whole = (1, *x.shape[2:]) if x.dim() == 4 else x.shape[1:]
        order = problem.draws.uniform(whole, x.dtype).expand_as(x).clone()
        colour = (problem.draws.fork(1).signs(whole, x.dtype).expand_as(x) + 1) / 2
        zero = self.perturbation.zero(x)
        start = ramp.bottom(zero, problem)
        return Grains(zero, start, order, colour, start.done)

    def step(self, state: Grains, query: Query, problem: Problem) -> Grains:
        """Try the next share."""
        share = ramp.strength(state.ramp, self.points)
        chosen = (state.order < share.view(-1, *[1] * (state.p.dim() - 1))).to(state.p)
        p = chosen * (state.colour - problem.x)
        new = ramp.climb(state.ramp, p, self.points, self.perturbation, query, problem)
        return Grains(p, new, state.order, state.colour, new.done)
