"""Normalisation inside the model, so that threat models live in pixel space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """A model that takes images in [0, 1] and normalises them itself: model((x - mean) / std).

    `mean` and `std` are per channel, in pixel units [0, 1]. Raises ValueError where they differ in
    length or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ValueError(
                f"Normalized: mean and std need one value per channel each; "
                f"got {len(mean)} and {len(std)}"
            )
        if min(std) <= 0:
            raise ValueError(f"Normalized: std must be positive; got {tuple(std)}")
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.model((x - self.mean) / self.std)
        return logits
