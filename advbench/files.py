"""Files are written whole or not at all; every write of advbench comes through here."""

import contextlib
import logging
import os
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)


class WriteError(OSError):
    """A file cannot be written; it is as it was before, or whole."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it holds either its old content or all of the new one.

    Raises WriteError naming the path.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:  # also after an interrupt
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Find out whether files can be made in a folder; raises WriteError naming it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error


def set_aside(path: Path, reason: object) -> None:
    """Rename a damaged file, where there is one, so that it is made again; warn with the reason.

    Raises WriteError naming the path.
    """
    if not path.exists():
        return
    _log.warning("%s is damaged (%s): renamed to *.corrupt and made again", path, reason)
    try:
        os.replace(path, path.with_name(f"{path.name}.corrupt"))
    except OSError as error:
        raise WriteError(f"{path}: cannot be renamed: {error.strerror or error}") from error
