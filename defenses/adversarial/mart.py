"""MART."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor
from torch.nn import functional

from advbench.attacks.attack import Attack
from advbench.attacks.gradient.pgd import PGD
from advbench.attacks.losses import divergence
from advbench.defenses.adversarial.adversarial_training import examples_of, warmed
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit, Objective

# The authors' constants, which keep a logarithm finite and a weight above 0.
_ONE, _TINY, _MORE_THAN_ONE = 1.0001, 1e-12, 1.0000001


@final
@dataclass(frozen=True, kw_only=True)
class MART(Defense):
    """Train on attacked samples, and most on those that are misclassified as they are.

    The loss is the mean of ``-log q_y - log(1 - max_(i != y) q_i) + beta KL(p || q) (1 - p_y)``,
    with the probabilities p of a clean sample and q of the attacked one, instead of the loss of the
    recipe. Where probabilities are wanted instead of the class y, the first term is the
    cross-entropy with them. Source: Wang, Zou, Yi, Bailey, Ma, Gu, Improving Adversarial Robustness
    Requires Revisiting Misclassified Examples, ICLR 2020, with the constants of the authors' code.
    Deviations: of the path of the attack the strongest point is taken instead of the last; eps may
    grow over the first epochs. The examples are made on the network in eval mode, and the clean and
    the attacked samples pass through it one after the other, so that BatchNorm sees each alone.

    Fields:
        attack: makes the examples.
        eps: the scale of the attack's perturbation set.
        beta: the weight of the divergence.
        warmup: epochs over which eps grows from 0; 0 for none.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"examples", "objective"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    attack: Attack = PGD(steps=10)
    eps: float
    beta: float = 5.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if min(self.eps, self.beta, self.warmup) < 0:
            raise ValueError(
                f"mart: eps, beta and warmup must not be negative; "
                f"got {self.eps}, {self.beta} and {self.warmup}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(attack=PGD(steps=2), eps=0.1), cls(attack=PGD(steps=1), eps=0.1, beta=1.0)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the adversarial examples beside the clean samples."""
        eps = warmed(self.eps, self.warmup, fit)
        return batch._replace(x=examples_of(self.attack, eps, batch, fit), clean=batch.x)

    def objective(self, inner: Objective, batch: Batch, fit: Fit) -> Tensor:
        """Return the boosted cross-entropy plus beta times the weighted divergence."""
        assert batch.clean is not None
        clean, attacked = fit.seen(batch.clean), fit.seen(batch.x)
        label = batch.y.unsqueeze(1)
        rival = attacked.softmax(1).scatter(1, label, 0.0).amax(1)
        boost = -(_ONE - rival + _TINY).log().mean()
        doubt = _MORE_THAN_ONE - clean.softmax(1).gather(1, label).squeeze(1)
        gap = (divergence(clean, attacked) * doubt).mean()
        return functional.cross_entropy(attacked, batch.wanted) + boost + self.beta * gap
