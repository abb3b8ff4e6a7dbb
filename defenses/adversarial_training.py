"""Adversarial training."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from advbench.attacks.attack import Attack
from advbench.defenses.defense import Defense


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """Train on the strongest examples that an attack finds, instead of the clean ones.

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
    arXiv:1706.06083, section 2. Added to it: eps may grow linearly over the first epochs, without
    which training at a large eps can stay at chance.

    Fields:
        attack: makes the examples.
        eps: the scale of the attack's perturbation set.
        warmup: epochs over which eps grows from 0; 0 for none.
    """

    attack: Attack
    eps: float
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.eps < 0 or self.warmup < 0:
            raise ValueError(
                f"adversarial_training: eps and warmup must not be negative; "
                f"got {self.eps} and {self.warmup}"
            )

    def batch(
        self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, epoch: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """The adversarial images, with the labels unchanged."""
        eps = self.eps if epoch >= self.warmup else self.eps * epoch / self.warmup
        return self.attack(model, x, y, eps=eps, seed=seed, ids=ids, stop="never"), y
