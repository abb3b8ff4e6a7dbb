"""The command `advbench diagnose`: table, JSON, exit codes, errors."""

import json

import pytest

from advbench.cli import main


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("advbench.trust.diagnosis.evidence.QUERIES", 20)
    monkeypatch.setattr("advbench.trust.diagnosis.evidence.NOISES", 20)


def test_a_table_of_checks_is_printed(few, capsys) -> None:
    assert main(["diagnose", "zoo:digits/ffn_relu", "--samples", "20"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0].startswith("zoo:digits/ffn_relu on 20 samples of digits, linf, eps 0.")
    start = next(n for n, line in enumerate(lines) if line.startswith("id "))
    assert lines[start].split() == ["id", "check", "measured", "threshold", "verdict"]
    rows = lines[start + 1 : start + 21]
    assert [row.split()[0] for row in rows][:4] == ["G0", "R1", "P1", "D1"]
    assert all(row.endswith("  ok") for row in rows)
    assert "Nothing says that gradients mislead." in lines
    assert "necessary, not sufficient" in lines[-1]


def test_what_fires_is_explained_and_stops(few, capsys) -> None:
    code = main(["diagnose", "zoo:digits/ffn_step", "--samples", "30", "--eps", "38/255"])
    assert code == 1
    text = capsys.readouterr().out
    assert "G1 zero_gradient (stop): The gradient of the margin is zero on 100.0%" in text
    assert "BPDA" in text
    assert "STOP: what attacks by gradients say" in text


def test_json_holds_every_number(few, capsys) -> None:
    arguments = ["diagnose", "zoo:digits/linear", "--samples", "10", "--perturbation", "l2"]
    assert main([*arguments, "--eps", "0.4", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["schema_version"] == 1
    assert (found["perturbation"], found["eps"], found["seed"]) == ("l2", 0.4, 3)
    assert found["samples"] == 10
    assert not found["stopped"]
    assert len(found["findings"]) == 20
    for one in found["findings"]:
        assert one["measured"], one["id"]
        assert one["verdict"] in ("ok", "note")


def test_a_model_of_ones_own_is_diagnosed(few, tmp_path, capsys) -> None:
    (tmp_path / "own_for_diagnose.py").write_text(
        "import torch\n"
        "from advbench.models.loading import ModelSpec, load_model\n"
        "class Probable(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = load_model(ModelSpec(name='zoo:digits/linear')).model\n"
        "    def forward(self, x):\n"
        "        return self.net(x).softmax(1)\n"
    )
    name = "python:own_for_diagnose:Probable"
    assert main(["diagnose", name, "--data", "digits", "--samples", "10", "--eps", "0.1"]) == 0
    text = capsys.readouterr().out
    assert "P1 probabilities (masked)" in text
    assert "CAREFUL" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["zoo:digits/cn"], 2, "Did you mean 'digits/cnn'?"),
        (["digits/cnn"], 2, "zoo:"),
        (["python:json:nothing"], 2, "has no function"),
        (["file:nowhere.safetensors"], 2, "no such file"),
        (["zoo:scenes/cnn", "--samples", "2"], 2, "looks at images"),
        (["zoo:digits/linear", "--data", "digit"], 2, "digits"),
        (["zoo:digits/linear", "--eps", "wide"], 2, "fraction such as 8/255"),
        (["zoo:digits/linear", "--eps", "0"], 2, "above 0"),
        (["zoo:digits/linear", "--eps", "8"], 2, "8/255"),
        (["zoo:digits/linear", "--samples", "9999"], 2, "expected 1 to 400"),
        (["zoo:digits/linear", "--perturbation", "l0"], 2, "l0"),
        (["zoo:digits/linear", "--device", "cuda:99"], 4, "not available here"),
        (["zoo:digits/linear", "--device", "cuba"], 2, "not a device"),
        ([], 2, "Missing argument"),
    ],
)
def test_errors_are_told(arguments, code, message, capsys) -> None:
    assert main(["diagnose", *arguments]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
