"""N11: The option that lets a GPU repeat itself: what it sets, that it is recorded and undone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench.bench.determinism import numerics, repeatable
from advbench.bench.run import Runner
from advbench.cli import main

_TEXT = """\
[run]
deterministic = true
[data]
samples = 10
[[model]]
name = "zoo:digits/linear"
[[attack]]
name = "fgsm"
eps = 0.1
"""
_SET = {
    "deterministic_algorithms": True,
    "cudnn_deterministic": True,
    "cudnn_benchmark": False,
}


def test_n11_settings_hold_inside_and_are_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before, environment = numerics(), dict(os.environ)
    inside: dict[str, Any] = {}

    def interrupted(wanted: bool) -> None:
        with repeatable(wanted):
            inside.update(numerics())
            raise InterruptedError

    for wanted in (False, True):
        with pytest.raises(InterruptedError):
            interrupted(wanted)
        assert (inside.items() >= _SET.items()) is wanted
        assert (inside["cublas_workspace"] is not None) is wanted
        assert numerics() == before
        assert dict(os.environ) == environment


def test_n11_a_run_is_made_with_them_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = [], Runner.run

    def watched(runner: Runner, cell: object) -> object:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return real(runner, cell)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "run", watched)
    bench = tmp_path / "bench.toml"
    bench.write_text(_TEXT)
    before, rows = numerics(), []
    for wanted in ("true", "false"):
        folder = tmp_path / wanted
        command = ["run", str(bench), "--out", str(folder), "--set", f"run.deterministic={wanted}"]
        assert main([*command, "--quiet"]) == 0
        manifest = json.loads((folder / "manifest.json").read_text())
        told = manifest["provenance"]["numerics"]
        assert (told.items() >= _SET.items()) is (wanted == "true")
        rows.append({path.parent.name: path.read_bytes() for path in folder.rglob("rows.npz")})
    assert seen == [True, False]
    assert rows[0] == rows[1], "it is no part of what a cell is"
    assert numerics() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_n11_a_gpu_repeats_itself(tmp_path: Path) -> None:
    bench = tmp_path / "bench.toml"
    text = _TEXT.replace("digits/linear", "digits/cnn").replace("fgsm", "pgd")
    bench.write_text(text.replace("samples = 10", "samples = 200"))
    rows = []
    for name in ("one", "two"):
        command = ["run", str(bench), "--out", str(tmp_path / name), "--device", "cuda", "--quiet"]
        assert main(command) == 0
        rows.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("rows.npz"))])
    assert rows[0] == rows[1]
    assert rows[0]
