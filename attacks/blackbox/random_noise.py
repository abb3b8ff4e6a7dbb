"""Random noise: the control that any attack has to beat."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from advbench.attacks.gradient.steepest import Iterate
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class RandomNoise(Rule[Iterate]):
    """Independent uniform draws from the set, one a step; any that fools is kept.

    The control recommended by Carlini et al., "On evaluating adversarial robustness", 2019,
    arXiv:1902.06705, section 4. Cost: steps forward passes.
    """

    access: ClassVar[Access] = "labels"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 1000

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=20), cls(perturbation=L2(), steps=10)

    def init(self, problem: Problem) -> Iterate:
        """Start with nothing."""
        return Iterate(self.perturbation.zero(problem.x))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Try one more draw."""
        p = self.perturbation.draw(problem.x, problem.eps, problem.draws)
        p = self.perturbation.project(problem.x, p, problem.eps)
        query(p)
        return Iterate(p)
