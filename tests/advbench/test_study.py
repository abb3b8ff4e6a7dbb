"""A study in small: its numbers, its faults, and that it goes on where it was killed."""

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advbench.bench.run import Runner
from advbench.cli import main
from advbench.document import ConfigError
from advbench.study import run as running
from advbench.study.config import load_study, nets
from advbench.study.tables import over_seeds, paired
from advbench.trust.statistics import wilson

TEXT = """\
[study]
seeds = [0, 1]
baseline = "none"
test_samples = 40
[train]
epochs = 2
batch_size = 16
[optimizer]
lr = 1e-2
[data]
name = "digits"
samples = 96
[log]
attack = { name = "pgd", steps = 2 }
eps = 0.1
samples = 20
[[network]]
label = "small"
architecture = { name = "ffn", hidden = [12] }
[[network]]
label = "Large"
architecture = { name = "ffn", hidden = [16, 16] }
[[remedy]]
label = "none"
defenses = []
[[remedy]]
label = "pgd at"
defenses = [{ name = "adversarial_training", attack = { name = "pgd", steps = 1 }, eps = 0.1 }]
[[remedy]]
label = "drawn"
networks = ["small"]
defenses = [{ name = "mc_dropout", samples = 2 }]
[[attack]]
name = "fgsm"
eps = [0.02, 0.1]
[[attack]]
name = "pgd"
steps = 3
eps = [0.02, 0.1]
"""
TABLES = ("study.csv", "gaps.csv", "study.md", "learning.png")


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def started(config: Path, out: Path, *more: str) -> int:
    return main(["study", str(config), "--out", str(out), "--jobs", "1", "--quiet", *more])


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def tables(folder: Path) -> dict[str, Any]:
    """All tables, but for the time that the attacks took."""
    summary = [{**row, "seconds": ""} for row in lines(folder / "summary.csv")]
    return {"summary.csv": summary} | {name: (folder / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed study, made by one process."""
    folder = tmp_path_factory.mktemp("study")
    assert started(written(folder), folder / "out") == 0
    return folder / "out"


def shares(folder: Path, label: str, eps: float) -> dict[str, Any]:
    """From the stored rows of a network: right as it is, and under each attack and the worst."""
    found: dict[str, Any] = {}
    screened = []
    for facts in json.loads((folder / "manifest.json").read_bytes())["cells"]:
        if facts["model"] != label or facts["eps"] != [eps]:
            continue
        with np.load(folder / "cells" / facts["key"][:2] / facts["key"] / "rows.npz") as rows:
            if "right" in rows:
                found["clean"], found[facts["attack"]] = rows["clean_right"], rows["right"]
                screened.append(rows["screened"])
            else:
                found["clean"] = rows["clean_correct"].astype(float)
                found[facts["attack"]] = found["clean"] * (1 - rows["success"])
                screened.append(found[facts["attack"]])
    first = screened[0] <= screened[1]
    return found | {"worst": np.where(first, found["fgsm"], found["pgd"])}


def card(folder: Path, network: str, remedy: str, seed: int) -> dict[str, Any]:
    name = f"{network.lower()}-{remedy.replace(' ', '_')}-{seed}.json"
    found: dict[str, Any] = json.loads((folder / "nets" / name).read_bytes())
    return found


def interval(values: list[float]) -> list[float]:
    """Mean and 95 % interval of two values: Student's t of one degree of freedom is Cauchy."""
    quantile = math.tan(math.pi * 0.475)
    half = quantile * abs(values[0] - values[1]) / 2
    middle = (values[0] + values[1]) / 2
    return [middle, middle - half, middle + half]


def triple(line: dict[str, str], name: str) -> list[float]:
    return [float(line[name + end]) for end in ("", "_low", "_high")]


@pytest.mark.slow
def test_every_number_follows_from_rows_and_cards(done: Path) -> None:
    found = lines(done / "study.csv")
    assert len(found) == 5 * 2 * 3
    assert {line["status"] for line in found} == {"ok"}
    for line in found:
        network, remedy, attack = line["network"], line["remedy"], line["attack"]
        eps = float(line["eps"])
        ours = [shares(done, f"{network}/{remedy}/{s}", eps) for s in (0, 1)]
        base = [shares(done, f"{network}/none/{s}", eps) for s in (0, 1)]
        cards = [card(done, network, remedy, s) for s in (0, 1)]
        before = [card(done, network, "none", s) for s in (0, 1)]
        gaps = [c["clean_accuracy"]["train"] - c["clean_accuracy"]["test"] for c in cards]
        gaps_before = [c["clean_accuracy"]["train"] - c["clean_accuracy"]["test"] for c in before]
        expected = {
            "clean_accuracy": [one["clean"].mean() for one in ours],
            "robust_accuracy": [one[attack].mean() for one in ours],
            "gap": gaps,
            "test_loss": [c["loss"]["test"] for c in cards],
        }
        pairs = list(zip(ours, base, strict=True))
        changes = {
            "clean_change": [a["clean"].mean() - b["clean"].mean() for a, b in pairs],
            "robust_change": [a[attack].mean() - b[attack].mean() for a, b in pairs],
            "gap_change": [a - b for a, b in zip(gaps, gaps_before, strict=True)],
            "test_loss_change": [
                a["loss"]["test"] - b["loss"]["test"] for a, b in zip(cards, before, strict=True)
            ],
        }
        if remedy == "none":
            assert all(line[name] == "" for name in changes)
        else:
            expected |= changes
        for name, values in expected.items():
            assert triple(line, name) == pytest.approx(interval(values), abs=2e-6), (name, line)
        train = [c["clean_accuracy"]["train"] for c in cards]
        assert float(line["train_accuracy"]) == pytest.approx(sum(train) / 2, abs=1e-6)
        assert (line["n"], line["seeds"]) == ("40", "2")


def test_something_is_learnt_and_differs(done: Path) -> None:
    """The other tests compare equal things only where there are different ones."""
    found = lines(done / "study.csv")
    assert len({line["robust_accuracy"] for line in found}) > 6
    drawn = [shares(done, f"small/drawn/{s}", 0.02) for s in (0, 1)]
    assert any(((one["worst"] > 0) & (one["worst"] < 1)).any() for one in drawn)


def test_robust_gaps_follow_from_cards(done: Path) -> None:
    found = lines(done / "gaps.csv")
    assert len(found) == 5
    for line in found:
        cards = [card(done, line["network"], line["remedy"], s)["robust_accuracy"] for s in (0, 1)]
        for name, at in (("result", "result"), ("last", "last_epoch")):
            train, test = [c[at]["train"] for c in cards], [c[at]["test"] for c in cards]
            gap = [a - b for a, b in zip(train, test, strict=True)]
            for what, values in (("train", train), ("test", test), ("gap", gap)):
                expected = pytest.approx(interval(values), abs=2e-6)
                assert triple(line, f"{name}_{what}") == expected


def test_the_page_ranks_by_the_largest_eps_and_marks_what_is_sure(done: Path) -> None:
    page = (done / "study.md").read_text()
    worst = {
        (line["network"], line["remedy"]): line
        for line in lines(done / "study.csv")
        if line["attack"] == "worst" and line["eps"] == "0.1"
    }
    for part in page.split("\n## ")[1:]:
        network = part.splitlines()[0]
        rows = [row.split(" | ") for row in part.splitlines() if row.startswith("| ")][2:]
        robust = [
            float(worst[network, row[0].removeprefix("| ")]["robust_accuracy"]) for row in rows
        ]
        assert robust == sorted(robust, reverse=True)
        for row in rows:
            line = worst[network, row[0].removeprefix("| ")]
            sure = line["robust_change"] and (
                float(line["robust_change_low"]) > 0 or float(line["robust_change_high"]) < 0
            )
            assert row[-1].rstrip(" |").endswith("*") == bool(sure)
    assert page.count("\n## ") == 2


@pytest.mark.slow
@pytest.mark.parametrize("place", ["training", "attack"])
def test_an_interrupted_study_is_continued_to_the_same_files(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    config, out, calls = written(tmp_path), tmp_path / "out", []

    def stopped(real: Any) -> Any:
        def call(*given: Any) -> Any:
            calls.append(given)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return real(*given)

        return call

    if place == "training":
        monkeypatch.setattr(running, "produce", stopped(running.produce))
    else:
        monkeypatch.setattr(Runner, "run", stopped(Runner.run))
    assert started(config, out) == 130
    there = len(list((out / "nets").glob("*.json")))
    assert there == (4 if place == "training" else 2)
    assert not (out / "study.csv").exists()
    calls.clear()
    calls.extend([None] * 5)
    assert started(config, out) == 0
    assert tables(out) == tables(done)
    assert len(calls) - 5 == (10 - 4 if place == "training" else 10 * 4 - 4)


@pytest.mark.slow
def test_a_failing_network_is_an_error_and_ends_nothing(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, real = written(tmp_path), tmp_path / "out", running.produce

    def failing(recipe: Any, given: Any, name: str, target: Path) -> Path:
        if name == "small/pgd at/1":
            raise FloatingPointError("the loss is nan")
        return real(recipe, given, name, target)

    monkeypatch.setattr(running, "produce", failing)
    assert started(config, out) == 3
    assert "the loss is nan" in capsys.readouterr().err
    failed = [row for row in lines(out / "summary.csv") if row["model"] == "small/pgd at/1"]
    assert {row["status"] for row in failed} == {"error", "incomplete"}
    assert "FloatingPointError: the loss is nan" in {row["detail"] for row in failed}
    names = ("network", "remedy", "attack", "eps")
    golden = {tuple(line[name] for name in names): line for line in lines(done / "study.csv")}
    for line in lines(out / "study.csv"):
        if (line["network"], line["remedy"]) == ("small", "pgd at"):
            assert line["status"] == "incomplete"
            assert line["robust_accuracy"] == line["robust_change"] == line["gap"] == ""
            assert "the loss is nan" in line["detail"]
        else:
            assert line == golden[tuple(line[name] for name in names)]
    assert "the loss is nan" in (out / "study.md").read_text()
    monkeypatch.undo()
    assert started(config, out) == 0
    assert tables(out) == tables(done)


def test_a_failing_attack_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(runner: Runner, cell: Any, batch_size: int) -> Any:
        raise ZeroDivisionError("no attack")

    monkeypatch.setattr(Runner, "_rows", broken)
    config, out = written(tmp_path, one_seed()), tmp_path / "out"
    assert started(config, out) == 3
    assert {row["status"] for row in lines(out / "study.csv")} == {"incomplete"}
    found = [row for row in lines(out / "study.csv") if row["remedy"] == "pgd at"]
    assert all(row["robust_change"] == row["clean_accuracy"] == "" for row in found)
    assert all(float(row["gap"]) > -1 for row in found)


@pytest.mark.slow
def test_only_what_is_damaged_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out, made = written(tmp_path, one_seed()), tmp_path / "out", []
    assert started(config, out) == 0
    before, real = tables(out), running.produce

    def counted(recipe: Any, given: Any, name: str, target: Path) -> Path:
        made.append(name)
        return real(recipe, given, name, target)

    monkeypatch.setattr(running, "produce", counted)
    weights = out / "nets" / "small-none-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    (out / "nets" / "small-pgd_at-0.csv").unlink()
    found = json.loads((out / "nets" / "large-none-0.json").read_bytes())
    found["defenses"] = [{"name": "swa"}]
    (out / "nets" / "large-none-0.json").write_text(json.dumps(found))
    assert started(config, out) == 0
    assert made == ["small/none/0", "small/pgd at/0", "Large/none/0"]
    assert tables(out) == before


def one_seed() -> str:
    """A study of one seed without chance."""
    text = TEXT.replace("seeds = [0, 1]", "seeds = 0")
    start, end = text.index('[[remedy]]\nlabel = "drawn"'), text.index("[[attack]]")
    return text[:start] + text[end:]


@pytest.mark.slow
def test_one_seed_has_intervals_over_its_samples(tmp_path: Path) -> None:
    config, out = written(tmp_path, one_seed()), tmp_path / "out"
    assert started(config, out) == 0
    for line in lines(out / "study.csv"):
        eps, remedy = float(line["eps"]), line["remedy"]
        ours = shares(out, f"{line['network']}/{remedy}/0", eps)
        right = ours[line["attack"]]
        expected = [right.mean(), *wilson(int(right.sum()), 40)]
        assert triple(line, "robust_accuracy") == pytest.approx(expected, abs=2e-6)
        assert float(line["gap"]) > -1
        assert line["gap_low"] == line["test_loss_change_high"] == ""
        if remedy != "none":
            base = shares(out, f"{line['network']}/none/0", eps)
            difference = right - base[line["attack"]]
            half = 1.959964 * difference.std(ddof=1) / math.sqrt(40)
            middle = difference.mean()
            expected = [middle, middle - half, middle + half]
            assert triple(line, "robust_change") == pytest.approx(expected, abs=2e-6)
    assert "paired by sample" in (out / "study.md").read_text()


def test_intervals_of_known_numbers() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert over_seeds([0.25]) == (0.25, None, None)
    assert over_seeds([0.25] * 4) == (0.25, 0.25, 0.25)
    one, other = np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 0, 1])
    half = 1.959964 * math.sqrt(2 / 3) / 2
    assert paired(one, other) == pytest.approx((0.0, -half, half))
    assert paired(one, one) == (0.0, 0.0, 0.0)


def test_another_study_does_not_take_the_folder(
    tmp_path: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tables(done)
    assert started(written(tmp_path), done, "--set", "train.epochs=3") == 2
    assert "config.train.epochs: 2 there, 3 here" in capsys.readouterr().err
    assert tables(done) == before


def test_dry_run_lists_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert started(written(tmp_path), tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[:3] == ["small/none/0", "small/none/1", "small/pgd at/0"]
    assert len(said.out.splitlines()) == 10
    assert "10 networks" in said.err
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TEXT.replace('baseline = "none"', 'baseline = "nome"\nshown = ["swa"]')
    text = text.replace('networks = ["small"]', 'networks = ["smal"]')
    text = text.replace('label = "Large"', 'label = "small"').replace("pgd at", "pgd/at")
    text = text.replace("steps = 3", 'steps = 3\nsurrogate = "none"')
    config = written(tmp_path, text)
    assert started(config, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "study.baseline: 'nome' is none of the remedies. Did you mean 'none'?" in said
    for part in (
        "study.shown: 'swa' is none of the remedies.",
        "remedy.networks: 'smal' is none of the networks. Did you mean 'small'?",
        "network.label: two of them are called 'small'",
        "remedy.label: expected a name without '/'; got 'pgd/at'",
        "attack.surrogate: leave it out",
    ):
        assert part in said
    assert f"{config}:3: study.baseline" in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2", "epochs = 2\nseed = 1", "train.seed: the seeds of a study are those of"),
        ('baseline = "none"', 'baseline = "drawn"', "'drawn' leaves out Large"),
        ("seeds = [0, 1]", "seeds = []", "study.seeds: expected whole numbers"),
        ("test_samples = 40", "test_samples = 0", "test_samples must be at least 1; got 0"),
        ("defenses = []", 'defenses = ["swa", "ema"]', "both decide kept weights"),
        ("samples = 96", "samples = 100000", "data.samples: got 100000"),
        ('name = "fgsm"', 'name = "fgsn"', "Did you mean 'fgsm'?"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    assert started(written(tmp_path, TEXT.replace(old, new, 1)), tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_x3_what_no_worker_can_be_given_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, document = load_study(written(tmp_path))
    tasks = [running.Task(net, study, tmp_path, "") for net in nets(study, document)]
    monkeypatch.setattr(running, "ProcessPoolExecutor", lambda *_: pytest.fail("it began"))
    tasks[3].net.given["lambda"] = lambda: None
    told = rf"'{tasks[3].net.label}' cannot be sent to a worker.*imported by their name.*--jobs 1"
    with pytest.raises(ConfigError, match=told):
        next(running._in_workers(tasks, 2))


def test_files_of_different_networks_differ(tmp_path: Path) -> None:
    text = TEXT.replace('label = "Large"', 'label = "SMALL"')
    study, document = load_study(written(tmp_path, text))
    files = [net.file for net in nets(study, document)]
    assert len(set(files)) == len(files) == 10
    assert files[0] == "small-none-0"


@pytest.mark.parametrize(("name", "trainings"), [("overfitting", 67), ("overfitting_mnist", 57)])
def test_the_studies_that_are_shipped_can_be_read(
    repository: Path, name: str, trainings: int
) -> None:
    study, document = load_study(repository / "configs" / f"{name}.toml")
    planned = list(nets(study, document))
    assert len({remedy.label for remedy in study.remedy}) == 33
    assert len(planned) == trainings * len(study.study.seeds)
    assert all(entry.adaptive for entry in study.attack)


@pytest.mark.slow
def test_a_terminated_study_ends_its_workers_and_is_continued(tmp_path: Path, done: Path) -> None:
    """X1, X3, N10: With two spawned workers it comes to the bytes that one process comes to."""
    config, out = written(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "advbench", "study", str(config), "--out", str(out)]
    command += ["--jobs", "2", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(out.glob("nets/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(one) for one in children.read_text().split()] if children.exists() else []
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert b"finished networks are kept" in said
    for worker in workers:
        while time.monotonic() < deadline:
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"worker {worker} still runs")
    again = subprocess.run(command, capture_output=True, timeout=400, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert tables(out) == tables(done)
