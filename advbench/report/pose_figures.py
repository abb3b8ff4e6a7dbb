"""The figures of poses: matplotlib in, bytes of a PNG out; the same lines give the same bytes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from advbench.report.curves import Line
from advbench.report.drawing import (
    COLOURS,
    Shown,
    columns_of,
    cycled,
    mark,
    order,
    png,
    shelf,
    shortened,
    style,
    wrapped,
)
from advbench.report.landscape import Survey, View
from advbench.report.trial import Rate

_SET = ("dataset", "perturbation", "ranges", "eps")
_MARKS = "osD^vPX"
_PATH = "#000000"
_ANGLES = (-180, -90, 0, 90, 180)
_EXTREME = 0.9  # share of the margins within the scale of colours
_INTERVAL = "Bands are 95 % intervals."

Values: TypeAlias = NDArray[np.float64]
Curve: TypeAlias = tuple[list[float], list[Rate]]
"""Where the points of a curve lie, and what was counted there."""


class Landscape(NamedTuple):
    """The landscape of one object, which has the name ``label``, for a figure.

    ``box`` is how far yaw and pitch might go to either side in the search; ``before`` and ``after``
    are the object as it stands and as the search left it.
    """

    title: str
    label: str
    survey: Survey
    box: tuple[float, float]
    before: Shown
    after: Shown


def distance(lines: Sequence[Line]) -> bytes:
    """Draw the share seen right against the angle, a panel per set and a curve per model.

    ``lines`` are those of ``pose_tables.distance_lines``; several seeds are counted together.
    """
    sets, models = order(lines, *_SET), order(lines, "model")
    colours = dict(zip(models, cycled(COLOURS), strict=False))
    markers = dict(zip(models, cycled(_MARKS), strict=False))
    with style():
        figure, grid = _panels(len(sets))
        for who, axes in zip(sets, grid, strict=True):
            panel = [one for one in lines if _is(one, who)]
            for model in order(panel, "model"):
                own = [one for one in panel if one["model"] == model]
                _draw(axes, _by_angle(own), colours[model], markers[model])
            axes.set_title(_heading(who))
            axes.set_xlim(0, panel[-1]["angle_to"])
            axes.xaxis.set_major_locator(MultipleLocator(_ticks(panel[-1]["angle_to"])))
            axes.set_xlabel("angle from the canonical pose, degrees")
        for axes in grid[::2]:
            axes.set_ylabel("seen right, % of the objects\nrecognised in it")
        marks = [mark(shortened(name), colours[name], "-", markers[name]) for name in models]
        _legend(figure, marks)
        return png(
            figure, f"One uniformly drawn pose per object, in bins of the angle. {_INTERVAL}"
        )


def renders(lines: Sequence[Line]) -> bytes:
    """Draw the share that fell against renders, a row per set, a column per model.

    ``lines`` are those of ``pose_tables.render_lines``; every seed has a curve of its own.
    """
    sets, models, attacks = order(lines, *_SET), order(lines, "model"), order(lines, "attack")
    colours = dict(zip(attacks, cycled(COLOURS), strict=False))
    markers = dict(zip(attacks, cycled(_MARKS), strict=False))
    most = max(one["renders"] for one in lines)
    with style():
        width = max(6.5, 4.0 * len(models) + 0.6)
        figure = Figure(figsize=(width, 2.7 * len(sets) + 1.2), layout="constrained")
        grid = figure.subplots(len(sets), len(models), squeeze=False, sharex=True, sharey=True)
        for who, across in zip(sets, grid, strict=True):
            for model, axes in zip(models, across, strict=True):
                panel = [one for one in lines if _is(one, who) and one["model"] == model]
                for key in order(panel, "key"):
                    own = [one for one in panel if one["key"] == key]
                    attack = own[0]["attack"]
                    curve = [one["renders"] for one in own], [_rate(one) for one in own]
                    _draw(axes, curve, colours[attack], markers[attack])
                axes.set_title(f"{_heading(who)}\n{shortened(model)}")
                if not panel:
                    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center")
            across[0].set_ylabel("fooled, % of the objects\nrecognised before")
        for axes in grid[-1]:
            axes.set_xlabel("renders per object")
            _doublings(axes, most)
        marks = [mark(shortened(name), colours[name], "-", markers[name]) for name in attacks]
        _legend(figure, marks)
        return png(figure, f"A backward pass counts as one more render. {_INTERVAL}")


def landscape(one: Landscape) -> bytes:
    """Draw the margin of the true class over yaw and pitch: all around, and where a search went."""
    canonical, near = one.survey.canonical, one.survey.near
    known = np.abs(canonical.margin[np.isfinite(canonical.margin)])
    most = float(np.quantile(known, _EXTREME)) if len(known) else 1.0
    with style():
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(8.6, 1.9)).flat
        whole, part = left.subplots(1, 2)
        _map(whole, *_closed(canonical), most)
        image = _map(part, near.angles, near.margin, most)
        for axes, angles in ((whole, _ANGLES), (part, _round(near.angles[-1]))):
            _box(axes, one.box)
            axes.set_xticks(angles)
            axes.set_yticks(angles)
            axes.set_xlabel("yaw, degrees")
        whole.plot([0], [0], "+", color=_PATH, markersize=9, markeredgewidth=1.6)
        whole.set_ylabel("pitch, degrees")
        _path(part, one.survey.path.tolist())
        share = float((canonical.margin > 0).mean())
        whole.set_title(f"all around: right (blue) in {100 * share:.0f} % of the poses")
        part.set_title("within reach of the search")
        bar = left.colorbar(image, ax=[whole, part], shrink=0.8, aspect=30, extend="both")
        bar.set_label(f"logit of {one.label} minus the largest other", fontsize=8)
        bar.outline.set_visible(False)
        shelf(list(right.subplots(2, 1)), (one.before, one.after), 8)
        figure.suptitle(wrapped(one.title, 120), fontsize=10)
        note = (
            "Black line: where right turns to wrong. Dashed: the ranges of the search. Path: the "
            "poses that its last restart asked about, from o to x, where it fooled. What else it "
            "moved (roll, place, light) is, all over the map on the right, as it was at x."
        )
        return png(figure, note)


def worst(title: str, pairs: Sequence[Shown]) -> bytes:
    """Draw objects as they are beside the poses in which they are taken for something else."""
    columns = 4
    rows = -(-len(pairs) // columns)
    with style():
        figure = Figure(figsize=(10, 1.6 * rows + 0.8), layout="constrained")
        shelf(list(figure.subplots(rows, columns, squeeze=False).flat), pairs, 9)
        figure.suptitle(wrapped(title, 110), fontsize=10)
        note = "Left the object as it is, right as it fools: true class → what the model sees."
        return png(figure, note)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, two side by side."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(5.2, 4.4 * columns), 3.0 * rows + 0.8), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _draw(axes: Axes, curve: Curve, colour: str, marker: str) -> None:
    """A curve in per cent with the band of its intervals."""
    x, rates = curve
    y = np.array([[100 * (r.rate or 0), *(100 * (end or 0) for end in r.interval)] for r in rates])
    axes.fill_between(x, y[:, 1], y[:, 2], color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, y[:, 1:], color=colour, alpha=0.4, linewidth=0.6)
    axes.plot(x, y[:, 0], color=colour, marker=marker, markersize=3.5, linewidth=1.4)
    axes.set_ylim(-2, 102)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _by_angle(lines: Sequence[Line]) -> Curve:
    """The middles of the bins that hold anything, all seeds counted together."""
    x, rates = [], []
    for low, high in order(lines, "angle_from", "angle_to"):
        own = [one for one in lines if one["angle_from"] == low]
        rate = Rate(sum(one["n"] for one in own), sum(one["right"] for one in own))
        if rate.n:
            x.append((low + high) / 2)
            rates.append(rate)
    return x, rates


def _rate(line: Line) -> Rate:
    return Rate(line["n"], round((line["rate"] or 0) * line["n"]))


def _map(axes: Axes, angles: Values, lead: Values, most: float) -> Any:
    """The margin, blue where the object is seen right, with the line of 0."""
    half = float(angles[1] - angles[0]) / 2
    ends = (float(angles[0]) - half, float(angles[-1]) + half)
    image = axes.imshow(
        lead, cmap="RdBu", vmin=-most, vmax=most, origin="lower", extent=(*ends, *ends)
    )
    if (lead > 0).any() and (lead < 0).any():
        axes.contour(angles, angles, lead, levels=[0], colors="#222222", linewidths=0.9)
    return image


def _closed(view: View) -> tuple[Values, Values]:
    """Whole circles with their beginning once more at the end, and the margin there."""
    angles = np.append(view.angles, view.angles[0] + 360)
    return angles, np.pad(view.margin, ((0, 1), (0, 1)), mode="wrap")


def _round(side: float) -> list[float]:
    """A few round angles to either side of 0."""
    step = next((step for step in (1, 2, 5, 10, 15, 30, 45) if side / step < 4), 90)
    return [float(step * n) for n in range(-int(side // step), int(side // step) + 1)]


def _box(axes: Axes, box: tuple[float, float]) -> None:
    yaw, pitch = box
    frame = Rectangle((-yaw, -pitch), 2 * yaw, 2 * pitch, fill=False, linestyle=(0, (4, 2)))
    frame.set(edgecolor=_PATH, linewidth=1.1)
    axes.add_patch(frame)


def _path(axes: Axes, path: Sequence[Sequence[float]]) -> None:
    """Lines from pose to pose, but for steps around a circle."""
    for one, other in pairwise(path):
        if max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 180:
            axes.plot(*zip(one, other, strict=True), ".-", color=_PATH, linewidth=1.2)
    for place, look in ((path[0], "o"), (path[-1], "X")):
        axes.plot(*place, look, color=_PATH, markersize=8, markerfacecolor="white", zorder=3)


def _doublings(axes: Axes, most: int) -> None:
    """A logarithmic axis with whole numbers on it."""
    axes.set_xscale("log", base=2)
    ticks = [1 << power for power in range(most.bit_length())]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([str(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0.9, most * 1.1)


def _ticks(most: float) -> float:
    """A round distance of about a sixth."""
    return next((step for step in (1, 2, 5, 10, 15, 30) if most / step <= 7), 30)


def _legend(figure: Figure, marks: Sequence[Any]) -> None:
    columns = columns_of(marks, figure.get_figwidth())
    figure.legend(handles=list(marks), loc="outside upper center", ncols=columns)


def _is(line: Mapping[str, Any], who: tuple[Any, ...]) -> bool:
    return tuple(line[name] for name in _SET) == who


def _heading(who: tuple[Any, ...]) -> str:
    """Data set and ranges, with their units."""
    dataset, _, ranges, eps = who
    return wrapped(f"{shortened(dataset)}, eps {eps:g}: {told(ranges)}", 50)


def told(ranges: str) -> str:
    """Return the ranges of a table as a reader likes them, each in one piece."""
    signs = ranges.replace("+-", "±").replace(" deg", "°")
    return ", ".join(part.replace(" ", "\u00a0") for part in signs.split(", "))
