"""What other people's CI takes from here: the action, the hooks, and the page about them."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from advbench.cli import main
from advbench.gate.bound import Bound
from advbench.pytest_plugin import AssertNoRegression, AssertRobust
from advbench.trust.statistics import detectable_drop
from tests.test_docs import blocks

yaml = pytest.importorskip("yaml")
PAGE = "docs/ci.md"
PINNED = re.compile(r"^ *-? *uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
FAKE = """#!{python}
import json, os, sys
if sys.argv[1] == "-c":
    os.execv("{python}", ["{python}", *sys.argv[1:]])
with open("calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "gate" in sys.argv:
    verdict = os.environ["VERDICT"]
    if verdict:
        print(json.dumps({{"verdict": verdict}}))
        for name in ("--junit", "--markdown"):
            open(sys.argv[sys.argv.index(name) + 1], "w").write("the table")
    sys.exit({{"pass": 0, "invalid": 3, "": 2}}.get(verdict, 1))
"""


@pytest.fixture(scope="module")
def action(repository: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((repository / "action.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def hooks(repository: Path) -> dict[str, dict[str, Any]]:
    path = repository / ".pre-commit-hooks.yaml"
    return {hook["id"]: hook for hook in yaml.safe_load(path.read_text())}


@pytest.fixture
def folder(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configuration of the page, made quicker, outside CI."""
    text = (repository / "configs/ci.toml").read_text(encoding="utf-8")
    assert '"robust"' in text
    quick = '[data]\nsamples = 200\n[certify]\nwhen = "never"\n'
    (tmp_path / "ci.toml").write_text(text.replace('"robust"', '"fgsm"') + quick)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unsafe(steps: list[dict[str, Any]]) -> list[str]:
    """Steps whose shell text is spliced from elsewhere, or does not stop at a failure."""
    scripts = [step["run"] for step in steps if "run" in step]
    return [one for one in scripts if "${{" in one or not one.startswith("set -euo pipefail\n")]


def loose(text: str) -> list[str]:
    """Lines that use an action of somebody else without the commit and version of it."""
    lines = [line for line in text.splitlines() if "uses: " in line and "OWNER" not in line]
    return [line for line in lines if not PINNED.match(line)]


def test_every_input_of_the_action_reaches_a_step_as_a_variable(action: dict[str, Any]) -> None:
    steps = action["runs"]["steps"]
    used = set()
    for step in steps:
        for name, value in {**step.get("env", {}), **step.get("with", {})}.items():
            used |= set(re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", value).groups())
            assert "env" not in step or f"${name}" in step["run"]
    assert used == set(action["inputs"])
    for one in action["inputs"].values():
        assert one["description"]
        assert ("default" in one) != one.get("required", False)
    assert not unsafe(steps)
    assert all(step["shell"] == "bash" for step in steps if "run" in step)


def test_planted_shell_text_is_seen() -> None:
    strict = "set -euo pipefail\n"
    assert not unsafe([{"run": f'{strict}echo "$NAME"'}, {"uses": "x"}])
    assert unsafe([{"run": strict + 'echo "${{ inputs.name }}"'}])
    assert unsafe([{"run": 'echo "$NAME"'}])


def test_other_actions_are_pinned_to_a_commit(repository: Path) -> None:
    for page in ("action.yml", "docs/examples/robustness.yml"):
        text = (repository / page).read_text()
        assert "uses: actions/" in text
        assert not loose(text)
    assert loose("- uses: actions/checkout@v6")
    assert loose("- uses: actions/checkout@main # v6.0.2")


def step(action: dict[str, Any], name: str, folder: Path, given: dict[str, str]) -> Any:
    """Run a step of the action in a folder with a python that only writes down its calls."""
    fake = folder / "bin" / "python"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    (found,) = (one for one in action["runs"]["steps"] if one.get("name") == name)
    defaults = {key: one.get("default", "") for key, one in action["inputs"].items()}
    values = {f"${{{{ inputs.{key} }}}}": one for key, one in {**defaults, **given}.items()}
    environment = {
        **os.environ,
        **{name: values[value] for name, value in found["env"].items()},
        "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "VERDICT": given.get("VERDICT", "pass"),
        "GITHUB_ACTION_PATH": "/the/action",
        "GITHUB_OUTPUT": str(folder / "output"),
        "RUNNER_TEMP": str(folder),
    }
    command = ["bash", "-c", found["run"]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


# A better model in the place of the page's; 200 samples are few.
NEW = ["--margin=0.03", "--set=model.name=zoo:digits/cnn_adv", "--set=model.label=zoo:digits/cnn"]
HOSTILE = "$(touch pwned) `touch pwned`; touch pwned' \" *"


@pytest.mark.parametrize(
    ("install", "wanted"),
    [
        ("", ["/the/action"]),
        ("advbench==0.1.0 --no-deps", ["advbench==0.1.0", "--no-deps"]),
        (HOSTILE, HOSTILE.split()),
    ],
)
def test_the_action_installs_itself_or_what_it_is_told(
    action: dict[str, Any], tmp_path: Path, install: str, wanted: list[str]
) -> None:
    done = step(action, "Install advbench", tmp_path, {"install": install})
    assert done.returncode == 0, done.stderr
    (call,) = calls(tmp_path)
    assert call == ["-m", "pip", "install", "--disable-pip-version-check", *wanted]
    assert not (tmp_path / "pwned").exists()


def test_the_action_runs_the_gate_on_its_inputs(action: dict[str, Any], tmp_path: Path) -> None:
    given = {"config": f"-{HOSTILE}", "baseline": HOSTILE, "margin": "0.02", "args": "--a  b\n--c"}
    done = step(action, "Compare with the baseline", tmp_path, given)
    assert done.returncode == 0, done.stderr
    (call,) = calls(tmp_path)
    assert call[:3] == ["-m", "advbench", "gate"]
    assert f"--baseline={HOSTILE}" in call
    assert call[-6:] == ["--margin=0.02", "--a", "b", "--c", "--", f"-{HOSTILE}"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("verdict", "code"), [("pass", 0), ("inconclusive", 1), ("fail", 1), ("invalid", 3), ("", 2)]
)
def test_the_action_ends_as_the_gate_does(
    action: dict[str, Any], tmp_path: Path, verdict: str, code: int
) -> None:
    given = {"config": "a", "baseline": "b", "VERDICT": verdict}
    done = step(action, "Compare with the baseline", tmp_path, given)
    assert done.returncode == code, done.stderr
    assert done.stdout == ("the table" if verdict else "")
    told = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert told["verdict"] == verdict
    assert set(told) == set(action["outputs"])
    for name, output in action["outputs"].items():
        assert output["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"
    if verdict:
        assert all(Path(told[name]).exists() for name in ("json", "junit", "markdown"))


def test_the_workflow_is_read_only_and_gives_the_action_what_it_takes(
    repository: Path, action: dict[str, Any]
) -> None:
    workflow = yaml.safe_load((repository / "docs/examples/robustness.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    (own,) = (one for one in job["steps"] if one["uses"].startswith("OWNER/advbench@"))
    required = {name for name, one in action["inputs"].items() if one.get("required")}
    assert required <= set(own["with"]) <= set(action["inputs"])
    text = (repository / "docs/examples/robustness.yml").read_text()
    assert set(re.findall(r"steps\.gate\.outputs\.(\w+)", text)) == set(action["outputs"])
    assert own["id"] == "gate"


def test_options_of_the_gate_are_those_it_has(
    repository: Path, action: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", "--help"]) == 0
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    script = action["runs"]["steps"][-1]["run"]
    hooks = (repository / ".pre-commit-hooks.yaml").read_text()
    page = (repository / PAGE).read_text()
    gates = [line for line in f"{hooks}\n{page}".splitlines() if "advbench gate " in line]
    asked = set(re.findall(r"(?<![\w-])--[a-z]+", "\n".join([script, *gates])))
    assert {"--quick", "--baseline", "--junit", "--json", "--canary"} < asked <= known


def test_hooks_are_valid_and_called_as_the_page_does(
    repository: Path, hooks: dict[str, dict[str, Any]], folder: Path
) -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    clientlib.load_manifest(repository / ".pre-commit-hooks.yaml")
    scripts = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["scripts"]
    (page,) = (text for text in blocks(repository, "yaml", PAGE) if "hooks:" in text)
    (given,) = yaml.safe_load(page)["repos"]
    assert [one["id"] for one in given["hooks"]] == list(hooks)
    assert main(["gate", "ci.toml", "--baseline", "ci.json", "--update"]) == 0
    for one in given["hooks"]:
        program, *entry = shlex.split(hooks[one["id"]]["entry"])
        assert program in scripts
        assert main([*entry, *one["args"]]) == 0
        assert main([*entry, *one["args"], "--set", "attack.steps=1.5"]) == 2


def test_commands_of_the_page_do_what_it_says(
    repository: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, more = blocks(repository, "bash", PAGE)
    lines = [line.partition("#")[0].split() for line in first.splitlines()]
    assert [" ".join(line[:2]) for line in lines] == [
        "cp configs/ci.toml",
        "advbench check",
        "advbench gate",
        "git add",
        "advbench gate",
    ]
    lines += [line.partition("#")[0].split() for line in more.splitlines()]
    for line in lines:
        if line[0] == "advbench":
            assert main([*line[1:], *(NEW if "--against" in line else [])]) == 0, line
    assert "it fails the model" in capsys.readouterr().err
    _, _, *files = lines[3]
    assert all((folder / name).exists() for name in [*files, "gate.xml", "gate.md"])


def test_example_of_the_page_passes(repository: Path, folder: Path) -> None:
    (example,) = blocks(repository, "python", PAGE)
    scope: dict[str, Any] = {"__name__": "page"}
    exec(compile(example, PAGE, "exec", dont_inherit=True), scope)
    (marker,) = scope["test_is_robust"].pytestmark
    assert marker.name == "robustness"
    scope["test_is_robust"](AssertRobust(Bound(**marker.kwargs), lambda *both: None))
    assert main(["gate", "ci.toml", "--baseline", "ci.json", "--update"]) == 0
    scope["test_has_not_lost"](AssertNoRegression("t", (folder,), lambda *both: None))


def test_the_gitlab_job_runs_the_gate(repository: Path) -> None:
    (page,) = (text for text in blocks(repository, "yaml", PAGE) if "gitlab" in text)
    job = yaml.safe_load(page)["robustness"]
    (command,) = (line.split() for line in job["script"] if line.startswith("advbench"))
    assert command[:2] == ["advbench", "gate"]
    assert job["artifacts"]["reports"]["junit"] == command[command.index("--junit") + 1]


def test_drops_of_the_page_are_those_that_can_be_found(repository: Path) -> None:
    text = (repository / PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) ((?:\| [\d.]+ ){4})\|$", text, re.MULTILINE)
    assert len(rows) == 5
    (head,) = re.findall(r"^\| samples \| (.*) \|$", text, re.MULTILINE)
    shares = [int(percent) / 100 for percent in re.findall(r"(\d+) %", head)]
    for n, told in rows:
        drops = [detectable_drop(share, int(n.replace(",", ""))) for share in shares]
        assert re.findall(r"[\d.]+", told) == [f"{100 * drop:.2f}" for drop in drops]
