"""A sticker as a JSON file: what it is, what it was made with, and how it was judged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advbench.attacks.attack import Attack
from advbench.attacks.perturbations.patch import Patch
from advbench.bench.plan import Cell
from advbench.report.sheet import Layout
from advbench.report.trial import CAUTION, Trial, controls_of
from advbench.schema import plain, remade

FORMAT = 1
"""Version of the file."""


def read_sticker(path: Path) -> Attack:
    """Return the attack that pastes the sticker of a file, to be run with its ``area`` as eps.

    At the seed of the file it pastes the sticker on every sample just where it was judged.
    Raises ValueError, naming the file, for what is no sticker of this version.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: expected a sticker in format {FORMAT}; got format {found}")
    return attack_of(content.get("fitted"), str(path))


def attack_of(table: object, source: str) -> Attack:
    """Build a fitted attack from its plain table, as ``schema.plain`` writes it.

    Raises ValueError, naming the ``source``, for anything else.
    """
    attack = remade("attacks", table, source, "fitted")
    if not isinstance(attack, Attack) or patch_of(attack) is None:
        raise ValueError(f"{source}: fitted: expected an attack that pastes a picture")
    return attack


def patch_of(attack: Attack) -> Patch | None:
    """Return the sticker that an attack pastes, None where it pastes none."""
    patch = attack.perturbation
    return patch if isinstance(patch, Patch) and patch.picture is not None else None


def document(
    cell: Cell, attack: Attack, judged: Sequence[Trial], trials: Sequence[Trial], place: Layout
) -> dict[str, Any]:
    """Return the content of the file of one sticker; JSON throughout.

    Args:
        cell: one of those that it was judged in.
        attack: what pastes it.
        judged: the sticker on every model it was judged on.
        trials: all of the run, its controls among them.
        place: how it is printed.

    """
    first = judged[0]
    sizes = [(one.measured(), one.untargeted().rate().n) for one in judged]
    n = sum(count for _, count in sizes)
    covered = sum(size * count for size, count in sizes if size is not None)
    name = None if first.targets is None else first.classes[first.targets]
    assert first.patch.picture is not None
    return {
        "format": FORMAT,
        "caution": CAUTION,
        "attack": first.attack,
        "area": first.area,
        "measured_area": float(f"{covered / n:.6g}") if n else None,
        "targets": None if name is None else {"class": first.targets, "name": name},
        "made_on": [{"model": one.label, "sha256": one.sha256} for one in cell.made_on],
        "made_with": cell.content["attack"],
        "dataset": first.dataset,
        "seed": first.seed,
        "resolution": first.patch.picture.shape[-1],
        "print": {"width_mm": place.width_mm, **place._asdict()},
        "fitted": plain(attack),
        "judged_on": [
            {
                "model": one.model,
                **_numbers(one),
                "controls": {other.attack: _numbers(other) for other in controls_of(one, trials)},
            }
            for one in judged
        ],
    }


def _numbers(trial: Trial) -> dict[str, Any]:
    """The rates of one trial."""
    targeted = trial.targeted()
    return {
        "measured_area": trial.measured(),
        "targeted": None if targeted is None else targeted.rate().table(),
        "untargeted": trial.untargeted().rate().table(),
    }
