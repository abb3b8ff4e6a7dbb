"""Verdicts: each rule of the gate on tables that are made for it."""

import dataclasses

import numpy as np
import pytest

from advbench.config import GateSection
from advbench.gate.verdict import Pair, Verdict, compare, overall
from advbench.trust.statistics import mcnemar, tango_upper


def _pair(lost, won, n, name="a"):
    """`lost` samples right before only, `won` right now only, half of the others right on both."""
    before, now = np.zeros(n), np.zeros(n)
    before[:lost] = 1
    now[lost : lost + won] = 1
    before[lost + won :: 2] = now[lost + won :: 2] = 1
    return Pair(name, before, now)


@pytest.mark.parametrize(
    ("lost", "won", "n", "verdict"),
    [
        (0, 0, 400, Verdict.PASS),
        (0, 0, 200, Verdict.INCONCLUSIVE),  # too few to rule a drop of a point out
        (20, 0, 400, Verdict.FAIL),
        (4, 1, 400, Verdict.INCONCLUSIVE),
        (1, 30, 400, Verdict.PASS),
        (30, 5, 10000, Verdict.PASS),  # significant, and provably below the margin
        (200, 195, 1000, Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts(lost, won, n, verdict):
    (one,) = compare([_pair(lost, won, n)], GateSection())
    assert one.verdict is verdict
    assert (one.lost, one.won, one.n) == (lost, won, n)
    assert one.drop == pytest.approx((lost - won) / n)
    assert one.bound == tango_upper(lost, won, n)
    assert one.p_value == mcnemar(lost, won)


def test_several_comparisons_share_one_alpha():
    alone = compare([_pair(7, 1, 400)], GateSection())
    together = compare([_pair(7, 1, 400), _pair(3, 1, 400, "b")], GateSection())
    assert alone[0].verdict is Verdict.FAIL
    assert together[0].p_value == pytest.approx(2 * alone[0].p_value)
    assert together[0].verdict is Verdict.INCONCLUSIVE


def test_the_margin_and_alpha_count():
    pair = _pair(7, 1, 400)
    assert compare([pair], GateSection(margin=0.05))[0].verdict is Verdict.PASS
    assert compare([pair], GateSection(alpha=0.01))[0].verdict is Verdict.INCONCLUSIVE


def test_the_worst_verdict_counts():
    assert overall([Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]) is Verdict.FAIL
    assert overall([Verdict.PASS, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert overall([Verdict.FAIL, Verdict.INVALID]) is Verdict.INVALID


def test_shares_of_a_random_model_are_compared_as_shares():
    rng = np.random.default_rng(0)
    before = rng.integers(15, 21, 400) / 20
    assert Pair("a", before, before).random
    (same,) = compare([Pair("a", before, before)], GateSection())
    (worse,) = compare([Pair("a", before, before - 0.2)], GateSection())
    assert (same.verdict, worse.verdict) == (Verdict.PASS, Verdict.FAIL)


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": 1.0}, {"alpha": 0.5}, {"alpha": 0}])
def test_terms_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(GateSection(), **wrong)
