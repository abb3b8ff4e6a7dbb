import dataclasses

import pytest
import torch
from torch import nn

from advbench.defenses.fit import Fit
from advbench.defenses.regularization.weight_decay import WeightDecay
from advbench.training.recipe import Optimizer
from tests.defenses.fitting import fit_of, same_weights, scrambled, trained

DECAY = WeightDecay(strength=0.5)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def decayed(defense: WeightDecay, optimizer: type, **settings: float) -> tuple[Fit, list]:
    """A training whose gradients are all zero, and the weights that it starts from."""
    model = network()
    before = scrambled(model, 0)
    fit = fit_of(model, torch.rand(6, 4), torch.tensor([0, 1] * 3))
    fit = dataclasses.replace(fit, optimizer=optimizer(model.parameters(), **settings))
    defense.optimizer(fit)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    return fit, before


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("biases", [False, True])
def test_a_step_without_a_gradient_takes_off_a_share(optimizer: type, biases: bool) -> None:
    fit, before = decayed(WeightDecay(strength=0.5, biases=biases), optimizer, lr=0.1)
    fit.optimizer.step()
    for weight, old in zip(fit.model.parameters(), before, strict=True):
        kept = 1 - 0.1 * 0.5 if biases or weight.dim() > 1 else 1.0
        torch.testing.assert_close(weight.detach(), kept * old)


def test_under_sgd_it_is_the_gradient_of_half_the_squared_norm() -> None:
    fit, before = decayed(WeightDecay(strength=0.5, biases=True), torch.optim.SGD, lr=0.1)
    plain = fit_of(network(), torch.rand(6, 4), torch.tensor([0, 1] * 3))
    scrambled(plain.model, 0)
    for moment in range(3):
        fit.optimizer.step()
        weights = list(plain.model.parameters())
        loss = 0.5 / 2 * sum(weight.square().sum() for weight in weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight -= 0.1 * gradient
        for weight, expected in zip(fit.model.parameters(), weights, strict=True):
            torch.testing.assert_close(weight, expected, msg=f"step {moment}")
    assert not torch.equal(weights[0], before[0])


def test_every_weight_stays_in_the_optimizer_once_with_its_settings() -> None:
    fit, _ = decayed(DECAY, torch.optim.SGD, lr=0.1, momentum=0.9)
    groups = fit.optimizer.param_groups
    held = [weight for group in groups for weight in group["params"]]
    assert {id(weight) for weight in held} == {id(weight) for weight in fit.model.parameters()}
    assert len(held) == len(list(fit.model.parameters()))
    assert [(group["lr"], group["momentum"]) for group in groups] == [(0.1, 0.9)] * 2
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


@pytest.mark.parametrize("optimizer", [Optimizer(lr=1e-2), Optimizer(name="sgd", lr=1e-2)])
def test_a_strength_of_zero_is_plain_training(optimizer: Optimizer) -> None:
    plain = trained(optimizer=optimizer)
    for biases in (False, True):
        none = trained(WeightDecay(strength=0.0, biases=biases), optimizer=optimizer)
        assert same_weights(none.model, plain.model)
    some = trained(WeightDecay(strength=0.1), optimizer=optimizer)
    assert not same_weights(some.model, plain.model)


def test_the_more_decay_the_smaller_the_weights() -> None:
    def size(strength: float) -> float:
        model = trained(WeightDecay(strength=strength), epochs=6).model
        return sum(float(weight.detach().square().sum()) for weight in model.parameters())

    none, some, much = map(size, (0.0, 1.0, 10.0))
    assert none > some > much


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strength must not be negative; got -0\.1"):
        WeightDecay(strength=-0.1)
