"""Cutout."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.defenses.defense import Defense
from advbench.defenses.fit import Batch, Fit


@final
@dataclass(frozen=True, kw_only=True)
class Cutout(Defense):
    """Black out a square of every training image, at a place drawn anew each time.

    The middle is any pixel with equal chance, so the square may hang over the rim. Source: DeVries
    and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
    arXiv:1708.04552, section 3. Deviation: what is cut is black, 0, instead of the mean of the
    data.

    Fields:
        side: of the square, in pixels.
    """

    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    side: int = 2

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"cutout: side must be at least 1 pixel; got {self.side}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(side=5)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the images with a square of zeros in each.

        Raises ValueError where samples are not images (B, C, H, W).
        """
        if batch.x.dim() != 4:
            raise ValueError(
                f"cutout: samples must be images (B, C, H, W); got {tuple(batch.x.shape)}"
            )
        count, _, height, width = batch.x.shape
        rows, columns = self._cut(count, height), self._cut(count, width)
        square = rows.unsqueeze(2) & columns.unsqueeze(1)
        return batch._replace(x=batch.x.masked_fill(square.unsqueeze(1), 0))

    def _cut(self, count: int, length: int) -> Tensor:
        """Tell for each image which pixels of a line lie in a stretch of it, (count, length)."""
        start = torch.randint(length, (count, 1)) - self.side // 2
        pixel = torch.arange(length)
        return (pixel >= start) & (pixel < start + self.side)
