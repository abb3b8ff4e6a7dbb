"""The model as an attacker differentiates it who knows its defence."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import BPDA, Masking, unmasked


class Rounded(Masking):
    """Multiples of a tenth of what a layer answers, without a gradient."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return (10 * self.layer(x)).round() / 10

    def stand_in(self) -> nn.Module:
        return Smooth(self.layer)


class Smooth(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        exact = self.layer(x)
        return (10 * exact).round().detach() / 10 + (exact - exact.detach())


X = torch.linspace(0, 1, 12).view(3, 4)


def linear(outputs: int) -> nn.Linear:
    torch.manual_seed(outputs)
    return nn.Linear(4, outputs)


def deep() -> nn.Module:
    """A mask two levels down, beside layers that hold none."""
    inner = nn.Sequential(Rounded(linear(4)), nn.BatchNorm1d(4))
    return nn.Sequential(nn.Sequential(nn.ReLU()), inner, linear(3)).eval()


def gradient(model: nn.Module) -> Tensor:
    x = X.clone().requires_grad_()
    weight = torch.arange(9.0).view(3, 3)
    return torch.autograd.grad((model(x) * weight).sum(), x)[0]


@pytest.mark.parametrize("make", [deep, lambda: Rounded(linear(3)).eval()], ids=["deep", "top"])
def test_it_answers_the_same_and_has_a_gradient(make: type[nn.Module]) -> None:
    model = make()
    parts, text = list(model.modules()), repr(model)
    known = unmasked(model)
    assert isinstance(known, nn.Module)
    assert torch.equal(known(X), model(X))
    assert not gradient(model).any()
    assert gradient(known).any(1).all()
    assert not any(isinstance(layer, Masking) for layer in known.modules())
    assert not any(layer.training for layer in known.modules())
    # What is given is neither changed nor copied more than it must be.
    assert repr(model) == text
    assert all(a is b for a, b in zip(model.modules(), parts, strict=True))
    for kind in ("parameters", "buffers"):
        ours, theirs = list(getattr(known, kind)()), list(getattr(model, kind)())
        assert all(a is b for a, b in zip(ours, theirs, strict=True))


def test_what_holds_no_mask_is_not_copied() -> None:
    model = deep()
    known = unmasked(model)
    assert isinstance(known, nn.Sequential)
    assert known[0] is model.get_submodule("0")
    assert known[1] is not model.get_submodule("1")
    assert known[2] is model.get_submodule("2")
    for plain in (nn.Sequential(linear(3), nn.ReLU()), known, torch.sin, lambda x: x):
        assert unmasked(plain) is plain


def test_a_layer_that_has_several_places_stays_one() -> None:
    shared = Rounded(linear(4))
    block = nn.Sequential(shared, nn.ReLU())
    model = nn.Sequential(block, shared, block)
    known = unmasked(model)
    assert isinstance(known, nn.Sequential)
    assert known[0] is known[2]
    assert known[0][0] is known[1]
    assert torch.equal(known(X), model(X))


def test_a_mask_inside_a_mask_is_removed_too() -> None:
    model = Rounded(nn.Sequential(Rounded(linear(4)), linear(3)))
    known = unmasked(model)
    assert isinstance(known, nn.Module)
    assert not any(isinstance(layer, Masking) for layer in known.modules())
    assert gradient(known).any()
    assert isinstance(model.layer, nn.Sequential)
    assert isinstance(model.layer[0], Rounded)


def test_a_stand_in_may_be_a_bpda_of_the_layer_itself() -> None:
    class Signs(Masking):
        def forward(self, x: Tensor) -> Tensor:
            return x.sign()

        def stand_in(self) -> nn.Module:
            return BPDA(self.forward)

    model = nn.Sequential(Signs(), linear(3))
    known = unmasked(model)
    assert unmasked(known) is known
    assert gradient(known).any()
    assert not gradient(model).any()
