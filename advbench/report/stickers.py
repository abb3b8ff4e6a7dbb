"""What comes out of a run with stickers: prints, files to load again, curves, maps, overviews.

    NAME.png, NAME.json              each sticker that is no control: the sheet, and all about it
    area.csv, area.png               success against the share of the image that is covered
    transfer.csv, transfer.png       made on one model, judged on another
    location.csv, location.png       success by where the sticker lay
    rotation.csv                     success by how it was turned
    overview-NAME.png                a sticker, its controls, and images with it

All of it is computed from the stored cells, so that the same run writes the same files.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from advbench.attacks.attack import Attack, Fittable
from advbench.bench.plan import Cell
from advbench.bench.store import Store, to_json
from advbench.files import write_atomic
from advbench.report import curves
from advbench.report.output import file_name, make_folder, write_lines
from advbench.report.pictures import class_name, pixels, remade
from advbench.report.saved import attack_of, document, patch_of
from advbench.report.trial import CAUTION, Trial, controls_of

EXAMPLES = 12
"""Images in an overview: the first that were attacked, whatever became of them."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A trial with the cell it comes from and the attack that pastes the sticker."""

    cell: Cell
    attack: Attack
    trial: Trial


def write_stickers(cells: Sequence[Cell], store: Store) -> Path | None:
    """Write the folder ``stickers`` of a run and return it; None where no sticker was judged.

    Cells that are missing or not sound are left out. Raises WriteError.
    """
    entries = list(_entries(cells, store))
    if not entries:
        return None
    from advbench.report import figures

    folder = store.folder / "stickers"
    make_folder(folder)
    trials = [entry.trial for entry in entries]
    several = len({trial.dataset for trial in trials}) > 1
    goals = {
        (trial.dataset, trial.targets): trial.goal + (f" of {trial.dataset}" if several else "")
        for trial in trials
    }
    names = _names(entries)
    for name, group in names.items():
        _write_sticker(folder / name, group, trials)
        for entry in group:
            if not entry.cell.surrogates:
                _write_overview(folder / f"overview-{name}.png", entry, entries)
    lines = curves.area_lines(trials)
    write_lines(folder / "area.csv", lines)
    write_atomic(folder / "area.png", figures.area(lines, goals))
    lines = curves.transfer_lines(trials)
    write_lines(folder / "transfer.csv", lines)
    if lines:
        write_atomic(folder / "transfer.png", figures.transfer(lines, goals))
    lines = curves.location_lines(trials)
    if lines:
        write_lines(folder / "location.csv", lines)
        write_atomic(folder / "location.png", figures.location(_own(lines), goals))
    lines = curves.rotation_lines(trials)
    if lines:
        write_lines(folder / "rotation.csv", lines)
    return folder


def _entries(cells: Sequence[Cell], store: Store) -> Iterator[Entry]:
    """The sound cells of fitted attacks that paste a picture."""
    fitted = [cell for cell in cells if isinstance(cell.attack, Fittable)]
    kinds = {type(one) for cell in fitted for one in _controls(cell)}
    for cell in fitted:
        found = store.load(cell.key)
        if found is None or found[1] is None or found[0]["status"] != "ok":
            continue
        record, rows = found
        patch = record.get("fitted", {}).get("perturbation", {})
        if patch.get("name") != "patch" or patch.get("picture") is None:
            continue
        attack = attack_of(record["fitted"], f"cell {cell.key[:12]}")
        sticker = patch_of(attack)
        assert sticker is not None
        facts = cell.facts()
        trial = Trial(
            key=cell.key,
            model=cell.victim.label,
            made_on=" + ".join(one.label for one in cell.made_on),
            dataset=cell.selection.label,
            attack=cell.name,
            recipe=json.dumps(cell.content["attack"], sort_keys=True),
            control=type(cell.attack) in kinds,
            perturbation=facts["perturbation"],
            patch=sticker,
            area=cell.scale,
            limit=facts["limits"][0],
            targets=cell.targets,
            seed=cell.seed,
            classes=cell.selection.samples.classes,
            rows=rows,
            asked=(cell.budget, cell.eot),
        )
        yield Entry(cell, attack, trial)


def _controls(cell: Cell) -> tuple[Fittable, ...]:
    return cell.attack.controls() if isinstance(cell.attack, Fittable) else ()


