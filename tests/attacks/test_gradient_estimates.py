"""SPSA and NES: the estimate on linear models, where the gradient is known, and the steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advbench.attacks import L0, L1, L2, NES, SPSA, Linf, Margin, Perturbation
from advbench.attacks.blackbox.spsa import packed_signs
from advbench.attacks.randomness import Draws
from advbench.testing.strength import half_space
from advbench.testing.victims import Watched
from tests.attacks.closed_form import linear_cases

SHAPE = (1, 6, 7)


def asked(attack: SPSA | NES, stop_at: int, eps: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return the changes (queries, N, d) asked about, and the slopes (N, d) of the margin."""
    given, w, _ = half_space(SHAPE, count=3)
    model = Watched(given.model)
    found = attack.run(model, given.x, given.y, eps=eps, stop="never", budget=stop_at)
    assert (found.forwards == min(stop_at, attack.queries)).all()
    slopes = torch.where(given.y == 1, -1.0, 1.0).unsqueeze(1) * w
    changes = torch.stack([images for images, _ in model.seen]) - given.x
    return changes.flatten(2), slopes


def test_the_defaults_are_the_published_ones() -> None:
    assert SPSA() == SPSA(
        perturbation=Linf(),
        loss=Margin(),
        rounds=100,
        samples=128,
        difference=0.01,
        step_size=0.01,
        restarts=1,
    )
    assert NES() == NES(
        perturbation=Linf(),
        loss=Margin(),
        rounds=100,
        samples=50,
        difference=0.001,
        step_size=0.2,
        restarts=1,
    )
    assert SPSA().queries == 25_601
    assert NES().queries == 10_001


def test_points_come_in_pairs_each_row_along_directions_of_its_own() -> None:
    changes, _ = asked(SPSA(rounds=1, samples=4), 8)
    torch.testing.assert_close(changes[::2], -changes[1::2])
    torch.testing.assert_close(changes.abs(), torch.full_like(changes, 0.01))
    directions = changes[::2].sign()
    for one, other in ((directions[0], directions[1]), (directions[:, 0], directions[:, 1])):
        assert 0.2 < (one == other).double().mean() < 0.8
    gauss, _ = asked(NES(rounds=1, samples=50, difference=0.002), 100)
    assert gauss[::2].std() == pytest.approx(0.002, rel=0.05)
    torch.testing.assert_close(gauss[::2], -gauss[1::2])


@pytest.mark.parametrize("make", [SPSA, NES])
def test_the_estimate_is_the_mean_of_slopes_along_the_directions(
    make: Callable[..., SPSA | NES],
) -> None:
    """On a linear loss the sum is known, and so is the first step along it."""
    attack = make(perturbation=L2(), rounds=1, samples=6, difference=0.001, step_size=0.04)
    changes, slopes = asked(attack, attack.queries, eps=0.5)
    v = changes[:-1:2] / 0.001
    g = ((v * slopes).sum(2, keepdim=True) * v).mean(0)
    last = changes[-1]
    if make is NES:
        torch.testing.assert_close(last, 0.04 * 0.5 * g / g.norm(dim=1, keepdim=True))
    else:  # Adam's first step has the same length in every pixel
        torch.testing.assert_close(last, 0.04 * g.sign(), rtol=1e-4, atol=1e-6)


def test_adam_keeps_averages() -> None:
    attack = SPSA(rounds=2, samples=3, difference=0.001, step_size=0.02)
    changes, slopes = asked(attack, attack.queries)
    first, second = changes[:6], changes[6:12]
    centre = (second[0] + second[1]) / 2
    gradients = []
    for part, middle in ((first, torch.zeros_like(centre)), (second, centre)):
        v = (part[::2] - middle) / 0.001
        gradients.append(((v * slopes).sum(2, keepdim=True) * v).mean(0))
    mean = (0.09 * gradients[0] + 0.1 * gradients[1]) / (1 - 0.81)
    square = (0.000999 * gradients[0] ** 2 + 0.001 * gradients[1] ** 2) / (1 - 0.998001)
    moved = 0.02 * mean / (square.sqrt() + 1e-8)
    torch.testing.assert_close(changes[12] - centre, moved, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("attack", [SPSA(rounds=1, samples=500), NES(rounds=1, samples=500)])
def test_many_directions_give_the_gradient(attack: SPSA | NES) -> None:
    """The relative error is about the root of d / n."""
    changes, slopes = asked(attack, 1000)
    v = changes[::2] / attack.difference
    g = ((v * slopes).sum(2, keepdim=True) * v).mean(0)
    error = (g - slopes).norm(dim=1) / slopes.norm(dim=1)
    assert (error < 1.5 * (42 / 500) ** 0.5).all()


@pytest.mark.parametrize("perturbation", [Linf(), L2()])
@pytest.mark.parametrize("make", [SPSA, NES])
def test_they_come_near_the_best_on_linear_models(
    make: Callable[..., SPSA | NES], perturbation: Perturbation
) -> None:
    attack = make(perturbation=perturbation, rounds=16, samples=24, difference=0.001)
    given, exact = linear_cases(attack, 2)
    for targets in (None, given.targets):
        found = attack.run(given.model, given.x, given.y, eps=exact * 1.3, targets=targets)
        assert found.success.all(), found.success.tolist()
        assert (found.forwards < attack.queries).any(), "no one stops at the first success"


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_signs_out_of_single_bits_are_fair(count: int) -> None:
    ids = torch.arange(200)
    signs = packed_signs(Draws(ids * 0, ids, ids * 0, ids * 0), (count,), torch.float64)
    assert signs.shape == (200, count)
    assert (signs.abs() == 1).all()
    assert abs(float(signs.mean())) < 4 / (200 * count) ** 0.5
    places = signs.T @ signs / 200
    assert (places - torch.eye(count, dtype=torch.float64)).abs().max() < 5 / 200**0.5


@pytest.mark.parametrize("perturbation", [L0(), L1()])
@pytest.mark.parametrize("make", [SPSA, NES])
def test_a_set_that_undoes_the_differences_is_refused(
    make: Callable[..., SPSA | NES], perturbation: Perturbation
) -> None:
    with pytest.raises(TypeError, match=r"must be Linf\(\) or L2\(\)"):
        make(perturbation=perturbation)
