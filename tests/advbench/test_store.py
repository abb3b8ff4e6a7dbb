"""The results folder: atomic writes, damage, locks, other configurations, failing disks."""

import hashlib
import json
import multiprocessing
import os

import numpy as np
import pytest

from advbench.bench import store as storing
from advbench.bench.store import FolderError, Store, WriteError, differences, opened, to_json
from tests.faults import Payload

_KEY = "ab" + "0" * 62
_ROWS = {"index": np.arange(3), "success": np.array([True, False, True])}
_RECORD = {"key": _KEY, "status": "ok", "seconds": 1.0}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def _cell(store):
    return store.folder / "cells" / "ab" / _KEY


def test_a_saved_cell_is_read_back(store):
    store.save(_RECORD, _ROWS)
    record, rows = store.load(_KEY)
    assert record["seconds"] == 1.0
    assert {name: rows[name].tolist() for name in rows} == {
        name: values.tolist() for name, values in _ROWS.items()
    }
    assert sorted(os.listdir(_cell(store))) == ["cell.json", "rows.npz"]


def test_what_was_not_saved_is_not_there(store):
    assert store.load(_KEY) is None


def test_a_failed_cell_is_recorded_and_run_again(store):
    store.save({"key": _KEY, "status": "error", "traceback": "…"}, None)
    assert (_cell(store) / "cell.json").exists()
    assert store.load(_KEY) is None


def test_rows_without_their_record_do_not_exist(store):
    store.save(_RECORD, _ROWS)
    (_cell(store) / "cell.json").unlink()
    assert store.load(_KEY) is None


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("rows.npz", lambda content: content[:-10]),
        ("rows.npz", lambda content: b""),
        ("rows.npz", lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:]),
        ("cell.json", lambda content: content[:-10]),
        ("cell.json", lambda content: b"[]"),
        ("cell.json", lambda content: b"{}"),
        ("cell.json", lambda content: b"\xff"),
    ],
)
def test_a_damaged_cell_is_set_aside_with_a_warning(store, caplog, name, damage):
    """F4: Truncated, empty, one bit flipped, or no record at all."""
    store.save(_RECORD, _ROWS)
    path = _cell(store) / name
    path.write_bytes(damage(path.read_bytes()))
    assert store.load(_KEY) is None
    assert "is damaged" in caplog.text
    assert any(entry.endswith(".corrupt") for entry in os.listdir(_cell(store)))
    store.save(_RECORD, _ROWS)
    assert store.load(_KEY) is not None


def test_rows_that_hold_objects_are_refused(store, caplog, tmp_path):
    """S2: Results are data, though their sha256 is right."""
    store.save(_RECORD, _ROWS)
    path = _cell(store) / "rows.npz"
    harm = np.array([Payload(tmp_path / "sentinel")], dtype=object)
    np.savez(path, index=harm, allow_pickle=True)
    record = json.loads((_cell(store) / "cell.json").read_text())
    record["rows_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (_cell(store) / "cell.json").write_text(json.dumps(record))
    assert store.load(_KEY) is None
    assert "is damaged" in caplog.text
    assert not (tmp_path / "sentinel").exists()


def _manifest(steps=1, key="k"):
    return {"cells": [{"key": key}], "config": {"attack": [{"steps": steps}], "run": {"seed": 0}}}


def test_the_same_cells_are_continued_and_others_refused_with_the_difference(store):
    """F3: What is compared is the plan; what is shown is the configuration, where it differs."""
    store.prepare(_manifest())
    store.prepare(_manifest())
    store.prepare(_manifest(steps=2))  # the plan is what counts
    with pytest.raises(FolderError, match=r"config.attack\[0\].steps: 1 there, 2 here"):
        store.prepare(_manifest(steps=2, key="other"))
    with pytest.raises(FolderError, match=r"cells\[0\].key: k there, other here"):
        store.prepare(_manifest(key="other"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_set_aside(store, content, caplog):
    """F4: Whatever is in its place."""
    (store.folder / "manifest.json").write_bytes(content)
    store.prepare(_manifest())
    assert json.loads((store.folder / "manifest.json").read_text())["cells"]
    assert (store.folder / "manifest.json.corrupt").exists()
    assert "is damaged" in caplog.text


def test_differences_find_leaves():
    before, after = _manifest(), _manifest(steps=5)
    assert differences(before, after) == ["config.attack[0].steps: 1 there, 5 here"]
    assert differences(before, before) == ["nothing that can be shown"]


def _hold(folder, ready, done):
    with opened(folder):
        ready.set()
        done.wait(30)


def test_a_second_run_is_refused_and_told_the_owner(tmp_path):
    """X2: In another process, until that has ended."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, ready, done))
    owner.start()
    assert ready.wait(60)
    held = f"in use by another run \\(process {owner.pid} on "
    with pytest.raises(FolderError, match=held), opened(tmp_path):
        pytest.fail("two runs hold one folder")
    done.set()
    owner.join()
    with opened(tmp_path) as store:
        assert store.folder == tmp_path


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    with pytest.raises(FolderError, match="file/run: cannot be written"), opened(folder):
        pytest.fail("there is no such folder")


def test_nan_is_never_written_as_json():
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_failing_disk_leaves_old_or_new_content_and_no_litter(store, monkeypatch, call, number):
    """F1: Fail at call k of each primitive; then the cell is either absent or whole."""
    real, calls = getattr(os, call), 0

    def failing(*arguments):
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(storing.os, call, failing)
    if number <= (4 if call == "fsync" else 2):
        with pytest.raises(WriteError, match="No space left on device"):
            store.save(_RECORD, _ROWS)
    else:
        store.save(_RECORD, _ROWS)
    monkeypatch.undo()
    left = [entry for _, _, files in os.walk(store.folder) for entry in files]
    assert not any(entry.endswith(".tmp") for entry in left)
    found = store.load(_KEY)
    assert found is None or found[1]["index"].tolist() == [0, 1, 2]
    store.save(_RECORD, _ROWS)
    assert store.load(_KEY) is not None
