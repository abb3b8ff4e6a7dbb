"""The table: every number against a recount by hand from the rows."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advbench.bench.render import advice, render
from advbench.bench.table import COLUMNS, flags_text, summary, to_csv
from advbench.bench.verdicts import Verdicts
from advbench.trust.statistics import wilson

_FIXED = [
    *("model", "surrogate", "dataset", "attack", "perturbation", "eps", "seed", "n"),
    *("clean_accuracy", "robust_accuracy", "robust_low", "robust_high", "success_rate"),
    *("median_size", "forwards", "backwards", "seconds", "status", "flags"),
]


def _facts(key="a", attack="pgd", eps=(0.1,), seed=0, **more):
    facts = {"key": key, "model": "m", "surrogate": "", "dataset": "d", "attack": attack}
    facts |= {"perturbation": "linf", "eps": list(eps), "limits": [e + 1e-6 for e in eps]}
    facts |= {"seed": seed, "targets": None, "n": 4, "content": {}}
    facts |= {"access": "gradient", "finds": "inside"}
    return facts | more


def _rows(success, size=(0.1, 0.1, 0.1, np.nan), flags=(0, 0, 0, 0), **more):
    rows = {
        "index": np.arange(4),
        "clean_correct": np.array([True, True, True, False]),
        "attacked": np.array([True, True, True, False]),
        "success": np.array(success, bool),
        "success_8bit": np.array(success, bool),
        "size": np.array(size, float),
        "forwards": np.array([1, 2, 6, 0]),
        "backwards": np.array([0, 1, 2, 0]),
        "flags": np.array(flags),
        "invalid": np.zeros(4, bool),
        "nan": np.zeros(4, bool),
    }
    return rows | more


_RECORD = {"seconds": 1.5, "status": "ok"}


def test_the_first_columns_are_fixed():
    assert list(COLUMNS[: len(_FIXED)]) == _FIXED
    header = to_csv([]).splitlines()[0]
    assert header.startswith(",".join(_FIXED))


def test_every_number_is_counted_from_the_rows():
    rows = _rows([1, 0, 1, 0], size=(0.02, 0.1, 0.04, np.nan), flags=(1, 1, 0, 0))
    row = summary([_facts()], {"a": (_RECORD, rows)})[0]
    assert row["clean_accuracy"] == 0.75
    assert row["robust_accuracy"] == 0.25
    assert row["success_rate"] == pytest.approx(2 / 3, abs=1e-6)
    assert row["median_size"] == 0.03
    assert (row["forwards"], row["backwards"]) == (3, 1)
    assert (row["seconds"], row["status"]) == (1.5, "ok")
    assert row["flags"] == "zero_gradient:0.67"
    assert (row["robust_low"], row["robust_high"]) == pytest.approx(wilson(1, 4), abs=1e-6)


def test_the_interval_of_the_success_rate_is_over_the_correct_ones():
    row = summary([_facts()], {"a": (_RECORD, _rows([1, 0, 1, 0]))})[0]
    assert (row["success_low"], row["success_high"]) == pytest.approx(wilson(2, 3), abs=1e-6)


def test_a_class_is_reached_by_attacked_samples_of_other_classes():
    rows = _rows(
        [1, 1, 0, 0],
        label=np.array([0, 1, 5, 2]),
        prediction=np.array([5, 3, 5, 5]),  # reached, missed, is of the class, wrong from the start
    )
    row = summary([_facts(targets=5)], {"a": (_RECORD, rows)})[0]
    assert row["targeted_rate"] == 0.5
    assert (row["targeted_low"], row["targeted_high"]) == pytest.approx(wilson(1, 2), abs=1e-6)
    assert row["success_rate"] == pytest.approx(2 / 3, abs=1e-6)
    untargeted = summary([_facts()], {"a": (_RECORD, rows)})[0]
    assert (untargeted["targets"], untargeted["targeted_rate"]) == (None, None)


def test_eight_bits_are_counted_apart():
    """N7: Beside what floats make of it, not instead."""
    rows = _rows([1, 0, 1, 0], success_8bit=np.array([True, False, False, False]))
    row = summary([_facts()], {"a": (_RECORD, rows)})[0]
    assert (row["robust_accuracy"], row["robust_8bit"]) == (0.25, 0.5)


def test_one_run_for_the_smallest_change_gives_a_row_for_each_eps():
    rows = _rows([1, 1, 1, 0], size=(0.05, 0.15, 0.25, np.nan))
    table = summary([_facts(eps=(0.1, 0.2, 0.3))], {"a": (_RECORD, rows)})
    attacks = [row for row in table if row["attack"] == "pgd"]
    assert [row["robust_accuracy"] for row in attacks] == [0.5, 0.25, 0.0]
    assert [row["median_size"] for row in attacks] == pytest.approx([0.05, 0.1, 0.15])


def _shares(right, screened=None, clean=(0.75, 1, 1, 0.25), **more):
    """Rows of a model that answers at random, from the shares of its draws."""
    screened = right if screened is None else screened
    right, clean = np.array(right), np.array(clean)
    more = {"clean_right": clean, "clean_screened": clean, "right": right, **more}
    return _rows(right < 0.5, screened=np.array(screened), **more)


def test_a_random_model_counts_by_the_shares_of_its_draws():
    rows = _shares([0.25, 1, 0.5, 0.25])
    row = summary([_facts()], {"a": (_RECORD | {"draws": 4}, rows)})[0]
    assert row["clean_accuracy"] == 0.75
    assert row["robust_accuracy"] == 0.5
    assert (row["robust_low"], row["robust_high"]) == pytest.approx(wilson(2, 4), abs=1e-6)
    assert row["success_rate"] == pytest.approx(1 / 3, abs=1e-6)
    assert (row["draws"], row["robust_8bit"]) == (4, None)


def test_the_worst_attack_on_a_random_model_is_chosen_by_other_draws():
    """The least share of the draws that count would make bad luck a weakness."""
    lucky = _shares([0.5, 0.75, 1, 0.25], screened=[1, 0.5, 1, 0.25])
    unlucky = _shares([0.75, 0.25, 0, 0.25], screened=[0.75, 0.75, 1, 0.25])
    planned = [_facts("a"), _facts("b", attack="fgsm")]
    record = _RECORD | {"draws": 4}
    worst = summary(planned, {"a": (record, lucky), "b": (record, unlucky)})[-1]
    assert worst["robust_accuracy"] == (0.75 + 0.75 + 1 + 0.25) / 4
    assert worst["success_rate"] == 0
    assert worst["draws"] == 4


def test_below_the_size_of_a_change_a_random_model_is_as_right_as_without_it():
    rows = _shares([0, 0, 0, 0.25], size=(0.05, 0.15, 0.15, np.nan))
    table = summary([_facts(eps=(0.1, 0.2))], {"a": (_RECORD | {"draws": 4}, rows)})
    shares = [row["robust_accuracy"] for row in table if row["attack"] == "pgd"]
    assert shares == [(0 + 1 + 1 + 0.25) / 4, 0.25 / 4]


@pytest.mark.parametrize(
    ("record", "content", "flags"),
    [
        ({"masked": True}, {}, "hidden_gradient:1.00"),
        ({"masked": True}, {"adaptive": True}, ""),
        ({"masked": False}, {}, ""),
        ({"draws": 20, "eot": 1}, {}, "one_draw:1.00"),
        ({"draws": 20, "eot": 10}, {}, ""),
        ({"draws": None, "eot": 1}, {}, ""),
    ],
)
def test_what_a_whole_attack_is_to_be_doubted_for_is_a_flag(record, content, flags):
    """One adaptive attack on a model is enough for all of its rows."""
    planned = [_facts("a"), _facts("b", attack="fgsm", content=content)]
    found = {"a": (_RECORD | record, _rows([1, 0, 0, 0])), "b": (_RECORD, _rows([0, 0, 0, 0]))}
    table = summary(planned, found)
    assert table[0]["flags"] == flags
    sentences = "".join(advice(table))
    assert ("m: pgd: made on a model that has layers that hide gradients" in sentences) is (
        "hidden" in flags
    )
    assert ("m: pgd: made with eot = 1 on a model that answers at random" in sentences) is (
        "one_draw" in flags
    )


def test_flags_of_samples_and_of_the_attack_stand_together():
    rows = _rows([0, 0, 0, 0], flags=(1, 1, 1, 0))
    row = summary([_facts()], {"a": (_RECORD | {"masked": True}, rows)})[0]
    assert row["flags"] == "zero_gradient:1.00;hidden_gradient:1.00"


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
def test_n8_the_worst_case_is_a_minimum_per_sample_and_no_mean_of_cells(verdicts):
    planned = [_facts(str(number), seed=number) for number in range(len(verdicts))]
    found = {
        facts["key"]: (_RECORD, _rows([*success, False]))
        for facts, success in zip(planned, verdicts, strict=True)
    }
    *single, worst = summary(planned, found)
    broken = np.array(verdicts)
    assert worst["robust_accuracy"] == (~broken.any(0)).sum() / 4
    assert worst["success_rate"] == pytest.approx(broken.any(0).mean(), abs=1e-6)
    assert worst["robust_accuracy"] <= min(row["robust_accuracy"] for row in single)


def test_a_worst_case_of_whole_cells_is_found_out(monkeypatch):
    """The lowest of two cells that break different samples is too high."""

    def whole(self, other):
        return min(self, other, key=lambda one: one.right.sum())

    found = {"a": (_RECORD, _rows([1, 0, 0, 0])), "b": (_RECORD, _rows([0, 1, 0, 0]))}
    planned = [_facts("a"), _facts("b", attack="fgsm")]
    assert summary(planned, found)[-1]["robust_accuracy"] == 0.25
    monkeypatch.setattr(Verdicts, "joined", whole)
    assert summary(planned, found)[-1]["robust_accuracy"] == 0.5


def test_the_worst_case_is_taken_per_sample_over_attacks_and_seeds():
    planned = [
        _facts("a"),
        _facts("b", seed=1),
        _facts("c", attack="fgsm"),
        _facts("d", eps=(0.2,)),
    ]
    found = {
        "a": (_RECORD, _rows([1, 0, 0, 0], size=(0.1, 0.1, 0.1, np.nan))),
        "b": (_RECORD, _rows([1, 0, 0, 0], size=(0.06, 0.1, 0.1, np.nan))),
        "c": (_RECORD, _rows([0, 1, 0, 0], size=(0.1, 0.08, 0.1, np.nan))),
        "d": (_RECORD, _rows([1, 1, 1, 0])),
    }
    table = summary(planned, found)
    assert [row["attack"] for row in table] == ["pgd", "pgd", "fgsm", "worst", "pgd", "worst"]
    worst = table[3]
    assert (worst["robust_accuracy"], worst["seed"], worst["eps"]) == (0.25, None, 0.1)
    assert worst["median_size"] == pytest.approx(0.07)
    assert (worst["forwards"], worst["seconds"]) == (9, 4.5)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (None, "missing"),
        (({"status": "error", "detail": "boom"}, None), "error"),
        ((_RECORD, _rows([1, 1, 1, 0], invalid=np.array([True, False, False, False]))), "invalid"),
        ((_RECORD, _rows([1, 1, 1, 0], nan=np.array([True, False, False, False]))), "nan"),
    ],
)
def test_a_cell_without_a_result_has_no_numbers_and_leaves_the_worst_open(found, status):
    """N2: Among them one with a single row that is not finite."""
    planned = [_facts("a"), _facts("b", attack="fgsm")]
    results = {"b": (_RECORD, _rows([1, 0, 0, 0]))} | ({"a": found} if found else {})
    table = summary(planned, results)
    assert [row["status"] for row in table] == [status, "ok", "incomplete"]
    for row in (table[0], table[2]):
        assert row["robust_accuracy"] is None
        assert row["success_rate"] is None
    assert table[0]["n"] == 4


def test_a_model_that_is_never_right_has_no_success_rate():
    wrong = np.zeros(4, bool)
    rows = _rows([0] * 4, clean_correct=wrong, attacked=wrong)
    row = summary([_facts()], {"a": (_RECORD, rows)})[0]
    assert (row["clean_accuracy"], row["robust_accuracy"]) == (0, 0)
    assert row["success_rate"] is None
    assert row["forwards"] is None


def test_rows_come_by_model_in_the_order_of_the_plan():
    planned = [_facts("a", model="z"), _facts("b", model="a", eps=(0.2,)), _facts("c", model="a")]
    table = summary(planned, {})
    assert [(row["model"], row["eps"]) for row in table[::2]] == [
        ("z", 0.1),
        ("a", 0.1),
        ("a", 0.2),
    ]


def test_flags_are_shares_of_the_attacked():
    """N3: A zero gradient on n % of the samples is told as n %."""
    assert flags_text(np.array([1, 1, 3, 1])) == "zero_gradient:1.00;non_finite:0.25"
    assert flags_text(np.array([0, 0])) == ""
    assert flags_text(np.array([], int)) == ""
    assert flags_text(np.array([1] + [0] * 999)) == "zero_gradient:0.0010"


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx"])
def test_text_that_a_spreadsheet_would_run_is_quoted(text):
    """S3: In every CSV, for all of them are written by this function."""
    table = summary([_facts(model=text)], {})
    read = list(csv.reader(io.StringIO(to_csv(table))))
    assert read[1][0] == f"'{text}"


def test_numbers_are_never_quoted():
    table = summary([_facts(eps=(-0.5,))], {})
    assert next(csv.DictReader(io.StringIO(to_csv(table))))["eps"] == "-0.5"


@pytest.fixture
def table():
    rows = _rows([1, 0, 0, 0], flags=(1, 1, 1, 0))
    return summary([_facts(model="a|b<script>\n"), _facts("b")], {"a": (_RECORD, rows)})


def test_the_styles_hold_the_same_rows(table):
    assert len(render(table, "table").splitlines()) == 1 + len(table)
    assert len(render(table, "md").splitlines()) == 2 + len(table)
    assert render(table, "csv") == to_csv(table)
    parsed = json.loads(render(table, "json"))
    assert parsed["schema_version"] == 1
    assert parsed["rows"][0]["robust_accuracy"] == 0.5
    assert parsed["rows"][2]["robust_accuracy"] is None


def test_markdown_escapes_names(table):
    """S3: A name is neither a column nor a tag."""
    line = render(table, "md").splitlines()[2]
    assert "a\\|b&lt;script>" in line


def test_advice_says_what_a_flag_means(table):
    """N3: And what to believe instead: attacks that need no gradient."""
    first = next(advice(table))
    assert "pgd: zero gradient on 100 % of the attacked samples" in first
    assert "not robustness" in first
    failed = summary([_facts()], {"a": ({"status": "error", "detail": "boom"}, None)})
    assert "error (boom)" in "".join(advice(failed))
