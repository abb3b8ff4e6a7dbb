"""One file at a time: whatever fails, it is as it was before or whole, and nothing else is left."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from advbench import files
from advbench.files import WriteError, write_atomic
from tests.faults import CALLS, Disk

OLD, NEW = b"old content", b"new content, longer than the old one"


def faults(writer: Callable[[Path, bytes], None], folder: Path, number: int) -> list[str]:
    """What is wrong with a writer, after each call that can fail, where there is an old file."""
    found, path = [], folder / "file"
    for call in range(1, len(CALLS) + 1):
        path.write_bytes(OLD)
        with Disk(call, number).installed():
            try:
                writer(path, NEW)
            except WriteError as error:
                if f"{path}: cannot be written: {os.strerror(number)}" != str(error):
                    found.append(f"call {call}: says {error}")
            else:
                found.append(f"call {call}: no error")
        if path.read_bytes() not in (OLD, NEW):
            found.append(f"call {call}: torn")
        if os.listdir(folder) != ["file"]:
            found.append(f"call {call}: leaves {os.listdir(folder)}")
        writer(path, NEW)
        if path.read_bytes() != NEW:
            found.append(f"call {call}: cannot be written again")
    return found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_f1_a_write_that_fails_at_any_call_leaves_old_or_new(tmp_path: Path, number: int) -> None:
    assert faults(write_atomic, tmp_path, number) == []


def test_f1_every_call_can_fail(tmp_path: Path) -> None:
    with Disk(99).installed() as disk:
        write_atomic(tmp_path / "file", NEW)
    assert tuple(disk.calls) == CALLS


def _in_place(path: Path, content: bytes) -> None:
    try:
        with files.open(path, "wb") as file:  # type: ignore[attr-defined]
            file.write(content)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


def _with_litter(path: Path, content: bytes) -> None:
    temporary = path.with_name("litter")
    try:
        with files.open(temporary, "wb") as file:  # type: ignore[attr-defined]
            file.write(content)
        files.os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


@pytest.mark.parametrize(
    ("careless", "fault"), [(_in_place, "call 2: torn"), (_with_litter, "call 2: leaves")]
)
def test_a_careless_writer_is_seen(
    tmp_path: Path, careless: Callable[[Path, bytes], None], fault: str
) -> None:
    with Disk(99).installed():
        found = faults(careless, tmp_path, errno.ENOSPC)
    assert any(one.startswith(fault) for one in found)


def test_f1_an_interrupt_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", NEW)
    assert os.listdir(tmp_path) == []


def test_f7_what_a_killed_writer_leaves_is_never_taken_for_the_file(tmp_path: Path) -> None:
    """F1, F7: A kill in the middle leaves a temporary file, under another name."""
    (tmp_path / ".file.tmp").write_bytes(NEW[:7])
    assert not (tmp_path / "file").exists()
    write_atomic(tmp_path / "file", NEW)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == NEW
