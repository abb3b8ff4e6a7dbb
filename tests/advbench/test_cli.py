"""The command line: exit codes, streams, imports."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advbench.cli import main
from advbench.testing.manners import random_states

_TEXT = """\
[data]
samples = 20
[[model]]
name = "zoo:digits/linear"
[[attack]]
name = "fgsm"
eps = [0.05, 0.1]
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bench.toml"
    path.write_text(_TEXT)
    return path


def _process(*arguments, **options):
    command = [sys.executable, "-m", "advbench", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, **options
    )


def _quickstart(repository: Path) -> str:
    return str(repository / "configs" / "quickstart.toml")


def test_a_run_writes_its_folder_and_prints_its_table(bench, capsys):
    assert main(["run", str(bench)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split()[:3] == ["model", "dataset", "attack"]
    assert len(printed.out.splitlines()) == 5
    assert printed.err.splitlines()[0] == "2 cells, 40 attacked samples at most"
    assert "[2/2] zoo:digits/linear fgsm linf eps 0.1 seed 0: robust accuracy" in printed.err
    folder = bench.parent / "results" / "bench"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config_text"] == _TEXT
    assert len(manifest["cells"]) == 2
    assert manifest["config"]["attack"][0]["attack"]["name"] == "fgsm"
    assert (folder / "summary.csv").read_text().count("\n") == 5


@pytest.mark.parametrize("style", ["csv", "json", "md"])
def test_stdout_holds_data_alone(bench, capsys, style):
    assert main(["run", str(bench), "--format", style, "--quiet"]) == 0
    text = capsys.readouterr().out
    if style == "json":
        assert len(json.loads(text)["rows"]) == 4
    else:
        assert len(text.splitlines()) == (5 if style == "csv" else 6)
    if style == "csv":
        assert text == (bench.parent / "results/bench/summary.csv").read_text()


def test_n9_a_whole_run_leaves_every_random_state(bench, capsys):
    """From configuration to pictures, with a model that draws and a sticker that is fitted."""
    bench.write_text(
        _TEXT.replace("digits/linear", "digits/cnn_smoothed").replace("[0.05, 0.1]", "0.1")
        + '[[attack]]\nname = "sticker"\nsamples = 2\nimages = 8\neps = 0.2\n'
        + 'attack = { name = "mi_fgsm", steps = 1, perturbation = "patch" }\n'
    )
    quick = ["--set", "run.draws=2", "--set", "data.samples=6", "--set", "certify.when=never"]
    before = random_states()
    assert main(["run", str(bench), "--quiet", *quick]) == 0
    assert random_states() == before
    (folder,) = (bench.parent / "results").iterdir()
    assert list((folder / "stickers").glob("*.png"))


def test_a_second_run_repeats_nothing(bench, capsys):
    assert main(["run", str(bench)]) == 0
    folder = bench.parent / "results" / "bench"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("cell.json")}
    capsys.readouterr()
    assert main(["run", str(bench)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("cell.json")} == before


def test_another_configuration_is_refused_with_the_difference(bench, capsys):
    """F3: What changes no number may differ."""
    assert main(["run", str(bench)]) == 0
    assert main(["run", str(bench), "--set", "run.seed=1"]) == 2
    assert "config.run.seed[0]: 0 there, 1 here" in capsys.readouterr().err
    assert main(["run", str(bench), "--set", "run.batch_size=3"]) == 0
    assert main(["run", str(bench), "--set", "run.seed=1", "--out", "other"]) == 0


def test_a_dry_run_lists_the_cells_and_writes_nothing(bench, capsys):
    assert main(["run", str(bench), "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert not (bench.parent / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nowhere.toml"], 2, "nowhere.toml: cannot be read"),
        (["run"], 2, "Missing argument"),
        (["rnu"], 2, "No such command 'rnu'"),
        (["run", "bench.toml", "--set", "attack.stepz=1"], 2, "has a field 'stepz'"),
        (["run", "bench.toml", "--set", "attack.epz=1"], 2, "no [[attack]] has a field 'epz'"),
        (["run", "bench.toml", "--device", "cuda:99"], 4, "not available here"),
        (["run", "bench.toml", "--device", "cuba"], 2, "not a device"),
        (["run", "bench.toml", "--set", "model=[]"], 5, "nothing to do"),
        (["check", "nowhere.toml"], 2, "cannot be read"),
        (["show", "fgms"], 2, "Did you mean 'fgsm'?"),
        (["list", "atacks"], 2, "atacks"),
        (["train", "nowhere.toml"], 2, "cannot be read"),
    ],
)
def test_exit_codes_of_bad_usage(bench, capsys, arguments, code, message):
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_nothing_to_do_is_said(bench, capsys):
    bench.write_text('attack = []\n[[model]]\nname = "zoo:digits/linear"\n')
    assert main(["run", str(bench)]) == 5
    assert "nothing to do" in capsys.readouterr().err


