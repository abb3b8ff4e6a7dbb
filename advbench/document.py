"""A TOML file with the line of every key, so that an error can say where it comes from.

`tomllib` decides what is TOML; it reports no positions, so a scanner walks the headers and keys of
a text that tomllib has accepted. Where it knows no line for a value (inside an inline table), the
line of the nearest enclosing key or header stands in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Keys: TypeAlias = tuple[str | int, ...]
"""The way to a value: table names, and the index of a table in an array of tables."""

_MAX_BYTES = 1_000_000
_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''''
    r"""|\#[^\n]*|\n|[\[\]{}=,.]|[^\s"'\#\[\]{}=,.]+""",
    re.DOTALL,
)


class ConfigError(ValueError):
    """A configuration that cannot be used; the text holds every problem, one per line."""


@dataclass
class Document:
    """The tables of one TOML file and where each of their keys stands."""

    name: str
    text: str
    data: dict[str, Any]
    lines: dict[Keys, int]
    overridden: dict[Keys, str] = field(default_factory=dict)

    def place(self, keys: Keys) -> tuple[int, str]:
        """Return line and printed place of a value, or of the nearest table around it."""
        for end in range(len(keys), -1, -1):
            if keys[:end] in self.overridden:
                return 0, f"--set {self.overridden[keys[:end]]}"
            if keys[:end] in self.lines:
                line = self.lines[keys[:end]]
                return line, f"{self.name}:{line}"
        return 1, f"{self.name}:1"

    def override(
        self,
        assignment: str,
        accepts: Callable[[dict[str, Any], Keys], bool] = lambda table, keys: True,
    ) -> None:
        """Set one value from the text `table.key=value`; the value is TOML, or else plain text.

        A key under an array of tables is set in each of its tables that `accepts` it, given the
        table and the way to the value. Raises ConfigError where the text is malformed, leads
        through something that is not a table, or no table accepts it.
        """
        key, equals, value = assignment.partition("=")
        names = [part.strip() for part in key.split(".")]
        if not equals or not all(names):
            raise ConfigError(f"--set {assignment}: expected table.key=value, as in run.seed=1")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value.strip()
        changed = 0
        for table, keys in self._tables(names[:-1], assignment):
            if accepts(table, (*keys, names[-1])):
                table[names[-1]] = parsed
                self.overridden[(*keys, names[-1])] = assignment
                changed += 1
        if not changed:
            raise ConfigError(f"--set {assignment}: no [[{names[0]}]] has a field '{names[-1]}'")

    def _tables(self, names: list[str], assignment: str) -> Iterator[tuple[dict[str, Any], Keys]]:
        """Tables reached by a dotted name; missing ones are made, arrays of tables fan out."""
        reached: list[tuple[dict[str, Any], Keys]] = [(self.data, ())]
        for name in names:
            following: list[tuple[dict[str, Any], Keys]] = []
            for table, keys in reached:
                if name not in table:
                    table[name] = {}
                    self.overridden[(*keys, name)] = assignment
                inner = table[name]
                many = inner if isinstance(inner, list) else [inner]
                if not all(isinstance(one, dict) for one in many):
                    raise ConfigError(f"--set {assignment}: '{name}' is not a table")
                for index, one in enumerate(many):
                    at = (*keys, name, index) if isinstance(inner, list) else (*keys, name)
                    following.append((one, at))
            reached = following
        yield from reached


def parse_toml(path: str | Path) -> Document:
    """Read a TOML file, with or without a byte-order mark, with either kind of line end.

    Raises ConfigError, naming file and line, where it cannot be read, is empty, larger than 1 MB,
    not UTF-8, or not TOML.
    """
    name = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror or error}") from error
    if len(raw) > _MAX_BYTES:
        raise ConfigError(
            f"{name}: {len(raw) / 1e6:.1f} MB is no configuration; at most 1 MB is read"
        )
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: the text is not UTF-8: {error.reason}") from error
    return parse_text(name, text)


def parse_text(name: str, text: str) -> Document:
    """Read TOML from a text.

    Raises ConfigError, naming `name` and line, where it is empty or not TOML.
    """
    if not text.strip():
        raise ConfigError(f"{name}:1: the file is empty")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
        line = int((found and found[1]) or len(text.splitlines()))
        raise ConfigError(f"{name}:{line}: {_explained(message)}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: arrays or tables are nested too deeply") from error
    return Document(name, text, data, key_lines(text))


def key_lines(text: str) -> dict[Keys, int]:
    """Return the line of every header and key in a text that tomllib accepts."""
    lines: dict[Keys, int] = {}
    counts: dict[Keys, int] = {}
    table: Keys = ()
    tokens = _tokens(text)
    for token, line in tokens:
        if token == "\n" or token.startswith("#"):
            continue
        if token == "[":
            parts: list[str] = []
            depth = 1
            array = False
            for inner, _ in tokens:
                depth += (inner == "[") - (inner == "]")
                array = array or depth == 2
                if not depth:
                    break
                if inner not in "[].":
                    parts.append(_unquoted(inner))
            table = _resolved(parts, array, counts)
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], line)
            continue
        keys = [_unquoted(token)]
        for inner, _ in tokens:
            if inner == "=":
                break
            if inner != ".":
                keys.append(_unquoted(inner))
        for end in range(1, len(keys) + 1):
            lines.setdefault((*table, *keys[:end]), line)
        depth = 0
        for inner, _ in tokens:  # skip the value
            depth += (inner in ("[", "{")) - (inner in ("]", "}"))
            if inner == "\n" and not depth:
                break
    return lines


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line, seen = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        yield match[0], line


def _resolved(parts: list[str], array: bool, counts: dict[Keys, int]) -> Keys:
    """Way to the table of a header: the latest table of every array on the way."""
    keys: Keys = ()
    for position, part in enumerate(parts, start=1):
        keys = (*keys, part)
        if array and position == len(parts):
            counts[keys] = counts.get(keys, -1) + 1
        if keys in counts:
            keys = (*keys, counts[keys])
    return keys


def _unquoted(key: str) -> str:
    return next(iter(tomllib.loads(f"{key} = 0"))) if key[0] in "\"'" else key


def _explained(message: str) -> str:
    """Say what tomllib's words mean where a reader could not know."""
    text = re.sub(r" \(at (?:line \d+, column \d+|end of document)\)$", "", message)
    if "Cannot overwrite" in message:
        return f"the key is given twice ({text})"
    if "Cannot declare" in message:
        return f"the table is given twice ({text})"
    return text
