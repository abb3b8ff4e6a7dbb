"""Frozen dataclasses as the schema of a file: tables in, typed values out, all errors at once.

A field's annotation says what its key takes: `int`, `float` (a number, or a quoted fraction such as
"8/255"), `bool`, `str`, `Literal`, `X | None`, `tuple[X, ...]`, another dataclass (a table), or the
base class of a kind of plugin (a name, or a table with `name` and the fields of that plugin).
`Annotated[X, converter]` hands the key to a `Converter`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar, cast, runtime_checkable

from advbench import registry
from advbench.document import ConfigError, Document, Keys

T = TypeVar("T")

INVALID: Final = object()
"""What a reading returns after it has noted a problem."""

_BASES = {
    "advbench.attacks.attack:Attack": "attacks",
    "advbench.attacks.perturbations.perturbation:Perturbation": "perturbations",
    "advbench.attacks.perturbations.pose:Rotation": "rotations",
    "advbench.attacks.perturbations.masks:Mask": "masks",
    "advbench.attacks.perturbations.penalties:Penalty": "penalties",
    "advbench.attacks.losses:Loss": "losses",
    "advbench.attacks.transfer.view:View": "views",
    "advbench.defenses.defense:Defense": "defenses",
    "advbench.models.architecture:Architecture": "models",
    "advbench.data.dataset:Dataset": "datasets",
}
"""The base class of each kind of plugin (module:Class), which an annotation names."""
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}
_FRACTION = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")


@runtime_checkable
class Converter(Protocol):
    """Reads one value of a file in its own way; used as metadata of `Annotated`."""

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        """Return the converted value, or INVALID after `reader.fail`."""


@dataclass(frozen=True)
class Plugin:
    """Converter for a name, or a table with a name, of one kind of plugin."""

    kind: str

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        """Build the plugin."""
        return reader.plugin(self.kind, given, keys)


@dataclass(frozen=True)
class Plugins:
    """Converter for a list of plugins of one kind, each a name or a table with a name."""

    kind: str

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        """Build the plugins."""
        if not isinstance(given, list):
            return reader.fail(keys, f"expected a list of {self.kind}; got {_shown(given)}")
        made = [reader.plugin(self.kind, one, (*keys, index)) for index, one in enumerate(given)]
        return INVALID if any(one is INVALID for one in made) else tuple(made)


@dataclass
class Reader:
    """Turns values of one document into typed objects and collects what is wrong with them."""

    document: Document
    problems: list[tuple[int, str]] = field(default_factory=list)

    def fail(self, keys: Keys, message: str) -> Any:
        """Note a problem with the value at `keys`; returns INVALID."""
        line, place = self.document.place(keys)
        name = ".".join(key for key in keys if isinstance(key, str))
        problem = (line, f"{place}: {name}: {message}" if name else f"{place}: {message}")
        if problem not in self.problems:
            self.problems.append(problem)
        return INVALID

    def check(self) -> None:
        """Raise ConfigError with every problem noted, in the order of the lines."""
        if self.problems:
            raise ConfigError("\n".join(text for _, text in sorted(self.problems)))

    def table(self, cls: type, given: Any, keys: Keys) -> Any:
        """Build a dataclass from a table."""
        if not isinstance(given, dict):
            return self.fail(keys, f"expected a table; got {_shown(given)}")
        values = self.fields(cls, given, keys)
        return self.construct(cls, values, keys)

    def fields(self, cls: type, given: dict[str, Any], keys: Keys) -> dict[str, Any]:
        """Convert each key of a table by the field of that name; unknown keys are problems."""
        hints = self.hints(cls, given, keys)
        return {
            key: self.value(hints[key], value, (*keys, key))
            for key, value in given.items()
            if key in hints
        }

    def hints(
        self, cls: type, given: dict[str, Any], keys: Keys, more: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the annotation of every field; notes unknown and missing keys of a table.

        `more` are keys that are allowed beside the fields.
        """
        declared = [f for f in dataclasses.fields(cls) if f.init]
        known = sorted([f.name for f in declared] + list(more))
        for key in given:
            if key not in known:
                lead = f"{_owner(cls, keys)} has no field" if keys else "there is no table"
                near = registry.did_you_mean(key, known)
                listed = f"{'Fields' if keys else 'Tables'}: {', '.join(known) or 'none'}"
                self.fail((*keys, key), f"{lead} '{key}'.{near} {listed}.")
        for f in declared:
            if f.name not in given and _required(f):
                self.fail(keys, f"'{f.name}' is missing; {_owner(cls, keys)} needs it.")
        resolved = typing.get_type_hints(cls, include_extras=True)
        return {f.name: resolved[f.name] for f in declared}

    def construct(self, cls: type, values: dict[str, Any], keys: Keys) -> Any:
        """Call the class; what its own checks refuse becomes a problem of the table."""
        complete = all(f.name in values for f in dataclasses.fields(cls) if f.init and _required(f))
        if not complete or any(value is INVALID for value in values.values()):
            return INVALID
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            return self.fail(keys, str(error))

    def value(self, hint: Any, given: Any, keys: Keys) -> Any:
        """Convert one value to what an annotation asks for."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            converters = [m for m in hint.__metadata__ if isinstance(m, Converter)]
            if converters:
                return converters[0].read(self, given, keys)
            return self.value(arguments[0], given, keys)
        if origin is Literal:
            return self._literal(arguments, given, keys)
        if origin in (typing.Union, types.UnionType):
            return self._union([a for a in arguments if a is not types.NoneType], given, keys)
        if origin is tuple:
            return self._tuple(arguments, given, keys)
        if hint in _WORDS:
            return self._scalar(hint, given, keys)
        kind = plugin_kind(hint)
        if kind:
            return self.plugin(kind, given, keys)
        if dataclasses.is_dataclass(hint):
            return self.table(cast(type, hint), given, keys)
        return self.fail(keys, f"a file cannot give a value of type {hint}")

    def plugin(self, kind: str, given: Any, keys: Keys) -> Any:
        """Build a plugin from its name, or from a table with `name` and its fields."""
        table = {"name": given} if isinstance(given, str) else given
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            return self.fail(
                keys, f"expected a name in quotes, or a table with a name; got {_shown(given)}"
            )
        cls = self.named(kind, table["name"], keys)
        if cls is INVALID:
            return INVALID
        return self.table(cls, {key: v for key, v in table.items() if key != "name"}, keys)

    def named(self, kind: str, name: str, keys: Keys) -> Any:
        """Return the class registered under a name."""
        try:
            cls = registry.get(kind, name)
            typing.get_type_hints(cls)
            dataclasses.fields(cls)
        except (ValueError, ImportError) as error:
            return self.fail(keys, str(error))
        except (NameError, TypeError) as error:
            owner = registry.describe(kind, name)
            fault = f"'{name}' ({owner.value}) of {owner.distribution} {owner.version}"
            return self.fail(keys, f"{fault} is no dataclass with readable fields: {error}")
        return cls

    def _literal(self, choices: tuple[Any, ...], given: Any, keys: Keys) -> Any:
        if any(given == choice and type(given) is type(choice) for choice in choices):
            return given
        near = registry.did_you_mean(str(given), [str(choice) for choice in choices])
        listed = ", ".join(_shown(choice) for choice in choices)
        return self.fail(keys, f"expected one of {listed}; got {_shown(given)}.{near}")

    def _union(self, hints: list[Any], given: Any, keys: Keys) -> Any:
        if len(hints) == 1:
            return self.value(hints[0], given, keys)
        for hint in hints:
            trial = Reader(self.document)
            result = trial.value(hint, given, keys)
            if not trial.problems:
                return result
        wanted = " or ".join(
            _WORDS.get(hint, getattr(hint, "__name__", str(hint))) for hint in hints
        )
        return self.fail(keys, f"expected {wanted}; got {_shown(given)}")

    def _tuple(self, hints: tuple[Any, ...], given: Any, keys: Keys) -> Any:
        if not isinstance(given, list):
            return self.fail(keys, f"expected a list; got {_shown(given)}")
        if len(hints) == 2 and hints[1] is ...:
            hints = (hints[0],) * len(given)
        if len(hints) != len(given):
            return self.fail(keys, f"expected a list of {len(hints)} values; got {len(given)}")
        items = [
            self.value(hint, item, (*keys, index))
            for index, (hint, item) in enumerate(zip(hints, given, strict=True))
        ]
        return INVALID if any(item is INVALID for item in items) else tuple(items)

    def _scalar(self, hint: Any, given: Any, keys: Keys) -> Any:
        if hint is float:
            value = number(given)
            if value is None:
                return self.fail(keys, f"expected {_WORDS[float]}; got {_shown(given)}")
            if not math.isfinite(value):
                return self.fail(keys, f"expected a finite number; got {given}")
            return value
        if type(given) is not hint:
            return self.fail(keys, f"expected {_WORDS[hint]}; got {_shown(given)}")
        return given


def build(schema: type[T], document: Document) -> T:
    """Build a dataclass from a whole document; raises ConfigError with every problem found."""
    reader = Reader(document)
    built = reader.table(schema, document.data, ())
    reader.check()
    return cast(T, built)


def number(given: object) -> float | None:
    """Return a number, or a fraction written as text, as a float; None for anything else."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    match = _FRACTION.fullmatch(given) if isinstance(given, str) else None
    if match is None or float(match[2]) == 0:
        return None
    return float(match[1]) / float(match[2])


