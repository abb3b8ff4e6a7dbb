"""Adversarial training."""

from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from advbench.attacks.attack import Attack
from advbench.attacks.randomness import Draws
from advbench.attacks.victim import Model
from advbench.defenses.defense import Defense

_SHARE = 1 << 21  # marks the draws that choose who is attacked, apart from those of attacks


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """Train on the strongest examples that an attack finds, instead of the clean ones.

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
    arXiv:1706.06083, section 2. Added to it: eps may grow linearly over the first epochs, without
    which training at a large eps can stay at chance, and some samples may be left as they are.
    Any attack serves: with `random_noise` of one step it is augmentation at random, of ten the
    worst-of-10 training of Engstrom et al., ICML 2019, arXiv:1712.02779.

    Fields:
        attack: makes the examples.
        eps: the scale of the attack's perturbation set.
        warmup: epochs over which eps grows from 0; 0 for none.
        share: of the samples of an epoch that are attacked, drawn anew in each.
    """

    attack: Attack
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

    def batch(
        self, model: Model, x: Tensor, y: Tensor, ids: Tensor, epoch: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """The adversarial examples, with the labels unchanged."""
        eps = self.eps if epoch >= self.warmup else self.eps * epoch / self.warmup
        if self.share == 1 or epoch == inf:
            return self._attacked(model, x, y, ids, eps, seed), y
        zero = torch.zeros_like(ids)
        chance = Draws(zero + seed, ids, zero, zero).fork(_SHARE).uniform(())
        index = (chance < self.share).nonzero().squeeze(1)
        changed = self._attacked(model, x[index], y[index], ids[index], eps, seed)
        return x.index_copy(0, index, changed), y

    def _attacked(
        self, model: Model, x: Tensor, y: Tensor, ids: Tensor, eps: float, seed: int
    ) -> Tensor:
        return self.attack(model, x, y, eps=eps, seed=seed, ids=ids, stop="never")
