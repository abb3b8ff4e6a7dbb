"""Bilinear sampling of images at places given in pixels."""

from difflib import get_close_matches
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.perturbations.perturbation import clip

Padding = Literal["zeros", "border", "reflection"]
"""What lies beyond a picture: black, its edge pixels repeated, or its mirror image.

The mirrors stand on the centres of the edge pixels, so that these are not repeated.
"""


def resample(x: Tensor, row: Tensor, column: Tensor, padding: Padding) -> Tensor:
    """Return the values of images at the given places, clipped to [0, 1] as ``clip`` does.

    Places count in pixels: (0, 0) is the centre of the first one. What is read at a whole pixel is
    its value bit for bit, and between pixels the bilinear mean of the four around; black padding
    fades in over the pixel beyond the edge. Differentiable; at a whole pixel, where the slope
    jumps, it is that towards the next row or column.

    Args:
        x: images (B, C, H, W).
        row: how far down to read, (B, h, w), finite.
        column: how far to the right, likewise.
        padding: what lies beyond the picture.

    Returns:
        Images (B, C, h, w).

    """
    rows, columns = _line(row, x.shape[2], padding), _line(column, x.shape[3], padding)
    before, after = (1, 2) if padding == "zeros" else (0, 1)
    # One row and one column more, so that every pixel has a next one.
    padded = functional.pad(x, (before, after, before, after))
    width = padded.shape[3]
    index = (rows.pixel * width + columns.pixel).flatten(1).unsqueeze(1)
    pixels = padded.flatten(2)
    index = index.expand(-1, x.shape[1], -1)
    upper, lower = (
        torch.lerp(
            pixels[:, :, start:].gather(2, index),
            pixels[:, :, start + 1 :].gather(2, index),
            columns.share,
        )
        for start in (0, width)
    )
    images: Tensor = clip(torch.lerp(upper, lower, rows.share)).unflatten(2, row.shape[1:])
    return images


class _Line(NamedTuple):
    """Places along one axis: a pixel of the padded picture, and the share of the way to the next.

    (B, h, w) and (B, 1, h * w).
    """

    pixel: Tensor
    share: Tensor


def _line(place: Tensor, length: int, padding: Padding) -> _Line:
    """Bring places to the picture or its margin."""
    last = length - 1
    if padding == "zeros":
        place = place.clamp(-1, length) + 1
    else:
        if padding == "reflection" and last:
            place = last - (place.remainder(2 * last) - last).abs()
        place = place.clamp(0, last)
    whole = place.detach().floor()
    return _Line(whole.long(), (place - whole).flatten(1).unsqueeze(1))


def check_padding(owner: str, padding: str) -> None:
    """Check the field ``padding``.

    Raises:
        ValueError: it is none of the three.

    """
    choices = get_args(Padding)
    if padding not in choices:
        near = get_close_matches(str(padding), choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{owner}: padding must be one of {', '.join(choices)}; got {padding!r}.{hint}"
        )
