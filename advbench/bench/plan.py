"""From a configuration to cells: every combination to run, each with an address of its content.

The key of a cell hashes what its numbers depend on: weights, samples, attack with all its fields,
what it is fitted to, eps, budget, EOT, targets, surrogates, seed, dtype and the format of the rows,
and, where they are not the default, whether the attack is adaptive, how several surrogates are
taken together, the draws of a random model, the shortcuts of the search, what is certified and
whether changes are kept.
Batch size and device are not in it, though they are among what a random model's draws depend on.
"""

import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from advbench import data, registry
from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.speed import Speedup
from advbench.attacks.victim import Model
from advbench.config import (
    AttackEntry,
    CertifySection,
    Config,
    ConfigError,
    DataSection,
    ModelEntry,
    RunSection,
    plain,
)
from advbench.data import Samples
from advbench.models.loading import LoadedModel, ModelSpec, load_model

FORMAT = 2
"""Version of the stored rows; part of every key."""
DRAWS = RunSection().draws
"""The draws that are in no key."""
_CERTIFY = CertifySection()


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
    train: Callable[[int | None], Samples]  # the first so many training samples; None for all

    @cached_property
    def digest(self) -> str:
        """The sha256 of the samples."""
        return self.samples.digest()

    def only(self, number: int) -> "Selection":
        """The samples of one class alone."""
        name, samples = self.samples.classes[number], self.samples.only(number)
        if not len(samples):
            raise ValueError(f"attack.from_class: none of the samples of {self.label} is '{name}'")
        return Selection(
            f"{self.label} ({name})",
            samples,
            lambda count: self.train(None).only(number).first(count),
        )


