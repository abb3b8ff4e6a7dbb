"""Runs that are killed or run out of disk are finished by the same command, to the same bytes."""

import csv
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from advbench.bench.run import Runner
from advbench.bench.store import opened
from advbench.cli import main
from advbench.training import produce
from tests.faults import CALLS, Disk, without_rights

_TEXT = """\
[run]
seed = [0, 1]
[data]
samples = 30
[[model]]
name = "zoo:digits/linear"
[[attack]]
name = "pgd"
steps = [2, 5]
eps = [0.05, 0.1]
[[attack]]
name = "minimum_eps"
rounds = 4
attack = { name = "pgd", steps = 5 }
eps = [0.05, 0.1]
"""
_SLOW = _TEXT.replace("samples = 30", "samples = 100").replace("steps = [2, 5]", "steps = [20, 60]")
_KILLS = int(os.environ.get("ADVBENCH_KILLS", "5"))


def _rows(folder: Path) -> list[dict[str, str]]:
    """The summary without the time it took, the one thing that may differ."""
    text = (folder / "summary.csv").read_text()
    return [{**row, "seconds": ""} for row in csv.DictReader(io.StringIO(text))]


def _cells(folder: Path) -> dict[str, bytes]:
    """The rows of every finished cell, byte for byte."""
    records = folder.glob("cells/*/*/cell.json")
    return {path.parent.name: path.with_name("rows.npz").read_bytes() for path in records}


class _Golden(NamedTuple):
    bench: Path
    rows: list[dict[str, str]]
    seconds: float

    @property
    def cells(self) -> dict[str, bytes]:
        return _cells(self.bench.parent / "golden")


def _golden(folder: Path, text: str) -> _Golden:
    """A configuration and what an undisturbed run of it gives."""
    bench = folder / "bench.toml"
    bench.write_text(text)
    main(["run", str(bench), "--dry-run"])  # so that imports do not count
    started = time.monotonic()
    assert main(["run", str(bench), "--out", str(folder / "golden"), "--quiet"]) == 0
    return _Golden(bench, _rows(folder / "golden"), time.monotonic() - started)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    text = _SLOW.replace("digits/linear", "digits/cnn") + '[certify]\nwhen = "never"\n'
    return _golden(tmp_path_factory.mktemp("slow"), text)


def _run(bench: str, folder: str, log: str) -> None:
    with Path(log).open("a", buffering=1) as stream:
        sys.stdout = sys.stderr = stream
        main(["run", bench, "--out", folder])


def _start(bench: Path, folder: Path, log: Path) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["advbench.bench.benchmark", "advbench.bench.plan"])
    process = context.Process(target=_run, args=(str(bench), str(folder), str(log)))
    process.start()
    return process


@pytest.mark.parametrize("seed", range(_KILLS))
def test_x1_a_killed_run_is_finished_to_the_same_bytes(tmp_path, slow, seed):
    """X1: Killed three times at random moments; what was acknowledged is there."""
    chance = random.Random(seed)
    folder, log = tmp_path / "run", tmp_path / "log"
    for number in range(3):
        process = _start(slow.bench, folder, log)
        while process.is_alive() and not (folder / "manifest.json").exists():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.5) * slow.seconds)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        there = len(list(folder.rglob("cell.json")))
        print(f"seed {seed}, kill {number}: {process.exitcode}, {there} cells there")  # noqa: T201
    said = [line for line in log.read_text().splitlines() if line.startswith("[")]
    acknowledged = max((int(line[1:].partition("/")[0]) for line in said), default=0)
    assert there >= acknowledged
    assert _cells(folder).items() <= slow.cells.items()
    assert main(["run", str(slow.bench), "--out", str(folder), "--quiet"]) == 0
    assert _rows(folder) == slow.rows
    assert _cells(folder) == slow.cells
    assert not list(folder.rglob("*.corrupt"))


_SHORT = """\
[data]
samples = 10
[[model]]
name = "zoo:digits/linear"
[[attack]]
name = "fgsm"
eps = [0.05, 0.1]
"""


