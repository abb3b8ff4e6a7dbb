"""What the diagnosis is worth: `python -m advbench.benchmarks.diagnosis --out results/diagnosis`.

Trains nets whose gradients are known to mislead, and honest ones, and diagnoses all of them. What
is finished is kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import torch

from advbench import data
from advbench.benchmarks.diagnosis_models import KINDS, Bed, Kind
from advbench.benchmarks.diagnosis_report import page
from advbench.benchmarks.diagnosis_warnings import Warnings, warnings
from advbench.benchmarks.machine import facts
from advbench.benchmarks.report import store
from advbench.trust.diagnosis import diagnose

_SAMPLES = 100


@dataclass(frozen=True)
class Side:
    """One half of the study: a dataset, and the seeds that its nets are trained from.

    Fields:
        images: how many are trained on; None for all.
        adversarial: the Linf radius of adversarial training.
    """

    name: str
    images: int | None
    epochs: int
    adversarial: float
    seeds: tuple[int, ...]

    def bed(self) -> Bed:
        """Return what nets are trained on. Raises FileNotFoundError where it is not here."""
        return Bed(
            data.load(self.name, "train", self.images),
            data.load(self.name, "validation", 100),
            self.epochs,
            self.adversarial,
        )


FROZEN_ON = Side("digits", None, 30, 0.1, (0, 1, 2))
"""The nets by which the thresholds were chosen."""
HELD_OUT = Side("mnist", 5000, 4, 0.15, (100, 101))
"""Those by which they are measured."""


WARNED = (
    "autoattack",
    "autoattack_randomised",
    "autoattack_probabilities",
    "autoattack_zero_gradient",
    "autoattack_square",
    "autoattack_differentiates",
    "autoattack_failed",
    "autoattack_white_box",
    "autoattack_after_square",
)
"""AutoAttack's warnings, which cost twice the diagnosis: nets of the first seed alone have them."""
Key = tuple[str, str, str]
"""Dataset, kind and seed of a net, as they stand in the table."""


def measure(kind: Kind, bed: Bed, seed: int, samples: data.Samples, warn: bool) -> dict[str, str]:
    """Train one net, diagnose it, and, if wanted, look for AutoAttack's warnings at that eps."""
    clock = [time.process_time()]
    model = kind.build(bed, seed)
    clock.append(time.process_time())
    found = diagnose(model, samples, seed=seed)
    clock.append(time.process_time())
    warned = warnings(model, samples, found.eps, seed) if warn else None
    clock.append(time.process_time())
    line: dict[str, object] = {
        "data": bed.data.name,
        "kind": kind.name,
        "group": kind.group,
        "seed": seed,
        "n": found.n,
        "eps": found.eps,
        "clean_accuracy": found.clean_accuracy,
        "white_box_accuracy": found.white_box_accuracy,
        "lowest_accuracy": found.lowest_accuracy,
        "flagged": int(found.masked),
        "stopped": int(found.stopped),
        "fired": " ".join(one.id for one in found.findings if one.fired),
    }
    for one in found.findings:
        line[one.id] = f"{next(iter(one.measured.values())):.4g}" if one.asked else ""
        line[f"{one.id}_fired"] = int(one.fired)
    line |= dict.fromkeys(WARNED, "")
    if warned is not None:
        line |= _told(warned)
    names = ("train_seconds", "diagnosis_seconds", "autoattack_seconds")
    for name, (before, after) in zip(names, pairwise(clock), strict=True):
        line[name] = round(after - before, 1)
    return {name: str(value) for name, value in line.items()}


def _told(warned: Warnings) -> dict[str, object]:
    """AutoAttack's warnings as columns, in the order of `WARNED`."""
    values = (
        warned.any,
        warned.randomised,
        warned.probabilities,
        warned.zero_gradient,
        warned.square_better,
        warned.differentiates,
        warned.failed,
    )
    numbers = [*map(int, values), warned.white_box, warned.square]
    return dict(zip(WARNED, numbers, strict=True))


def key_of(line: Mapping[str, str]) -> Key:
    """Return which net a line is about."""
    return line["data"], line["kind"], line["seed"]


def read(file: Path) -> dict[Key, dict[str, str]]:
    """Return the lines of a table that is already there; none without one."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        return {key_of(line): line for line in csv.DictReader(stream)}


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/diagnosis"),
    show_default=True,
    help="Folder for panel.csv and panel.md.",
)
@click.option(
    "--side", "wanted", type=click.Choice([FROZEN_ON.name, HELD_OUT.name]), help="One of both only."
)
def main(out: Path, wanted: str | None) -> None:
    """Train masked and honest nets, diagnose all, and count what is found, on one thread."""
    torch.set_num_threads(1)
    machine = facts(1, ("advbench",))
    table = read(out / "panel.csv")
    plan = [(s, k, seed) for s in (HELD_OUT, FROZEN_ON) for k in KINDS for seed in s.seeds]
    order = [(side.name, kind.name, str(seed)) for side, kind, seed in plan]
    beds: dict[str, Bed] = {}
    for (side, kind, seed), key in zip(plan, order, strict=True):
        if key in table or wanted not in (None, side.name):
            continue
        bed = beds.setdefault(side.name, side.bed())
        samples = data.load(side.name, samples=_SAMPLES)
        table[key] = measure(kind, bed, seed, samples, warn=seed == side.seeds[0])
        rows = [table[one] for one in order if one in table]
        store(out, "panel", rows, page(rows, machine))
        click.echo(f"{' '.join(key)}: {table[key]['fired'] or 'nothing fired'}")


if __name__ == "__main__":
    main()
