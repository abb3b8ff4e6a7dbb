"""Runs that are killed or run out of disk are finished by the same command, to the same bytes."""

import csv
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from advbench.bench import store as storing
from advbench.bench.run import Runner
from advbench.cli import main

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


class _Golden(NamedTuple):
    bench: Path
    rows: list[dict[str, str]]
    seconds: float


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
    return _golden(tmp_path_factory.mktemp("slow"), _SLOW.replace("digits/linear", "digits/cnn"))


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
def test_a_killed_run_is_finished_to_the_same_summary(tmp_path, slow, seed):
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
    assert main(["run", str(slow.bench), "--out", str(folder), "--quiet"]) == 0
    assert _rows(folder) == slow.rows
    assert not list(folder.rglob("*.corrupt"))


def test_a_failing_write_at_any_call_is_recovered(tmp_path, monkeypatch, capsys):
    """Fail at write k = 1, 2, … until the run gets through; each time the same command goes on."""
    text = _TEXT.replace("seed = [0, 1]", "").replace("steps = [2, 5]", "steps = 2")
    bench, golden, _ = _golden(tmp_path, text)
    real = storing.write_atomic
    for number in range(1, 100):
        folder, calls = tmp_path / str(number), 0

        def failing(path: Path, content: bytes, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                raise storing.WriteError(f"{path}: cannot be written: disk full")
            real(path, content)

        monkeypatch.setattr(storing, "write_atomic", failing)
        code = main(["run", str(bench), "--out", str(folder), "--quiet"])
        monkeypatch.setattr(storing, "write_atomic", real)
        if code == 0:
            break
        assert code == 3
        assert "disk full" in capsys.readouterr().err
        assert main(["run", str(bench), "--out", str(folder), "--quiet"]) == 0
        assert _rows(folder) == golden
    assert number == 1 + 2 * 3 + 1 + 1  # all went well only past manifest, three cells, summary


def test_damage_between_two_runs_is_repaired(tmp_path, capsys):
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
