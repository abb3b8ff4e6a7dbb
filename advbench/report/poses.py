"""What comes out of a run with poses: tables and pictures, all of them in the folder ``poses``.

    share.csv                        how much of a set is seen right, and what the errors are
    labels.csv                       the same by true class
    distance.csv, distance.png       seen right against the angle from the canonical pose
    flips.csv                        the smallest turn about one axis to a mistake
    renders.csv, renders.png         success against renders, for each search
    transfer.csv                     how many failures of one model are failures of another
    landscape-MODEL.csv, .png        the margin of one object over yaw and pitch, with a search
    worst-MODEL.png                  the most confident failures beside the canonical poses

A census, one uniform draw per sample (``random_noise`` with one step), tells share, distance,
labels and transfer; a ``sweep`` of one angle tells flips. Sets that move pictures instead of
objects have all but what needs an object: distance and landscape. The tables are computed from the
stored cells; the pictures of objects are made again from them, so that the same run writes the
same files.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advbench.attacks.attack import Attack
from advbench.attacks.blackbox.random_noise import RandomNoise
from advbench.attacks.blackbox.sweep import Sweep
from advbench.attacks.perturbations.pose import Euler, Pose
from advbench.attacks.perturbations.ranges import Ranges
from advbench.attacks.search import Rule
from advbench.bench.plan import Cell
from advbench.bench.store import Store
from advbench.files import write_atomic
from advbench.report import pose_tables
from advbench.report.curves import Line
from advbench.report.landscape import Survey, survey
from advbench.report.output import file_name, make_folder, write_lines
from advbench.report.pictures import class_name, pixels, remade
from advbench.report.pose_tables import PoseTrial

EXAMPLES = 12
"""Failures in a contact sheet."""
_OF_MODEL = ("model", "code")  # what of a cell's content says which model it is about


@dataclass(frozen=True, eq=False)
class Entry:
    """A trial with the cell it comes from and the attack that searches."""

    cell: Cell
    attack: Attack
    trial: PoseTrial


def write_poses(cells: Sequence[Cell], store: Store) -> Path | None:
    """Write the folder ``poses`` of a run and return it; None where no pose was searched.

    Cells that are missing or not sound are left out. Raises WriteError.
    """
    entries = list(_entries(cells, store))
    if not entries:
        return None
    folder = store.folder / "poses"
    make_folder(folder)
    _write_tables(folder, [entry.trial for entry in entries])
    names: set[str] = set()
    for group, parts in _models(entries):
        _write_landscape(folder, ["landscape", *parts], group, names)
        _write_worst(folder, ["worst", *parts], group, names)
    return folder


def _entries(cells: Sequence[Cell], store: Store) -> Iterator[Entry]:
    """The sound cells whose set is one of named ranges; of two names for one cell the first."""
    seen = set()
    for cell in cells:
        attack, ranges = cell.attack, cell.attack.perturbation
        if not isinstance(attack, Attack) or not isinstance(ranges, Ranges):
            continue
        if (cell.victim.label, cell.key) in seen:
            continue
        seen.add((cell.victim.label, cell.key))
        found = store.load(cell.key)
        if found is None or found[1] is None or found[0]["status"] != "ok":
            continue
        facts = cell.facts()
        terms = {name: value for name, value in cell.content.items() if name not in _OF_MODEL}
        trial = PoseTrial(
            key=cell.key,
            model=cell.victim.label,
            dataset=cell.selection.label,
            attack=cell.name,
            perturbation=facts["perturbation"],
            ranges=ranges,
            eps=cell.scale,
            limit=max(facts["limits"]),
            seed=cell.seed,
            classes=cell.selection.samples.classes,
            rows=found[1],
            terms=json.dumps(terms, sort_keys=True),
            surrogate=facts["surrogate"],
            targets=cell.targets,
            census=_is_census(cell),
            points=attack.points if isinstance(attack, Sweep) else None,
            inside=attack.finds == "inside",
            until=attack.finds == "inside" or (isinstance(attack, Rule) and attack.ascending),
        )
        yield Entry(cell, attack, trial)


def _is_census(cell: Cell) -> bool:
    attack = cell.attack
    return isinstance(attack, RandomNoise) and attack.steps == 1 and cell.targets is None


def _write_tables(folder: Path, trials: Sequence[PoseTrial]) -> None:
    """Write all that the rows alone tell."""
    from advbench.report import pose_figures

    tables = {
        "share": pose_tables.share_lines(trials),
        "labels": pose_tables.label_lines(trials),
        "distance": pose_tables.distance_lines(trials),
        "flips": pose_tables.flip_lines(trials),
        "renders": pose_tables.render_lines(trials),
        "transfer": pose_tables.transfer_lines(trials),
    }
    for name, lines in tables.items():
        if lines:
            write_lines(folder / f"{name}.csv", lines)
    if tables["distance"]:
        write_atomic(folder / "distance.png", pose_figures.distance(tables["distance"]))
    inside = [line for line in tables["renders"] if line["finds"] == "inside"]
    if inside:
        write_atomic(folder / "renders.png", pose_figures.renders(inside))


def _models(entries: Sequence[Entry]) -> Iterator[tuple[list[Entry], list[str]]]:
    """What was searched on each model itself, and what its files are called after."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if not entry.trial.surrogate:
            groups.setdefault((entry.trial.model, entry.trial.dataset), []).append(entry)
    several = len({dataset for _, dataset in groups}) > 1
    for (model, dataset), group in groups.items():
        yield group, [model, dataset] if several else [model]


