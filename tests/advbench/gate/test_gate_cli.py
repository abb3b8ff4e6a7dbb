"""The command: what it prints, writes and exits with."""

import json
import sys
from xml.etree import ElementTree

import pytest

from advbench.cli import main

_CONFIG = """\
[gate]
margin = 0.02
[data]
name = "digits"
samples = 200
[[model]]
name = "python:gated_net:build"
label = "net"
[[attack]]
name = "pgd"
steps = 5
eps = 0.03
"""
_NET = """\
import os
import torch
from advbench.models.loading import ModelSpec, load_model

def build():
    net = load_model(ModelSpec(name="zoo:digits/linear")).model
    with torch.no_grad():
        noise = torch.randn(net[1].weight.shape, generator=torch.Generator().manual_seed(0))
        net[1].weight += float(os.environ.get("GATED_NOISE", 0)) * noise
    return net
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GATED_NOISE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gated_net", raising=False)
    (tmp_path / "gated_net.py").write_text(_NET)
    path = tmp_path / "ci.toml"
    path.write_text(_CONFIG)
    yield path
    sys.modules.pop("gated_net", None)


@pytest.fixture
def baseline(config, tmp_path, capsys):
    path = tmp_path / "ci.json"
    assert main(["gate", str(config), "--baseline", str(path), "--update", "--quiet"]) == 0
    capsys.readouterr()
    return path


def _gate(config, baseline, *more):
    return main(["gate", str(config), "--baseline", str(baseline), "--quiet", *more])


def test_the_same_model_passes(config, baseline, capsys):
    assert _gate(config, baseline) == 0
    told = capsys.readouterr()
    assert told.out.count(" pass") == 3
    assert "the models are those of the baseline" in told.out


def test_a_worse_model_fails_and_all_reports_are_written(config, baseline, capsys, monkeypatch):
    monkeypatch.setenv("GATED_NOISE", "1")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    summary = config.with_name("summary.md")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    junit, told = config.with_name("gate.xml"), config.with_name("gate.md")
    files = ("--junit", str(junit), "--markdown", str(told))
    assert _gate(config, baseline, "--json", *files) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["verdict"] == "fail"
    assert "::error title=advbench%3A fail::net on digits" in shown.err
    assert ElementTree.parse(junit).getroot().get("failures") != "0"
    assert told.read_text() == summary.read_text()


def test_inconclusive_fails_unless_it_was_agreed_otherwise(config, baseline, capsys, monkeypatch):
    monkeypatch.setenv("GATED_NOISE", "0.3")
    assert _gate(config, baseline) == 1
    assert "inconclusive" in capsys.readouterr().out
    assert _gate(config, baseline, "--inconclusive", "pass") == 0


def test_a_glance_and_a_canary(config, baseline, capsys, monkeypatch):
    assert _gate(config, baseline, "--quick") == 0
    assert "nothing was searched" in capsys.readouterr().out
    assert _gate(config, baseline, "--canary") == 0
    assert "the gate works here" in capsys.readouterr().err
    assert main(["gate", str(config), "--canary", "--quiet"]) == 0
    monkeypatch.setenv("GATED_NOISE", "1")
    assert _gate(config, baseline, "--quick") == 1


def test_a_finished_run_can_be_gated(config, baseline, capsys, monkeypatch, tmp_path):
    run = ["run", str(config), "--out", str(tmp_path / "run"), "--quiet"]
    assert main(run) == 0
    assert _gate(tmp_path / "run", baseline) == 0
    assert "pass" in capsys.readouterr().out
    monkeypatch.setenv("GATED_NOISE", "1")  # the weights are no longer those of the run
    assert _gate(tmp_path / "run", baseline) == 3
    assert "have changed since" in capsys.readouterr().err
    assert _gate(tmp_path, baseline) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_run_can_be_kept(config, baseline, tmp_path):
    kept = tmp_path / "kept"
    assert _gate(config, baseline, "--out", str(kept)) == 0
    assert (kept / "summary.csv").exists()
    assert _gate(kept, baseline) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "attack.steps=6"), "attack.steps: 5 in the baseline, 6 now"),
        (("--set", "data.samples=199"), "samples"),
        (("--set", "run.seed=1"), "seed: 0 in the baseline, 1 now"),
        (("--margin", "0.001"), "samples are too few for a margin of 0.001"),
        (("--margin", "2"), "margin must lie between 0 and 1"),
        (("--update", "--quick"), "do not go together"),
        (("--against", "zoo:digits/cnn"), "those of no model of the baseline"),
        (("--against", "zoo:digits/cn"), "Did you mean"),
    ],
)
def test_what_cannot_be_compared_is_never_a_pass(config, baseline, capsys, more, said):
    assert _gate(config, baseline, *more) == 2
    assert said in capsys.readouterr().err


def test_a_missing_baseline_says_how_to_write_one(config, capsys):
    assert _gate(config, "none.json") == 2
    assert "--update" in capsys.readouterr().err
    assert main(["gate", str(config)]) == 2
    assert "--baseline FILE is missing" in capsys.readouterr().err


def test_a_baseline_is_not_written_in_ci(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CI", "true")
    path = tmp_path / "ci.json"
    assert _gate(config, path, "--update") == 2
    assert not path.exists()
    assert "in CI it would accept whatever comes" in capsys.readouterr().err
    assert _gate(config, path, "--update", "--force") == 0
    assert path.exists()


def test_numbers_that_cannot_be_trusted_are_no_baseline(config, tmp_path, capsys):
    """A network of steps has no gradient, so that an attack by gradients finds nothing."""
    step = config.read_text().replace("python:gated_net:build", "zoo:digits/ffn_step")
    config.write_text(step)
    path = tmp_path / "ci.json"
    assert _gate(config, path, "--update") == 2
    assert "zero_gradient" in capsys.readouterr().err
    assert not path.exists()
    assert _gate(config, path, "--update", "--force") == 0
    assert _gate(config, path) == 0
    assert "known since the baseline" in capsys.readouterr().out


def test_an_attack_that_fails_gives_no_verdict(config, baseline, capsys):
    text = config.read_text().replace("steps = 5", "steps = 5\nbudget = 1")
    config.write_text(text)
    assert _gate(config, baseline) == 2  # other searches
    assert "budget: None in the baseline, 1 now" in capsys.readouterr().err


def test_updating_says_what_has_changed(config, baseline, capsys):
    assert _gate(config, baseline, "--update", "--set", "attack.steps=6") == 0
    assert "attack.steps: 5 in the baseline, 6 now" in capsys.readouterr().err
    assert _gate(config, baseline, "--set", "attack.steps=6") == 0
