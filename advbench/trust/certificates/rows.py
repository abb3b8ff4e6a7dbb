"""Linear functions of the values of a layer, on their way back to the pixels."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """Bounds of every value of a layer, per sample; both (B, n)."""

    low: Tensor
    high: Tensor


class Rows(NamedTuple):
    """R lower bounds per sample, each linear in the n values of a layer.

    Row r of sample b says that what is bounded is at least ``matrix[b, r] @ values + constant[b,
    r]``. ``size`` sums up the magnitudes of all that was added on the way, which is what rounding
    is measured by; None where nobody asks.
    """

    matrix: Tensor  # (B, R, n)
    constant: Tensor  # (B, R)
    size: Tensor | None = None  # (B, R)

    @staticmethod
    def of(matrix: Tensor, measured: bool) -> "Rows":
        """Return rows without constants; ``measured`` says whether their size is kept."""
        zero = matrix.new_zeros(matrix.shape[:2])
        return Rows(matrix, zero, zero if measured else None)

    def plus(self, constant: Tensor, size: Tensor | None) -> "Rows":
        """Return the rows with a constant and its size (B, R) added."""
        grown = None if self.size is None or size is None else self.size + size
        return Rows(self.matrix, self.constant + constant, grown)


class Step(ABC):
    """What rows can be taken back through: an affine map, or a relaxed activation."""

    @abstractmethod
    def back(self, rows: Rows) -> Rows:
        """Turn bounds in terms of the outputs into bounds in terms of the inputs."""


class Lines(NamedTuple):
    """A line below and a line above each of n activations, per sample; all (B, n)."""

    low_slope: Tensor
    low_constant: Tensor
    high_slope: Tensor
    high_constant: Tensor


class Elementwise(Step):
    """A relaxation that holds every output between two lines in its own input.

    For a lower bound, a coefficient above 0 takes the line below, one below 0 the line above.
    """

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def back(self, rows: Rows) -> Rows:
        """Replace each output by its line."""
        low_slope, low_constant, high_slope, high_constant = self.lines
        up, down = rows.matrix.clamp(min=0), rows.matrix.clamp(max=0)
        constant = dot(up, low_constant) + dot(down, high_constant)
        size = None
        if rows.size is not None:
            size = dot(up, low_constant.abs()) - dot(down, high_constant.abs())
        up.mul_(low_slope.unsqueeze(1)).add_(down.mul_(high_slope.unsqueeze(1)))
        return rows.plus(constant, size)._replace(matrix=up)


def dot(matrix: Tensor, vector: Tensor) -> Tensor:
    """Multiply (B, R, n) with (B, n), to (B, R)."""
    product: Tensor = torch.matmul(matrix, vector.unsqueeze(2)).squeeze(2)
    return product


def least_in_box(matrix: Tensor, box: Interval) -> Tensor:
    """Return the least of ``matrix @ values`` over a box of values, (B, R)."""
    middle, half = (box.low + box.high) / 2, (box.high - box.low) / 2
    return dot(matrix, middle) - dot(matrix.abs(), half)
