"""Pre-training as a denoising autoencoder."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit
from advbench.defenses.pretraining import autoencoder


@final
@dataclass(frozen=True, kw_only=True)
class DenoisingAutoencoder(Defense):
    """Let the network first learn to restore noisy images, without labels (DAE).

    Source: Vincent et al., Stacked Denoising Autoencoders: Learning Useful Representations in a
    Deep Network with a Local Denoising Criterion, JMLR 11, 2010. All layers but the last learn at
    once and not one after the other, with a decoder of its own weights and one hidden layer, which
    is dropped; the noisy images are clipped to [0, 1].

    Fields:
        epochs: of the pre-training, besides those of the recipe.
        sigma: standard deviation of the Gaussian added to every pixel.
        learning_rate: of the pre-training, by Adam.
        batch_size: of the pre-training.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"pre-training"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    epochs: int = 20
    sigma: float = 0.3
    learning_rate: float = 1e-3
    batch_size: int = 64

    def __post_init__(self) -> None:
        autoencoder.check("denoising_autoencoder", self.epochs, self.learning_rate, self.batch_size)
        if self.sigma < 0:
            raise ValueError(f"denoising_autoencoder: sigma must not be negative; got {self.sigma}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(epochs=2), cls(epochs=1, sigma=0.1, batch_size=16)

    def start(self, fit: Fit) -> None:
        """Pre-train all layers but the last."""
        autoencoder.pretrain(
            fit,
            self.spoilt,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )

    def spoilt(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return noisy images, and weight 1 for every pixel; both as images, (B, C, H, W)."""
        noisy = images + self.sigma * torch.randn_like(images)
        return noisy.clamp(0, 1), torch.ones_like(images)