def _names(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Each sticker that is no control by the name of its files, with all cells it was judged in."""
    datasets = {entry.trial.dataset for entry in entries}
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        if not entry.trial.control:
            made = (*entry.trial.series[1:], entry.trial.area, entry.trial.patch.picture)
            groups.setdefault(made, []).append(entry)
    names: dict[str, list[Entry]] = {}
    for group in groups.values():
        one = group[0].trial
        aim = "any class" if one.targets is None else one.classes[one.targets]
        parts = [one.attack, f"to {aim}", one.made_on, f"area {one.area:.4g}", f"seed {one.seed}"]
        parts += [one.dataset] if len(datasets) > 1 else []
        names[file_name(parts, names)] = group
    return names


def _write_sticker(base: Path, group: Sequence[Entry], trials: Sequence[Trial]) -> None:
    """Write the print and the file of one sticker."""
    from advbench.report import sheet

    one = group[0].trial
    assert one.patch.picture is not None
    place = sheet.layout(one.patch.picture.shape[-1])
    judged = [entry.trial for entry in group]
    content = document(group[0].cell, group[0].attack, judged, trials, place)
    write_atomic(base.with_name(f"{base.name}.json"), to_json(content))
    if sheet.has_colours(one.patch.picture):
        text = [
            f"{one.attack} for {one.goal}, made on {one.made_on}, {one.dataset}, seed {one.seed}. "
            f"Made to cover {100 * one.area:g} % of the image. "
            f"{place.width_mm:.1f} mm wide when printed at {place.dpi} dpi.",
            CAUTION,
        ]
        page = sheet.sheet(one.patch, place, text, base.name)
        write_atomic(base.with_name(f"{base.name}.png"), page)


def _write_overview(path: Path, entry: Entry, entries: Sequence[Entry]) -> None:
    """Write the picture of a sticker, of its controls and of the first images attacked."""
    from advbench.report import figures, sheet
    from advbench.report.drawing import Shown

    trial = entry.trial
    assert trial.patch.picture is not None
    if not sheet.has_colours(trial.patch.picture):
        return
    measure = next(iter(trial.hits()))
    stickers = []
    for one in (trial, *controls_of(trial, [other.trial for other in entries])):
        rate = one.hits()[measure].rate()
        low, high = rate.interval
        text = one.attack
        if rate.rate is not None and low is not None and high is not None:
            text += f"\n{100 * rate.rate:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        assert one.patch.picture is not None
        scale = max(1, 240 // one.patch.picture.shape[-1])
        stickers.append(Shown(sheet.artwork(one.patch, scale), text))
    at, images = rebuilt(entry.cell, entry.attack, trial.rows, EXAMPLES)
    shown = [
        Shown(
            pixels(image),
            f"{_class(trial, 'label', row)} → {_class(trial, 'prediction', row)}",
            bool(trial.rows["success"][row]),
        )
        for row, image in zip(at, images, strict=True)
    ]
    title = (
        f"{trial.attack} for {trial.goal} on {trial.model}, {trial.dataset}: area "
        f"{100 * trial.area:g} %, seed {trial.seed}\n{measure} success with its 95 % interval"
    )
    write_atomic(path, figures.overview(title, stickers, shown))


def rebuilt(cell: Cell, attack: Attack, rows: Any, count: int) -> tuple[NDArray[np.int64], Tensor]:
    """Return the rows of the first ``count`` samples attacked, and these as they were judged.

    The images (n, *shape) are made again from the fitted attack, seed and sample ids.
    """
    at = np.flatnonzero(rows["attacked"])[:count]
    return at, remade(cell, attack, at)


def _class(trial: Trial, column: str, row: int) -> str:
    """The name of a class in the rows."""
    return class_name(trial.classes, int(trial.rows[column][row]))


def _own(lines: Sequence[curves.Line]) -> list[curves.Line]:
    """The lines to draw: stickers on the model they were made on, by the measure they were for.

    All stickers, where none was judged on what it was made on.
    """
    aimed = [
        line
        for line in lines
        if not line["control"] and (line["measure"] == "targeted") == (line["targets"] is not None)
    ]
    return [line for line in aimed if line["made_on"] == line["judged_on"]] or aimed or list(lines)