def test_a_failing_cell_leaves_the_run_incomplete(bench, capsys):
    (bench.parent / "broken_for_cli.py").write_text(
        "import torch\n"
        "class Broken(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        raise RuntimeError('no luck')\n"
        "def make():\n"
        "    return Broken(64, 10)\n"
    )
    bench.write_text(
        '[data]\nname = "digits"\nsamples = 10\n'
        '[[model]]\nname = "python:broken_for_cli:make"\n[[model]]\nname = "zoo:digits/linear"\n'
        '[[attack]]\nname = "fgsm"\neps = 0.1\n'
    )
    assert main(["run", str(bench)]) == 3
    printed = capsys.readouterr()
    assert "error (RuntimeError: no luck)" in printed.err
    rows = [line.split() for line in printed.out.splitlines()[1:]]
    assert [row[-1] for row in rows] == ["error", "incomplete", "ok", "ok"]
    assert "worst" in printed.out


def test_n4_what_cannot_be_is_flagged_and_told(bench, capsys):
    """Right under a gradient that may change everything, and wrong under a search without one."""
    bench.write_text(
        _TEXT.replace("digits/linear", "digits/ffn_step").replace("[0.05, 0.1]", "1")
        + '[[attack]]\nname = "random_search"\nsteps = 40\neps = 1\n'
    )
    assert main(["run", str(bench), "--format", "json", "--quiet"]) == 0
    printed = capsys.readouterr()
    blind, seeing, worst = json.loads(printed.out)["rows"]
    assert blind["robust_accuracy"] == blind["clean_accuracy"] > 0.9
    assert blind["flags"] == "zero_gradient:1.00"
    assert seeing["robust_accuracy"] == worst["robust_accuracy"] == 0
    assert worst["flags"] == "black_box_stronger:1.00"
    assert "worst: attacks without gradients broke 100 % of the correct samples" in printed.err


def test_flags_are_explained(bench, capsys):
    """N3: With what to believe instead."""
    bench.write_text(_TEXT.replace("digits/linear", "digits/ffn_step"))
    assert main(["run", str(bench)]) == 0
    warning = capsys.readouterr().err
    assert "fgsm: zero gradient on 100 % of the attacked samples" in warning
    assert "not robustness" in warning


