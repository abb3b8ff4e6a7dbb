"""The sheet to print: a sticker at its size in millimetres, with cut line and crop marks."""

import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.PngImagePlugin import PngInfo

from advbench.attacks.perturbations.masks import Mask
from advbench.attacks.perturbations.patch import Patch
from advbench.attacks.perturbations.picture import Picture

Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

WIDTH_MM = 50.0
DPI = 300
_INCH = 25.4  # mm
_GAP, _MARK = 1.5, 4.0  # mm between sticker and crop mark, and length of a mark
_CUT = (128, 128, 128, 255)
_INK = (0, 0, 0, 255)
_LETTER = 2.2  # mm, height of the text


class Layout(NamedTuple):
    """Where the sticker lies on its sheet, in dots.

    One texel is ``scale`` x ``scale`` dots; the sticker's square begins ``margin`` dots from the
    left and the upper edge of the sheet.
    """

    dpi: int
    scale: int
    margin: int
    side: int

    @property
    def width_mm(self) -> float:
        """Width of the sticker's square as printed."""
        return round(self.side / self.dpi * _INCH, 3)


def layout(resolution: int, width_mm: float = WIDTH_MM, dpi: int = DPI) -> Layout:
    """Return the layout of a sticker of ``resolution`` texels a side, about ``width_mm`` wide.

    Every texel gets the same whole number of dots, so the width is the nearest that they make.
    """
    scale = max(1, round(width_mm * dpi / _INCH / resolution))
    margin = round((_GAP + _MARK) * dpi / _INCH)
    return Layout(dpi, scale, margin, scale * resolution)


def has_colours(picture: Picture) -> bool:
    """Whether a picture has the channels of a grey or an RGB image."""
    return picture.shape[0] in (1, 3)


def artwork(patch: Patch, scale: int) -> NDArray[np.uint8]:
    """Return the sticker alone, (n * scale, n * scale, 4) in RGBA, without interpolation.

    The mask is drawn at the resolution of the print. What lies outside keeps its colour, unseen.
    """
    assert patch.picture is not None
    channels, height, width = patch.picture.shape
    texels = np.frombuffer(bytes.fromhex(patch.picture.pixels), np.uint8)
    texels = texels.reshape(channels, height, width).transpose(1, 2, 0)
    colours = np.broadcast_to(texels, (height, width, 3)).repeat(scale, 0).repeat(scale, 1)
    return np.dstack([colours, _opacity(patch.mask, width * scale)])


def sheet(patch: Patch, place: Layout, text: Sequence[str], title: str) -> bytes:
    """Return the PNG of the whole sheet: transparent but for sticker, cut line, marks and text."""
    art = artwork(patch, place.scale)
    width = place.side + 2 * place.margin
    height = round(_LETTER * place.dpi / _INCH)
    font = ImageFont.load_default(size=height)
    lines = [line for paragraph in text for line in _wrapped(paragraph, font, width - height)]
    step = round(1.4 * height)
    page = np.zeros((width + step * len(lines) + 2 * height, width, 4), np.uint8)
    inside = slice(place.margin, place.margin + place.side)
    page[inside, inside] = art
    page[_around(page[..., 3] >= 128)] = _CUT
    image = Image.fromarray(page)
    pen = ImageDraw.Draw(image)
    for mark in _marks(place):
        pen.line(mark, fill=_INK, width=2)
    for number, line in enumerate(lines):
        pen.text((height // 2, width + height + step * number), line, fill=_INK, font=font)
    facts = PngInfo()
    facts.add_text("Title", title)
    facts.add_text("Description", " ".join(text))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", dpi=(place.dpi, place.dpi), pnginfo=facts)
    return buffer.getvalue()


@cache
def _opacity(mask: Mask, side: int) -> NDArray[np.uint8]:
    opacity: NDArray[np.uint8] = (mask.alpha(side).numpy() * 255).round().astype(np.uint8)
    return opacity


def _around(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What lies at most two dots outside of a shape."""
    grown = Image.fromarray(inside.astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
    return (np.asarray(grown) > 0) & ~inside


def _marks(place: Layout) -> Iterator[tuple[float, float, float, float]]:
    """Two lines at each corner of the square, pointing away from it."""
    low, high = place.margin, place.margin + place.side
    gap, mark = (round(mm * place.dpi / _INCH) for mm in (_GAP, _MARK))
    for edge in (low, high):
        for start in (low - gap - mark, high + gap):
            yield edge, start, edge, start + mark
            yield start, edge, start + mark, edge


def _wrapped(paragraph: str, font: Font, width: int) -> list[str]:
    """Break a paragraph into lines of at most ``width`` dots."""
    lines = [""]
    for word in paragraph.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
