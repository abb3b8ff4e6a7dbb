"""Codes in the place of pixels."""

import pytest
import torch
from torch import nn

from advbench.attacks import unmasked
from advbench.defenses.controls.thermometer import Code, Thermometer


def test_as_many_levels_are_one_as_the_pixel_exceeds() -> None:
    code = Code(4)
    x = torch.tensor([0.0, 0.1, 0.25, 0.3, 0.75, 0.8, 1.0]).view(1, 1, 1, 7)
    assert code(x).sum(1).flatten().tolist() == [0, 1, 1, 2, 3, 4, 4]
    found = code(torch.tensor([[[[0.3]], [[0.9]]]]))
    assert found.flatten().tolist() == [1, 1, 0, 0, 1, 1, 1, 1]


def test_the_network_is_one_of_as_many_channels() -> None:
    asked = []

    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        asked.append((shape, classes))
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 4 * 2, classes))

    model = Thermometer(levels=5).build(make, (3, 4, 2), 10)
    assert asked == [((15, 4, 2), 10)]
    assert model(torch.rand(6, 3, 4, 2)).shape == (6, 10)


def test_its_gradient_is_zero_and_its_stand_ins_that_of_sigmoids() -> None:
    model = nn.Sequential(Code(4), nn.Flatten())
    x = torch.tensor([0.1, 0.3, 0.6, 0.9]).view(1, 1, 2, 2).requires_grad_()
    known = unmasked(model)
    assert torch.equal(known(x), model(x))
    assert not torch.autograd.grad(model(x).sum(), x)[0].any()
    # The code of each pixel is a channel per level, and the second level begins at 1 / 4.
    (found,) = torch.autograd.grad(known(x)[:, 4:8].sum(), x)
    code = torch.sigmoid(4 * (x.detach() - 0.25))
    torch.testing.assert_close(found, 4 * code * (1 - code))


def test_a_single_level_is_refused() -> None:
    with pytest.raises(ValueError, match="levels must be at least 2; got 1"):
        Thermometer(levels=1)