@dataclass(frozen=True, eq=False)
class Cell:
    """One evaluation: an attack on a model over a selection of samples.

    `eps` holds one scale, or, for an attack that finds the smallest change, all that are read off
    its single run. `targets` is the class to reach; `surrogates` are what the attack is made on,
    none of them standing for the victim itself. An `adaptive` attack is made on models without the
    layers that hide their gradients. `draws` is how often a random victim is asked when judged,
    `speed` are the shortcuts of the search, `certify` says what is proven before it, and
    `keep_changes` whether the rows hold what was changed.
    """

    victim: Victim
    selection: Selection
    name: str
    attack: Attack | Fittable
    eps: tuple[float, ...]
    seed: int
    budget: int | None = None
    eot: int | None = None
    targets: int | None = None
    surrogates: tuple[Victim, ...] = ()
    adaptive: bool = False
    draws: int = DRAWS
    speed: tuple[Speedup, ...] = ()
    certify: CertifySection = _CERTIFY
    keep_changes: bool = False

    @property
    def made_on(self) -> tuple[Victim, ...]:
        """The models that the attack sees."""
        return self.surrogates or (self.victim,)

    @cached_property
    def train(self) -> Samples:
        """The samples that the attack is fitted to."""
        assert isinstance(self.attack, Fittable)
        return self.selection.train(self.attack.images)

    @property
    def scale(self) -> float:
        """The eps the attack is run at."""
        return max(self.eps)

    @cached_property
    def content(self) -> dict[str, Any]:
        """All that the rows depend on."""
        more: dict[str, Any] = {"adaptive": True} if self.adaptive else {}
        if self.draws != DRAWS:
            more["draws"] = self.draws
        if self.speed:
            more["speed"] = sorted(self.speed)
        if self.certify != _CERTIFY:
            more["certify"] = plain(self.certify)
        if self.keep_changes:
            more["keep_changes"] = True
        if len(self.surrogates) > 1 and isinstance(self.attack, Attack):
            more["together"] = "logits"
        return more | {
            "format": FORMAT,
            "model": self.victim.sha256,
            "code": self.victim.code,
            "dataset": self.selection.label,
            "samples": self.selection.digest,
            "attack": plain(self.attack),
            "train": self.train.digest() if isinstance(self.attack, Fittable) else None,
            "eps": self.scale,
            "budget": self.budget,
            "eot": self.eot,
            "targets": self.targets,
            "surrogates": [other.sha256 + other.code for other in self.surrogates],
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
            "surrogate": " + ".join(other.label for other in self.surrogates),
            "dataset": self.selection.label,
            "attack": self.name,
            "access": self.attack.access,
            "finds": self.attack.finds,
            "perturbation": short(self.attack.perturbation),
            "eps": list(self.eps),
            "limits": limits.tolist(),
            "seed": self.seed,
            "targets": self.targets,
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
    try:
        run = config.run
        return cells(
            targets,
            config.attack,
            run.seed,
            run.draws,
            run.speed,
            config.certify,
            run.keep_changes,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def select(name: str, split: str, samples: int | None, root: Path | None) -> Selection:
    """Load a selection; the split is named where it is not the test split."""
    label = name if split == "test" else f"{name}/{split}"
    loaded = data.load(name, split, samples, root)

    @cache
    def train(count: int | None) -> Samples:
        if split == "train":
            raise ValueError(
                "data.split: an attack that is fitted to the training split is judged on another"
            )
        try:
            return data.load(name, "train", count, root)
        except ValueError as error:
            raise ValueError(f"a fit wants {count or 'all'} training images: {error}") from error

    return Selection(label, loaded, train)


def cells(
    targets: Sequence[tuple[Victim, Selection]],
    entries: Sequence[AttackEntry],
    seeds: Sequence[int],
    draws: int = DRAWS,
    speed: tuple[Speedup, ...] = (),
    certify: CertifySection = _CERTIFY,
    keep_changes: bool = False,
) -> list[Cell]:
    """Every combination once, in the order of the configuration, each followed by its controls.

    Raises ValueError for a class that the samples do not have, or where nothing can be fitted to.
    """
    found: dict[tuple[str, str, str], Cell] = {}
    entries = list(dict.fromkeys(both for entry in entries for both in (entry, *_controls(entry))))
    named = list(zip(entries, names(entries), strict=True))
    victims = {victim.label: victim for victim, _ in targets}
    for victim, whole in targets:
        selections: dict[int | None, Selection] = {None: whole}
        for entry, name in named:
            only = _class(whole, entry.from_class, "from_class")
            aim = _class(whole, entry.targets, "targets")
            if aim is not None and aim == only:
                raise ValueError(
                    f"attack '{name}': targets and from_class are the same class, {entry.targets!r}"
                )
            if only is not None and only not in selections:
                selections[only] = whole.only(only)
            surrogates = tuple(victims[label] for label in entry.surrogate)
            scales = tuple(eps.value for eps in entry.eps)
            groups = [scales] if entry.attack.finds == "smallest" else [(s,) for s in scales]
            for eps, seed in itertools.product(groups, seeds):
                cell = Cell(
                    victim,
                    selections[only],
                    name,
                    entry.attack,
                    eps,
                    seed,
                    entry.budget,
                    entry.eot,
                    aim,
                    () if surrogates == (victim,) else surrogates,
                    entry.adaptive,
                    draws,
                    speed,
                    certify,
                    keep_changes,
                )
                found.setdefault((victim.label, name, cell.key), cell)
    return list(found.values())


def _controls(entry: AttackEntry) -> list[AttackEntry]:
    """What has to stand beside an attack, on the same terms, under its own name."""
    if not isinstance(entry.attack, Fittable):
        return []
    return [
        dataclasses.replace(entry, name=registry.name_of(type(one)), attack=one, label=None)
        for one in entry.attack.controls()
    ]


def _class(selection: Selection, given: int | str | None, key: str) -> int | None:
    """The number of a class given by number or name."""
    classes = selection.samples.classes
    if given is None:
        return None
    if isinstance(given, str) and given in classes:
        return classes.index(given)
    if isinstance(given, int) and 0 <= given < len(classes):
        return given
    near = registry.did_you_mean(given, classes) if isinstance(given, str) else ""
    raise ValueError(
        f"attack.{key}: {selection.label} has no class {given!r}.{near} Classes: 0 to "
        f"{len(classes) - 1}, or {', '.join(classes)}."
    )


def names(entries: Sequence[AttackEntry]) -> list[str]:
    """Name each entry: its label or attack, and the fields in which its namesakes differ."""
    described = [
        (
            ("adaptive " if e.adaptive else "") + (e.label or e.name),
            {**_fields(e.attack), "budget": e.budget, "eot": e.eot},
        )
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
    """Return a plugin as its name with the fields that differ from their defaults.

    Fields that do not change what the plugin may do (`metadata={"label": False}`) are left out;
    those of a dataclass inside, which has no name of its own, are listed with the others.
    """
    changed = _changed(value)
    name = registry.name_of(type(value))
    return f"{name}({', '.join(changed)})" if changed else name


def _changed(value: Any) -> list[str]:
    found = []
    for field in dataclasses.fields(value):
        own = getattr(value, field.name)
        same = field.default is not dataclasses.MISSING and plain(field.default) == plain(own)
        if same or not field.metadata.get("label", True):
            continue
        if not dataclasses.is_dataclass(own) or isinstance(own, type):
            found.append(f"{field.name}={_text(plain(own))}")
        elif ":" in registry.name_of(type(own)):
            found += _changed(own)
        else:
            found.append(f"{field.name}={short(own)}")
    return found


def _fields(attack: Attack | Fittable) -> dict[str, Any]:
    return {f.name: plain(getattr(attack, f.name)) for f in dataclasses.fields(attack)}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value))
    return f"{value:g}" if isinstance(value, float) else str(value)


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
