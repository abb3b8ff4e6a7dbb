"""Activations between straight lines, tight on the interval that their input is known to lie in.

Source: Zhang, Weng, Chen, Hsieh, Daniel, "Efficient neural network robustness certification with
general activation functions" (CROWN), NeurIPS 2018, arXiv:1811.00866, section 3.3. Where the paper
leaves the tangent point open, it is the one whose line is nearest to the curve on average.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.trust.certificates.rows import Elementwise, Interval, Lines, Step

_NARROW = 1e-3  # below, the slope of a chord drowns in rounding and Taylor's remainder is tiny
_HALVINGS = 30
_BEND_OF_TANH = 4 / 27**0.5  # the largest second derivative


class Activation(ABC):
    """A monotone function of the values of a layer, (N, n) to (N, n_after)."""

    @abstractmethod
    def __call__(self, values: Tensor) -> Tensor:
        """Apply the function."""

    @abstractmethod
    def relax(self, given: Interval) -> Step:
        """Return linear bounds that hold wherever the inputs lie in their intervals."""

    @abstractmethod
    def needs(self, given: Interval, wanted: Tensor, idle: Tensor) -> tuple[Tensor, Tensor]:
        """Say which inputs need better intervals, and which could be anything; bool (B, n).

        ``wanted`` are the outputs that need better intervals for what follows, ``idle`` those
        that make no difference to it.
        """

    @final
    def interval(self, given: Interval) -> Interval:
        """Return the exact bounds of each output."""
        return Interval(self(given.low), self(given.high))


@final
@dataclass(frozen=True)
class Rectifier(Activation):
    """ReLU, or with a slope from 0 to 1 below zero its leaky kin."""

    slope: float = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the function."""
        return torch.maximum(values, values * self.slope)

    def relax(self, given: Interval) -> Step:
        """Take the chord above; below, the steep or the flat part, whichever is the longer.

        An input that keeps its sign keeps its own line.
        """
        low, high = given
        crossing = (low < 0) & (high > 0)
        width = torch.where(crossing, high - low, 1)
        sure = torch.ones_like(low).where(low >= 0, self.slope)
        chord = torch.where(crossing, (high - self.slope * low) / width, sure)
        lower = torch.where(crossing & (high >= -low), 1, sure)
        lift = torch.where(crossing, -(1 - self.slope) * low * (high / width), 0)
        return Elementwise(Lines(lower, torch.zeros_like(low), chord, lift))

    def needs(self, given: Interval, wanted: Tensor, idle: Tensor) -> tuple[Tensor, Tensor]:
        """Ask for what may change its sign; nothing depends on what is always cut off."""
        low, high = given
        if self.slope == 0:
            idle = idle | (high <= 0)
        return ((low < 0) & (high > 0) | wanted) & ~idle, idle


class Smooth(Activation):
    """An activation without corners: every input matters."""

    @abstractmethod
    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """Return a line below and one above on each interval."""

    @final
    def relax(self, given: Interval) -> Step:
        """Return linear bounds that hold wherever the inputs lie in their intervals."""
        return Elementwise(self.lines(*given))

    @final
    def needs(self, given: Interval, wanted: Tensor, idle: Tensor) -> tuple[Tensor, Tensor]:
        """Ask for all that makes a difference."""
        return ~idle, idle


@final
@dataclass(frozen=True)
class Softplus(Smooth):
    """log(1 + exp(beta z)) / beta, which is convex."""

    beta: float = 1.0

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the function."""
        return functional.softplus(values, self.beta)

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """Take the chord above, and below the tangent in the middle."""
        middle, width = (low + high) / 2, high - low
        slope = torch.sigmoid(self.beta * middle)
        constant = self(middle) - slope * middle
        chord, lift = _chord(self, low, high)
        narrow = width < _NARROW
        remainder = self.beta / 4 * width.square() / 8
        return Lines(
            slope,
            constant,
            torch.where(narrow, slope, chord),
            torch.where(narrow, constant + remainder, lift),
        )


@final
@dataclass(frozen=True)
class Tanh(Smooth):
    """The hyperbolic tangent: convex below zero, concave above, and odd."""

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the function."""
        return values.tanh()

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """Return the line below, and above the mirror image of the line below."""
        slope, constant = _below_tanh(low, high)
        mirrored_slope, mirrored = _below_tanh(-high, -low)
        return Lines(slope, constant, mirrored_slope, -mirrored)


@final
@dataclass(frozen=True)
class Sigmoid(Smooth):
    """1 / (1 + exp(-z)), which is (1 + tanh(z / 2)) / 2."""

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the function."""
        return values.sigmoid()

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """Return the lines of the hyperbolic tangent, rescaled."""
        a, b, c, d = Tanh().lines(low / 2, high / 2)
        return Lines(a / 4, (1 + b) / 2, c / 4, (1 + d) / 2)


def _below_tanh(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and constant of a line below tanh.

    Where tanh is steeper at the lower end than the chord, the chord lies below it. Elsewhere it is
    a tangent in the convex part, which is sound as long as it is below tanh at the upper end; the
    last such point is found by halving, from the sound side.
    """
    width, middle = high - low, (low + high) / 2
    chord, through = _chord(torch.tanh, low, high)
    sound, unsound = low.clamp(max=0), high.clamp(max=0)
    reached = high.tanh()
    for _ in range(_HALVINGS):
        point = (sound + unsound) / 2
        below = point.tanh() + _slope_of_tanh(point) * (high - point) <= reached
        sound, unsound = torch.where(below, point, sound), torch.where(below, unsound, point)
    point = torch.minimum(torch.where(high <= 0, high, sound), middle)
    tangent = _slope_of_tanh(point)
    steep = (low >= 0) | (high > 0) & (_slope_of_tanh(low) >= chord)
    slope = torch.where(steep, chord, tangent)
    constant = torch.where(steep, through, point.tanh() - tangent * point)
    flat = _slope_of_tanh(middle)
    remainder = _BEND_OF_TANH * width.square() / 8
    narrow = width < _NARROW
    return (
        torch.where(narrow, flat, slope),
        torch.where(narrow, middle.tanh() - flat * middle - remainder, constant),
    )


def _slope_of_tanh(z: Tensor) -> Tensor:
    """The derivative, exact where tanh is 1 up to rounding."""
    falling = torch.exp(-2 * z.abs())
    return 4 * falling / (1 + falling).square()


def _chord(
    function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Slope and constant of the line through both ends, which may be as far apart as can be."""
    start, width = function(low), high / 2 - low / 2
    slope = (function(high) / 2 - start / 2) / width.clamp_min(torch.finfo(low.dtype).tiny)
    return slope, start - slope * low
