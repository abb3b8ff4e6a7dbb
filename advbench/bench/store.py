"""The results folder: written so that a crash at any moment loses at most the cell in hand.

    manifest.json               every cell planned, the configuration, provenance; written first
    cells/ab/<key>/rows.npz     one array per column, one entry per sample
    cells/ab/<key>/cell.json    the commit record with the sha256 of the rows; written last
    summary.csv                 a view, rebuilt from the cells

A cell without its record does not exist. Nothing read here is ever executed: JSON, and arrays
without pickle.
"""

import fcntl
import hashlib
import io
import json
import os
import socket
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from advbench.files import WriteError, check_writable, set_aside, write_atomic

Rows: TypeAlias = Mapping[str, NDArray[Any]]
"""The stored columns of one cell, each with one entry per sample."""


class FolderError(ValueError):
    """The results folder is not for this run; says why and what to do."""


@dataclass(frozen=True)
class Store:
    """One results folder, open and locked."""

    folder: Path

    def prepare(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, or accept the folder of an interrupted run of the same cells.

        Raises FolderError, showing the difference, for the folder of another run.
        """
        path = self.folder / "manifest.json"
        earlier = self._json(path) if path.exists() else None
        if earlier is None or "cells" not in earlier:
            write_atomic(path, to_json(manifest))
        elif earlier["cells"] != json.loads(to_json(manifest))["cells"]:
            lines = "\n".join(f"  {line}" for line in differences(earlier, manifest)[:20])
            raise FolderError(
                f"{self.folder}: holds the results of another configuration:\n{lines}\n"
                "Give another folder with --out, or remove this one."
            )

    def load(self, key: str) -> tuple[dict[str, Any], Rows] | None:
        """Return record and rows of a finished cell; damaged ones are set aside with a warning."""
        folder = self._cell(key)
        if not (folder / "cell.json").exists():
            return None
        record = self._json(folder / "cell.json")
        if record is None or record.get("status") == "error":
            return None
        try:
            content = (folder / "rows.npz").read_bytes()
            if hashlib.sha256(content).hexdigest() != record["rows_sha256"]:
                raise ValueError("its sha256 differs from the one recorded")
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return record, {name: archive[name] for name in archive.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            set_aside(folder / "rows.npz", error)
            set_aside(folder / "cell.json", error)
            return None

    def save(self, record: Mapping[str, Any], rows: Rows | None) -> None:
        """Store one cell: the rows first, the record last."""
        folder = self._cell(record["key"])
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{folder}: cannot be made: {error.strerror or error}") from error
        complete = dict(record)
        if rows is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **dict(rows))
            complete["rows_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
            (folder / "cell.json").unlink(missing_ok=True)
            write_atomic(folder / "rows.npz", buffer.getvalue())
        write_atomic(folder / "cell.json", to_json(complete))

    def write(self, name: str, text: str) -> None:
        """Write a text file into the folder."""
        write_atomic(self.folder / name, text.encode())

    def _cell(self, key: str) -> Path:
        return self.folder / "cells" / key[:2] / key

    def _json(self, path: Path) -> dict[str, Any] | None:
        """Read an object; a file that does not hold one is set aside."""
        try:
            value = json.loads(path.read_bytes())
            if not isinstance(value, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            set_aside(path, error)
            return None
        return value


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """Open a results folder for one run; a second run is refused and told who holds it.

    Raises FolderError where the folder cannot be made or written, or is in use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)  # the lock of an earlier run may be writable where it is not
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except WriteError as error:
        raise FolderError(str(error)) from error
    except OSError as error:
        raise FolderError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise FolderError(f"{folder}: in use by another run ({owner or 'unknown'})") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield Store(folder)
    finally:
        os.close(descriptor)


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return readable JSON with a fixed order of keys; NaN and infinity are refused."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say where two manifests differ: in the configuration, or else in the cells themselves."""
    for part in ("config", "cells"):
        before = flat(json.loads(to_json({part: earlier.get(part)})))
        after = flat(json.loads(to_json({part: now.get(part)})))
        changed = [
            f"{name}: {before.get(name, 'nothing')!s} there, {after.get(name, 'nothing')!s} here"
            for name in sorted(before | after)
            if before.get(name) != after.get(name)
        ]
        if changed:
            return changed
    return ["nothing that can be shown"]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested tables and lists by dotted name."""
    if isinstance(value, dict):
        parts = [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        parts = [(f"{name}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {name: value}
    return {leaf: found for key, inner in parts for leaf, found in flat(inner, key).items()}
