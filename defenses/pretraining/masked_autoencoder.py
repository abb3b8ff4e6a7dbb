"""Pre-training as a masked autoencoder."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit
from advbench.defenses.pretraining import autoencoder


@final
@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoder(Defense):
    """Let the network first learn to fill in hidden squares of images, without labels (MAE).

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022,
    arXiv:2111.06377; as there, the same share of every image is hidden, drawn anew each time, and
    only hidden pixels count. Networks here are no transformers: hidden squares are 0 and go through
    the encoder with the others, and the decoder has one hidden layer; the pixels wanted are not
    normalised; fewer squares are hidden by default, for small images.

    Fields:
        epochs: of the pre-training, besides those of the recipe.
        side: of a square in pixels; those at the lower and right edges may be cut.
        ratio: the share of squares that are hidden, rounded to at least one and not all.
        learning_rate: of the pre-training, by Adam.
        batch_size: of the pre-training.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"pre-training"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    epochs: int = 20
    side: int = 2
    ratio: float = 0.5
    learning_rate: float = 1e-3
    batch_size: int = 64

    def __post_init__(self) -> None:
        autoencoder.check("masked_autoencoder", self.epochs, self.learning_rate, self.batch_size)
        if self.side < 1:
            raise ValueError(f"masked_autoencoder: side must be at least 1; got {self.side}")
        if not 0 < self.ratio < 1:
            raise ValueError(f"masked_autoencoder: ratio must lie in (0, 1); got {self.ratio}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(epochs=2), cls(epochs=1, side=3, ratio=0.75, batch_size=16)

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
        """Return images with squares hidden, and 1 where they are; both (B, C, H, W)."""
        count, _, height, width = images.shape
        rows, columns = math.ceil(height / self.side), math.ceil(width / self.side)
        squares = rows * columns
        if squares < 2:
            raise ValueError(
                f"masked_autoencoder: a square of side {self.side} covers images of {height} x "
                f"{width} pixels; choose a smaller side"
            )
        some = min(max(1, round(self.ratio * squares)), squares - 1)
        order = torch.rand(count, squares, device=images.device).argsort(1)
        hidden = (order < some).view(count, 1, rows, columns).to(images)
        hidden = hidden.repeat_interleave(self.side, 2).repeat_interleave(self.side, 3)
        hidden = hidden[:, :, :height, :width].expand_as(images)
        return images * (1 - hidden), hidden
