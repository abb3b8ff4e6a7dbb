"""GeoDA: its schedule, its subspace, its straight way from the sample."""

from itertools import pairwise

import pytest
import torch

from advbench.attacks import L0, L1, L2, GeoDA, Linf, Perturbation
from advbench.attacks.blackbox.geoda import cosines
from advbench.testing.strength import distances, half_space
from advbench.testing.victims import Watched, linear


def test_defaults_are_those_of_the_paper() -> None:
    one = GeoDA()
    assert (one.perturbation, one.deviation, one.frequencies, one.first) == (L2(), 2e-4, 75, 80)


@pytest.mark.parametrize("steps", [500, 1000, 10_000])
def test_rounds_share_the_queries(steps: int) -> None:
    probes = GeoDA(steps=steps).probes
    assert probes[0] <= 80
    assert sum(probes) + 25 * len(probes) == pytest.approx(steps, abs=len(probes))
    for one, two in pairwise(probes):
        assert two / one == pytest.approx(0.6 ** (-2 / 3), rel=0.02)
    assert GeoDA(steps=10).probes, "few queries make one round"


def test_cosines_are_orthonormal_and_begin_with_a_constant() -> None:
    waves = cosines(7, 4)
    torch.testing.assert_close(waves.T @ waves, torch.eye(4, dtype=torch.float64))
    assert waves[:, 0].std() < 1e-12
    assert (waves[:, 1].diff() < 0).all(), "half a wave"


def test_neighbours_are_of_low_frequencies() -> None:
    model, x, y, _ = linear(classes=2, count=1, shape=(2, 4, 5))
    watched = Watched(model)
    GeoDA(steps=30, frequencies=1, first=5).run(watched, x, y)
    images = torch.cat([image for image, _ in watched.seen])
    won = torch.cat([logits.argmax(1) for _, logits in watched.seen]) != y
    first = int(won.nonzero()[0, 0])
    # 18 halvings later come the neighbours of one point: their differences are plain in a channel.
    neighbours = images[first + 19 : first + 24]
    gaps = neighbours[1:] - neighbours[:1]
    inside = ((neighbours > 0) & (neighbours < 1)).all(0)
    for channel in range(2):
        plain = gaps[:, channel][:, inside[channel]]
        assert plain.abs().amax() > 0
        assert (plain.amax(1) - plain.amin(1)).amax() < 1e-12
    assert (gaps[:, 0].flatten(1).amax(1) != gaps[:, 1].flatten(1).amax(1)).all()


@pytest.mark.parametrize(
    ("perturbation", "within"), [(L2(), 1.1), (Linf(), 1.2), (L1(), 1.001)], ids=repr
)
def test_close_to_the_optimum(perturbation: Perturbation, within: float) -> None:
    attack = GeoDA(perturbation=perturbation, steps=800)
    given, w, lead = half_space((1, 3, 4))
    exact = distances(attack, given, w, lead)
    found = attack.run(given.model, given.x, given.y)
    assert found.success.all()
    assert (found.size >= exact * (1 - 1e-6)).all()
    assert (found.size <= exact * within).all(), (found.size / exact).tolist()


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="GeoDA: perturbation must be one of L2"):
        GeoDA(perturbation=L0())
    with pytest.raises(ValueError, match="deviation must be a number above 0"):
        GeoDA(deviation=0.0)
    with pytest.raises(ValueError, match="frequencies must be a number above 0"):
        GeoDA(frequencies=0)
