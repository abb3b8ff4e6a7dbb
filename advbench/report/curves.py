"""From the rows of stickers to the lines of CSV files; nothing here looks at a model or a file."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from advbench.report.trial import Trial, controls_of

Line: TypeAlias = dict[str, Any]

GRID = 4
"""Cells along either side of the image in the map of locations."""
BINS = 8
"""Bins of the angle."""
_HALF = 0.5


def half_area(points: Sequence[tuple[float, float | None]]) -> float | None:
    """Return the area at which success first reaches 50 %, linear between measured areas.

    ``points`` are (area, rate). None where it is not reached, and where the smallest area measured
    is above it already: nothing is known of smaller ones.
    """
    known = sorted((area, rate) for area, rate in points if rate is not None)
    if known and known[0][1] == _HALF:
        return known[0][0]
    for (area, rate), (larger, more) in pairwise(known):
        if rate < _HALF <= more:
            return area + (_HALF - rate) / (more - rate) * (larger - area)
    return None


def area_lines(trials: Sequence[Trial]) -> list[Line]:
    """Return the success of each sticker and control at each area, one line per measure.

    ``half_area`` is the same on all lines of one curve.
    """
    curves: dict[tuple[Any, ...], list[tuple[float, float | None]]] = {}
    for trial in trials:
        for measure, hits in trial.hits().items():
            point = (trial.area, hits.rate().rate)
            curves.setdefault((*trial.series, measure), []).append(point)
    lines = []
    for trial in sorted(trials, key=lambda one: one.area):
        for measure, hits in trial.hits().items():
            half = half_area(curves[(*trial.series, measure)])
            half = half if half is None else float(f"{half:.6g}")
            line = {**trial.facts(), "measured_area": trial.measured(), "measure": measure}
            lines.append({**line, **hits.rate().table(), "half_area": half, "key": trial.key})
    order = {trial.series: place for place, trial in reversed(list(enumerate(trials)))}
    place = {trial.key + trial.model + trial.attack: order[trial.series] for trial in trials}
    return sorted(lines, key=lambda line: place[line["key"] + line["judged_on"] + line["attack"]])


def transfer_lines(trials: Sequence[Trial]) -> list[Line]:
    """Return what was made on what and judged on what; ``best_control`` is its highest control.

    The measure is the one that the sticker was made for.
    """
    lines = []
    for trial in trials:
        if trial.control:
            continue
        measure, hits = next(iter(trial.hits().items()))
        rates = [other.hits()[measure].rate().rate for other in controls_of(trial, trials)]
        best = max((rate for rate in rates if rate is not None), default=None)
        line = {**trial.facts(), "measure": measure, **hits.rate().table()}
        del line["control"]
        lines.append({**line, "best_control": best, "key": trial.key})
    return lines


def location_lines(trials: Sequence[Trial], cells: int = GRID) -> list[Line]:
    """Return the success by where the sticker's centre lay, on a grid of cells x cells.

    Only stickers without a fixed location have lines, one for each measure and cell of the grid,
    whose edges are shares of the image from its upper left corner.
    """
    lines = []
    for trial in trials:
        if trial.patch.placement.location is not None:
            continue
        row = binned(trial.rows["patch_y"], 0, 1, cells)
        column = binned(trial.rows["patch_x"], 0, 1, cells)
        for measure, hits in trial.hits().items():
            for at in np.ndindex(cells, cells):
                rate = hits.rate((row == at[0]) & (column == at[1]))
                edges = {"top": at[0], "bottom": at[0] + 1, "left": at[1], "right": at[1] + 1}
                shares = {name: round(edge / cells, 6) for name, edge in edges.items()}
                line = {**trial.facts(), "measure": measure, **shares}
                lines.append({**line, **rate.table(), "key": trial.key})
    return lines


def rotation_lines(trials: Sequence[Trial], bins: int = BINS) -> list[Line]:
    """Return the success by the angle in degrees, for stickers whose placement has a rotation."""
    lines = []
    for trial in trials:
        most = trial.patch.placement.rotation
        if not most:
            continue
        which = binned(trial.rows["patch_angle"], -most, most, bins)
        edges = np.linspace(-most, most, bins + 1).round(6).tolist()
        for measure, hits in trial.hits().items():
            for number, (low, high) in enumerate(pairwise(edges)):
                line = {**trial.facts(), "measure": measure, "angle_from": low, "angle_to": high}
                rate = hits.rate(which == number)
                lines.append({**line, **rate.table(), "key": trial.key})
    return lines


def binned(values: Any, low: float, high: float, bins: int) -> Any:
    """Return the bin (N,) of each value; the upper edge belongs to the last one, NaN to none."""
    place = (values - low) / (high - low) * bins
    return np.where(np.isnan(place), -1, np.clip(np.floor(np.nan_to_num(place)), 0, bins - 1))