def _failing(golden: _Golden, folder: Path, disk: Disk, said: Callable[[], str]) -> bool:
    """Run on a disk that fails, and once more on a sound one; whether it failed at all."""
    command = ["run", str(golden.bench), "--out", str(folder), "--quiet"]
    with disk.installed():
        code = main(command)
    text = said()
    if not disk.failed:
        assert code == 0
        return False
    assert code == 3
    assert f"cannot be written: {os.strerror(disk.number)}" in text
    assert "the same command continues the run" in text
    assert not list(folder.rglob(".*.tmp"))
    assert _cells(folder).items() <= golden.cells.items(), "what is finished is whole"
    assert main(command) == 0
    assert _rows(folder) == golden.rows
    assert _cells(folder) == golden.cells
    said()
    return True


def test_f1_a_write_that_fails_at_any_call_is_recovered(tmp_path, capsys):
    """F1: Fail at call k = 1, 2, … until none fails any more; the same command goes on."""
    golden = _golden(tmp_path, _SHORT)
    capsys.readouterr()
    number = 1
    while _failing(golden, tmp_path / str(number), Disk(number), lambda: capsys.readouterr().err):
        number += 1
    files = 1 + 2 * 2 + 1  # manifest; two cells, each of rows and a record; summary
    assert number - 1 == files * len(CALLS)


@pytest.mark.parametrize("number", [2, 9, 16, 23, 30])
def test_f1_a_disk_that_stays_full_ends_the_run_in_order(tmp_path, capsys, number):
    golden = _golden(tmp_path, _SHORT)
    capsys.readouterr()
    disk = Disk(number, lasting=True)
    assert _failing(golden, tmp_path / "run", disk, lambda: capsys.readouterr().err)


