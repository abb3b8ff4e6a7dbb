"""What all figures share: colours, type, the form of the file; the same figure, the same bytes."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which the colour-blind tell apart."""
FOOLED, RIGHT = "#D55E00", "#333333"
"""What is no longer seen right, and what is."""
_TABLE = "#d8e4f0"  # under pictures that let it through
_DPI = 130
_LONGEST = 32  # letters of a name in a figure; the CSV files have all of it
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "text.parse_math": False,
}

T = TypeVar("T")


class Shown(NamedTuple):
    """One picture (H, W, 3 or 4) of uint8 with what is written above it."""

    pixels: NDArray[np.uint8]
    text: str
    fooled: bool = False


def style() -> AbstractContextManager[None]:
    """Return the context in which a figure is drawn, whatever a user's own settings are."""
    return matplotlib.style.context(["default", _STYLE])


def png(figure: Figure, note: str = "") -> bytes:
    """Return the file of a figure, with a note in small letters below it."""
    if note:
        width = int(figure.get_figwidth() * 16)
        figure.supxlabel("\n".join(textwrap.wrap(note, width)), fontsize=7, color="#555555")
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name may be in any script; a letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def shelf(places: Sequence[Axes], shown: Sequence[Shown], size: int) -> None:
    """Put pictures side by side, what is written above them in letters of ``size``."""
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    for axes, one in zip(places, shown, strict=False):
        axes.imshow(one.pixels)
        axes.set_title(one.text, fontsize=size, color=FOOLED if one.fooled else RIGHT)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_facecolor(_TABLE)
        if one.pixels.shape[2] == 4:
            axes.set_xlim(*_wider(axes.get_xlim()))
            axes.set_ylim(*_wider(axes.get_ylim()))


def order(lines: Sequence[Mapping[str, Any]], *names: str) -> list[Any]:
    """Return the different values of one column, or tuples of several, as they come."""
    if len(names) == 1:
        return list(dict.fromkeys(one[names[0]] for one in lines))
    return list(dict.fromkeys(tuple(one[name] for name in names) for one in lines))


def cycled(things: Sequence[T]) -> list[T]:
    """Return the things again and again."""
    return [*things] * 20


def mark(label: str, colour: str, dash: Any, marker: str) -> Line2D:
    """Return one entry of a legend."""
    return Line2D([], [], color=colour, linestyle=dash, marker=marker, markersize=4, label=label)


def columns_of(marks: Sequence[Line2D], inches: float) -> int:
    """Return how many entries of a legend stand side by side, at most three."""
    longest = max(len(str(one.get_label())) for one in marks)
    fitting = int(inches / (0.085 * longest + 0.6))  # inches of a letter, and of a line
    return max(1, min(3, fitting, len(marks)))


def shortened(label: str) -> str:
    """Return names, several joined by a plus, without the middle of those that are too long."""
    half = _LONGEST // 2
    parts = label.split(" + ")
    return " + ".join(f"{p[:half]}…{p[-half:]}" if len(p) > _LONGEST else p for p in parts)


def wrapped(text: str, letters: int) -> str:
    """Break the lines of a text that are longer than so many letters."""
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, letters))


def _wider(ends: tuple[float, float]) -> tuple[float, float]:
    rim = 0.05 * (ends[1] - ends[0])
    return ends[0] - rim, ends[1] + rim
