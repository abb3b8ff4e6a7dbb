"""The configuration of a benchmark run: strict TOML in, frozen dataclasses out.

    [run]       seed, device, batch_size, draws, speed, keep_changes, deterministic
    [data]      name, split, samples, root
    [certify]   when, draws, alpha
    [gate]      margin, alpha, inconclusive
    [[model]]   name, label, sha256, defenses, mean, std, for a file without a card architecture,
                shape, classes
    [[attack]]  name, eps, label, budget, eot, targets, surrogate, from_class, adaptive, and every
                field of the attack itself

A list where one value is expected (seed, eps, any field of an attack) makes a grid. The dataclass
of an attack is the schema of its table. Importing this module imports no torch; reading a file that
names an attack does.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from advbench import registry
from advbench.document import ConfigError, Document, Keys, parse_text, parse_toml
from advbench.models import zoo
from advbench.schema import INVALID, Plugin, Plugins, Reader, build, number, plain

__all__ = [
    "AttackEntry",
    "CertifySection",
    "Config",
    "ConfigError",
    "DataSection",
    "Document",
    "Eps",
    "GateSection",
    "ModelEntry",
    "Plugin",
    "Reader",
    "RunSection",
    "build",
    "load",
    "load_text",
    "parse_toml",
    "plain",
    "read",
]

T = TypeVar("T")
_ENTRY = ("adaptive", "budget", "eot", "eps", "from_class", "label", "name", "surrogate", "targets")
"""Keys of [[attack]] that are not fields of the attack."""


@dataclass(frozen=True)
class Eps:
    """The scale of a perturbation set, as a number and as it was given."""

    value: float
    text: str


class Seeds:
    """A whole number or a list of them."""

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        seeds = given if isinstance(given, list) else [given]
        if not seeds or not all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds):
            return reader.fail(keys, f"expected whole numbers from 0 to 2**32 - 1; got {given!r}")
        return tuple(dict.fromkeys(seeds))


class _ModelName:
    """Where a model comes from; a network of the zoo must exist."""

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        if not isinstance(given, str):
            return reader.value(str, given, keys)
        source, _, address = given.partition(":")
        known = [f"zoo:{name}" for name in zoo.names()]
        if source not in ("zoo", "python", "file") or not address:
            near = registry.did_you_mean(f"zoo:{given}", known)
            forms = "'zoo:NAME', 'python:module:function' or 'file:PATH'"
            return reader.fail(keys, f"expected {forms}; got '{given}'.{near}")
        if source == "zoo" and given not in known:
            near = registry.did_you_mean(given, known)
            return reader.fail(keys, f"there is no '{given}'.{near} Choices: {', '.join(known)}.")
        return given


class _DataName:
    """A registered dataset, with what follows its colon."""

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        if not isinstance(given, str):
            return reader.value(str, given, keys)
        try:
            registry.describe("datasets", given.partition(":")[0])
        except ValueError as error:
            return reader.fail(keys, str(error))
        return given


class AttackGrid:
    """The [[attack]] tables, each unfolded into one entry per combination of its lists."""

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        if not isinstance(given, list) or not all(isinstance(table, dict) for table in given):
            return reader.fail(keys, "expected tables headed [[attack]]")
        return tuple(
            entry
            for index, table in enumerate(given)
            for entry in _entries(reader, table, (*keys, index))
        )


@dataclass(frozen=True)
class RunSection:
    """How to run: seeds, and what changes no result (device, rows in flight).

    Fields:
        draws: how often a model that answers at random is asked about each example it is judged on.
        speed: shortcuts that searches take, each for its price: fold, channels_last, compile,
            bf16. Every success is confirmed by the model itself.
        keep_changes: store what each attack changed, so that it can be tried on another model.
        deterministic: take only algorithms that repeat themselves, which on a GPU are slower; what
            has none there is an error.
    """

    seed: Annotated[tuple[int, ...], Seeds()] = (0,)
    device: str = "cpu"
    batch_size: int = 128
    draws: int = 20
    speed: tuple[Literal["fold", "channels_last", "compile", "bf16"], ...] = ()
    keep_changes: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {self.batch_size}")
        if self.draws < 2:
            raise ValueError(f"draws must be at least 2; got {self.draws}")


@dataclass(frozen=True)
class CertifySection:
    """Which samples are proven robust before they are attacked, in balls of Linf, L2 and L1.

    Fields:
        when: "auto" where bounds are cheap, "always" where there are any, "never".
        draws: noisy copies of a sample, for a model of randomised smoothing, which is never cheap.
        alpha: the probability with which the proof of a smoothed model may be wrong, per sample.
        nodes: of a search for each class that bounds leave open, for ReLU nets in Linf; 0 for none.
    """

    when: Literal["auto", "always", "never"] = "auto"
    draws: int = 1000
    alpha: float = 0.001
    nodes: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1; got {self.draws}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1; got {self.alpha}")
        if self.nodes < 0:
            raise ValueError(f"nodes must be at least 0; got {self.nodes}")


@dataclass(frozen=True)
class GateSection:
    """What a gate goes by.

    Fields:
        margin: the drop of an accuracy that is too much.
        alpha: how often a drop of `margin` may pass, and a model without any drop fail, at most.
        inconclusive: what too few samples for either come to.
    """

    margin: float = 0.01
    alpha: float = 0.05
    inconclusive: Literal["fail", "pass"] = "fail"

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ValueError(f"margin must lie between 0 and 1; got {self.margin:g}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha must lie between 0 and 0.5; got {self.alpha:g}")


@dataclass(frozen=True)
class DataSection:
    """Which samples: without a name, each zoo model brings the data set it was trained on."""

    name: Annotated[str | None, _DataName()] = None
    split: Literal["train", "validation", "test"] = "test"
    samples: int | None = None  # the first n of one fixed permutation; None takes all
    root: str | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be at least 1; got {self.samples}")


@dataclass(frozen=True)
class ModelEntry:
    """One victim."""

    name: Annotated[str, _ModelName()]
    label: str | None = None
    architecture: Annotated[Any, Plugin("models")] = None
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    defenses: Annotated[tuple[Any, ...], Plugins("defenses")] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class AttackEntry:
    """One attack at one point of its grid, and the scales to run it at.

    Fields:
        budget: most forward passes of a sample.
        eot: draws over which each query takes the mean, of a randomised model or of what the
            perturbation set leaves to chance; None for 10 of a model that answers at random, and
            for none of any other.
        targets: the class to reach, by number or name; None for any wrong one.
        surrogate: labels of the models that the attack is made on, together; empty for the victim.
        from_class: the only class that is attacked, by number or name; None for all.
        adaptive: whether the attack knows the defence: it is made on the model without the layers
            that hide its gradient, and judged on the model itself.
    """

    name: str
    attack: Any
    eps: tuple[Eps, ...]
    label: str | None = None
    budget: int | None = None
    eot: int | None = None
    targets: int | str | None = None
    surrogate: tuple[str, ...] = ()
    from_class: int | str | None = None
    adaptive: bool = False


@dataclass(frozen=True)
class Config:
    """A whole benchmark."""

    model: tuple[ModelEntry, ...]
    attack: Annotated[tuple[AttackEntry, ...], AttackGrid()]
    run: RunSection = RunSection()
    data: DataSection = DataSection()
    certify: CertifySection = CertifySection()
    gate: GateSection = GateSection()

    def __post_init__(self) -> None:
        known = [model.label or model.name for model in self.model]
        for entry in self.attack:
            for name in entry.surrogate:
                if name not in known:
                    near = registry.did_you_mean(name, known)
                    raise ValueError(
                        f"attack '{entry.name}': surrogate '{name}' is none of the models.{near} "
                        f"Choices: {', '.join(known)}."
                    )


def read(path: str | Path, schema: type[T], overrides: Sequence[str] = ()) -> T:
    """Read any TOML file into a dataclass; `overrides` are texts `table.key=value`.

    Raises ConfigError with every problem found, each with file, line and key.
    """
    document = parse_toml(path)
    for assignment in overrides:
        document.override(assignment)
    return build(schema, document)


def load(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Config, Document]:
    """Read the configuration of a benchmark; returns it with the document it came from.

    An override of `attack.<field>` goes to every [[attack]] that has the field. Raises ConfigError
    with every problem found.
    """
    return _loaded(parse_toml(path), overrides)


def load_text(name: str, text: str, overrides: Sequence[str] = ()) -> tuple[Config, Document]:
    """Read a configuration from the text of a file called `name`; else as `load`."""
    return _loaded(parse_text(name, text), overrides)


def _loaded(document: Document, overrides: Sequence[str]) -> tuple[Config, Document]:
    for assignment in overrides:
        document.override(assignment, accepts)
    return build(Config, document), document


def accepts(table: dict[str, Any], keys: Keys) -> bool:
    """Whether an override suits a table: an [[attack]] must have the field."""
    if keys[0] != "attack" or len(keys) > 3 or keys[-1] in _ENTRY:
        return True
    try:
        cls = registry.get("attacks", str(table.get("name")))
    except (ValueError, ImportError):
        return True  # reported when the table itself is read
    return keys[-1] in {f.name for f in dataclasses.fields(cls)}


def _entries(reader: Reader, table: dict[str, Any], keys: Keys) -> list[AttackEntry]:
    """Unfold one [[attack]] table; every problem in it is noted."""
    name = table.get("name")
    if not isinstance(name, str):
        reader.fail(keys, "'name' is missing; expected the name of an attack in quotes")
        return []
    eps = _scales(reader, table, keys)
    label = reader.value(str, table["label"], (*keys, "label")) if "label" in table else None
    targets = _grid(reader, table, "targets", int | str, keys)
    from_class = _grid(reader, table, "from_class", int | str, keys)
    surrogates = _surrogates(reader, table, keys)
    adaptive = _grid(reader, table, "adaptive", bool, keys, absent=False)
    budget = _count(reader, table, "budget", keys)
    eot = _count(reader, table, "eot", keys)
    cls = reader.named("attacks", name, (*keys, "name"))
    if cls is INVALID:
        return []
    axes = _axes(reader, cls, table, keys)
    attacks = [
        reader.construct(cls, dict(zip(axes, point, strict=True)), keys)
        for point in itertools.product(*axes.values())
    ]
    built = [attack for attack in attacks if attack is not INVALID]
    for attack in built:
        _check_unit(reader, attack, eps, keys)
    return [
        AttackEntry(name, attack, eps, label, budget, eot, aim, surrogate, only, knows)
        for attack, aim, only, surrogate, knows in itertools.product(
            built, targets, from_class, surrogates, adaptive
        )
    ]


def _grid(
    reader: Reader, table: dict[str, Any], key: str, hint: Any, keys: Keys, absent: Any = None
) -> list[Any]:
    """The values of a key: the one where it is absent, the one given, or those of its list."""
    if key not in table:
        return [absent]
    given = table[key] if isinstance(table[key], list) else [table[key]]
    if not given:
        reader.fail((*keys, key), "the list is empty; give at least one value")
    return [reader.value(hint, one, (*keys, key)) for one in given]


def _surrogates(reader: Reader, table: dict[str, Any], keys: Keys) -> list[tuple[str, ...]]:
    """What the attack is made on: one model, or each of a list, a list in it being taken together.

    An empty text stands for the victim itself.
    """
    at = (*keys, "surrogate")
    given = table.get("surrogate", "")
    found: list[tuple[str, ...]] = []
    for one in given if isinstance(given, list) else [given]:
        names = one if isinstance(one, list) else [one]
        if not names or not all(isinstance(name, str) for name in names):
            reader.fail(at, f"expected labels of models, or lists of them; got {one!r}")
            return [()]
        found.append(tuple(name for name in names if name))
    return found or [()]


def _count(reader: Reader, table: dict[str, Any], key: str, keys: Keys) -> Any:
    """A whole number of at least 1, if the key is there."""
    if key not in table:
        return None
    count = reader.value(int, table[key], (*keys, key))
    if isinstance(count, int) and count < 1:
        return reader.fail((*keys, key), f"expected a whole number of at least 1; got {count}")
    return count


def _axes(reader: Reader, cls: type, table: dict[str, Any], keys: Keys) -> dict[str, list[Any]]:
    """Values of every given field of an attack: one, or those of its list."""
    given = {key: value for key, value in table.items() if key not in _ENTRY}
    hints = reader.hints(cls, given, keys, more=_ENTRY)
    axes: dict[str, list[Any]] = {}
    for key, value in given.items():
        if key not in hints:
            continue
        at = (*keys, key)
        swept = isinstance(value, list) and (
            not _takes_list(hints[key]) or (bool(value) and all(isinstance(v, list) for v in value))
        )
        if swept and not value:
            reader.fail(at, "the list is empty; give at least one value")
        values = value if swept else [value]
        axes[key] = [reader.value(hints[key], one, at) for one in values]
    return axes


def _takes_list(hint: Any) -> bool:
    """Whether one value of a field is itself a list."""
    options = [hint, *typing.get_args(hint)]
    return any(typing.get_origin(option) is tuple for option in options)


def _scales(reader: Reader, table: dict[str, Any], keys: Keys) -> tuple[Eps, ...]:
    if "eps" not in table:
        reader.fail(
            keys, "'eps' is missing; give a number, a fraction such as \"8/255\", or a list"
        )
        return ()
    at = (*keys, "eps")
    given = table["eps"] if isinstance(table["eps"], list) else [table["eps"]]
    if not given:
        reader.fail(at, "the list is empty; give at least one value")
    scales: dict[float, Eps] = {}
    for one in given:
        value = number(one)
        if value is None:
            reader.fail(at, f'expected a number or a fraction such as "8/255"; got {one!r}')
        elif not math.isfinite(value):
            reader.fail(at, f"expected a finite number; got {one}")
        elif value < 0:
            reader.fail(at, f"expected a number of at least 0; got {one}")
        else:
            scales.setdefault(value, Eps(value, str(one)))
    return tuple(scales.values())


def _check_unit(reader: Reader, attack: Any, eps: tuple[Eps, ...], keys: Keys) -> None:
    """Refuse a radius in 0..255 where pixels lie in [0, 1]."""
    if registry.name_of(type(attack.perturbation)) != "linf":
        return
    for scale in eps:
        if scale.value > 1:
            reader.fail(
                (*keys, "eps"),
                f"{scale.text} under linf exceeds the whole range of a pixel, 0 to 1; "
                f"did you mean {scale.text}/255?",
            )
