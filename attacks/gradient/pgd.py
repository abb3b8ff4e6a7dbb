"""FGSM, BIM and PGD: one step, several steps, several steps from a random start."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from advbench.attacks.gradient.steepest import Iterate, ascend, origin
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class FGSM(Rule[Iterate]):
    """Fast gradient sign method: one steepest step of length eps from the input.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples",
    ICLR 2015, arXiv:1412.6572, section 4. Cost: 2 forward and 1 backward passes.
    """

    access: ClassVar[Access] = "gradient"
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2())

    def init(self, problem: Problem) -> Iterate:
        """Start at the input."""
        return Iterate(origin(self.perturbation, problem))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Move by eps along the steepest direction."""
        return ascend(self.perturbation, state, query, problem, step_size=1)


@final
@dataclass(frozen=True, kw_only=True)
class BIM(Rule[Iterate]):
    """Basic iterative method: repeated steepest steps from the input, projected.

    Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world",
    ICLR 2017 workshop, arXiv:1607.02533, section 2.2. ``step_size`` is a fraction of eps;
    None means 2.5 / steps. Cost: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 10
    step_size: float | None = None

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2(), steps=20)

    def init(self, problem: Problem) -> Iterate:
        """Start at the input."""
        return Iterate(origin(self.perturbation, problem))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Take one projected steepest step."""
        return ascend(self.perturbation, state, query, problem, self.step_size or 2.5 / self.steps)


@final
@dataclass(frozen=True, kw_only=True)
class PGD(Rule[Iterate]):
    """Projected gradient descent: repeated steepest steps from a random point of the set.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to
    adversarial attacks", ICLR 2018, arXiv:1706.06083, section 2.1. ``step_size`` is a fraction of
    eps; None means 2.5 / steps. The best point of the whole path and of all restarts is kept.
    Cost of a run: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2(), steps=20, restarts=2)

    def init(self, problem: Problem) -> Iterate:
        """Start at a uniform draw from the set, or at the input."""
        if not self.random_start:
            return Iterate(origin(self.perturbation, problem))
        start = self.perturbation.draw(problem.x, problem.eps, problem.draws)
        return Iterate(self.perturbation.project(problem.x, start, problem.eps))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Take one projected steepest step."""
        return ascend(self.perturbation, state, query, problem, self.step_size or 2.5 / self.steps)
