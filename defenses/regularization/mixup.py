"""Mixup."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit
from advbench.defenses.regularization.label_smoothing import probabilities


@final
@dataclass(frozen=True, kw_only=True)
class Mixup(Defense):
    """Train on mixtures of two images each, and want the same mixture of their classes.

    The shares are drawn once per minibatch from Beta(concentration, concentration), and the
    partners by a permutation of it. Source: Zhang, Cisse, Dauphin, Lopez-Paz, mixup: Beyond
    Empirical Risk Minimization, ICLR 2018, arXiv:1710.09412, equation 1 and figure 1a.

    Fields:
        concentration: towards 0 one image outweighs the other, at 1 all shares are as likely.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"examples"})
    adaptive: ClassVar[str] = "Many steps: it resists single ones only. Gradients are exact."

    concentration: float = 1.0

    def __post_init__(self) -> None:
        if self.concentration <= 0:
            raise ValueError(f"mixup: concentration must be above 0; got {self.concentration}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(concentration=0.2)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return mixed images with mixed probabilities.

        Raises ValueError where samples are not images (B, C, H, W).
        """
        if batch.x.dim() != 4:
            raise ValueError(
                f"mixup: samples must be images (B, C, H, W); got {tuple(batch.x.shape)}"
            )
        share = torch.distributions.Beta(self.concentration, self.concentration).sample().item()
        partner = torch.randperm(len(batch.y))
        wanted = probabilities(batch, fit.classes)
        return batch._replace(
            x=share * batch.x + (1 - share) * batch.x[partner],
            soft=share * wanted + (1 - share) * wanted[partner],
        )
