"""Figures of learning: the same lines, the same bytes, and every line is drawn."""

import io

import numpy as np
import pytest
from matplotlib import image

from advbench.defenses.fit import Epoch, Score
from advbench.report.learning import Curve, learning_curve, learning_curves

LOG = [
    Epoch(n, 1e-3, 2.0 / (n + 1), Score(0.5 + n / 10, 1.5), Score(0.6, 1.0, 0.2), Score(0.4, 2.0))
    for n in range(4)
]


def pixels(content: bytes) -> np.ndarray:
    return image.imread(io.BytesIO(content), format="png")


def shown(content: bytes, colour: str) -> int:
    """How many pixels have just this colour."""
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return int((np.abs(pixels(content)[..., :3] - wanted).max(-1) < 0.02).sum())


def test_the_same_log_gives_the_same_bytes() -> None:
    assert learning_curve("a net", LOG) == learning_curve("a net", list(LOG))
    assert learning_curve("a net", LOG) != learning_curve("another", LOG)
    assert learning_curve("a net", LOG) != learning_curve("a net", LOG[:3])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_split_is_drawn(split: str) -> None:
    colours = {"train": "#D55E00", "validation": "#009E73", "test": "#0072B2"}
    blank = [epoch._replace(**{split: None}) for epoch in LOG]
    assert shown(learning_curve("a net", LOG), colours[split]) > 300
    assert shown(learning_curve("a net", blank), colours[split]) == 0


def test_a_short_log_is_drawn_too() -> None:
    alone = [Epoch(0, 1e-3, 2.0, Score(0.5, 1.5))]
    assert shown(learning_curve("a net", alone), "#009E73") > 30


def test_accuracy_under_attack_is_drawn() -> None:
    without = [epoch._replace(train=Score(0.6, 1.0)) for epoch in LOG]
    more = shown(learning_curve("n", LOG), "#D55E00") - shown(
        learning_curve("n", without), "#D55E00"
    )
    assert more > 100


def test_a_study_has_a_panel_per_network_and_measure() -> None:
    points = ((10, 0.5), (20, 0.75))
    one = Curve("cnn", "none", "train", "accuracy", points)
    curves = [one, one._replace(split="test"), one._replace(remedy="pgd_at")]
    figure = learning_curves(curves)
    assert figure == learning_curves(list(curves))
    assert shown(figure, "#0072B2") > 100
    assert shown(figure, "#D55E00") > 100
    larger = learning_curves([*curves, one._replace(network="ffn", measure="robust")])
    assert pixels(larger).shape[0] > 1.5 * pixels(figure).shape[0]
    assert pixels(larger).shape[1] > 1.5 * pixels(figure).shape[1]
