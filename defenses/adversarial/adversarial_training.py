"""Adversarial training."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks.attack import Attack
from advbench.attacks.gradient.pgd import PGD
from advbench.attacks.masking import unmasked
from advbench.attacks.randomness import Draws
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit

_SHARE = 1 << 21  # marks the draws that choose who is attacked, apart from those of attacks


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """Train on the strongest examples that an attack finds, instead of the clean ones (PGD-AT).

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
    arXiv:1706.06083, section 2. Added to it: eps may grow linearly over the first epochs, without
    which training at a large eps can stay at chance, and some samples may be left as they are. The
    examples are made on the network in eval mode. Any attack serves: with `random_noise` of one
    step it is augmentation at random, of ten the worst-of-10 training of Engstrom et al., ICML
    2019, arXiv:1712.02779.

    Fields:
        attack: makes the examples.
        eps: the scale of the attack's perturbation set.
        warmup: epochs over which eps grows from 0; 0 for none.
        share: of the samples of an epoch that are attacked, drawn anew in each.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"examples"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    attack: Attack = PGD(steps=10)
    eps: float
    warmup: float = 0.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.eps < 0 or self.warmup < 0:
            raise ValueError(
                f"adversarial_training: eps and warmup must not be negative; "
                f"got {self.eps} and {self.warmup}"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"adversarial_training: share must lie in (0, 1]; got {self.share}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(attack=PGD(steps=2), eps=0.1), cls(attack=PGD(steps=1), eps=0.1, share=0.5)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the adversarial examples, with the labels unchanged."""
        eps = warmed(self.eps, self.warmup, fit)
        if self.share == 1:
            return batch._replace(x=self._attacked(batch, eps, fit))
        zero = torch.zeros_like(batch.ids)
        chance = Draws(zero + fit.epoch_seed, batch.ids, zero, zero).fork(_SHARE).uniform(())
        index = (chance < self.share).nonzero().squeeze(1)
        some = Batch(batch.x[index], batch.y[index], batch.ids[index])
        return batch._replace(x=batch.x.index_copy(0, index, self._attacked(some, eps, fit)))

    def _attacked(self, batch: Batch, eps: float, fit: Fit) -> Tensor:
        return examples_of(self.attack, eps, batch, fit)


def warmed(eps: float, warmup: float, fit: Fit) -> float:
    """Return how far eps has grown, linearly over the first ``warmup`` epochs."""
    return eps if fit.epoch >= warmup else eps * fit.epoch / warmup


def examples_of(attack: Attack, eps: float, batch: Batch, fit: Fit) -> Tensor:
    """Return the strongest changes of a minibatch that an attack finds, all steps made.

    The attack knows the layers that hide gradients.
    """
    model, seed = unmasked(fit.seen), fit.epoch_seed
    return attack(model, batch.x, batch.y, eps=eps, seed=seed, ids=batch.ids, stop="never")
