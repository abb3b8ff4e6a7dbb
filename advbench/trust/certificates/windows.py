"""The windows of a pooling layer, as places in a flat image."""

from typing import final

import torch
from torch import Tensor

Pair = tuple[int, int]


@final
class Windows:
    """Windows over the last two axes of images (C, H, W), each with ``entries`` places.

    A place outside of the image stands for padding.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        size_after: Pair,
        kernel: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        device: torch.device,
    ) -> None:
        self.shape = shape
        self.shape_after = (shape[0], *size_after)
        self.entries = kernel[0] * kernel[1]
        self._area = shape[1] * shape[2]
        starts = [
            torch.arange(count, device=device).unsqueeze(1) * step - pad
            for count, step, pad in zip(size_after, stride, padding, strict=True)
        ]
        rows, columns = (
            start + torch.arange(side, device=device) * gap
            for start, side, gap in zip(starts, kernel, dilation, strict=True)
        )
        row, column = rows.view(-1, 1, kernel[0], 1), columns.view(1, -1, 1, kernel[1])
        inside = (row >= 0) & (row < shape[1]) & (column >= 0) & (column < shape[2])
        places = torch.where(inside, row * shape[2] + column, self._area)
        self._places = places.flatten()  # window by window

    def gather(self, values: Tensor, padding: float) -> Tensor:
        """Return the entries of all windows, (N, C * windows, entries), of (N, C * H * W)."""
        flat = values.reshape(-1, self._area)
        padded = torch.nn.functional.pad(flat, (0, 1), value=padding)
        found = padded.index_select(1, self._places)
        return found.view(len(values), -1, self.entries)

    def places(self, entry: Tensor) -> Tensor:
        """Return where in the flat images the chosen entries (B, C * windows) of windows lie."""
        starts = torch.arange(self._places.numel() // self.entries, device=entry.device)
        chosen = self._places[(starts * self.entries).repeat(self.shape[0]) + entry]
        channel = torch.arange(self.shape[0], device=entry.device)
        return chosen + (channel * self._area).repeat_interleave(len(starts))

    def scatter(self, entries: Tensor) -> Tensor:
        """Add up (N, C * windows, entries) where they come from, (N, C * H * W); the adjoint."""
        flat = entries.reshape(-1, len(self._places))
        sums = flat.new_zeros(len(flat), self._area + 1)
        return sums.index_add_(1, self._places, flat)[:, :-1].reshape(len(entries), -1)
