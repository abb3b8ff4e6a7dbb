"""PDGD: the weights and a step by hand, and the exact answer on linear victims."""

import math

import pytest
import torch

from advbench.attacks.minimal.pdgd import PDGD, Dual, dual, weigh
from tests.attacks.closed_form import assert_smallest
from tests.attacks.stub import Answer, problem

X = torch.full((2, 3), 0.5, dtype=torch.float64)
G = torch.tensor([[1.0, -2.0, 0.0]] * 2, dtype=torch.float64)
BOTH = torch.tensor([-0.5, 0.5], dtype=torch.float64)


def test_published_settings() -> None:
    pdgd = PDGD()
    assert (pdgd.steps, pdgd.step_size, pdgd.last_step_size) == (500, 0.1, 0.001)
    assert (pdgd.dual_step, pdgd.last_dual_step, pdgd.ratio) == (0.1, 0.01, 0.01)


def test_the_class_weighs_more_after_a_failure() -> None:
    first = dual(problem(X), 0.01)
    assert first.share.tolist() == pytest.approx([100 / 101] * 2)
    then = weigh(first, BOTH > 0, torch.full_like(BOTH, 0.2))
    logs = [math.log(100) + 0.2, math.log(100) - 0.2]
    assert then.log.tolist() == pytest.approx(logs)
    shares = [0.9 * 100 / 101 + 0.1 / (1 + math.exp(-log)) for log in logs]
    assert then.share.tolist() == pytest.approx(shares)


def test_the_weights_stay_within_a_million() -> None:
    far = Dual(torch.tensor([13.8, -13.8]), torch.tensor([0.5, 0.5]))
    then = weigh(far, torch.tensor([False, True]), torch.ones(2))
    assert then.log.tolist() == pytest.approx([math.log(1e6), -math.log(1e6)])


def test_the_first_step_of_adam_has_the_length_of_the_step_in_each_coordinate() -> None:
    pdgd = PDGD(steps=20, bisections=0)
    at = problem(X)
    state = pdgd.step(pdgd.init(at), Answer(BOTH, G), at)
    assert torch.allclose(state.p, 0.1 * G.sign(), atol=1e-6)


def test_a_nan_lead_leaves_the_row_where_it_is() -> None:
    pdgd = PDGD(steps=20, bisections=0)
    at = problem(X)
    state = pdgd.step(pdgd.init(at), Answer(BOTH * torch.nan, 0 * G), at)
    assert torch.equal(state.p, torch.zeros_like(X))


def test_exact_on_linear_victims() -> None:
    assert_smallest(PDGD(steps=100), classes=2, within=1.01)
    assert_smallest(PDGD(steps=200), classes=10, within=1.1)
