"""Carlini and Wagner's attacks and EAD."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L0, L1, L2, Attack
from advbench.attacks.minimal.carlini_wagner import CWL2, boxed
from advbench.attacks.minimal.carlini_wagner_linf import CWLinf
from advbench.attacks.minimal.ead import EAD
from advbench.testing.victims import After, linear, smooth
from tests.attacks.closed_form import assert_smallest

SHORT = (
    CWL2(searches=5, steps_per_search=120, weight=0.01),
    EAD(searches=6, steps_per_search=100, weight=0.01, shrinkage=0.03),
    CWLinf(steps_per_search=50, step_size=0.05, weight=0.01),
)
QUICK = tuple(kind.examples()[0] for kind in (CWL2, EAD, CWLinf))


def name(attack: object) -> str:
    return type(attack).__name__


def test_published_defaults() -> None:
    assert (CWL2().searches, CWL2().steps_per_search, CWL2().weight) == (9, 1000, 1e-3)
    assert (CWL2().queries, CWL2().step_size, CWL2().anneal) == (9010, 0.1, True)
    ead = EAD()
    assert (ead.searches, ead.steps_per_search, ead.step_size, ead.shrinkage, ead.weight) == (
        (9, 1000, 0.01, 0.01, 1e-3)
    )
    linf = CWLinf()
    assert (linf.steps_per_search, linf.step_size) == (1000, 0.01)
    assert (linf.weight, linf.largest_weight) == (1e-5, 20)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("attack", SHORT, ids=name)
def test_smallest_on_a_linear_victim(attack: Attack, classes: int) -> None:
    assert_smallest(attack, classes)


def test_boxed_by_hand() -> None:
    x = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64)
    still = boxed(x, torch.zeros_like(x))
    assert not still.p.any()
    assert not still.beyond.any()
    v = torch.tensor([[0.4, -0.2, 0.7]], dtype=torch.float64)
    v.requires_grad_()
    here = boxed(x, v)
    inside = 0.5 + (torch.atanh(x - 0.5) + v).tanh()
    torch.testing.assert_close(x + here.p + here.beyond, inside)
    (slope,) = torch.autograd.grad(inside.sum(), v)
    torch.testing.assert_close(here.slope, slope)
    assert here.p[0, 2] == 0 < here.beyond[0, 2]


@pytest.mark.parametrize("attack", QUICK, ids=name)
def test_black_and_white_images_move(attack: Attack) -> None:
    """B2: on [0, 1] itself the inverse of tanh is infinite at both ends."""
    model, x, _, _ = linear()
    x = x.round()
    y = model(x).argmax(1)
    found = attack.run(model, x, y)
    assert found.success.all()


def _lowered(_: Tensor, logits: Tensor) -> Tensor:
    return logits - 100


@pytest.mark.parametrize("attack", QUICK, ids=name)
def test_logits_below_zero_are_logits(attack: Attack) -> None:
    """B1: the same answer for logits and logits less 100."""
    model, x, y, targets = smooth()
    for aims in (None, targets):
        one = attack.run(model, x, y, targets=aims)
        two = attack.run(After(model, _lowered), x, y, targets=aims)
        assert one.success.all()
        torch.testing.assert_close(one.x_adv, two.x_adv, rtol=0, atol=1e-6)


class Easy(nn.Module):
    """Two classes that a row tells apart by its first pixel, some rows far from the boundary."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2)."""
        lead = x.flatten(1)[:, 0] - 0.5
        return torch.stack([lead, -lead], 1)


@pytest.mark.parametrize("attack", QUICK, ids=name)
def test_rows_end_by_themselves(attack: Attack) -> None:
    """B3: a row costs what it costs alone, whoever is beside it."""
    x = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
    x[:, 0, 0, 0] += torch.tensor([0.01, 0.2, 0.45])
    y = torch.zeros(3, dtype=torch.int64)
    whole = attack.run(Easy(), x, y)
    for row in range(3):
        alone = attack.run(Easy(), x[row : row + 1], y[row : row + 1], ids=torch.tensor([row]))
        assert alone.forwards == whole.forwards[row]
        torch.testing.assert_close(alone.x_adv[0], whole.x_adv[row], rtol=0, atol=1e-9)


def test_ead_without_shrinkage_is_a_euclidean_attack() -> None:
    bare = EAD(perturbation=L2(), searches=6, steps_per_search=60, shrinkage=1e-9, weight=0.01)
    assert_smallest(bare)


def test_shrinkage_makes_sparse() -> None:
    model, x, y, _ = smooth(count=8)
    terms: dict[str, Any] = {"searches": 6, "steps_per_search": 50, "weight": 0.1}
    sparse = EAD(shrinkage=0.02, **terms).run(model, x, y)
    dense = EAD(shrinkage=1e-6, **terms).run(model, x, y)
    assert (sparse.p != 0).sum() < (dense.p != 0).sum()
    assert (sparse.size < dense.size).all()


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"EAD: perturbation must be L1\(\) or L2\(\); got L0"):
        EAD(perturbation=L0())
    with pytest.raises(ValueError, match="CWL2: weight must be a number above 0; got 0"):
        CWL2(weight=0)
    with pytest.raises(ValueError, match="CWL2: searches must be a whole number"):
        CWL2(searches=0)
    with pytest.raises(ValueError, match="EAD: shrinkage must be a number above 0; got -1"):
        EAD(perturbation=L1(), shrinkage=-1)
    with pytest.raises(ValueError, match=r"above weight, 1; got 0\.5"):
        CWLinf(weight=1, largest_weight=0.5)
