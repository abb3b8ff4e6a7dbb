"""Success against queries: the numbers from the rows, the file of a run, what has no curve."""

import csv
import dataclasses

import numpy as np
import pytest

from advbench.attacks import PGD, MinimumEps, RandomNoise, SquareAttack, Sweep
from advbench.bench.run import Runner, run_cells
from advbench.bench.store import opened
from advbench.cli import main
from advbench.report.queries import curve, decades, write_queries
from tests.advbench import fakes

_TEXT = """\
[data]
name = "digits"
samples = 40
[[model]]
name = "zoo:digits/linear"
[[attack]]
name = "square"
steps = 30
eps = [0.05, 0.2]
[[attack]]
name = "square"
label = "cut"
steps = 30
budget = 7
eps = 0.2
[[attack]]
name = "pgd"
steps = 2
eps = 0.1
"""


def _rows(**columns):
    given = {
        "index": range(6),
        "clean_correct": [True, True, True, True, True, False],
        "attacked": [True, True, True, True, True, False],
        "success": [True, True, True, False, True, False],
        "success_8bit": False,
        "size": [0.1, 0.1, 0.1, 0.1, 0.3, 0.0],
        "forwards": [1, 3, 12, 40, 4, 0],
        "backwards": 0,
    }
    return {name: np.broadcast_to(value, 6).copy() for name, value in (given | columns).items()}


def _lines(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_a_sample_falls_at_the_queries_it_cost() -> None:
    lines = curve(_rows(), limit=0.2)
    assert [line["queries"] for line in lines] == [1, 2, 5, 10, 20, 40]
    assert [line["broken"] for line in lines] == [1, 1, 2, 2, 3, 3]  # 0.3 is too large
    assert [line["success_rate"] for line in lines] == [0.2, 0.2, 0.4, 0.4, 0.6, 0.6]
    assert [line["robust_accuracy"] for line in lines] == pytest.approx(
        [4 / 6, 4 / 6, 3 / 6, 3 / 6, 2 / 6, 2 / 6], abs=1e-6
    )
    assert {line["n"] for line in lines} == {5}
    assert lines[0]["success_low"] == pytest.approx(0.036224, abs=1e-6)  # Wilson, one of five
    assert lines[0]["success_high"] == pytest.approx(0.624465, abs=1e-6)


def test_what_was_wrong_from_the_start_is_no_success() -> None:
    lines = curve(_rows(success=True, forwards=[1, 1, 1, 1, 1, 0]), limit=1.0)
    assert [(line["queries"], line["broken"]) for line in lines] == [(1, 5)]
    assert lines[0]["robust_accuracy"] == 0


def test_nothing_correct_leaves_an_empty_share() -> None:
    (line,) = curve(_rows(clean_correct=False, forwards=0), limit=1.0)
    assert (line["queries"], line["n"], line["success_rate"]) == (1, 0, None)
    assert line["robust_accuracy"] == 0


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [1]),
        (2, [1, 2]),
        (7, [1, 2, 5, 7]),
        (10, [1, 2, 5, 10]),
        (300, [1, 2, 5, 10, 20, 50, 100, 200, 300]),
    ],
)
def test_the_numbers_of_queries_end_with_the_most(most: int, expected: list[int]) -> None:
    assert decades(most) == expected


def test_a_run_writes_the_curves_of_its_black_boxes(tmp_path):
    config = tmp_path / "bench.toml"
    config.write_text(_TEXT)
    folder = tmp_path / "out"
    assert main(["run", str(config), "--out", str(folder), "--quiet"]) == 0
    lines = _lines(folder / "queries.csv")
    summary = _lines(folder / "summary.csv")
    rows = {row["key"]: row for row in summary if row["key"]}
    assert {line["attack"].partition("(")[0] for line in lines} == {"square", "cut"}
    last = {}
    for line in lines:
        before = last.get(line["key"])
        assert before is None or int(line["queries"]) > int(before["queries"])
        assert before is None or int(line["broken"]) >= int(before["broken"])
        last[line["key"]] = line
    assert len(last) == 3
    for key, line in last.items():
        for name in ("model", "attack", "perturbation", "eps", "seed", "robust_accuracy"):
            assert line[name] == rows[key][name], name
        assert line["success_rate"] == rows[key]["success_rate"]
        cut = line["attack"].startswith("cut")
        assert int(line["queries"]) == (7 if cut else 30)
    before = (folder / "queries.csv").read_bytes()
    assert main(["run", str(config), "--out", str(folder), "--quiet"]) == 0
    assert (folder / "queries.csv").read_bytes() == before


def _written(tmp_path, *cells):
    with opened(tmp_path / "out") as store:
        for _, (record, rows) in run_cells(list(cells), Runner(8)):
            store.save(record, rows)
        path = write_queries(cells, store)
    return None if path is None else _lines(path)


def test_what_goes_on_after_a_success_has_no_curve(tmp_path):
    smallest = MinimumEps(attack=RandomNoise(steps=3))
    cells = (fakes.cell(PGD(steps=2)), fakes.cell(smallest))
    assert _written(tmp_path, *cells) is None


def test_what_stops_at_its_first_success_has_a_curve_for_each_eps(tmp_path):
    sweep = fakes.cell(Sweep(points=8), eps=(0.1, 0.3))
    lines = _written(tmp_path, sweep, fakes.cell(SquareAttack(steps=3)))
    assert lines is not None
    assert {line["eps"] for line in lines} == {"0.1", "0.3"}
    broken = [max(int(one["broken"]) for one in lines if one["eps"] == e) for e in ("0.1", "0.3")]
    assert broken[0] < broken[1]


def test_what_was_made_on_another_model_has_no_curve(tmp_path):
    cell = fakes.cell(SquareAttack(steps=3))
    moved = dataclasses.replace(cell, surrogates=(dataclasses.replace(cell.victim, sha256="1"),))
    assert _written(tmp_path, moved) is None