def _write_landscape(
    folder: Path, parts: Sequence[str], group: Sequence[Entry], names: set[str]
) -> None:
    """Write the landscape of the first object that a gradient search over Euler angles fooled."""
    from advbench.report import pose_figures
    from advbench.report.drawing import Shown

    found = _fooled_first(group)
    if found is None:
        return
    entry, row = found
    name = _named(parts, names)
    seen = survey(entry.cell, row)
    write_lines(folder / f"{name}.csv", _landscape_lines(entry.trial, row, seen))
    samples, trial = entry.cell.selection.samples, entry.trial
    label = _class(trial, "label", row)
    rotation = _euler(entry)
    assert rotation is not None
    after = f"found: {_class(trial, 'prediction', row)}, {_percent(trial, row)}"
    drawing = pose_figures.Landscape(
        title=(
            f"{trial.dataset}, object {trial.rows['index'][row]} ({label}) on {trial.model}: "
            f"{trial.attack}, {_ranges(trial)}, seed {trial.seed}"
        ),
        label=label,
        survey=seen,
        box=(rotation.yaw * trial.eps, rotation.pitch * trial.eps),
        before=Shown(
            pixels(samples.images(samples.x[row : row + 1])[0]),
            f"canonical: {_class(trial, 'clean_prediction', row)}",
        ),
        after=Shown(pixels(samples.images(seen.found)[0]), after, fooled=True),
    )
    write_atomic(folder / f"{name}.png", pose_figures.landscape(drawing))


def _fooled_first(group: Sequence[Entry]) -> tuple[Entry, int] | None:
    """The first sample that fell to the first fitting search that made any fall."""
    for entry in group:
        fell = np.flatnonzero(entry.trial.fell().hit)
        if len(fell) and _has_path(entry):
            return entry, int(fell[0])
    return None


def _has_path(entry: Entry) -> bool:
    """Whether a search follows the gradient over yaw and pitch, one render a query."""
    attack = entry.attack
    follows = isinstance(attack, Rule) and attack.access == "gradient" and entry.cell.eot is None
    return follows and _euler(entry) is not None


def _euler(entry: Entry) -> Euler | None:
    """The Euler angles that a search may change, if yaw or pitch is among them."""
    ranges = entry.trial.ranges
    rotation = ranges.rotation if isinstance(ranges, Pose) else None
    turns = isinstance(rotation, Euler) and (rotation.yaw or rotation.pitch)
    return rotation if isinstance(rotation, Euler) and turns else None


def _landscape_lines(trial: PoseTrial, row: int, seen: Survey) -> list[Line]:
    """A line for every yaw and pitch of both views."""
    index, label = int(trial.rows["index"][row]), _class(trial, "label", row)
    return [
        {
            "index": index,
            "label": label,
            "view": name,
            "yaw": round(float(view.angles[across]), 6),
            "pitch": round(float(view.angles[down]), 6),
            "margin": float(f"{view.margin[down, across]:.6g}"),
            "prediction": class_name(trial.classes, int(view.prediction[down, across])),
        }
        for name, view in (("canonical", seen.canonical), ("near", seen.near))
        for down, across in np.ndindex(view.margin.shape)
    ]


def _write_worst(
    folder: Path, parts: Sequence[str], group: Sequence[Entry], names: set[str]
) -> None:
    """Write the contact sheet of the most confident failures in the model's strongest search."""
    from advbench.report import pose_figures
    from advbench.report.drawing import Shown

    entry = _strongest(group)
    if entry is None:
        return
    trial, samples = entry.trial, entry.cell.selection.samples
    fell = np.flatnonzero(trial.fell().hit)
    at = fell[np.argsort(-trial.rows["confidence"][fell], kind="stable")][:EXAMPLES]
    before = samples.images(samples.x[at])
    after = samples.images(remade(entry.cell, entry.attack, at))
    pairs = [
        Shown(_side_by_side(pixels(one), pixels(other)), _told(trial, row))
        for row, one, other in zip(at.tolist(), before, after, strict=True)
    ]
    title = (
        f"The {len(at)} most confident of {len(fell)} failures of {trial.model} on {trial.dataset}:"
        f" {trial.attack}, {_ranges(trial)}, seed {trial.seed}"
    )
    name = _named(parts, names)
    write_atomic(folder / f"{name}.png", pose_figures.worst(title, pairs))


def _strongest(group: Sequence[Entry]) -> Entry | None:
    """The search that fooled most; one for the smallest change only where there is no other."""
    rates = [
        (entry.trial.inside, entry.trial.fell().rate(), entry)
        for entry in group
        if not entry.trial.census
    ]
    known = [(inside, rate.rate, entry) for inside, rate, entry in rates if rate.hits]
    return max(known, key=lambda one: one[:2])[2] if known else None


def _side_by_side(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width, _ = one.shape
    gap = np.full((height, max(1, width // 16), 3), 255, np.uint8)
    return np.concatenate([one, gap, other], 1)


def _told(trial: PoseTrial, row: int) -> str:
    """What became of a sample, in words."""
    classes = f"{_class(trial, 'label', row)} → {_class(trial, 'prediction', row)}"
    text = f"{classes}, {_percent(trial, row)}"
    if "turned" in trial.rows:
        text += f"\nturned by {trial.rows['turned'][row]:.0f}°"
    return text


def _ranges(trial: PoseTrial) -> str:
    from advbench.report import pose_figures

    return pose_figures.told(pose_tables.reach(trial.ranges, trial.eps))


def _class(trial: PoseTrial, column: str, row: int) -> str:
    return class_name(trial.classes, int(trial.rows[column][row]))


def _percent(trial: PoseTrial, row: int) -> str:
    return f"{100 * trial.rows['confidence'][row]:.0f} %"


def _named(parts: Sequence[str], names: set[str]) -> str:
    name = file_name(parts, names)
    names.add(name)
    return name
