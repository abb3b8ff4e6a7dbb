"""Turning, moving, scaling and shearing a picture."""

from dataclasses import dataclass
from math import log1p
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations import limits
from advbench.attacks.perturbations.ranges import Axis, Ranges
from advbench.attacks.perturbations.resampling import Padding, check_padding, resample


@final
@dataclass(frozen=True)
class Affine(Ranges):
    """A picture sheared, scaled, turned about its middle and moved, in this order.

    ``eps`` in [0, 1] is the share of every range that may be used. The four are composed into one
    map, in pixels, and the picture is resampled once, bilinearly: whole-pixel moves and quarter
    turns of a square are exact, and an oblong picture keeps its angles.

    After Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness",
    ICML 2019, arXiv:1712.02779, whose ranges for MNIST and CIFAR-10 are the defaults. For ImageNet
    they shift by up to 24 pixels.

    Fields:
        rotation: degrees to either side, at most 180, a full circle; a positive angle turns the
            picture counter-clockwise, as ``torch.rot90`` does.
        shift: pixels along either axis; positive ones move the picture down and to the right.
        scale: the picture grows or shrinks by a factor of up to 1 + scale, evenly on a log scale.
        shear: degrees by which its vertical lines lean, at most 80; a positive angle moves the
            upper half to the right.
        padding: what comes in from beyond the picture: zeros, border or reflection.
    """

    rotation: float = 30.0
    shift: float = 3.0
    scale: float = 0.0
    shear: float = 0.0
    padding: Padding = "zeros"

    def __post_init__(self) -> None:
        limits.number("affine", "rotation", self.rotation, 180)
        limits.number("affine", "shift", self.shift)
        limits.number("affine", "scale", self.scale)
        limits.number("affine", "shear", self.shear, 80)
        check_padding("affine", self.padding)
        if not self.axes:
            raise ValueError("affine: every range is 0, so that nothing is left to change")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The numbers whose range is not 0."""
        every = (
            Axis("angle", self.rotation, 180.0),
            Axis("shift_y", self.shift),
            Axis("shift_x", self.shift),
            Axis("scale", log1p(self.scale)),
            Axis("shear", self.shear),
        )
        return tuple(axis for axis in every if axis.reach)

    @property
    def ball(self) -> bool:
        """Separate numbers."""
        return False

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the changed images (B, C, H, W); differentiable with respect to ``p`` (B, k)."""
        found = dict(zip(self.names, self.numbers(p).unbind(1), strict=True))
        still = p.new_zeros(len(p))
        y = _middled(x.shape[2], p) - found.get("shift_y", still).unsqueeze(1)
        x_ = _middled(x.shape[3], p) - found.get("shift_x", still).unsqueeze(1)
        cos, sin = _circle(found.get("angle", still))
        factor = (-found.get("scale", still)).exp()
        lean = found.get("shear", still).deg2rad().tan()
        # The way back: turned, scaled and sheared in this order.
        down_y, down_x = factor * cos, factor * sin
        right_y, right_x = lean * down_y - down_x, lean * down_x + down_y
        row = _sum(down_y, y, down_x, x_) + (x.shape[2] - 1) / 2
        column = _sum(right_y, y, right_x, x_) + (x.shape[3] - 1) / 2
        return resample(x, row, column, self.padding)

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return every number by name: degrees, pixels, and the factor of the scale."""
        found = dict(zip(self.names, self.numbers(p).unbind(1), strict=True))
        if self.scale:
            found["scale"] = found["scale"].exp()
        return found

    def refusal(self, shape: torch.Size) -> str | None:
        """Refuse what is no image."""
        if len(shape) != 3:
            return f"an affine change needs images (C, H, W); got {tuple(shape)}"
        return None


def _middled(length: int, like: Tensor) -> Tensor:
    """Return the pixels of a line counted from its middle, (1, length)."""
    line = torch.arange(length, dtype=like.dtype, device=like.device)
    return (line - (length - 1) / 2).unsqueeze(0)


def _sum(along_y: Tensor, y: Tensor, along_x: Tensor, x: Tensor) -> Tensor:
    """Return ``along_y * y + along_x * x`` (B, H, W); the factors (B,), ``y`` (B, H), ``x`` (B, W).

    Products first: only the sum is as large as the picture.
    """
    return (along_y.unsqueeze(1) * y).unsqueeze(2) + (along_x.unsqueeze(1) * x).unsqueeze(1)


def _circle(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, (B,) each, exact at multiples of 90 degrees."""
    quarter = (degrees.detach() / 90).round()
    rest = (degrees - 90 * quarter).deg2rad()
    cos, sin = rest.cos(), rest.sin()
    turns = quarter.long() % 4
    even, odd = degrees.new_tensor([1, 0, -1, 0])[turns], degrees.new_tensor([0, 1, 0, -1])[turns]
    return even * cos - odd * sin, odd * cos + even * sin
