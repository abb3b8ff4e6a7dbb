"""Proximal operators against the search of a grid, and against their own conditions."""

import pytest
import torch
from torch import Tensor

from advbench.attacks import L0, L1, L2, Linf, Perturbation
from advbench.attacks.minimal.proximal import proximal
from advbench.testing.victims import numbers

WEIGHT = torch.tensor([0.05, 0.3, 2.0], dtype=torch.float64)


def norm(perturbation: Perturbation, z: Tensor) -> Tensor:
    if isinstance(perturbation, L0):
        return (z.abs() ** (2 / 3)).sum(1)
    order = 1 if perturbation == L1() else 2 if perturbation == L2() else torch.inf
    size: Tensor = torch.linalg.vector_norm(z, order, dim=1)
    return size


@pytest.mark.parametrize("perturbation", [L0(), L1(), L2(), Linf()], ids=repr)
def test_nothing_near_is_better(perturbation: Perturbation) -> None:
    v = numbers(31, 3, 6)
    z = proximal(perturbation, v, WEIGHT)

    def objective(z: Tensor) -> Tensor:
        return (z - v).square().sum(1) / 2 + WEIGHT * norm(perturbation, z)

    best = objective(z)
    others = [0 * v, v, *(z + scale * numbers(key, 3, 6) for key in range(40) for scale in (0.01,))]
    others += [z * (1 + shift) for shift in (-0.01, 0.01)]
    for other in others:
        assert (objective(other) >= best - 1e-12).all()
    assert (z.abs() <= v.abs() + 1e-12).all()


def test_two_thirds_against_a_grid() -> None:
    """Also where a second minimum exists that is not the better one."""
    v = torch.linspace(-3, 3, 61, dtype=torch.float64).unsqueeze(1)
    weight = torch.full((61,), 0.7, dtype=torch.float64)
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    cost = (grid - v).square() / 2 + 0.7 * grid.abs() ** (2 / 3)
    expected = grid[cost.argmin(1)]
    assert (proximal(L0(), v, weight)[:, 0] - expected).abs().max() < 1e-3
    assert (expected.abs() < 1e-9).sum() > 20


def test_linf_cuts_off_exactly_the_weight() -> None:
    v = numbers(32, 3, 6)
    z = proximal(Linf(), v, WEIGHT)
    assert (v - z).abs().sum(1).tolist() == pytest.approx(WEIGHT.tolist())


@pytest.mark.parametrize("perturbation", [L0(), L1(), L2(), Linf()], ids=repr)
def test_nothing_and_all_too_heavy_are_nothing(perturbation: Perturbation) -> None:
    assert (proximal(perturbation, torch.zeros(3, 6), WEIGHT.float()) == 0).all()
    heavy = torch.full((3,), 1e6, dtype=torch.float64)
    assert (proximal(perturbation, numbers(31, 3, 6), heavy) == 0).all()
