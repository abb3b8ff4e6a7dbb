"""SimBA: which directions it asks about, in which order, and what it keeps."""

import pytest
import torch
from torch import Tensor

from advbench.attacks import L0, L1, L2, CrossEntropy, Linf, Margin, Perturbation, SimBA
from advbench.attacks.blackbox.simba import waves
from advbench.testing.strength import half_space
from advbench.testing.victims import Watched
from tests.attacks.closed_form import linear_cases

SHAPE = (1, 6, 7)


def asked(attack: SimBA, eps: float = 2.0, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    """Return the changes (queries, N, d) asked about, and the slopes (N, d) of the margin."""
    given, w, _ = half_space(shape, count=3)
    given = given._replace(x=0.5 + 0.01 * given.x)
    model = Watched(given.model)
    y = given.model(given.x).argmax(1)
    found = attack.run(model, given.x, y, eps=eps, stop="never")
    assert (found.forwards == attack.steps).all()
    slopes = torch.where(y == 1, -1.0, 1.0).unsqueeze(1) * w
    changes = torch.stack([images for images, _ in model.seen]) - given.x
    return changes.flatten(2), slopes


def test_the_defaults_are_pinned() -> None:
    assert SimBA() == SimBA(
        perturbation=L2(),
        loss=Margin(),
        steps=10_000,
        step_size=0.2,
        basis="pixels",
        share=0.125,
        restarts=1,
    )


@pytest.mark.parametrize("loss", [Margin(), CrossEntropy()])
def test_a_pixel_goes_up_else_down_and_each_pixel_once(loss: Margin | CrossEntropy) -> None:
    """On a linear loss it is known which side is kept: that along the slope."""
    changes, slopes = asked(SimBA(loss=loss, steps=85, step_size=0.1))
    for row in range(3):
        best, seen = torch.zeros(42, dtype=torch.float64), []
        queries = iter(changes[:, row])
        torch.testing.assert_close(next(queries), best)
        while len(seen) < 42:
            step = next(queries) - best
            (place,) = (step.abs() > 1e-9).nonzero().flatten().tolist()
            assert step[place] == pytest.approx(0.1), "up first"
            if slopes[row, place] < 0:
                step = next(queries) - best
                assert step[place] == pytest.approx(-0.1)
            best, seen = best + step, [*seen, place]
        assert sorted(seen) == list(range(42))
        assert seen != sorted(seen)
        torch.testing.assert_close(best, 0.1 * slopes[row].sign())
    places = [(changes[1, row].abs() > 1e-9).nonzero().item() for row in range(3)]
    assert len(set(places)) > 1, "rows have orders of their own"


def test_waves_are_orthonormal_cosines() -> None:
    for length in (1, 2, 7, 12):
        basis = waves(length, 1.0)
        torch.testing.assert_close(basis @ basis.T, torch.eye(length, dtype=torch.float64))
    low = waves(12, 0.25)
    assert low.shape == (3, 12)
    torch.testing.assert_close(low, waves(12, 1.0)[:3])
    crossings = (low.sign().diff(dim=1) != 0).sum(1)
    assert crossings.tolist() == [0, 1, 2], "each wave has half a period more"


def test_the_lowest_frequencies_of_every_channel_are_the_directions() -> None:
    attack = SimBA(basis="dct", share=0.5, steps=60, step_size=0.01)
    changes, _ = asked(attack, shape=(2, 4, 6))
    steps = changes[1:].transpose(0, 1).reshape(-1, 2, 4, 6)
    assert ((steps.abs() > 1e-9).flatten(2).any(2).sum(1) >= 1).all()
    down, across = waves(4, 1.0), waves(6, 1.0)
    spectrum = down @ steps @ across.T
    assert spectrum[:, :, 2:].abs().max() < 1e-9
    assert spectrum[:, :, :, 3:].abs().max() < 1e-9
    assert (spectrum[:, :, :2, :3].abs().amax(0) > 0.005).all(), "12 directions of 2 x 2 x 3"
    first = changes[1].reshape(3, -1).norm(dim=1)
    torch.testing.assert_close(first, torch.full_like(first, 0.01))


def test_after_the_last_direction_it_begins_anew() -> None:
    changes, slopes = asked(SimBA(steps=4 * 42 + 5, step_size=0.01))
    torch.testing.assert_close(changes[-1].abs().amax(1), torch.full((3,), 0.03).double())
    assert (changes[-1].sign() == slopes.sign()).double().mean() > 0.9


def test_the_size_stays_below_the_root_of_the_directions() -> None:
    changes, _ = asked(SimBA(steps=50, step_size=0.1), eps=6.0)
    most = 0.1 * torch.arange(50, dtype=torch.float64).sqrt().unsqueeze(1)
    assert (changes.norm(dim=2) <= most + 1e-9).all()


@pytest.mark.parametrize(
    ("perturbation", "step_size", "beyond"), [(Linf(), 1.0, 1.01), (L2(), 0.01, 2.0)]
)
def test_it_comes_near_the_best_on_linear_models(
    perturbation: Perturbation, step_size: float, beyond: float
) -> None:
    attack = SimBA(perturbation=perturbation, steps=400, step_size=step_size)
    given, exact = linear_cases(attack, 2)
    for targets in (None, given.targets):
        found = attack.run(given.model, given.x, given.y, eps=exact * beyond, targets=targets)
        assert found.success.all(), found.success.tolist()


def test_it_refuses_what_it_cannot_do() -> None:
    with pytest.raises(TypeError, match=r"Linf\(\), L2\(\) or L1\(\); got L0"):
        SimBA(perturbation=L0())
    with pytest.raises(ValueError, match="'pixels' or 'dct'; got 'fourier'"):
        SimBA(basis="fourier")  # type: ignore[arg-type]
    assert SimBA(perturbation=L1()).perturbation == L1()
