"""The projection onto a hyperplane inside the box, against the exact distance and by hand."""

import pytest
import torch

from advbench.attacks import L0, L1, L2, Linf, Perturbation
from advbench.attacks.minimal.hyperplane import accept, dual, nearest
from advbench.testing.halfspace import distance
from advbench.testing.victims import numbers

NORMS = [Linf(), L2(), L1()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_it_is_as_short_as_possible(perturbation: Perturbation, dtype: torch.dtype) -> None:
    """From inside, on the bounds and in the corners of the box, up and down, near and far."""
    x = (0.5 + 0.6 * numbers(3, 24, 1, 3, 5)).clamp(0, 1)
    g = numbers(4, 24, 1, 3, 5)
    flat, w = x.flatten(1), g.flatten(1)
    most = torch.where(w > 0, 1 - flat, flat) * w.abs()
    least = torch.where(w > 0, flat, 1 - flat) * w.abs()
    share = torch.linspace(0, 0.999, 24, dtype=torch.float64)
    up = torch.arange(24) % 2 == 0
    rise = torch.where(up, most.sum(1), -least.sum(1)) * share
    found = nearest(perturbation, x.to(dtype), g.to(dtype), rise.to(dtype)).double()
    close = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close((found * g).flatten(1).sum(1), rise, atol=close, rtol=close)
    assert (x + found).min() >= -1e-6
    assert (x + found).max() <= 1 + 1e-6
    for row in range(24):
        # The oracle lowers: to rise along g is to lower along -g.
        side = -w[row] if up[row] else w[row]
        best = distance(perturbation, side, flat[row : row + 1], rise[row : row + 1].abs())
        size = perturbation.size(x[row : row + 1], found[row : row + 1])
        torch.testing.assert_close(size, best, atol=close, rtol=close)


@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_weights_of_all_magnitudes(perturbation: Perturbation) -> None:
    """Nearly all coordinates hardly matter, and use up their room at a level far beyond the rest.

    There the sums of what is left are rounded away unless they are added up from the far end.
    """
    x = (0.5 + 0.6 * numbers(5, 8, 784)).clamp(0, 1)
    g = numbers(6, 8, 784) * 10 ** (6 * numbers(7, 8, 784) - 3)
    most = torch.where(g > 0, (1 - x) * g, x * -g).sum(1)
    rise = most * torch.linspace(0.01, 0.6, 8, dtype=torch.float64)
    single = nearest(perturbation, x.float(), g.float(), rise.float()).double()
    double = nearest(perturbation, x, g, rise)
    torch.testing.assert_close((single * g).sum(1), rise, atol=0, rtol=1e-4)
    assert torch.allclose(perturbation.size(x, single), perturbation.size(x, double), rtol=1e-4)


def test_three_points_by_hand() -> None:
    """``3 a + b = 2`` from (0.8, 0.3), (0.8, 0.3) and (0.2, 0.6): rises of -0.7 and 0.8."""
    x = torch.tensor([[0.8, 0.3], [0.2, 0.6], [0.9, 0.0]], dtype=torch.float64)
    g = torch.tensor([[3.0, 1.0]] * 3, dtype=torch.float64)
    rise = 2 - (x * g).sum(1)
    expected = {
        Linf(): [[-0.175, -0.175], [0.2, 0.2], [-0.7 / 3, 0.0]],
        L2(): [[-0.21, -0.07], [0.24, 0.08], [-0.7 / 3, 0.0]],
        L1(): [[-0.7 / 3, 0.0], [0.8 / 3, 0.0], [-0.7 / 3, 0.0]],
    }
    for perturbation, change in expected.items():
        found = nearest(perturbation, x, g, rise)
        torch.testing.assert_close(found, torch.tensor(change, dtype=torch.float64))


@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_what_cannot_be_reached(perturbation: Perturbation) -> None:
    """Beyond the box it goes as far as there is room; along nothing, or to nowhere, it stays."""
    x = torch.full((4, 3), 0.25)
    g = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    rise = torch.tensor([9.0, 1.0, torch.nan, torch.inf])
    found = nearest(perturbation, x, g, rise)
    torch.testing.assert_close(found[0], torch.tensor([0.75, -0.25, 0.0]))
    assert (found[1:] == 0).all()


@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_scale_of_the_plane_does_not_matter(perturbation: Perturbation, factor: float) -> None:
    x, g = (0.5 + 0.2 * numbers(5, 4, 9).tanh()).float(), numbers(6, 4, 9).float()
    rise = torch.tensor([0.3, -0.2, 0.1, 1.0])
    plain = nearest(perturbation, x, g, rise)
    torch.testing.assert_close(nearest(perturbation, x, g * factor, rise * factor), plain)


@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_the_dual_norm_is_what_the_best_step_gains(perturbation: Perturbation) -> None:
    g = numbers(7, 5, 2, 6)
    x = torch.full_like(g, 0.5)
    step = nearest(perturbation, x, g, torch.full((5,), 1e-3, dtype=torch.float64))
    gained = 1e-3 / perturbation.size(x, step)
    torch.testing.assert_close(dual(perturbation, g), gained)


def test_other_norms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"deepfool: .* one of L2\(\), Linf\(\); got L0\(\)"):
        accept("deepfool", L0(), L2(), Linf())
