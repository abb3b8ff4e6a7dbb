"""Files are written whole or not at all; every write of advbench comes through here."""

import os
from pathlib import Path


class WriteError(OSError):
    """A file cannot be written; what it held before is still there."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it holds either its old content or all of the new one.

    Raises WriteError naming the path.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
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
        temporary.unlink(missing_ok=True)
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
