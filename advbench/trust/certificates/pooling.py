"""The largest entry of each window, between two of its entries."""

from typing import final

import torch
from torch import Tensor

from advbench.trust.certificates.curves import Activation
from advbench.trust.certificates.rows import Interval, Rows, Step, dot
from advbench.trust.certificates.windows import Windows


@final
class MaxPool(Activation):
    """Max-pooling of flat images."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __call__(self, values: Tensor) -> Tensor:
        """Return the largest entry of each window."""
        return self.windows.gather(values, -torch.inf).amax(2)

    def relax(self, given: Interval) -> Step:
        """Take below the entry that is the largest in the middle; above, a line in one entry.

        No entry but the one of the largest upper bound exceeds ``level``, the larger of the second
        upper bound and of all lower bounds. The line rises in that one entry, from the level at its
        lower end to its upper bound. So a maximum with 0 has the bounds of a ReLU, and an entry
        that is surely the largest stands for itself.
        """
        low = self.windows.gather(given.low, -torch.inf)
        high = self.windows.gather(given.high, -torch.inf)
        order = high.topk(min(2, self.windows.entries), dim=2)
        first, top = order.indices[..., :1], order.values[..., 0]
        level = torch.cat([low, order.values[..., 1:]], 2).amax(2)
        bottom = low.gather(2, first).squeeze(2)
        rises = top > level
        slope = torch.where(rises, (top - level) / torch.where(rises, top - bottom, 1), 0)
        below = self.windows.places((low + high).argmax(2))
        above = self.windows.places(first.squeeze(2))
        return _Pooled(given.low.shape[1], below, above, slope, level - slope * bottom)

    def needs(self, given: Interval, wanted: Tensor, idle: Tensor) -> tuple[Tensor, Tensor]:
        """Ask for the entries that may be the largest, where several may or it is wanted."""
        low = self.windows.gather(given.low, -torch.inf)
        high = self.windows.gather(given.high, -torch.inf)
        candidate = high >= low.amax(2, keepdim=True)
        ask = ((candidate.sum(2) > 1) | wanted) & ~idle
        seen = candidate & ~idle.unsqueeze(2)
        return self._spread(candidate & ask.unsqueeze(2), low), ~self._spread(seen, low)

    def _spread(self, entries: Tensor, like: Tensor) -> Tensor:
        return self.windows.scatter(entries.to(like.dtype)) > 0


@final
class _Pooled(Step):
    """One of the ``inputs`` below each maximum, and a line in one above; all (B, windows)."""

    def __init__(
        self, inputs: int, below: Tensor, above: Tensor, slope: Tensor, constant: Tensor
    ) -> None:
        self.inputs = inputs
        self.below, self.above, self.slope, self.constant = below, above, slope, constant

    def back(self, rows: Rows) -> Rows:
        """Replace each maximum by its bound."""
        up, down = rows.matrix.clamp(min=0), rows.matrix.clamp(max=0)
        constant = dot(down, self.constant)
        size = None if rows.size is None else -dot(down, self.constant.abs())
        matrix = up.new_zeros(*up.shape[:2], self.inputs)
        matrix.scatter_add_(2, self.below.unsqueeze(1).expand_as(up), up)
        down.mul_(self.slope.unsqueeze(1))
        matrix.scatter_add_(2, self.above.unsqueeze(1).expand_as(down), down)
        return rows.plus(constant, size)._replace(matrix=matrix)
