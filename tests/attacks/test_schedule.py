"""Schedules, from the steps that each row has done."""

import pytest
import torch

from advbench.attacks.criterion import Criterion
from advbench.attacks.minimal.schedule import cosine, exponential, linear
from advbench.attacks.query import Problem
from advbench.attacks.randomness import Draws

T = torch.tensor([0, 5, 10, 12])


def problem() -> Problem:
    zero = torch.zeros_like(T)
    eps = torch.ones(len(T), dtype=torch.float64)
    return Problem(torch.zeros(len(T), 3), eps, Criterion(zero), Draws(zero, T, zero, zero), T)


def test_ends_and_middle_and_no_further() -> None:
    assert cosine(problem(), 10, 1.0, 0.2).tolist() == pytest.approx([1, 0.6, 0.2, 0.2])
    assert exponential(problem(), 10, 1.0, 0.01).tolist() == pytest.approx([1, 0.1, 0.01, 0.01])
    assert linear(problem(), 10, 3.0, 1.0).tolist() == pytest.approx([3, 2, 1, 1])


def test_a_cosine_is_flat_at_both_ends() -> None:
    early = problem()._replace(t=torch.tensor([0, 1, 9, 10]))
    value = cosine(early, 10, 1.0, 0.0).tolist()
    assert value[0] - value[1] == pytest.approx(value[2] - value[3])
    assert value[0] - value[1] < 0.03