def test_check_reports_every_problem(bench, capsys):
    assert main(["check", str(bench)]) == 0
    assert "1 model and 1 attack, no problem found" in capsys.readouterr().err
    bench.write_text(_TEXT.replace("fgsm", "fgms").replace("samples", "sample"))
    assert main(["check", str(bench)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("kind", ["losses", "defenses", "models", "datasets"])
def test_lists_have_a_line_for_every_name(capsys, kind):
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line.split(None, 1)) == 2 for line in lines)
    assert main(["list", kind, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema_version"] == 1
    assert len(listed[kind]) == len(lines)


@pytest.mark.parametrize("name", ["pgd", "linf", "cross_entropy", "ffn", "digits"])
def test_show_gives_the_page_of_a_name(capsys, name):
    assert main(["show", name]) == 0
    assert capsys.readouterr().out.startswith(name)


def test_show_gives_fields_facts_and_source(capsys):
    assert main(["show", "minimum_eps"]) == 0
    page = capsys.readouterr().out
    assert 'attack = {name = "pgd", perturbation = "linf"' in page
    assert "finds: smallest" in page
    assert main(["show", "pgd"]) == 0
    assert "arXiv:1706.06083" in capsys.readouterr().out
    assert main(["show", "zoo:digits/linear"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "digits/linear"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list", "--help"], ["list", "views"], ["list", "models"]],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_to_describe(arguments):
    code = (
        "import sys; from advbench.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'pandas', 'torchvision'} & set(sys.modules); "
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_a_signal_ends_the_run_in_order(bench, number, code):
    bench.write_text(
        _TEXT + '[[attack]]\nname = "random_search"\nsteps = 1000000\nshare = 0.5\neps = 0.01\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "advbench", "run", str(bench)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=bench.parent,
        # A shell has its background jobs ignore this one, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/3]"):
                break
        time.sleep(0.3)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert out == ""
    assert "the same command continues the run" in err
    assert "Traceback" not in err
    summary = (bench.parent / "results/bench/summary.csv").read_text()
    assert summary.count(",ok,") == 4
    assert summary.count(",missing,") == 1


def test_a_reader_that_leaves_is_no_error(bench):
    for arguments in (["list", "models"], ["--help"], ["run", "bench.toml", "--quiet"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "advbench", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            cwd=bench.parent,
            check=False,
        )
        os.close(writing)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "BrokenPipe" not in done.stderr


def test_closed_streams_and_plain_terminals_do(bench):
    script = f'exec 2>&-; "{sys.executable}" -m advbench run bench.toml'
    done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 0
    assert b"worst" in done.stdout
    plain = {**os.environ, "LC_ALL": "C", "TERM": "dumb", "PYTHONIOENCODING": "ascii"}
    bench.write_text(_TEXT.replace("[[attack]]", '[[attack]]\nlabel = "\u03b5-step"'))
    done = _process("run", "bench.toml", "--out", "plain", env=plain)
    assert done.returncode == 0, done.stderr
    assert "\\u03b5-step" in done.stdout


def test_a_fault_of_our_own_is_not_a_verdict(bench, monkeypatch, capsys):
    def faulty(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("advbench.cli.load", faulty)
    assert main(["check", str(bench)]) == 3
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_published_weights_and_a_folder_of_images(bench, data_root, capsys):
    bench.write_text(
        '[data]\nname = "folder:cifar10-jpeg"\nsamples = 20\n'
        '[[model]]\nname = "file:models/resnet20-cifar10.th"\nlabel = "resnet20"\n'
        'architecture = { name = "cifar_resnet", depth = 20 }\nshape = [3, 32, 32]\n'
        "classes = 10\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
        '[[attack]]\nname = "fgsm"\neps = "8/255"\n'
    )
    root = f'data.root="{data_root}"'
    assert main(["run", str(bench), "--set", root, "--format", "json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["model"], row["dataset"]) == ("resnet20", "folder:cifar10-jpeg")
    assert row["clean_accuracy"] > 0.5 > row["robust_accuracy"]


def test_missing_data_is_named_with_the_way_to_it(bench, monkeypatch, capsys):
    monkeypatch.delenv("ADVBENCH_DATA", raising=False)
    assert main(["run", str(bench), "--set", "data.name=mnist"]) == 2
    assert "ADVBENCH_DATA" in capsys.readouterr().err


def test_training_writes_weights_and_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "tiny.toml").write_text(
        '[train]\nepochs = 1\n[data]\nname = "digits"\n[model]\nname = "linear"\n'
    )
    assert main(["train", "mine/tiny.toml"]) == 0
    printed = capsys.readouterr()
    assert Path(printed.out.strip()) == Path("results/train/tiny.safetensors")
    assert ": loss " in printed.err
    assert (tmp_path / "results/train/tiny.json").exists()


def test_the_configurations_that_come_with_it_are_valid(capsys, repository):
    for name in ("quickstart", "mnist", "fashion_mnist", "cifar10"):
        assert main(["check", str(repository / "configs" / f"{name}.toml")]) == 0, name


def test_quickstart_has_what_it_promises(capsys, repository):
    assert main(["run", _quickstart(repository), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * 5 * 2
