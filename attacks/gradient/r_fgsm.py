"""R+FGSM: a random step before the gradient step."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from advbench.attacks.gradient.steepest import Iterate, ascend, move, origin
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class RFGSM(Rule[Iterate]):
    """Step by a share of eps in a random direction, then by the rest along the gradient.

    Under Linf the random step is ``share * eps * sign(N(0, I))``.
    Source: Tramèr, Kurakin, Papernot, Goodfellow, Boneh, McDaniel, "Ensemble adversarial training:
    attacks and defenses", ICLR 2018, arXiv:1705.07204, section 4.1, where ``share`` is one half.
    """

    access: ClassVar[Access] = "gradient"
    steps: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    share: float = 0.5
    restarts: int = 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2(), share=0.25, restarts=2)

    def init(self, problem: Problem) -> Iterate:
        """Start a random step away from the input."""
        start = origin(self.perturbation, problem)
        direction = problem.draws.normal(start.shape[1:], start.dtype)
        return Iterate(move(self.perturbation, start, direction, problem, self.share))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Move by the rest of eps along the steepest direction."""
        return ascend(self.perturbation, state, query, problem, 1 - self.share)
