"""From a configuration to cells: every combination to run, each with an address of its content.

The key of a cell hashes what its numbers depend on: weights, samples, attack with all its fields,
eps, budget, EOT, seed, dtype and the format of the rows. Batch size and device are not in it.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from advbench import data
from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.victim import Model
from advbench.config import AttackEntry, Config, ConfigError, DataSection, ModelEntry, plain
from advbench.data import Samples
from advbench.models.loading import LoadedModel, ModelSpec, load_model

FORMAT = 1
"""Version of the stored rows; part of every key."""


@dataclass(frozen=True, eq=False)
class Victim:
    """A model under its name in the table, with the address of its weights."""

    label: str
    model: Model
    sha256: str
    code: str = ""  # sha256 of the file that a user's own model comes from


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples of a run under their name in the table; `train` loads what attacks may learn."""

    label: str
    samples: Samples
    train: Callable[[], Samples]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the samples."""
        return self.samples.digest()


@dataclass(frozen=True, eq=False)
class Cell:
    """One evaluation: an attack on a model over a selection of samples.

    `eps` holds one scale, or, for an attack that finds the smallest change, all that are read off
    its single run.
    """

    victim: Victim
    selection: Selection
    name: str
    attack: Attack | Fittable
    eps: tuple[float, ...]
    seed: int
    budget: int | None = None
    eot: int | None = None

    @property
    def scale(self) -> float:
        """The eps the attack is run at."""
        return max(self.eps)

    @cached_property
    def content(self) -> dict[str, Any]:
        """All that the rows depend on."""
        return {
            "format": FORMAT,
            "model": self.victim.sha256,
            "code": self.victim.code,
            "dataset": self.selection.label,
            "samples": self.selection.digest,
            "attack": plain(self.attack),
            "eps": self.scale,
            "budget": self.budget,
            "eot": self.eot,
            "seed": self.seed,
            "dtype": str(self.selection.samples.x.dtype),
        }

    @cached_property
    def key(self) -> str:
        """The sha256 of the content."""
        canonical = json.dumps(self.content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def work(self) -> int:
        """The most queries that the attack makes, over all samples."""
        queries = self.attack.queries if isinstance(self.attack, Attack) else 1
        return queries * (self.eot or 1) * len(self.selection.samples)

    def facts(self) -> dict[str, Any]:
        """What the manifest and the table say of this cell; JSON throughout."""
        limits = self.attack.perturbation.limit(torch.tensor(self.eps, dtype=torch.float64))
        return {
            "key": self.key,
            "model": self.victim.label,
            "surrogate": "",
            "dataset": self.selection.label,
            "attack": self.name,
            "perturbation": short(self.attack.perturbation),
            "eps": list(self.eps),
            "limits": limits.tolist(),
            "seed": self.seed,
            "n": len(self.selection.samples),
            "content": self.content,
        }


def plan(config: Config) -> list[Cell]:
    """Load models and samples and return the cells; raises ConfigError with all that is wrong."""
    problems: list[str] = []
    root = None if config.data.root is None else Path(config.data.root)
    targets: list[tuple[Victim, Selection]] = []
    selections: dict[tuple[str, str], Selection] = {}
    for entry in config.model:
        try:
            loaded = load_model(_spec(entry, root))
            name, split = _source(entry, loaded, config.data)
            if (name, split) not in selections:
                selections[name, split] = select(name, split, config.data.samples, root)
        except (ValueError, TypeError, OSError, ImportError) as error:
            text = str(error)
            problems.append(text if entry.name in text else f"model '{entry.name}': {text}")
            continue
        victim = Victim(loaded.label, loaded.model, loaded.sha256, _code(entry.name))
        if any(victim.label == other.label for other, _ in targets):
            problems.append(f"two models are called '{victim.label}': give one of them a label")
        targets.append((victim, selections[name, split]))
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return cells(targets, config.attack, config.run.seed)


def select(name: str, split: str, samples: int | None, root: Path | None) -> Selection:
    """Load a selection; the split is named where it is not the test split."""
    label = name if split == "test" else f"{name}/{split}"
    loaded = data.load(name, split, samples, root)
    return Selection(label, loaded, lambda: data.load(name, "train", None, root))


def cells(
    targets: Sequence[tuple[Victim, Selection]],
    entries: Sequence[AttackEntry],
    seeds: Sequence[int],
) -> list[Cell]:
    """Every combination once, in the order of the configuration."""
    found: dict[tuple[str, str, str], Cell] = {}
    named = list(zip(entries, names(entries), strict=True))
    for victim, selection in targets:
        for entry, name in named:
            scales = tuple(eps.value for eps in entry.eps)
            groups = [scales] if entry.attack.finds == "smallest" else [(s,) for s in scales]
            for eps in groups:
                for seed in seeds:
                    cell = Cell(
                        victim, selection, name, entry.attack, eps, seed, entry.budget, entry.eot
                    )
                    found.setdefault((victim.label, name, cell.key), cell)
    return list(found.values())


def names(entries: Sequence[AttackEntry]) -> list[str]:
    """Name each entry: its label or attack, and the fields in which its namesakes differ."""
    described = [
        (e.label or e.name, {**_fields(e.attack), "budget": e.budget, "eot": e.eot})
        for e in entries
    ]
    result = []
    for base, own in described:
        others = [fields for other, fields in described if other == base]
        differing = [
            f"{field}={_text(value)}"
            for field, value in own.items()
            if field != "perturbation" and any(other.get(field) != value for other in others)
        ]
        result.append(f"{base}({', '.join(differing)})" if differing else base)
    return result


def short(value: Any) -> str:
    """Return a plugin as its name with the fields that differ from their defaults."""
    table = plain(value)
    changed = [
        f"{field.name}={_text(table[field.name])}"
        for field in dataclasses.fields(value)
        if field.default is dataclasses.MISSING or plain(field.default) != table[field.name]
    ]
    return f"{table['name']}({', '.join(changed)})" if changed else str(table["name"])


def _fields(attack: Attack | Fittable) -> dict[str, Any]:
    return {f.name: plain(getattr(attack, f.name)) for f in dataclasses.fields(attack)}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value))
    return str(value)


def _spec(entry: ModelEntry, root: Path | None) -> ModelSpec:
    return ModelSpec(
        **{f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}, root=root
    )


def _code(name: str) -> str:
    """The sha256 of name and source of a `python:` model, whose weights do not say what it does."""
    source, _, address = name.partition(":")
    if source != "python":
        return ""
    file = sys.modules[address.partition(":")[0]].__file__
    content = Path(file).read_bytes() if file else b""
    return hashlib.sha256(name.encode() + content).hexdigest()


def _source(entry: ModelEntry, loaded: LoadedModel, section: DataSection) -> tuple[str, str]:
    """Name and split of the samples for one model."""
    name = section.name or loaded.data
    if name is None:
        raise ValueError(f"'{entry.name}' brings no data set; name one under [data]")
    return name, section.split
