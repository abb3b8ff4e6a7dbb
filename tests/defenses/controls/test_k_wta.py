"""The largest activations and no others."""

import pytest
import torch
from torch import nn

from advbench.attacks import unmasked
from advbench.defenses.controls.k_wta import KWTA, Winners


def make(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network whose activations lie at two depths; one with parameters is none of them."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.PReLU())
    return nn.Sequential(first, nn.Flatten(), nn.Tanh(), nn.Linear(4, classes), nn.LogSoftmax(1))


def test_the_largest_share_of_a_sample_stays() -> None:
    x = torch.tensor([[3.0, -1, 2, 5, 0, -2, 1, 4], [-1, -2, -3, -4, -5, -6, -7, -8]])
    assert Winners(0.25)(x).tolist() == [[0, 0, 0, 5, 0, 0, 0, 4], [-1, -2, 0, 0, 0, 0, 0, 0]]
    images = torch.randn(5, 3, 4, 4)
    kept = Winners(0.15)(images) != 0
    assert kept.flatten(1).sum(1).tolist() == [8] * 5  # 7.2 of 48, and no less
    assert torch.equal(Winners(1.0)(images), images)


def test_hidden_activations_are_replaced_and_weights_stay() -> None:
    plain, model = make((1, 3, 3), 5), KWTA(share=0.5).build(make, (1, 3, 3), 5)
    assert isinstance(model, nn.Sequential)
    kinds = [type(layer) for layer in model.modules()]
    assert kinds.count(Winners) == 2
    assert nn.ReLU not in kinds
    assert nn.Tanh not in kinds
    assert kinds.count(nn.PReLU) == kinds.count(nn.LogSoftmax) == 1
    assert model.load_state_dict(plain.state_dict(), strict=True)


def test_a_network_without_activation_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear has no layer that is an activation"):
        KWTA().build(lambda shape, classes: nn.Linear(shape[0], classes), (4,), 2)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]; got 0"):
        KWTA(share=0)


def test_its_stand_in_answers_the_same_and_its_gradient_is_that_of_a_soft_choice() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(Winners(0.1))
    x = torch.randn(4, 40, requires_grad=True)
    known = unmasked(model)
    assert torch.equal(known(x), model(x))
    (true,) = torch.autograd.grad(model(x).sum(), x)
    (found,) = torch.autograd.grad(known(x).sum(), x)
    assert torch.equal(true, (model(x) != 0).float())
    assert true.sum(1).tolist() == [4] * 4
    features = x.detach()
    last = features.sort(1).values[:, 36:37]
    softness = features.std(1, correction=0, keepdim=True) / 10
    weight = ((features - last) / softness).sigmoid()
    wanted = weight + features * weight * (1 - weight) / softness
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    at_last = found[features == last]  # half of it passes, and half of what winning is worth
    torch.testing.assert_close(at_last, (0.5 + last / (4 * softness)).flatten(), rtol=1e-4, atol=0)


def test_the_gradient_of_the_stand_in_sees_the_jump_of_a_feature_that_is_about_to_win() -> None:
    x = torch.tensor([[2.0, 1.99, 0.0, -1.0]], requires_grad=True)
    for model, least, most in ((Winners(0.25), 0.0, 0.0), (unmasked(Winners(0.25)), 1.0, 10.0)):
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
        assert least <= gradient[0, 1] <= most
        assert gradient[0, 3].abs() < 1e-3


@pytest.mark.parametrize("x", [torch.full((2, 6), 3.0), torch.zeros(2, 6), torch.ones(3, 1)])
def test_features_without_a_spread_have_a_finite_gradient(x: torch.Tensor) -> None:
    x = x.requires_grad_()
    known = unmasked(Winners(0.5))
    assert torch.equal(known(x), Winners(0.5)(x))
    (gradient,) = torch.autograd.grad(known(x).sum(), x)
    assert gradient.isfinite().all()
