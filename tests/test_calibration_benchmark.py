"""The benchmark of the gate's errors: each part on what is known, and the whole on a small net."""

import numpy as np
import pytest

from advbench.benchmarks.calibration import Answers, judged, markdown, rows
from advbench.gate.verdict import Verdict


def _answers(share, n=4000, clean=0.95):
    right = np.arange(n) / n
    return Answers((right < clean).astype(float), (right < share).astype(float))


@pytest.mark.parametrize(
    ("now", "swap", "said"),
    [
        (0.6, False, {Verdict.PASS}),
        (0.4, False, {Verdict.FAIL}),
        (0.4, True, {Verdict.PASS, Verdict.INCONCLUSIVE}),
    ],
)
def test_what_the_gate_ought_to_say(now, swap, said):
    """With sides swapped at random no drop is there, but many samples differ."""
    found = {
        judged(_answers(0.6), _answers(now), 2000, swap, np.random.default_rng(seed))
        for seed in range(3)
    }
    assert found <= said


@pytest.mark.slow
def test_a_small_net():
    lines = list(rows("zoo:digits/linear", 400, 0.05, (0.0, 0.03), 1, 2, "cpu"))
    assert [line["drop"] for line in lines] == [0.0, 0.03]
    for line in lines:
        assert line["pass"] + line["inconclusive"] + line["fail"] == 2
        assert line["discordance"] > 0
    assert lines[0]["true_drop"] == 0
    assert abs(lines[1]["true_drop"] - 0.03) < 0.0015
    page = markdown(lines, {"net": "small"})
    assert "| 0.03 | 1 | 2 |" in page
