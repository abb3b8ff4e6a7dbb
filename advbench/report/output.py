"""The files of a report: its folder, its tables, and names that every file system takes."""

import hashlib
import itertools
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from advbench.bench.table import to_csv
from advbench.bench.verdicts import Row
from advbench.files import WriteError, write_atomic

_LONGEST = 200  # characters of a name, before the ends that are added
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}
"""Names that Windows keeps for itself, whatever follows a dot."""


def make_folder(folder: Path) -> None:
    """Make a folder where there is none; raises WriteError."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be made: {error.strerror or error}") from error


def write_lines(path: Path, lines: Sequence[Row]) -> None:
    """Write lines with the same columns as CSV; without any, an empty file. Raises WriteError."""
    write_atomic(path, to_csv(lines, list(lines[0]) if lines else ()).encode())


def file_name(parts: Iterable[str], taken: Container[str] = ()) -> str:
    """Join texts to a name of small letters, digits, ``_``, ``.`` and ``-`` that is not ``taken``.

    One that is too long is cut and told apart by a digest, one that is taken by a number.
    """
    name = "-".join(_plainly(part) for part in parts)
    if len(name) > _LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST - 9]}-{digest}"
    if name.partition(".")[0] in _DEVICES:
        name = f"_{name}"
    return next(one for n in itertools.count(1) if (one := _numbered(name, n)) not in taken)


def _plainly(part: str) -> str:
    """What of a text can stand in the name of a file anywhere."""
    return re.sub(r"[^a-z0-9.]+", "_", part.lower()).strip("_.") or "unnamed"


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}--{number}"
