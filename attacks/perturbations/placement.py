"""Where and how a patch may lie on an image."""

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from advbench.attacks.perturbations.masks import Mask

Box = tuple[float, float, float, float]
_EVERYWHERE: Box = (0.0, 0.0, 1.0, 1.0)


class Where(NamedTuple):
    """One placement per row, (B,): lengths in pixels, the angle in radians.

    ``tilt`` (B, 2) turns the square out of the plane: its point (a, b) in [-1, 1]² comes to lie at
    (a, b) / (1 + tilt · (a, b)) in units of half the side.
    """

    y: Tensor
    x: Tensor
    side: Tensor
    angle: Tensor
    tilt: Tensor
    brightness: Tensor
    contrast: Tensor
    blur: Tensor


@final
@dataclass(frozen=True)
class Placement:
    """The range of places and looks of a patch; each varies uniformly and independently.

    A patch lies inside the image by construction.

    Fields:
        location: centre as shares of height and width; None for anywhere that is allowed.
        allowed: top, left, bottom, right as shares of the image, which the patch does not leave.
        forbidden: likewise, which the patch does not touch; None for nothing.
        rotation: degrees, to either side.
        perspective: tilt out of the plane about either axis, 0 to 0.4; at 0.2 the far edge is
            two thirds of the near one.
        brightness: added to the patch, up or down, in pixel units.
        contrast: the patch's contrast is multiplied by 1 - contrast to 1 + contrast.
        blur: largest standard deviation of a Gaussian, in pixels.
    """

    location: tuple[float, float] | None = None
    allowed: Box = _EVERYWHERE
    forbidden: Box | None = None
    rotation: float = 0.0
    perspective: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for name in ("allowed", "forbidden"):
            box = getattr(self, name)
            if box is not None and not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                raise ValueError(
                    f"Placement: {name} must be (top, left, bottom, right) with 0 <= top < bottom "
                    f"<= 1 and 0 <= left < right <= 1; got {box}"
                )
        if self.location is not None:
            if self.forbidden is not None or self.allowed != _EVERYWHERE:
                raise ValueError(
                    "Placement: give either a location or a range (allowed, forbidden), not both"
                )
            if not all(0 < share < 1 for share in self.location):
                raise ValueError(
                    "Placement: location must be (y, x), shares of height and width between 0 and "
                    f"1; got {self.location}"
                )
        for name, most in (
            ("rotation", 180.0),
            ("perspective", 0.4),
            ("brightness", 1.0),
            ("contrast", 1.0),
            ("blur", math.inf),
        ):
            value = getattr(self, name)
            if not (0 <= value <= most and math.isfinite(value)):
                raise ValueError(f"Placement: {name} must lie in [0, {most:g}]; got {value}")

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have a range, in their order in ``u``."""
        place = () if self.location is not None else ("y", "x")
        looks = ("rotation", "tilt_y", "tilt_x", "brightness", "contrast", "blur")
        ranges = (
            self.rotation,
            self.perspective,
            self.perspective,
            self.brightness,
            self.contrast,
            self.blur,
        )
        return place + tuple(name for name, most in zip(looks, ranges, strict=True) if most)

    @property
    def rim(self) -> int:
        """Pixels by which blur reaches beyond the patch."""
        return math.ceil(2 * self.blur)

    def where(self, u: Tensor, side: Tensor, mask: Mask, height: int, width: int) -> Where:
        """Turn coordinates ``u`` (B, len(names)) in [0, 1] into placements of patches.

        ``side`` (B,) is that of the patch's square in pixels.
        """
        given = dict(zip(self.names, u.unbind(1), strict=True))
        middle = torch.full_like(side, 0.5)

        def signed(name: str, most: float) -> Tensor:
            return (2 * given.get(name, middle) - 1) * most

        angle = signed("rotation", math.radians(self.rotation))
        tilt = torch.stack([signed("tilt_x", 1), signed("tilt_y", 1)], 1) * self.perspective
        if self.location is not None:
            y, x = middle * 2 * height * self.location[0], middle * 2 * width * self.location[1]
        else:
            away = reach(mask.outline(), angle, tilt) * side / 2 + self.rim
            y, x = self._locate(given["y"], given["x"], away, height, width)
        return Where(
            y=y,
            x=x,
            side=side,
            angle=angle,
            tilt=tilt,
            brightness=signed("brightness", self.brightness),
            contrast=1 + signed("contrast", self.contrast),
            blur=given["blur"] * self.blur if self.blur else torch.zeros_like(side),
        )

    def _locate(
        self, v: Tensor, u: Tensor, away: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Draw the centre uniformly from the allowed range without the forbidden one.

        It keeps a distance of ``away`` (B,) from their edges.
        """
        top, bottom = _shrunk(self.allowed[0] * height, self.allowed[2] * height, away)
        left, right = _shrunk(self.allowed[1] * width, self.allowed[3] * width, away)
        if self.forbidden is None:
            return top + v * (bottom - top), left + u * (right - left)
        above = (self.forbidden[0] * height - away).maximum(top).minimum(bottom)
        below = (self.forbidden[2] * height + away).maximum(top).minimum(bottom)
        before = (self.forbidden[1] * width - away).maximum(left).minimum(right)
        after = (self.forbidden[3] * width + away).maximum(left).minimum(right)
        # What is left are four rectangles: y from, y to, x from, x to.
        rectangles = torch.stack(
            [
                torch.stack([top, above, left, right], 1),
                torch.stack([below, bottom, left, right], 1),
                torch.stack([above, below, left, before], 1),
                torch.stack([above, below, after, right], 1),
            ],
            1,
        )
        thin = 1e-6  # gives a range without height or width its share
        high = rectangles[..., 1] - rectangles[..., 0]
        wide = rectangles[..., 3] - rectangles[..., 2]
        fits = (high >= 0) & (wide >= 0)
        fits &= self._is_free(rectangles, away, height, width)
        area = (high + thin) * (wide + thin) * fits
        ends = area.cumsum(1)
        aim = v * ends[:, -1]
        chosen = (aim.unsqueeze(1) >= ends).sum(1).clamp_max(3).unsqueeze(1)
        before_it = (ends - area).gather(1, chosen).squeeze(1)
        along = (aim - before_it) / area.gather(1, chosen).squeeze(1).clamp_min(1e-12)
        box = rectangles.gather(1, chosen.unsqueeze(2).expand(-1, -1, 4)).squeeze(1)
        return box[:, 0] + along * (box[:, 1] - box[:, 0]), box[:, 2] + u * (box[:, 3] - box[:, 2])

    def _is_free(self, rectangles: Tensor, away: Tensor, height: int, width: int) -> Tensor:
        """Tell which rectangles of centres (B, 4, 4) keep their distance from what is forbidden."""
        assert self.forbidden is not None
        y, x = rectangles[..., :2].mean(2), rectangles[..., 2:].mean(2)
        away = away.unsqueeze(1) - 1e-4
        return (
            (y <= self.forbidden[0] * height - away)
            | (y >= self.forbidden[2] * height + away)
            | (x <= self.forbidden[1] * width - away)
            | (x >= self.forbidden[3] * width + away)
        )

    def room(self, mask: Mask, height: int, width: int) -> float:
        """Return the side, in pixels, of the largest patch for which there is a place anyhow."""
        turns = torch.linspace(-1, 1, 61) * math.radians(self.rotation)
        corners = torch.tensor([[0.0, 0.0], [1, 1], [1, -1], [-1, 1], [-1, -1]]) * self.perspective
        angle, tilt = turns.repeat_interleave(5), corners.repeat(61, 1)
        needed = float(reach(mask.outline(), angle, tilt).max())
        if self.location is not None:
            y, x = self.location[0] * height, self.location[1] * width
            half = min(y, height - y, x, width - x)
        else:
            top, left, bottom, right = self.allowed
            spans = [(bottom - top, right - left)]
            if self.forbidden is not None:
                over, before, under, after = self.forbidden
                spans = [
                    (min(over, bottom) - top, right - left),
                    (bottom - max(under, top), right - left),
                    (bottom - top, min(before, right) - left),
                    (bottom - top, right - max(after, left)),
                ]
            half = max(min(high * height, wide * width) for high, wide in spans) / 2
        return max(0.0, 2 * (half - self.rim) / needed)

    def permitted(self, height: int, width: int) -> Tensor | None:
        """Tell which pixels (height, width) may be touched; None for all of them.

        A texel at the rim of a patch fades out beyond it; it is cut off there. A pixel may be
        touched that lies only partly outside what is allowed, or inside what is forbidden.
        """
        if self.allowed == _EVERYWHERE and self.forbidden is None:
            return None
        y, x = torch.arange(height).unsqueeze(1), torch.arange(width)  # where a pixel begins
        top, left, bottom, right = _in_pixels(self.allowed, height, width)
        may = (y + 1 > top) & (y < bottom) & (x + 1 > left) & (x < right)
        if self.forbidden is not None:
            top, left, bottom, right = _in_pixels(self.forbidden, height, width)
            may &= (y < top) | (y + 1 > bottom) | (x < left) | (x + 1 > right)
        return may


def reach(points: Tensor, angle: Tensor, tilt: Tensor) -> Tensor:
    """Return how far placed points (n, 2) reach from the centre on either axis, in half sides."""
    points = points.to(angle).unsqueeze(0)
    placed = points / (1 + points @ tilt.unsqueeze(2))
    a, b = placed.unbind(2)
    cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
    return torch.maximum((cos * a - sin * b).abs(), (sin * a + cos * b).abs()).amax(1)


def _in_pixels(box: Box, height: int, width: int) -> list[float]:
    sides = (height, width, height, width)
    return [round(share * side, 6) for share, side in zip(box, sides, strict=True)]


def _shrunk(low: float, high: float, away: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of a range shortened at both; its middle where nothing is left."""
    middle = (low + high) / 2
    return (low + away).clamp_max(middle), (high - away).clamp_min(middle)