def test_f1_a_training_whose_result_cannot_be_written_is_made_again(tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text('[train]\nepochs = 1\n[data]\nname = "digits"\n[model]\nname = "linear"\n')

    def written(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    command = ["train", str(recipe), "--out"]
    assert main([*command, str(tmp_path / "golden")]) == 0
    golden = written(tmp_path / "golden")
    assert set(golden) == {"tiny.csv", "tiny.safetensors", "tiny.json"}
    for number in (2, 8, 10, 16):
        folder = tmp_path / str(number)
        with Disk(number).installed() as disk:
            assert main([*command, str(folder)]) == 3
        assert disk.failed
        assert "cannot be written: No space left on device" in capsys.readouterr().err
        assert written(folder).items() <= golden.items()
        assert main([*command, str(folder)]) == 0
        assert written(folder) == golden


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may read, with a configuration in it."""
    folder = Path(tempfile.mkdtemp())
    (folder / "bench.toml").write_text(_SHORT)
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def _computes(*_: object) -> None:
    pytest.fail("something was computed")


@pytest.mark.parametrize("there", ["nothing", "a folder", "the lock of an earlier run"])
def test_f2_a_folder_that_cannot_be_written_is_found_before_computing(
    public, monkeypatch, capsys, there
):
    bench, folder = str(public / "bench.toml"), public / "run"
    assert main(["run", bench, "--dry-run"]) == 0  # so that all is imported
    if there != "nothing":
        folder.mkdir()
        if there != "a folder":
            with opened(folder):
                (folder / ".lock").chmod(0o666)
        folder.chmod(0o555)
    public.chmod(0o555)
    monkeypatch.setattr(Runner, "run", _computes)
    capsys.readouterr()
    with without_rights():
        assert main(["run", bench, "--out", str(folder)]) == 2
    assert f"{folder}: cannot be written: Permission denied" in capsys.readouterr().err


def test_x2_a_second_run_is_told_the_owner_and_writes_nothing(tmp_path, capsys):
    golden = _golden(tmp_path, _SHORT)
    folder = tmp_path / "golden"
    capsys.readouterr()
    with opened(folder):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert main(["run", str(golden.bench), "--out", str(folder)]) == 2
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert f"{folder}: in use by another run (process {os.getpid()} on " in capsys.readouterr().err
    assert main(["run", str(golden.bench), "--out", str(folder), "--quiet"]) == 0
    assert _cells(folder) == golden.cells


def test_f2_training_finds_it_before_it_begins(public, monkeypatch, capsys):
    recipe = '[train]\nepochs = 1\n[data]\nname = "digits"\n[model]\nname = "linear"\n'
    (public / "tiny.toml").write_text(recipe)
    (public / "nets").mkdir()
    (public / "nets").chmod(0o555)
    monkeypatch.setattr(produce, "train", _computes)
    with without_rights():
        assert main(["train", str(public / "tiny.toml"), "--out", str(public / "nets")]) == 3
    assert f"{public / 'nets'}: cannot be written: Permission denied" in capsys.readouterr().err


_OWN = """\
from torch import nn
def make():
    model = nn.Linear(3 * 4 * 4, 2)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    return nn.Sequential(nn.Flatten(), model)
"""


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("config", "config.run.seed[0]: 0 there, 1 here"),
        ("model", "cells[0].content.code: "),
        ("data", "cells[0].content.samples: "),
    ],
)
def test_f3_results_of_another_model_or_other_data_are_not_continued(
    tmp_path, monkeypatch, capsys, change, shown
):
    monkeypatch.chdir(tmp_path)
    code = tmp_path / f"own_for_{change}.py"
    code.write_text(_OWN)
    chance = np.random.default_rng(0)
    for index in range(6):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (4, 4, 3), np.uint8)).save(path)
    bench = tmp_path / "bench.toml"
    bench.write_text(
        '[data]\nname = "folder:pictures"\n'
        f'[[model]]\nname = "python:{code.stem}:make"\n'
        '[[attack]]\nname = "fgsm"\neps = 0.1\n'
    )
    command = ["run", str(bench), "--out", "run", "--quiet"]
    assert main(command) == 0
    before = _cells(tmp_path / "run")
    if change == "config":
        command += ["--set", "run.seed=1"]
    elif change == "model":
        code.write_text(_OWN.replace("Flatten()", "Flatten(), nn.ReLU()"))
    else:
        Image.new("RGB", (4, 4)).save(path)
    capsys.readouterr()
    monkeypatch.setattr(Runner, "run", _computes)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "run: holds the results of another configuration" in said
    assert shown in said
    assert _cells(tmp_path / "run") == before


def test_damage_between_two_runs_is_repaired(tmp_path, capsys):
    """F4: Set aside, made again, and told."""
    bench, golden, _ = _golden(tmp_path, _TEXT)
    folder = tmp_path / "run"
    assert main(["run", str(bench), "--out", str(folder), "--quiet"]) == 0
    damaged = sorted(folder.rglob("rows.npz"))[:2]
    damaged[0].write_bytes(b"")
    (damaged[1].parent / "cell.json").write_text("{")
    (folder / "summary.csv").unlink()
    capsys.readouterr()
    assert main(["run", str(bench), "--out", str(folder), "--quiet"]) == 0
    assert capsys.readouterr().err.count("is damaged") == 3  # rows with their record; a record
    assert _rows(folder) == golden
    assert list(folder.rglob("*.corrupt"))


def test_an_early_end_keeps_what_an_earlier_run_had_stored(tmp_path, monkeypatch):
    bench, golden, _ = _golden(tmp_path, _TEXT)
    folder = tmp_path / "golden"
    first = json.loads((folder / "manifest.json").read_text())["cells"][0]["key"]
    (folder / "cells" / first[:2] / first / "cell.json").unlink()

    def interrupted(runner, cell):
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "run", interrupted)
    assert main(["run", str(bench), "--out", str(folder), "--quiet"]) == 130
    before = {row["key"]: row["status"] for row in _rows(folder) if row["key"]}
    assert before.pop(first) == "missing"
    assert set(before.values()) == {"ok"}
    monkeypatch.undo()
    assert main(["run", str(bench), "--out", str(folder), "--quiet"]) == 0
    assert _rows(folder) == golden
