"""Sparse L1 descent: its step, the coordinates it passes over, its reach."""

import pytest
import torch
from torch import Tensor

from advbench.attacks import L1, CrossEntropy, SparseL1Descent
from advbench.testing.victims import Affine, Watched, smooth

from .closed_form import assert_sharp


def test_defaults() -> None:
    attack = SparseL1Descent()
    assert attack.perturbation == L1()
    assert attack.loss == CrossEntropy()
    assert (attack.steps, attack.step_size, attack.share) == (20, 0.1, 0.01)
    assert (attack.restarts, attack.random_start) == (1, False)


def one_step(x: Tensor, weights: list[float], share: float) -> Tensor:
    model = Affine(1, 5, 2, torch.float64)
    with torch.no_grad():
        model.weight[0], model.weight[1] = 0, torch.tensor(weights, dtype=torch.float64)
        model.bias.zero_()
        model.bias[0] = 10
    y = torch.zeros(len(x), dtype=torch.int64)
    attack = SparseL1Descent(steps=1, step_size=0.5, share=share)
    return attack.run(model, x, y, eps=0.4, stop="never").p


def test_a_step_by_hand() -> None:
    x = torch.full((1, 5), 0.5, dtype=torch.float64)
    p = one_step(x, [3.0, -4.0, 1.0, 2.0, 0.0], share=0.4)
    torch.testing.assert_close(p, torch.tensor([[0.1, -0.1, 0, 0, 0]], dtype=torch.float64))
    p = one_step(x, [3.0, -4.0, 1.0, 2.0, 0.0], share=0.01)
    torch.testing.assert_close(p, torch.tensor([[0, -0.2, 0, 0, 0]], dtype=torch.float64))
    p = one_step(x, [3.0, -4.0, 1.0, 2.0, 0.0], share=1.0)
    torch.testing.assert_close(p, torch.tensor([[0.05, -0.05, 0.05, 0.05, 0]], dtype=torch.float64))


def test_a_coordinate_without_room_is_passed_over() -> None:
    x = torch.tensor([[1.0, 0.0, 0.0, 0.5, 0.5]], dtype=torch.float64)
    p = one_step(x, [3.0, -4.0, 1.0, 2.0, 0.0], share=0.4)
    torch.testing.assert_close(p, torch.tensor([[0, 0, 0.1, 0.1, 0]], dtype=torch.float64))


def test_where_it_starts() -> None:
    model, x, y, _ = smooth(count=3)
    for random_start in (False, True):
        watched = Watched(model)
        attack = SparseL1Descent(steps=2, random_start=random_start)
        found = attack.run(watched, x, y, eps=0.3, stop="never")
        assert (watched.seen[0][0] != x).any() == random_start
        assert found.forwards.tolist() == [3] * 3
        assert found.backwards.tolist() == [2] * 3


def test_it_is_sharp_on_linear_models() -> None:
    assert_sharp(SparseL1Descent(steps=60, step_size=0.05), classes=2, beyond=1.005)


def test_a_share_is_one() -> None:
    with pytest.raises(ValueError, match="share must lie in"):
        SparseL1Descent(share=0.0)
