"""The figures: matplotlib in, bytes of a PNG out; the same lines give the same bytes."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

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
from advbench.report.trial import CAUTION

# Controls are black and grey.
_DASHES: tuple[tuple[str, Any, str], ...] = (
    ("#000000", (0, (1, 1.2)), "x"),
    ("#777777", (0, (4, 2)), "s"),
    ("#444444", (0, (6, 1.5, 1, 1.5)), "^"),
    ("#999999", (0, (2, 2)), "v"),
)
_NOTHING = "#eeeeee"


Goals: TypeAlias = Mapping[tuple[str, int | None], str]
"""What a class to reach is called, by data set and number."""


def area(lines: Sequence[Line], goals: Goals) -> bytes:
    """Draw success against area, a column of panels per model and a row per attack and measure.

    ``lines`` are those of ``curves.area_lines``.
    """
    models = order(lines, "judged_on")
    rows = [
        (*who, measure)
        for who in order(_stickers(lines), "dataset", "attack", "perturbation", "targets")
        for measure in order([one for one in lines if _is(one, who)], "measure")
    ]
    colours = dict(zip(order(_stickers(lines), "made_on"), cycled(COLOURS), strict=False))
    dashes = dict(
        zip(
            order([one for one in lines if one["control"]], "attack"),
            cycled(_DASHES),
            strict=False,
        )
    )
    most = 100 * max(one["area"] for one in lines)
    with style():
        width = max(6.5, 4.4 * len(models) + 0.6)
        figure = Figure(figsize=(width, 2.9 * len(rows) + 1.4), layout="constrained")
        grid = figure.subplots(len(rows), len(models), squeeze=False, sharex=True, sharey=True)
        for (*who, measure), across in zip(rows, grid, strict=True):
            dataset, attack, perturbation, targets = who
            for model, axes in zip(models, across, strict=True):
                panel = [
                    one
                    for one in lines
                    if one["judged_on"] == model
                    and one["measure"] == measure
                    and (one["dataset"], one["targets"]) == (dataset, targets)
                    and one["perturbation"] == perturbation
                    and (one["control"] or one["attack"] == attack)
                ]
                _curves(axes, panel, colours, dashes, most)
                axes.set_title(f"{_heading(lines, who, goals)}\njudged on {shortened(model)}")
                axes.set_visible(bool(panel))
            across[0].set_ylabel(f"{measure} success, %")
        for axes in grid[-1]:
            axes.set_xlabel("area, % of the image")
            axes.set_xlim(0, most * 1.06)
        marks = [
            mark(f"made on {shortened(name)}", colour, "-", "o") for name, colour in colours.items()
        ]
        marks += [mark(f"control: {name}", *look) for name, look in dashes.items()]
        columns = columns_of(marks, width)
        figure.legend(handles=marks, loc="outside upper center", ncols=columns)
        return _png(figure)


def transfer(lines: Sequence[Line], goals: Goals) -> bytes:
    """Draw what was made on which models and judged on which, a panel per attack and area.

    ``lines`` are those of ``curves.transfer_lines``; several seeds are averaged.
    """
    rows = order(lines, "dataset", "attack", "perturbation", "targets")
    areas = sorted({one["area"] for one in lines})
    judged = order(lines, "judged_on")
    sources = [order([one for one in lines if _is(one, who)], "made_on") for who in rows]
    heights = [0.5 * (len(made) + 1) for made in sources]
    with style():
        size = (1.25 * len(judged) * len(areas) + 2.8, sum(heights) + 0.9 * len(rows) + 0.9)
        figure = Figure(figsize=(max(6.5, size[0]), size[1]), layout="constrained")
        grid = figure.subplots(len(rows), len(areas), squeeze=False, height_ratios=heights)
        for who, made, across in zip(rows, sources, grid, strict=True):
            for share, axes in zip(areas, across, strict=True):
                panel = [one for one in lines if _is(one, who) and one["area"] == share]
                image = _matrix(axes, panel, made, judged)
                measure = panel[0]["measure"] if panel else ""
                told = f"{measure}, area" if measure else "area"
                axes.set_title(f"{_heading(lines, who, goals)}\n{told} {100 * share:g} %")
                if axes is not across[0]:
                    axes.set_yticklabels([])
            across[0].set_ylabel("made on")
        for axes in grid[-1]:
            axes.set_xlabel("judged on")
        _bar(figure, image, grid)
        return _png(figure)


def location(lines: Sequence[Line], goals: Goals) -> bytes:
    """Draw success by where the sticker's centre lay, a panel per model, attack and area.

    ``lines`` are those of ``curves.location_lines``; several seeds are counted together.
    """
    rows = order(lines, "dataset", "judged_on", "made_on", "attack", "perturbation", "targets")
    areas = sorted({one["area"] for one in lines})
    with style():
        figure = Figure(
            figsize=(max(6.5, 2.5 * len(areas) + 0.8), 2.8 * len(rows) + 0.8), layout="constrained"
        )
        grid = figure.subplots(len(rows), len(areas), squeeze=False)
        for who, across in zip(rows, grid, strict=True):
            names = ("dataset", "judged_on", "made_on", "attack", "perturbation", "targets")
            for share, axes in zip(areas, across, strict=True):
                panel = [
                    one
                    for one in lines
                    if tuple(one[name] for name in names) == who and one["area"] == share
                ]
                image = _map(axes, panel)
                axes.set_title(f"area {100 * share:g} %")
            made = "" if who[1] == who[2] else f"\nmade on {_split(who[2])}"
            heading = _heading(lines, (who[0], *who[3:]), goals)
            across[0].set_ylabel(f"{heading}\non {shortened(who[1])}{made}", fontsize=8)
        figure.suptitle(
            "success by where the sticker's centre lay on the image (grey: nowhere)", fontsize=10
        )
        _bar(figure, image, grid)
        return _png(figure)


def overview(title: str, stickers: Sequence[Shown], images: Sequence[Shown]) -> bytes:
    """Draw a sticker beside its controls, and below it images with the sticker on them."""
    columns = 6
    below = -(-len(images) // columns)
    with style():
        figure = Figure(figsize=(9.5, 2.9 + 1.75 * below), layout="constrained")
        upper, lower = figure.subfigures(
            2, 1, squeeze=False, height_ratios=(2.5, 1.75 * below)
        ).flat
        upper.suptitle(wrapped(title, 100), fontsize=10)
        shelf(list(upper.subplots(1, max(4, len(stickers)), squeeze=False).flat), stickers, 8)
        lower.suptitle("true class → what the model sees (orange: no longer right)", fontsize=9)
        shelf(list(lower.subplots(below, columns, squeeze=False).flat), images, 9)
        return _png(figure)


def _curves(
    axes: Axes,
    panel: Sequence[Line],
    colours: Mapping[str, str],
    dashes: Mapping[str, Any],
    most: float,
) -> None:
    """Lines with intervals, a little apart so that these do not hide each other."""
    names = ("control", "attack", "made_on", "seed")
    curves = list(_unlike(panel, names))
    step = most / 150
    axes.axhline(50, color="#bbbbbb", linewidth=0.8, zorder=0)
    for number, (who, line) in enumerate(curves):
        colour, dash, marker = dashes[who[1]] if who[0] else (colours[who[2]], "-", "o")
        x = [100 * one["area"] + (number - (len(curves) - 1) / 2) * step for one in line]
        y = np.array([[one["rate"], one["low"], one["high"]] for one in line]).T * 100
        axes.errorbar(
            x,
            y[0],
            yerr=np.clip([y[0] - y[1], y[2] - y[0]], 0, None),
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=4,
            linewidth=1.3,
            elinewidth=0.9,
            capsize=2,
            zorder=2 if who[0] else 3,
        )
        half = line[0]["half_area"]
        if half is not None and not who[0]:
            axes.plot([100 * half], [50], "D", color=colour, markerfacecolor="white", zorder=4)
    axes.set_ylim(-2, 102)


def _unlike(
    panel: Sequence[Line], names: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], list[Line]]]:
    """The curves of a panel; what a control has in common for several stickers is drawn once."""
    seen = set()
    for who in order(panel, *names):
        line = [one for one in panel if tuple(one[name] for name in names) == who]
        line = [one for one in line if one["rate"] is not None]
        points = tuple((one["area"], one["rate"]) for one in line)
        known = (who[1], points) if who[0] else who
        if line and known not in seen:
            seen.add(known)
            yield who, line


def _matrix(axes: Axes, panel: Sequence[Line], made: Sequence[str], judged: Sequence[str]) -> Any:
    """Rows are what it was made on, columns what it was judged on, the best control below."""
    values = np.full((len(made) + 1, len(judged)), np.nan)
    for across, model in enumerate(judged):
        column = [one for one in panel if one["judged_on"] == model]
        for down, name in enumerate(made):
            found = [one for one in column if one["made_on"] == name and one["rate"] is not None]
            if found:
                values[down, across] = np.mean([one["rate"] for one in found])
                _write(axes, across, down, values[down, across], f"n {found[0]['n']}")
        controls = [one["best_control"] for one in column if one["best_control"] is not None]
        if controls:
            values[-1, across] = max(controls)
            _write(axes, across, len(made), values[-1, across], "")
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.axhline(len(made) - 0.5, color="white", linewidth=3)
    named = ["\n".join(textwrap.wrap(shortened(name), 22)) for name in judged]
    axes.set_xticks(range(len(judged)), named, fontsize=7)
    labels = [*(_split(name) for name in made), "best control"]
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.tick_params(length=0)
    axes.set_facecolor(_NOTHING)
    axes.spines[:].set_visible(False)
    return image


def _map(axes: Axes, panel: Sequence[Line]) -> Any:
    """The image from above left to below right; hatched where no sticker lay."""
    cells = max((round(1 / (one["bottom"] - one["top"])) for one in panel), default=1)
    counts = np.zeros((2, cells, cells))
    for one in panel:
        at = round(one["top"] * cells), round(one["left"] * cells)
        counts[(0, *at)] += one["n"]
        counts[(1, *at)] += round(one["n"] * (one["rate"] or 0))
    rates = np.where(counts[0] > 0, counts[1] / np.maximum(counts[0], 1), np.nan)
    axes.set_facecolor(_NOTHING)
    image = axes.imshow(rates, cmap="cividis", vmin=0, vmax=1)
    for down, across in np.ndindex(cells, cells):
        if counts[0, down, across]:
            _write(
                axes, across, down, float(rates[down, across]), f"n {counts[0, down, across]:.0f}"
            )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return image


def _write(axes: Axes, x: float, y: float, rate: float, below: str) -> None:
    text = f"{100 * rate:.0f} %" + (f"\n{below}" if below else "")
    colour = "black" if rate > 0.55 else "white"
    axes.text(x, y, text, ha="center", va="center", fontsize=7, color=colour)


def _bar(figure: Figure, image: Any, grid: Any) -> None:
    bar = figure.colorbar(image, ax=list(grid.flat), shrink=0.6, aspect=30)
    bar.set_label("success", fontsize=8)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    bar.outline.set_visible(False)


def _stickers(lines: Sequence[Line]) -> list[Line]:
    return [one for one in lines if not one["control"]]


def _heading(lines: Sequence[Line], who: Sequence[Any], goals: Goals) -> str:
    """Attack and goal, and the set where these do not tell it."""
    dataset, attack, perturbation, targets = who
    alike = [one["perturbation"] for one in lines if _is(one, (dataset, attack, None, targets))]
    told = textwrap.wrap(perturbation, 44) if len(set(alike)) > 1 else []
    return "\n".join([f"{shortened(attack)} → {shortened(goals[dataset, targets])}", *told])


def _is(line: Line, who: tuple[Any, ...]) -> bool:
    """Whether a line is about data set, attack, set (None for any) and class to reach."""
    dataset, attack, perturbation, targets = who
    same = (line["dataset"], line["attack"], line["targets"]) == (dataset, attack, targets)
    return same and perturbation in (None, line["perturbation"])


def _split(label: str) -> str:
    """Several models one below the other."""
    return shortened(label).replace(" + ", " +\n")


def _png(figure: Figure) -> bytes:
    return png(figure, CAUTION)
