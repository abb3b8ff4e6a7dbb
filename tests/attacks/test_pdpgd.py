"""PDPGD: a step by hand, its traps, and the exact answer on linear victims."""

import pytest
import torch

from advbench.attacks import L0, L1, L2, Linf, Perturbation, Pose
from advbench.attacks.minimal.pdpgd import PDPGD
from tests.attacks.closed_form import assert_smallest
from tests.attacks.stub import Answer, problem

NORMS = [L0(), L1(), L2(), Linf()]
X = torch.full((1, 3), 0.5, dtype=torch.float64)
G = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)


def test_published_settings() -> None:
    pdpgd = PDPGD()
    assert (pdpgd.steps, pdpgd.step_size, pdpgd.last_step_size) == (500, 0.1, 0.001)
    assert (pdpgd.dual_step, pdpgd.last_dual_step, pdpgd.ratio) == (0.1, 0.01, 0.01)


def test_the_first_step_is_that_of_adam_less_what_the_norm_costs() -> None:
    """In L1 each coordinate is shrunk by weight * step / its own scale, which is its gradient."""
    pdpgd = PDPGD(steps=20, bisections=0)
    at = problem(X)
    state = pdpgd.step(pdpgd.init(at), Answer(torch.zeros(1).double(), G), at)
    pull = 0.01 * 0.1 / (G.abs() / 2).clamp_min(1e-8)  # the slope of the loss is half of G
    expected = G.sign() * (0.1 - pull).clamp_min(0)
    assert torch.allclose(state.p, expected, rtol=0.01)


@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_no_gradient_is_no_step_and_no_nan(perturbation: Perturbation) -> None:
    pdpgd = PDPGD(perturbation=perturbation, steps=20, bisections=0)
    at = problem(X)
    state = pdpgd.step(pdpgd.init(at), Answer(torch.zeros(1).double(), 0 * G), at)
    assert torch.equal(state.p, torch.zeros_like(X))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"PDPGD: perturbation must be one of .*; got Pose"):
        PDPGD(perturbation=Pose())
    with pytest.raises(ValueError, match="PDPGD: bisections must"):
        PDPGD(steps=8)


@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_exact_on_linear_victims(perturbation: Perturbation) -> None:
    within = 1.0 if perturbation == L0() else 1.01
    assert_smallest(PDPGD(perturbation=perturbation, steps=100), classes=2, within=within)


@pytest.mark.parametrize("perturbation", [L0(), Linf()], ids=repr)
def test_near_the_nearest_of_many_classes(perturbation: Perturbation) -> None:
    within = 1.0 if perturbation == L0() else 1.05
    assert_smallest(PDPGD(perturbation=perturbation, steps=200), classes=10, within=within)