def plugin_kind(hint: Any) -> str | None:
    """Return the registry kind whose base class an annotation is, if it is one."""
    if not isinstance(hint, type):
        return None
    return _BASES.get(f"{hint.__module__}:{hint.__qualname__}")


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: the inverse of reading.

    A plugin becomes a table of its name, its version where it declares one, and all its fields.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        name = registry.name_of(type(value))
        if ":" in name and not any(plugin_kind(base) for base in type(value).__mro__):
            return fields
        version = getattr(type(value), "version", None)
        return {"name": name, **({} if version is None else {"version": version}), **fields}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{type(value).__name__} cannot be written as JSON: {value!r}; fields of a plugin are "
        "numbers, text, true or false, None, tuples of these, and other plugins"
    )


def remade(kind: str, table: object, source: str, key: str) -> Any:
    """Build a plugin from its plain table: the inverse of `plain`.

    Raises ConfigError, naming the `source` and the `key` the table has there, for anything else.
    """
    reader = Reader(Document(source, "", {}, {}))
    made = reader.plugin(kind, given(table), (key,))
    reader.check()
    return made


def given(value: Any) -> Any:
    """Return a plain value as a file would give it: without versions and what is None."""
    if isinstance(value, Mapping):
        plugin = "name" in value
        return {
            key: given(inner)
            for key, inner in value.items()
            if inner is not None and not (plugin and key == "version")
        }
    return [given(inner) for inner in value] if isinstance(value, list) else value


def _owner(cls: type, keys: Keys) -> str:
    """What a reader calls the schema of a table: a plugin's class, or the header of a section."""
    if ":" not in registry.name_of(cls):
        return cls.__name__
    if not keys:
        return "the file"
    return f"[[{keys[-2]}]]" if isinstance(keys[-1], int) and len(keys) > 1 else f"[{keys[-1]}]"


def _required(declared: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return declared.default is missing and declared.default_factory is missing


def _shown(given: object) -> str:
    if isinstance(given, bool):
        return f"{str(given).lower()} (true or false)"
    if isinstance(given, str):
        return f"{given!r} (text)" if len(given) < 60 else f"{given[:60]!r}… (text)"
    if isinstance(given, dict):
        return "a table"
    if isinstance(given, list):
        return "a list"
    return str(given)
