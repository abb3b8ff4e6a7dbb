"""Affine layers as functions of flat values: forward, with absolute weights, and their adjoint.

Values are flat, (N, n), whatever their shape in the model, so flattening them is no layer at all.
"""

import math
from abc import abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.trust.certificates.rows import Interval, Rows, Step
from advbench.trust.certificates.windows import Windows

Shape = tuple[int, ...]


class AffineMap(Step):
    """A map ``linear(values) + offset`` from ``shape`` to another, both without the batch."""

    mixes: bool = True
    """Whether an output depends on several inputs."""

    def __init__(self, shape: Shape, shape_after: Shape, offset: Tensor) -> None:
        self.shape = shape
        self.shape_after = shape_after
        self.offset = offset  # (n_after,)

    @abstractmethod
    def linear(self, values: Tensor) -> Tensor:
        """Apply the linear part to (N, n)."""

    @abstractmethod
    def absolute(self, values: Tensor) -> Tensor:
        """Apply the linear part with the magnitudes of its weights."""

    @abstractmethod
    def adjoint(self, rows: Tensor) -> Tensor:
        """Apply the transposed linear part to (N, n_after)."""

    @final
    def __call__(self, values: Tensor) -> Tensor:
        """Apply the map to (N, n)."""
        return self.linear(values) + self.offset

    @final
    def interval(self, given: Interval) -> Interval:
        """Return the exact bounds of each output where each input is anywhere in its interval."""
        middle, half = self((given.low + given.high) / 2), (given.high - given.low) / 2
        around = self.absolute(half)
        return Interval(middle - around, middle + around)

    @final
    def back(self, rows: Rows) -> Rows:
        """Turn bounds in terms of the outputs into bounds in terms of the inputs."""
        constant = rows.matrix @ self.offset
        size = None if rows.size is None else rows.matrix.abs() @ self.offset.abs()
        matrix = self.adjoint(rows.matrix.flatten(0, 1)).view(*rows.matrix.shape[:2], -1)
        return rows.plus(constant, size)._replace(matrix=matrix)


@final
class Dense(AffineMap):
    """A matrix (outputs, inputs) applied to the last axis."""

    def __init__(self, shape: Shape, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        super().__init__(shape, (*shape[:-1], len(weight)), bias.repeat(math.prod(shape[:-1])))

    def linear(self, values: Tensor) -> Tensor:
        """Apply the matrix."""
        return self._times(values, self.weight)

    def absolute(self, values: Tensor) -> Tensor:
        """Apply the matrix of magnitudes."""
        return self._times(values, self.weight.abs())

    def adjoint(self, rows: Tensor) -> Tensor:
        """Apply the transposed matrix."""
        return self._times(rows, self.weight.t())

    def _times(self, values: Tensor, weight: Tensor) -> Tensor:
        parts = values.view(len(values), math.prod(self.shape[:-1]), weight.shape[1])
        return functional.linear(parts, weight).flatten(1)


@final
class Convolution(AffineMap):
    """A convolution with zero padding; a weight (outputs, inputs / groups, height, width)."""

    def __init__(
        self,
        shape: Shape,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        self.weight = weight
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        after = self._apply(weight.new_zeros(1, *shape), weight).shape[1:]
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        super().__init__(shape, tuple(after), bias.view(-1, 1, 1).expand(after).reshape(-1))
        # Rows and columns at the far edge that no window reaches, which the adjoint has to add.
        reach = tuple(
            (out - 1) * step - 2 * pad + gap * (side - 1) + 1
            for out, step, pad, gap, side in zip(
                after[1:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        )
        self.unreached = (shape[1] - reach[0], shape[2] - reach[1])

    def linear(self, values: Tensor) -> Tensor:
        """Convolve."""
        return self._apply(values.view(-1, *self.shape), self.weight).flatten(1)

    def absolute(self, values: Tensor) -> Tensor:
        """Convolve with the magnitudes."""
        return self._apply(values.view(-1, *self.shape), self.weight.abs()).flatten(1)

    def adjoint(self, rows: Tensor) -> Tensor:
        """Apply the transposed convolution, where inputs have few channels as columns added up."""
        images = rows.view(-1, *self.shape_after)
        weight = self.weight.flatten(1)
        if self.groups == 1 and weight.shape[1] <= 2 * len(weight):
            columns = torch.matmul(weight.t(), images.flatten(2))
            facts = (self.dilation, self.padding, self.stride)
            size, kernel = self.shape[1:], self.weight.shape[2:]
            return functional.fold(columns, size, kernel, *facts).flatten(1)
        back: Tensor = functional.conv_transpose2d(
            images,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.unreached,
            groups=self.groups,
            dilation=self.dilation,
        )
        return back.flatten(1)

    def _apply(self, images: Tensor, weight: Tensor) -> Tensor:
        facts = (self.stride, self.padding, self.dilation, self.groups)
        return functional.conv2d(images, weight, None, *facts)


@final
class Mean(AffineMap):
    """Average pooling: the sum over each window times a factor (n_after,) of its own."""

    def __init__(self, windows: Windows, factor: Tensor) -> None:
        self.windows = windows
        self.factor = factor
        super().__init__(windows.shape, windows.shape_after, torch.zeros_like(factor))

    def linear(self, values: Tensor) -> Tensor:
        """Return the means."""
        return self.windows.gather(values, 0.0).sum(2) * self.factor

    def absolute(self, values: Tensor) -> Tensor:
        """Return the means."""
        return self.linear(values)

    def adjoint(self, rows: Tensor) -> Tensor:
        """Give each entry of a window its share."""
        shares = (rows * self.factor).unsqueeze(2)
        return self.windows.scatter(shares.expand(-1, -1, self.windows.entries))


@final
class Scale(AffineMap):
    """Every value times a factor of its own, plus an offset: normalisation. Both (n,)."""

    mixes = False

    def __init__(self, shape: Shape, factor: Tensor, offset: Tensor) -> None:
        self.factor = factor
        super().__init__(shape, shape, offset)

    def linear(self, values: Tensor) -> Tensor:
        """Multiply."""
        return values * self.factor

    def absolute(self, values: Tensor) -> Tensor:
        """Multiply with the magnitudes."""
        return values * self.factor.abs()

    def adjoint(self, rows: Tensor) -> Tensor:
        """Multiply."""
        return rows * self.factor
