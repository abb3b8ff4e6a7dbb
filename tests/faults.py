"""Faults to plant: a disk that fails at a call of one's choice, a user without rights, a pickle."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from unittest import mock

from advbench import files

CALLS = ("open", "write", "fsync", "replace", "open folder", "fsync folder")
"""What the writing of one file consists of, in this order."""


class Disk:
    """The calls through which advbench writes, counted from 1; number ``fails_at`` fails.

    With ``lasting`` all later ones fail too. A write that fails leaves half of its content behind,
    as a full disk does.
    """

    def __init__(self, fails_at: int, number: int = errno.ENOSPC, lasting: bool = False) -> None:
        self.fails_at, self.lasting = fails_at, lasting
        self.number = number
        self.calls: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether it came to the call that fails."""
        return len(self.calls) >= self.fails_at

    def call(self, name: str) -> None:
        """Count a call, or fail in it."""
        self.calls.append(name)
        if len(self.calls) == self.fails_at or (self.failed and self.lasting):
            raise OSError(self.number, os.strerror(self.number))

    @contextmanager
    def installed(self) -> Iterator[Self]:
        """Let everything that advbench writes pass this disk."""
        with (
            mock.patch.object(files, "os", _System(self)),
            mock.patch.object(files, "open", self._open, create=True),
        ):
            yield self

    def _open(self, path: Path, mode: str) -> "_File":
        self.call("open")
        return _File(self, path, mode)


class _File:
    def __init__(self, disk: Disk, path: Path, mode: str) -> None:
        self.disk, self.file = disk, path.open(mode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        try:
            self.disk.call("write")
        except OSError:
            self.file.write(content[: len(content) // 2])
            raise
        self.file.write(content)

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


class _System:
    """The module ``os``, up to the calls that a disk may fail in."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.folders: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int) -> int:
        self.disk.call("open folder")
        folder = os.open(path, flags)
        self.folders.add(folder)
        return folder

    def fsync(self, descriptor: int) -> None:
        self.disk.call("fsync folder" if descriptor in self.folders else "fsync")
        os.fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        self.disk.call("replace")
        os.replace(source, target)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.sentinel),)


@contextmanager
def without_rights() -> Iterator[None]:
    """Be somebody whom permissions hold back, where the tests are run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
