"""Fewer levels per pixel."""

import pytest
import torch
from torch import nn

from advbench.attacks import PGD, unmasked
from advbench.defenses.controls.bit_depth import BitDepth


def test_pixels_fall_to_the_nearest_level() -> None:
    rounded = BitDepth(levels=5).wrap(nn.Identity())
    x = torch.tensor([[0.0, 0.12, 0.13, 0.37, 0.38, 0.6, 0.88, 1.0]])
    assert rounded(x).tolist() == [[0, 0, 0.25, 0.25, 0.5, 0.5, 1, 1]]
    x = torch.rand(4, 3, 8, 8)
    fine = BitDepth(levels=256).wrap(nn.Identity())
    assert (fine(x) - x).abs().max() <= 0.5 / 255 + 1e-6
    assert len(BitDepth(levels=2).wrap(nn.Identity())(x).unique()) == 2


def test_its_gradient_is_zero_and_its_stand_ins_that_of_the_identity() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    model = BitDepth(levels=3).wrap(layer)
    x = torch.rand(2, 6, requires_grad=True)
    assert torch.equal(unmasked(model)(x), model(x))
    assert not torch.autograd.grad(model(x).sum(), x)[0].any()
    (found,) = torch.autograd.grad(unmasked(model)(x).sum(), x)
    torch.testing.assert_close(found, layer.weight.sum(0).expand(2, -1))


def test_only_an_attack_that_knows_it_succeeds() -> None:
    # Two classes by which half is brighter; at eps 0.2 a pixel may fall by a level, or rise.
    model = BitDepth(levels=5).wrap(nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1) * torch.ones(8))
        model[1].weight[:, 4:] *= -1
    x = torch.tensor([0.5] * 4 + [0.4] * 4).expand(6, -1)
    y = torch.zeros(6, dtype=torch.int64)
    attack = PGD(steps=20)
    assert (model(x).argmax(1) == y).all()
    blind = attack(model, x, y, eps=0.2, stop="never")
    known = attack(unmasked(model), x, y, eps=0.2, stop="never")
    margins = [model(made)[:, 0].mean() for made in (blind, known)]
    assert (model(known).argmax(1) != y).all()
    assert margins[1] < margins[0] - 0.5


def test_a_single_level_is_refused() -> None:
    with pytest.raises(ValueError, match="levels must be at least 2; got 1"):
        BitDepth(levels=1)
