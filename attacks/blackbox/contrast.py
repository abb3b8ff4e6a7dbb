"""Less contrast, down to plain grey."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from advbench.attacks.blackbox import ramp
from advbench.attacks.blackbox.ramp import Ramp
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class Contrast(Rule[Ramp]):
    """Blend the image with plain grey, more and more of it, until it fools.

    ``x + s * (level - x)`` for s = 1 / points, 2 / points, ..., 1; once a share fools, ten
    halvings narrow it down. The set only measures. Cost: at most points + 10 forward passes.
    Source: Rauber, Brendel, Bethge, "Foolbox: a Python toolbox to benchmark the robustness of
    machine learning models", 2017, arXiv:1707.04131.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = Linf()
    points: int = 100
    level: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        ramp.check("Contrast", self.perturbation)

    @property
    def steps(self) -> int:
        """All shares and halvings."""
        return self.points + ramp.HALVINGS

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(points=10), cls(perturbation=L2(), points=5, level=0.0)

    def init(self, problem: Problem) -> Ramp:
        """Start with the image itself."""
        return ramp.bottom(self.perturbation.zero(problem.x), problem)

    def step(self, state: Ramp, query: Query, problem: Problem) -> Ramp:
        """Try the next share."""
        p = ramp.scaled(self.level - problem.x, ramp.strength(state, self.points))
        return ramp.climb(state, p, self.points, self.perturbation, query, problem)
