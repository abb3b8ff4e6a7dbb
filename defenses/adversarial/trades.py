"""TRADES."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor

from advbench.attacks.attack import Attack
from advbench.attacks.gradient.pgd import PGD
from advbench.attacks.losses import Divergence, divergence
from advbench.defenses.adversarial.adversarial_training import examples_of, warmed
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit, Objective


@final
@dataclass(frozen=True, kw_only=True)
class TRADES(Defense):
    """Train on the clean samples, and pay for predictions that differ on attacked ones.

    The loss is that of the recipe on the clean samples plus beta times the mean of
    ``KL(softmax(f(x)) || softmax(f(x_adv)))``. Source: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan,
    Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019, arXiv:1901.08573,
    algorithm 1. Deviations: the attack starts at a uniform draw from the set instead of 0.001 N(0,
    I) from the sample, its steps are 2.5 eps / steps long, and of its path the strongest point is
    taken instead of the last, one that is misclassified before any that is not; eps may grow over
    the first epochs. As in the authors' code the examples are made on the network in eval mode, and
    the clean and the attacked samples pass through it one after the other, so that BatchNorm sees
    each alone.

    Fields:
        attack: makes the examples.
        eps: the scale of the attack's perturbation set.
        beta: the weight of the divergence.
        warmup: epochs over which eps grows from 0; 0 for none.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"examples", "objective"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    attack: Attack = PGD(steps=10, loss=Divergence())
    eps: float
    beta: float = 6.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if min(self.eps, self.beta, self.warmup) < 0:
            raise ValueError(
                f"trades: eps, beta and warmup must not be negative; "
                f"got {self.eps}, {self.beta} and {self.warmup}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        quick = PGD(steps=2, loss=Divergence())
        return cls(attack=quick, eps=0.1), cls(attack=quick, eps=0.1, beta=1.0, warmup=1.0)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the adversarial examples beside the clean samples."""
        eps = warmed(self.eps, self.warmup, fit)
        return batch._replace(x=examples_of(self.attack, eps, batch, fit), clean=batch.x)

    def objective(self, inner: Objective, batch: Batch, fit: Fit) -> Tensor:
        """Return the clean loss plus beta times the divergence under attack."""
        assert batch.clean is not None
        clean, attacked = fit.seen(batch.clean), fit.seen(batch.x)
        return fit.loss(clean, batch.wanted) + self.beta * divergence(clean, attacked).mean()
