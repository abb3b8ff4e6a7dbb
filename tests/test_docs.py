"""README is true: its commands run, its examples work, its links lead somewhere."""

import csv
import re
import subprocess
import sys
import tomllib
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from advbench import registry
from advbench.attacks.flags import Flag
from advbench.bench.render import _ADVICE
from advbench.config import CertifySection, load
from advbench.defenses.adversarial.adversarial_training import AdversarialTraining
from advbench.defenses.fit import Batch
from advbench.document import ConfigError, Document, parse_toml
from advbench.pytest_plugin import AssertRobust
from advbench.schema import build
from advbench.testing import check_attack
from advbench.training.recipe import Recipe
from advbench.trust.diagnosis.nature import CHANGING, GRAPH, PROBABILITIES, RANDOM
from advbench.trust.diagnosis.panel import PANEL
from advbench.trust.statistics import wilson

COMMANDS = (
    "pip install -e . && advbench run configs/quickstart.toml",
    'pip install -e ".[dev]" && pytest',
)
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "results/README.md",
    "docs/attacks.md",
    "docs/stickers.md",
    "docs/poses.md",
    "docs/defenses.md",
    "docs/overfitting.md",
    "docs/transfer.md",
    "docs/ci.md",
    "docs/trust.md",
)


def blocks(repository: Path, language: str, page: str = "README.md") -> list[str]:
    text = (repository / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def advbench(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "advbench", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_readme_has_the_two_commands(repository: Path) -> None:
    lines = "".join(blocks(repository, "bash")).splitlines()
    assert all(command in lines for command in COMMANDS)


def test_ci_runs_the_readme_test_command(repository: Path) -> None:
    script = (repository / ".ci/run").read_text(encoding="utf-8")
    install, run = COMMANDS[1].removeprefix("pip install ").split(" && ")
    assert re.search(rf"^pip install .*{re.escape(install)}$", script, re.MULTILINE)
    assert re.search(rf"^{run}( |$)", script, re.MULTILINE)
    assert re.search(r"^make check( |$)", script, re.MULTILINE)


def test_python_examples_run(repository: Path, assert_robust: AssertRobust) -> None:
    examples = blocks(repository, "python")
    assert len(examples) == 3
    for example in examples:
        scope: dict[str, object] = {"__name__": "readme"}
        exec(compile(example, "README.md", "exec", dont_inherit=True), scope)
        for name, value in scope.items():
            if name.startswith("test_"):
                value(assert_robust)


def test_the_page_on_trust_has_every_flag_and_check(repository: Path) -> None:
    page = (repository / "docs/trust.md").read_text(encoding="utf-8")
    flags = [str(flag.name).lower() for flag in Flag if flag.value]
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert told == {*flags, *_ADVICE}
    checks = [GRAPH, RANDOM, PROBABILITIES, CHANGING, *PANEL]
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted((check.id, check.name) for check in checks)
    (listed,) = re.findall(r"^([\w, ]+ and \w+) stop: no number", page, re.MULTILINE)
    stops = {check.id for check in checks if check.stops}
    assert set(re.findall(r"\w+", listed.replace(" and ", ", "))) == stops
    (example,) = blocks(repository, "toml", "docs/trust.md")
    assert build(CertifySection, Document("page", example, tomllib.loads(example)["certify"], {}))


def test_half_widths_of_the_page_are_those_of_wilson(repository: Path) -> None:
    page = (repository / "docs/trust.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for n, *halves in rows:
        count = int(n.replace(",", ""))
        for share, half in zip((0.5, 0.9), halves, strict=True):
            low, high = wilson(share * count, count)
            assert 50 * (high - low) == pytest.approx(float(half), abs=0.05)


def test_measured_calibration_of_the_gate_is_that_of_its_table(repository: Path) -> None:
    """False alarms in at most one of twenty; a drop of 1.5 points is hardly ever passed."""
    table = pd.read_csv(repository / "results/benchmarks/calibration.csv")
    said = table.groupby("drop")[["pairs", "pass", "inconclusive", "fail"]].sum()
    assert (said["pairs"] == 200).all()
    assert said.loc[0.0, "fail"] <= 0.05 * 200
    assert said.loc[0.015, "pass"] <= 0.05 * 200
    assert said.loc[0.03, "fail"] >= 0.8 * 200


def test_the_sandwich_is_large_and_holds(repository: Path) -> None:
    """More than 100,000 pairs of a sample and a radius, each asked from both sides."""
    table = pd.read_csv(repository / "results/published/sandwich.csv")
    cells = table[table.attack != "worst"]
    assert (table.status == "ok").all()
    assert cells.n.sum() > 100_000
    assert (table.certified_accuracy <= table.robust_accuracy).all()


def test_stickers_of_the_page_beat_their_controls(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted, sets = blocks(repository, "python", "docs/stickers.md")
    exec(compile(fitted, "docs/stickers.md", "exec"), {"__name__": "page"})
    told = dict(re.findall(r"(\w+): (\d+)%", capsys.readouterr().out))
    assert list(told) == ["Sticker", "NoiseSticker", "GreySticker", "PictureSticker"]
    assert int(told.pop("Sticker")) > 2 * max(map(int, told.values()))
    exec(compile(sets, "docs/stickers.md", "exec"), {"__name__": "page"})
    assert float(capsys.readouterr().out.partition("(")[2].rstrip(")\n")) > 0


def test_configuration_of_the_sticker_page_is_accepted(repository: Path, tmp_path: Path) -> None:
    (attack,) = blocks(repository, "toml", "docs/stickers.md")
    path = tmp_path / "page.toml"
    models = "".join(f'[[model]]\nname = "zoo:digits/cnn"\nlabel = "{x}"\n' for x in "ab")
    path.write_text(models + attack)
    settings, _ = load(path)
    assert [entry.surrogate for entry in settings.attack] == [("a",), ("b",), ("a", "b")]
    assert settings.attack[0].attack.perturbation.placement.perspective == 0.2


def test_own_mesh_of_the_pose_page_is_struck(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = blocks(repository, "python", "docs/poses.md")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "page"}
    exec(compile(example, "docs/poses.md", "exec", dont_inherit=True), scope)
    table = scope["results"].table.set_index("attack")
    assert not scope["results"].errors
    assert table.clean_accuracy.min() >= 0.9  # it is seen for the table that it is
    assert table.loc["any_rotation", "robust_accuracy"] < 0.5
    assert table.loc["gradient", "robust_accuracy"] < 0.5
    assert scope["images"].shape == (50, 3, 32, 32)
    fooled = scope["model"](scope["images"]).argmax(1) != scope["scenes"].y
    assert fooled.float().mean() > 0.5


def test_configuration_of_the_pose_page_is_accepted(repository: Path, tmp_path: Path) -> None:
    example, grid, defense = blocks(repository, "toml", "docs/poses.md")
    path = tmp_path / "page.toml"
    path.write_text(example + grid)
    settings, _ = load(path)
    pose, sweep, affine = (entry.attack.perturbation for entry in settings.attack)
    assert (pose.rotation.yaw, pose.z) == (30, 0.2)
    assert sweep.names == ("yaw",)
    assert affine.names == ("angle", "shift_y", "shift_x")
    assert settings.attack[2].attack.queries == 775
    path.write_text((repository / "configs/zoo/mnist/cnn_pose.toml").read_text() + defense)
    with pytest.raises(ConfigError, match="AdversarialTraining is listed twice"):
        build(Recipe, parse_toml(path))
    recipe = (repository / "configs/zoo/mnist/cnn.toml").read_text().split("\n", 1)[1]
    path.write_text(recipe + defense)
    (trained,) = build(Recipe, parse_toml(path)).defenses
    assert isinstance(trained, AdversarialTraining)
    assert trained.share == 0.5


def test_the_page_of_defences_names_all_and_its_examples_work(
    repository: Path, tmp_path: Path
) -> None:
    text = (repository / "docs/defenses.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in registry.names("defenses"))
    recipe, models = blocks(repository, "toml", "docs/defenses.md")
    (tmp_path / "recipe.toml").write_text(recipe)
    given = build(Recipe, parse_toml(tmp_path / "recipe.toml"))
    assert [registry.name_of(type(one)) for one in given.defenses] == ["dropout", "trades", "ema"]
    (tmp_path / "run.toml").write_text(models)
    settings, _ = load(tmp_path / "run.toml")
    assert [entry.adaptive for entry in settings.attack] == [False, True]
    assert [registry.name_of(type(m.defenses[0])) for m in settings.model] == [
        "bit_depth",
        "randomized_smoothing",
    ]
    (example,) = blocks(repository, "python", "docs/defenses.md")
    scope: dict[str, Any] = {"__name__": "page"}
    exec(compile(example, "docs/defenses.md", "exec", dont_inherit=True), scope)
    x = torch.arange(6.0).reshape(3, 1, 1, 2)
    changed = scope["Flipped"]().batch(Batch(x, torch.zeros(3), torch.arange(3)), None).x
    assert changed.flatten().tolist() == [1, 0, 2, 3, 5, 4]


def test_measured_controls_are_those_of_the_published_table(repository: Path) -> None:
    number = r"([\d.]+)"
    found = table(
        repository,
        "docs/defenses.md",
        rf"^\| (\S+(?: \+ \w+)?) \| {number} \| {number} \| {number} \| {number} \|$",
    )
    assert len(found) == 7
    rows = lines(repository, "controls")
    for model, clean, eps, plain, adaptive in found:
        one = the(rows, model=model, attack="pgd", eps=float(eps))
        other = the(rows, model=model, attack="adaptive pgd", eps=float(eps))
        assert f"{float(one['clean_accuracy']):.3f}" == clean
        assert f"{float(one['robust_accuracy']):.3f}" == plain
        assert f"{float(other['robust_accuracy']):.3f}" == adaptive
        broken = model not in ("zoo:digits/cnn", "zoo:mnist/cnn")
        assert (float(plain) - float(adaptive) >= 0.2) == broken


def test_measured_adversarial_training_is_that_of_the_published_tables(repository: Path) -> None:
    number = r"([\d./]+)"
    row = rf"^\| (zoo:\S+) \| [\w\- ]+ \| {number} \| {number} \| {number} \|$"
    found = table(repository, "docs/defenses.md", row)
    assert len(found) == 5
    rows = lines(repository, "adversarial_mnist") + lines(repository, "adversarial_cifar10")
    for model, clean, eps, robust in found:
        one = the(rows, model=model, attack="worst", eps=float(Fraction(eps)))
        assert f"{float(one['clean_accuracy']):.3f}" == clean
        assert f"{float(one['robust_accuracy']):.3f}" == robust


@pytest.mark.parametrize(("study", "eps"), [("overfitting", 0.1), ("overfitting_mnist", 0.3)])
def test_measured_remedies_are_those_of_the_published_study(
    repository: Path, study: str, eps: float
) -> None:
    text = (repository / "docs/overfitting.md").read_text(encoding="utf-8")
    part = text.partition(f"`configs/{study}.toml`")[2].partition("\n## ")[0]
    rows = [one for one in lines(repository, f"{study}/study") if one["attack"] == "worst"]
    network, told = "", 0
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 7 or cells[0].startswith("--"):
            continue
        if cells[1] == "clean":
            network = cells[0]
            continue
        remedy = cells[0].removesuffix(" †")
        weak, strong = sorted(
            (r for r in rows if (r["network"], r["remedy"]) == (network, remedy)),
            key=lambda row: float(row["eps"]),
        )
        assert float(strong["eps"]) == eps
        assert cells[0].endswith("†") == bool(strong["control"])
        columns = ("clean_accuracy", "gap", "test_loss", "robust_accuracy")
        shown = [*(weak[name] for name in columns), strong["robust_accuracy"]]
        assert cells[1:6] == [f"{float(value):.3f}" for value in shown]
        change = [strong[f"robust_change{end}"] for end in ("", "_low", "_high")]
        assert re.findall(r"[+-][\d.]+", cells[6]) == [f"{float(v):+.3f}" for v in change if v]
        told += 1
    assert told == len({(row["network"], row["remedy"]) for row in rows})


def table(repository: Path, page: str, row: str) -> list[tuple[str, ...]]:
    """The rows of a page that look like ``row``."""
    text = (repository / page).read_text(encoding="utf-8")
    return [found.groups() for found in re.finditer(row, text, re.MULTILINE)]


def lines(repository: Path, name: str) -> list[dict[str, str]]:
    """The lines of a published table."""
    page = repository / "results/published" / f"{name}.csv"
    return list(csv.DictReader(page.read_text(encoding="utf-8").splitlines()))


def the(rows: list[dict[str, str]], **terms: str | float) -> dict[str, str]:
    """The one line that agrees with the terms."""
    (line,) = (
        one
        for one in rows
        if all(
            float(one[name]) == value if isinstance(value, float) else one[name] == value
            for name, value in terms.items()
        )
    )
    return line


def test_the_page_of_transfer_works_and_its_figures_are_published(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "docs/transfer.md"
    moved, universal = blocks(repository, "python", page)
    exec(compile(moved, page, "exec"), {"__name__": "page"})
    assert float(capsys.readouterr().out.strip("tensor()\n")) > 0.1
    exec(compile(universal, page, "exec"), {"__name__": "page"})
    told = {k: int(v) for k, v in re.findall(r"(\w+): (\d+)%", capsys.readouterr().out)}
    assert told["UAP"] > 5 * told["SignNoise"]
    (attack,) = blocks(repository, "toml", page)
    models = "".join(f'[[model]]\nname = "zoo:digits/cnn"\nlabel = "{x}"\n' for x in "ab")
    (tmp_path / "page.toml").write_text(models + attack)
    settings, _ = load(tmp_path / "page.toml")
    assert [entry.surrogate for entry in settings.attack] == [(), ("a",), ("a", "b")]
    assert len(settings.attack[0].attack.views) == 3
    rows = table(repository, page, r"^\| (\w+) ((?:\| [\d.]+(?: \([\d.]+\))? ){4})\|$")
    assert len(rows) == 8
    heads = table(repository, page, r"^\| attack \| (\w+ to .*) \|$")[0][0].split(" | ")
    lines_ = lines(repository, "transfer/transfer")
    for name, cells in rows:
        for head, cell in zip(heads, cells.strip("| ").split(" | "), strict=True):
            made_on, judged_on = head.split(" to ")
            line = the(lines_, attack=name, made_on=made_on, judged_on=judged_on)
            shares = [line["rate"], *([line["moved"]] if line["moved"] else [])]
            assert re.findall(r"[\d.]+", cell) == [f"{float(share):.3f}" for share in shares]


def test_measured_poses_are_those_of_the_published_tables(repository: Path) -> None:
    number = r"([\d.]+)"
    row = rf"^\| (zoo:scenes/\w+) \| {number} \| {number} \({number} to {number}\) \| {number} "
    rows = table(repository, "docs/poses.md", row + r"\| (\d+) / (\d+) / (\d+) \|$")
    assert len(rows) == 5
    summary, shares = lines(repository, "poses"), lines(repository, "poses/share")
    flips, ball = lines(repository, "poses/flips"), "pose(rotation=ball(angle=180))"
    for model, clean, *told in rows:
        everywhere = the(shares, model=model, perturbation=ball, eps=1.0)
        names = ("share", "low", "high", "confident_share")
        turns = [the(flips, model=model, axis=axis)["median"] for axis in ("yaw", "pitch", "roll")]
        found = [f"{float(everywhere[name]):.3f}" for name in names]
        assert told == found + [f"{float(turn):.0f}" for turn in turns], model
        line = the(summary, model=model, attack="any_rotation", eps=1.0)
        assert clean == f"{float(line['clean_accuracy']):.3f}"


def test_measured_searches_of_poses_are_those_of_the_published_table(repository: Path) -> None:
    rows = table(repository, "docs/poses.md", r"^\| (zoo:scenes/\w+) ((?:\| [\d.]+ ){7})\|$")
    assert len(rows) == 5
    searches = ("random", "z_constrained", "finite_differences", "evolution", "gradient")
    asked = [*((name, 0.5) for name in searches), ("random", 1.0), ("gradient", 1.0)]
    summary = lines(repository, "poses")
    for model, told in rows:
        found = [
            f"{float(the(summary, model=model, attack=name, eps=eps)['success_rate']):.3f}"
            for name, eps in asked
        ]
        assert [part.strip() for part in told.strip("| ").split("|")] == found, model


def test_measured_variants_are_those_of_the_published_table(repository: Path) -> None:
    text = " ".join((repository / "docs/poses.md").read_text(encoding="utf-8").split())
    found = [
        the(lines(repository, name), model=f"zoo:scenes/{model}", attack="random", eps=1.0)
        for name in ("poses_variants", "poses")
        for model in ("cnn_30", "cnn_pose_adv")
    ]
    new_one, new_other, one, other = (f"{float(line['success_rate']):.3f}" for line in found)
    told = (
        f"fool {new_one} of what `cnn_30` recognises and {new_other} for `cnn_pose_adv`, against "
    )
    assert f"{told}{one} and {other} on the shapes they know" in text


def test_measured_pictures_are_those_of_the_published_tables(repository: Path) -> None:
    row = r"^\| zoo:((\w+)/\w+) ((?:\| [\d.]+ ){7})\|$"
    rows = [found for found in table(repository, "docs/poses.md", row) if found[1] != "scenes"]
    assert len(rows) == 7
    files = {"digits": "poses_2d", "mnist": "poses_2d_mnist", "cifar10": "poses_2d_cifar10"}
    names = ("random", "worst_of_10", "first_order", "first_order_5", "grid", "evolution")
    for model, data, told in rows:
        summary = lines(repository, files[data])
        own = [the(summary, model=f"zoo:{model}", attack=name, eps=1.0) for name in names]
        found = [own[0]["clean_accuracy"], *(line["robust_accuracy"] for line in own)]
        given = [part.strip() for part in told.strip("| ").split("|")]
        assert given == [f"{float(value):.3f}" for value in found], model


def test_own_attack_of_the_readme_works(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)  # where pickle looks for the class
    exec(compile(blocks(repository, "python")[-1], "README.md", "exec"), vars(module))
    attack = vars(module)["ShrinkingSteps"]
    x, y = torch.full((4, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    outcome = attack().run(torch.nn.Identity(), x, y, eps=0.1, stop="never")
    assert torch.allclose(outcome.x_adv, torch.tensor([0.4, 0.6]))
    check_attack(attack())


@pytest.mark.slow
def test_shell_examples_are_accepted(repository: Path, tmp_path: Path) -> None:
    calls = [
        line.partition("#")[0].split()[1:]
        for line in "".join(blocks(repository, "bash")).splitlines()
        if line.startswith("advbench ")
    ]
    assert len(calls) == 10
    dry = ["--dry-run", "--out", tmp_path]
    quick = ["--baseline", tmp_path / "ci.json", "--force"]
    quick += ["--set", "attack.name=fgsm", "--set", "certify.when=never"]
    more = {"run": dry, "study": dry, "train": ["--out", tmp_path], "gate": quick}
    for call in calls:
        done = advbench(*call, *more.get(call[0], []), cwd=repository)
        assert done.returncode == 0, f"{call}: {done.stderr}"


@pytest.mark.slow
def test_toml_examples_are_accepted(repository: Path, tmp_path: Path) -> None:
    examples = list(blocks(repository, "toml"))
    assert len(examples) >= 2
    for example in examples:
        (tmp_path / "my.toml").write_text(example, encoding="utf-8")
        done = advbench("check", "my.toml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_quickstart_keeps_its_promise(repository: Path, tmp_path: Path) -> None:
    done = advbench("run", "configs/quickstart.toml", "--out", tmp_path, cwd=repository)
    assert done.returncode == 0, done.stderr
    header, *rows = (tmp_path / "summary.csv").read_text(encoding="utf-8").splitlines()
    assert all(",ok," in row for row in rows)
    readme = (repository / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## How to read the table")[2].partition("\n## ")[0]
    named = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    columns = {column for cell in named for column in re.findall(r"`(\w+)`", cell)}
    assert columns
    assert columns <= set(header.split(","))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(repository: Path, page: str) -> None:
    text = (repository / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (repository / page).parent.joinpath(target).exists(), target
    for path in re.findall(r"`(configs/[\w./-]+|advbench/[\w./-]+|attacks/|defenses/)`", text):
        assert (repository / path).exists(), path


def test_measured_figures_are_those_of_the_published_tables(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (?:zoo:)?([\w/ -]+?)(?:,.*?)? \| ([\d,]+) \| ([\d./]+) \| ([\d.]+) "
        r"\| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \|$",
        text,
        re.MULTILINE,
    )
    assert len(rows) == 5
    published = [
        line for name in ("mnist", "fashion_mnist", "cifar10") for line in lines(repository, name)
    ]
    for model, n, eps, *figures in rows:
        wanted = "resnet20" if model == "published ResNet-20" else f"zoo:{model}"
        scale = float(Fraction(eps))
        (line,) = (
            one
            for one in published
            if one["model"] == wanted
            and one["perturbation"] == "linf"
            and one["attack"] == "worst"
            and abs(float(one["eps"]) - scale) < 1e-9
        )
        assert line["n"] == n.replace(",", "")
        names = ("clean_accuracy", "robust_accuracy", "robust_low", "robust_high")
        assert [f"{float(line[name]):.3f}" for name in names] == figures, model


def test_measured_cascade_is_that_of_the_published_table(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(repository / "results/benchmarks/cascade.csv")
    more = table.robust - table.autoattack
    ratio = table.ratio[table.robust > 0].median()
    assert (
        f"On {len(table)} pairs of a net and a set, `robust` comes to the robust accuracy of "
        f"`autoattack` in {(more == 0).sum()}; it is lower in {(more < 0).sum()} and higher in "
        f"{(more > 0).sum()}, there\nby two samples at most. It takes 1/{ratio:.0f} of the passes"
    ) in text
    assert (more * table.n).max() < 2.5
    rows = re.findall(r"^\| (zoo:\S+) \| ([\d.]+) \| ([\d.]+) \| 1/(\d+) \|$", text, re.MULTILINE)
    assert len(rows) == 2
    for model, *figures in rows:
        (line,) = table[(table.model == model) & (table.perturbation == "l2")].itertuples()
        assert [f"{line.autoattack:.3f}", f"{line.robust:.3f}", f"{line.ratio:.0f}"] == figures


def test_measured_stickers_are_those_of_the_published_tables(repository: Path) -> None:
    text = (repository / "docs/stickers.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([\w:/ -]+?) \| ([\d.]+) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) "
        r"\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        text,
        re.MULTILINE,
    )
    assert len(rows) == 7
    labels = {"zoo:cifar10/cnn": "cnn", "published ResNet-20": "resnet20"}
    published = [
        line
        for page in (repository / "results/published").glob("stickers*.csv")
        if page.stem != "stickers_defense"
        for line in csv.DictReader(page.read_text(encoding="utf-8").splitlines())
        if line["targets"] and not line["surrogate"]
    ]
    for model, area, *figures in rows:
        found = {
            line["attack"]: line
            for line in published
            if line["model"] == labels.get(model, model) and float(line["eps"]) == float(area)
        }
        sticker = found.pop("sticker")
        told = [sticker[name] for name in ("targeted_rate", "targeted_low", "targeted_high")]
        controls = ("noise_sticker", "grey_sticker", "picture_sticker")
        told += [found[name]["targeted_rate"] for name in controls]
        assert [f"{float(value):.3f}" for value in told] == figures, model


def test_measured_defences_are_those_of_the_published_table(repository: Path) -> None:
    text = (repository / "docs/stickers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (zoo:digits/\w+) ((?:\| [\d.]+ ){7})\|$", text, re.MULTILINE)
    assert len(rows) == 3
    page = repository / "results/published/stickers_defense.csv"
    lines = list(csv.DictReader(page.read_text(encoding="utf-8").splitlines()))
    for model, figures in rows:
        own = [line for line in lines if line["model"] == model]
        told = [own[0]["clean_accuracy"]]
        for area in (0.1, 0.2):
            for attack in ("sticker", "patch_per_image", "black_box_patch"):
                (line,) = (
                    one for one in own if one["attack"] == attack and float(one["eps"]) == area
                )
                told.append(line["robust_accuracy"])
        given = [part.strip() for part in figures.strip("| ").split("|")]
        assert [f"{float(value):.3f}" for value in told] == given, model
