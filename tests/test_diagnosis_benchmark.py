"""The study of the diagnosis: its nets can be built, its warnings are raised, its page counts."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from advbench import data
from advbench.benchmarks import diagnosis
from advbench.benchmarks.diagnosis_models import KINDS, Bed, Kind
from advbench.benchmarks.diagnosis_report import GROUPS, counts, page, summary
from advbench.benchmarks.diagnosis_warnings import warnings
from advbench.models.loading import ModelSpec, load_model
from tests.advbench.trust import faults


@pytest.fixture(scope="module")
def bed() -> Bed:
    train = data.load("digits", "train", 128)
    return Bed(train, data.load("digits", "validation", 10), 1, 0.1)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return load_model(ModelSpec(name="zoo:digits/ffn_relu")).model


def test_there_are_enough_kinds_of_both() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    found = {group: sum(kind.group == group for kind in KINDS) for group in GROUPS}
    assert found["masked"] >= 10
    assert found["honest"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_net_can_be_built_and_hides_no_stand_in(kind: Kind, bed: Bed) -> None:
    from advbench.attacks.masking import unmasked

    model = kind.build(bed, 3)
    assert not model.training
    with torch.no_grad():
        answer = model(bed.data.x[:4])
    assert answer.shape == (4, 10)
    assert answer.isfinite().all()
    assert unmasked(model) is model


_RAISED: list[tuple[Callable[[nn.Module], nn.Module], str]] = [
    (faults.Noisy, "randomised"),
    (faults.Probable, "probabilities"),
    (faults.Rounding, "zero_gradient"),
    (faults.Rounding, "square_better"),
    (faults.Optimising, "differentiates"),
    (faults.Broken, "failed"),
]


@pytest.mark.parametrize(("fault", "name"), _RAISED, ids=[name for _, name in _RAISED])
def test_each_warning_of_autoattack_is_raised(fault, name, net) -> None:
    few = data.load("digits", samples=12)
    found = warnings(fault(net), few, 0.15, 0, square_steps=200)
    assert getattr(found, name)
    assert found.any


def test_autoattack_does_not_warn_of_an_honest_net(net) -> None:
    found = warnings(net, data.load("digits", samples=12), 0.1, 0, square_steps=50)
    assert not found.any
    assert found.square == found.white_box < 1


def line(kind: str, group: str, seed: int, flagged: bool, warned: bool) -> dict[str, str]:
    one = {"data": "mnist", "kind": kind, "group": group, "seed": str(seed), "n": "200"}
    one |= {f"{name}_accuracy": "0.5" for name in ("clean", "white_box", "lowest")}
    one |= {"eps": "0.1", "flagged": str(int(flagged)), "fired": "G1" if flagged else ""}
    one |= {"G1": "1" if flagged else "0", "G1_fired": str(int(flagged))}
    names = ("randomised", "probabilities", "zero_gradient", "square", "differentiates", "failed")
    one |= {f"autoattack_{name}": "0" for name in names}
    return one | {"autoattack": str(int(warned)), "autoattack_square": str(int(warned))}


def test_the_page_counts_nets() -> None:
    lines = [line("a", "masked", seed, seed != 1, False) for seed in range(3)]
    lines += [line("b", "honest", seed, False, seed == 0) for seed in range(2)]
    lines[1] |= {name: "" for name in lines[1] if name.startswith("autoattack")}
    assert counts(lines, "masked", "flagged") == (2, 3)
    text = page(lines, {})
    assert "| masked | mnist | 2 of 3 | 0.094 to 0.992 | 0 of 2 |" in text
    assert "| honest | mnist | 0 of 2 | 0.000 to 0.842 | 1 of 2 |" in text
    assert "5 nets of 2 kinds, training seeds 0, 1, 2, 200 images each." in text
    assert "| G1 | 2 of 3 | 0 of 2 |  | 0 to 0 |" in text
    assert "| AutoAttack: Square improves | 0 of 2 | 1 of 2 |  | |" in text
    assert "necessary, not sufficient" in text


def test_the_study_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = diagnosis.Side("mnist", 10, 1, 0.1, (7, 8))
    seen: list[int] = []

    def measured(kind: Kind, _: Bed, seed: int, __: data.Samples, warn: bool) -> dict[str, str]:
        assert warn is (seed == 7)
        seen.append(seed)
        if seed == 8 and len(seen) == 2:
            raise KeyboardInterrupt
        return line(kind.name, kind.group, seed, True, False)

    monkeypatch.setattr(diagnosis, "KINDS", KINDS[:1])
    monkeypatch.setattr(diagnosis, "HELD_OUT", side)
    monkeypatch.setattr(diagnosis.Side, "bed", lambda _: None)
    monkeypatch.setattr(diagnosis, "measure", measured)
    monkeypatch.setattr(data, "load", lambda *_, **__: None)
    arguments = ["--out", str(tmp_path), "--side", "mnist"]
    first = CliRunner().invoke(diagnosis.main, arguments)
    assert seen == [7, 8], first.exception
    done = CliRunner().invoke(diagnosis.main, arguments)
    assert done.exit_code == 0, done.output
    assert seen == [7, 8, 8]
    with (tmp_path / "panel.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["7", "8"]
    assert "2 of 2" in (tmp_path / "panel.md").read_text()


def test_published_counts_follow_from_the_published_table(repository: Path) -> None:
    folder = repository / "results" / "diagnosis"
    if not (folder / "panel.csv").is_file():
        pytest.skip("results/diagnosis has no panel.csv yet: run the study")
    with (folder / "panel.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert summary(lines) in (folder / "panel.md").read_text(encoding="utf-8")
    held_out = [one for one in lines if one["data"] == "mnist"]
    flagged, n = counts(held_out, "masked", "flagged")
    assert n >= 20
    assert flagged >= 0.95 * n
    alarms, m = counts(held_out, "honest", "flagged")
    assert m >= 20
    assert alarms <= 1
