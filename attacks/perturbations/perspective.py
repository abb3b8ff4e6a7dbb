"""A picture seen at a slant."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.perturbations import limits
from advbench.attacks.perturbations.ranges import Axis, Ranges
from advbench.attacks.perturbations.resampling import Padding, check_padding, resample

_CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
_FLAT = 1e-3  # share below which a depth or an area counts as none


@final
@dataclass(frozen=True)
class Perspective(Ranges):
    """A picture whose four corners are moved, each on its own, as if it were seen at a slant.

    ``eps`` in [0, 1] is the share of the range that may be used. The map is the homography that
    takes the corners to their new places; the picture is resampled once, bilinearly. Corners that
    all move by the same whole pixels are a shift, and exact.

    The homography in closed form after Heckbert, "Fundamentals of texture mapping and image
    warping", master's thesis, UC Berkeley, 1989.

    Fields:
        shift: pixels by which each corner may move along either axis; positive ones move it down
            and to the right. Less than H W / (2 (H + W)), a quarter of the side of a square:
            beyond, a picture can be folded over.
        padding: what comes in from beyond the picture: zeros, border or reflection.
    """

    shift: float = 3.0
    padding: Padding = "zeros"

    def __post_init__(self) -> None:
        limits.number("perspective", "shift", self.shift)
        check_padding("perspective", self.padding)
        if not self.shift:
            raise ValueError("perspective: shift is 0, so that nothing is left to change")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Eight numbers: down and to the right, for each corner."""
        return tuple(Axis(f"{corner}_{way}", self.shift) for corner in _CORNERS for way in "yx")

    @property
    def ball(self) -> bool:
        """Separate numbers."""
        return False

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the changed images (B, C, H, W); differentiable with respect to ``p`` (B, 8)."""
        _, _, height, width = x.shape
        back = _way_back(self.numbers(p).unflatten(1, (4, 2)), height, width)
        y = torch.arange(height, dtype=p.dtype, device=p.device).view(1, -1, 1) + 0.5
        x_ = torch.arange(width, dtype=p.dtype, device=p.device).view(1, 1, -1) + 0.5
        of_y, of_x, fixed = back.unsqueeze(3).unsqueeze(4).unbind(2)
        row, column, depth = (of_y * y + fixed + of_x * x_).unbind(1)
        # Beyond the horizon there is nothing: what lies there is sent far away.
        depth = depth.clamp_min(_FLAT)
        return resample(x, row / depth - 0.5, column / depth - 0.5, self.padding)

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return where the corners moved, in pixels, by name."""
        return dict(zip(self.names, self.numbers(p).unbind(1), strict=True))

    def refusal(self, shape: torch.Size) -> str | None:
        """Refuse what is no image, and images so small that they can be folded over."""
        if len(shape) != 3:
            return f"a perspective change needs images (C, H, W); got {tuple(shape)}"
        _, height, width = shape
        room = height * width / (2 * (height + width))
        if self.shift < room:
            return None
        return (
            f"a perspective change that moves corners by {self.shift:g} pixels can fold images of "
            f"{height} x {width} over. Use a shift below {room:.4g}."
        )


def _way_back(moves: Tensor, height: int, width: int) -> Tensor:
    """Return the homographies (B, 3, 3) from moved places to original ones, up to a factor.

    ``moves`` (B, 4, 2) are those of the corners. Places are (y, x, 1), in pixels from the outer
    corner. Everything is written as a change from the identity, which is therefore exact.
    """
    top_left, top_right, bottom_left, bottom_right = moves.unbind(1)
    size_y, size_x = moves.new_tensor([[height, 0.0], [0.0, width]])
    skew = top_left - top_right + bottom_right - bottom_left
    up, left = top_right - bottom_right - size_y, bottom_left - bottom_right - size_x
    area = _cross(up, left).clamp_min(_FLAT * height * width)
    tilt_x, tilt_y = _cross(skew, left) / area, _cross(up, skew) / area
    along_y = bottom_left - top_left + tilt_y.unsqueeze(1) * (size_y + bottom_left)
    along_x = top_right - top_left + tilt_x.unsqueeze(1) * (size_x + top_right)
    y = torch.cat([along_y, tilt_y.unsqueeze(1)], 1) / height + moves.new_tensor([1, 0, 0])
    x = torch.cat([along_x, tilt_x.unsqueeze(1)], 1) / width + moves.new_tensor([0, 1, 0])
    origin = functional.pad(top_left, (0, 1), value=1)
    # The adjugate: the inverse times the determinant, which places with a depth do not see.
    return torch.stack([a.cross(b, 1) for a, b in ((x, origin), (origin, y), (y, x))], 1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Return the signed area, (B,), between vectors (B, 2)."""
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
