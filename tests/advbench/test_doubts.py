"""N4: flags of the worst cases: each on verdicts made for it, and none on sound ones."""

import numpy as np
import pytest

from advbench.bench.table import summary

N = 100


def _run(*cells):
    """Flags of worst cases by surrogate and eps; a cell is (facts, broken, how many in 8 bits)."""
    planned, finished = [], {}
    for number, (facts, broken, kept) in enumerate(cells):
        key = str(number)
        eps = facts.get("eps", 0.1)
        planned.append(
            {
                "key": key,
                "model": "m",
                "surrogate": "",
                "dataset": "d",
                "perturbation": "linf",
                "attack": key,
                "seed": 0,
                "targets": None,
                "n": N,
                "content": {},
                "access": "gradient",
                "finds": "inside",
                **facts,
                "eps": [eps],
                "limits": [eps + 1e-6],
            }
        )
        rows = {name: np.zeros(N, bool) for name in ("success", "success_8bit", "invalid", "nan")}
        rows |= {name: np.zeros(N, int) for name in ("forwards", "backwards", "flags")}
        rows |= {"index": np.arange(N), "clean_correct": np.ones(N, bool)}
        rows |= {"attacked": np.ones(N, bool), "size": np.full(N, eps)}
        rows["success"][broken] = True
        rows["success_8bit"][broken[:kept]] = True
        finished[key] = {"seconds": 0.0, "status": "ok"}, rows
    return {
        (row["surrogate"], row["eps"]): row["flags"]
        for row in summary(planned, finished)
        if row["attack"] == "worst"
    }


def _cell(start, stop, kept=None, **facts):
    broken = np.arange(start, stop)
    return facts, broken, len(broken) if kept is None else kept


def test_sound_verdicts_have_no_flag():
    white, black = _cell(0, 30), _cell(0, 32, access="scores")
    wider = _cell(0, 60, eps=0.2)
    moved = _cell(0, 20, surrogate="s")
    flags = _run(white, black, wider, moved)
    assert flags == {("", 0.1): "", ("", 0.2): "", ("s", 0.1): ""}


@pytest.mark.parametrize(("more", "flag"), [(4, ""), (5, "black_box_stronger:0.05")])
def test_a_black_box_that_wins_is_flagged_from_five_samples_on(more, flag):
    assert _run(_cell(0, 30), _cell(25, 30 + more, access="labels"))["", 0.1] == flag


def test_a_black_box_alone_wins_against_nobody():
    assert _run(_cell(0, 30, access="scores"))["", 0.1] == ""


def test_transfer_that_wins_is_flagged():
    flags = _run(_cell(0, 30), _cell(20, 40, surrogate="s"))
    assert flags == {("", 0.1): "", ("s", 0.1): "transfer_stronger:0.10"}
    assert _run(_cell(20, 40, surrogate="s"))["s", 0.1] == ""


def test_a_curve_that_rises_is_flagged_at_the_larger_eps():
    flags = _run(_cell(0, 30), _cell(10, 60, eps=0.2))
    assert flags == {("", 0.1): "", ("", 0.2): "not_monotone:0.10"}


def test_successes_that_rounding_undoes_are_flagged():
    assert _run(_cell(0, 20, kept=19))["", 0.1] == ""
    assert _run(_cell(0, 20, kept=15))["", 0.1] == "lost_in_8bit:0.25"
    assert _run(_cell(0, 20, kept=15, finds="smallest"))["", 0.1] == ""
