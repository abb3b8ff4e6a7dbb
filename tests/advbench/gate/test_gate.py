"""The gate between two sides: what is replayed, what is an alarm, what cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest

from advbench.bench.plan import Victim
from advbench.bench.run import Runner
from advbench.config import GateSection
from advbench.gate.baseline import BaselineError
from advbench.gate.canary import canary, weakened
from advbench.gate.gate import gate, quick
from advbench.gate.side import IncompleteError, measure
from advbench.gate.verdict import Verdict
from tests.advbench.fakes import Push
from tests.advbench.gate.sides import EPS, N, Threshold, cells, side

TERMS = GateSection(margin=0.02)


def _gate(before, at=0.5, gain=1.0, models=None, keep=True):
    now = cells(at, gain, keep)
    return gate(before, measure(now, Runner()), now, TERMS, models or {})


def test_a_side_says_what_each_sample_came_to():
    one = side()
    (standing,) = one.groups.values()
    values = np.linspace(0.1, 0.9, N)
    assert standing.clean.all()
    assert (standing.right == (np.abs(values - 0.5) > EPS)).all()
    assert standing.changes.places.tolist() == list(range(N))
    assert one.models == {"net": "0.5"}


def test_the_same_model_passes():
    report = _gate(side())
    assert report.verdict is Verdict.PASS
    assert [one.drop for one in report.comparisons] == [0, 0]
    assert "the models are those of the baseline" in report.notes


def test_a_model_that_lost_accuracy_fails():
    report = _gate(side(), at=0.53)
    clean, robust = report.comparisons
    assert clean.verdict is Verdict.FAIL
    assert (robust.lost, robust.won) == (15, 15)  # what is near one threshold or the other
    assert robust.verdict is Verdict.INCONCLUSIVE
    assert report.verdict is Verdict.FAIL
    assert any("--against" in note for note in report.notes)


def test_a_weakened_attack_does_not_pass_for_robustness():
    """The search finds half of what it found before; the changes of the baseline still break it."""
    strong, weak = side(), cells(gain=0.5)
    now = measure(weak, Runner())
    alike = replace(strong, searches=now.searches)  # the code was weakened, not its settings
    report = gate(alike, now, weak, TERMS, {})
    assert report.verdict is Verdict.INVALID
    assert "too weak" in report.alarms[0]
    (replay,) = report.replays
    assert replay.only == int((measure(weak, Runner()).groups.popitem()[1].right == 1).sum()) - int(
        (strong.groups.popitem()[1].right == 1).sum()
    )
    assert all(one.drop == 0 for one in report.comparisons)  # what fell to old changes is broken


def test_without_changes_nothing_is_replayed_and_that_is_said():
    report = _gate(side(keep=False))
    assert not report.replays
    assert any("no changes" in note for note in report.notes)


def test_what_is_found_now_is_tried_on_the_model_of_the_baseline():
    """The old search was weak: what its model is now shown to lose is no drop."""
    weak, now = side(gain=0.5), cells(at=0.5001)
    found = measure(now, Runner())
    alike = replace(weak, searches=found.searches)
    alone = gate(alike, found, now, TERMS, {})
    old = Victim("net", Threshold(0.5), "0.5")
    both = gate(alike, found, now, TERMS, {"net": old})
    assert alone.verdict is Verdict.FAIL
    assert both.verdict is Verdict.PASS
    back = next(one for one in both.replays if not one.forward)
    assert back.only > 0


def test_other_searches_are_no_pass():
    with pytest.raises(BaselineError, match=r"gain: 1.0 in the baseline, 0.9 now"):
        _gate(side(), gain=0.9)
    with pytest.raises(BaselineError, match="samples"):
        gate(side(n=N - 1), side(), cells(), TERMS, {})


def test_swapped_labels_are_other_samples():
    one = cells()[0]
    data = one.selection.samples
    swapped = replace(one, selection=replace(one.selection, samples=replace(data, y=1 - data.y)))
    with pytest.raises(BaselineError, match="samples"):
        gate(side(), measure([swapped], Runner()), [swapped], TERMS, {})


def test_too_few_samples_for_any_pass_are_an_error():
    few = cells(n=100)
    before = measure(few, Runner())
    with pytest.raises(BaselineError, match="Take 150 samples or more"):
        gate(before, before, few, TERMS, {})


def test_a_cell_without_result_is_no_side():
    broken = [replace(cells()[0], attack=Push(fault="raise"))]
    with pytest.raises(IncompleteError, match="ZeroDivisionError: a fault of the attack"):
        measure(broken, Runner())


def test_alarms_of_the_table_make_it_invalid_until_they_are_accepted():
    now = cells()
    found = measure(now, Runner())
    flagged = replace(found, table=[{**row, "flags": "zero_gradient:0.20"} for row in found.table])
    report = gate(side(), flagged, now, TERMS, {})
    assert report.verdict is Verdict.INVALID
    assert "zero_gradient" in report.alarms[0]
    known = replace(side(), accepted=report.alarms)
    again = gate(known, flagged, now, TERMS, {})
    assert again.verdict is Verdict.PASS
    assert any("known since the baseline" in note for note in again.notes)


def test_a_glance_fails_but_never_passes():
    same = quick(side(), cells(), TERMS, Runner())
    assert (same.verdict, same.outcome) == (Verdict.INCONCLUSIVE, Verdict.PASS)
    worse = quick(side(), cells(at=0.53), TERMS, Runner())
    assert worse.outcome is Verdict.FAIL
    with pytest.raises(BaselineError, match="no changes"):
        quick(side(keep=False), cells(), TERMS, Runner())


def test_a_lenient_gate_lets_what_is_inconclusive_pass():
    report = gate(side(), side(), cells(), replace(TERMS, inconclusive="pass"), {})
    unsure = replace(report.comparisons[0], verdict=Verdict.INCONCLUSIVE)
    lenient = replace(report, comparisons=(unsure,))
    assert (lenient.verdict, lenient.outcome) == (Verdict.INCONCLUSIVE, Verdict.PASS)
    strict = replace(lenient, terms=TERMS)
    assert strict.outcome is Verdict.INCONCLUSIVE


def test_a_canary_is_failed():
    """A threshold is a single number: noise of its own size moves it far."""
    flown = canary(side(), cells(), TERMS, Runner())
    assert flown.failed
    assert 0 < flown.scale <= 1.2


def test_a_canary_with_nothing_to_lose_is_an_error():
    values = cells()
    lost = [replace(values[0], victim=Victim("net", Threshold(2.0), "2.0"))]
    with pytest.raises(BaselineError, match="too little to lose"):
        canary(measure(lost, Runner()), lost, TERMS, Runner())


def test_weakening_leaves_the_model_alone_and_repeats_itself():
    own = cells()
    first, second, other = (next(weakened(own, 0.2, seed)).victim for seed in (0, 0, 1))
    assert own[0].victim.model.at.item() == 0.5
    assert first.model.at.item() == second.model.at.item() != other.model.at.item()
    assert first.sha256 != own[0].victim.sha256
