"""AWP and SAM: weights held elsewhere while the gradient is taken."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import PGD
from advbench.defenses.adversarial.adversarial_training import AdversarialTraining
from advbench.defenses.adversarial.awp import AWP
from advbench.defenses.defense import Defense, check_together
from advbench.defenses.fit import Fit, weights_of
from advbench.defenses.regularization.dropout import Dropout
from advbench.defenses.regularization.sam import SAM

from ..fitting import SMALL_LENET, first_batch, same_weights, trained, under_way

BOTH = [AWP(gamma=0.1), SAM(rho=0.5)]


def network() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), norm, nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 10)
    )


def loss(fit: Fit) -> Tensor:
    batch = first_batch()
    return fit.loss(fit.seen(batch.x), batch.wanted)


@pytest.mark.parametrize("nothing", [AWP(gamma=0.0), SAM(rho=0.0), AWP(warmup=99.0)], ids=repr)
def test_without_a_move_it_is_plain_training(nothing: Defense) -> None:
    assert same_weights(trained(nothing).model, trained().model)
    noisy = Dropout()
    ours = trained(nothing, noisy, model=SMALL_LENET)
    assert same_weights(ours.model, trained(noisy, model=SMALL_LENET).model)


@pytest.mark.parametrize("defense", BOTH, ids=repr)
def test_the_weights_come_back_to_the_bit_also_after_an_exception(defense: Defense) -> None:
    fit = under_way(network())
    before, state = weights_of(fit.model), torch.random.get_rng_state()

    def unchanged() -> bool:
        now = weights_of(fit.model)
        return all(torch.equal(value, before[key]) for key, value in now.items())

    with defense.moved(lambda: loss(fit), fit):
        assert not unchanged()
        assert all(weight.grad is None for weight in fit.model.parameters())
        held = {key: value for key, value in weights_of(fit.model).items() if "running" in key}
        assert all(torch.equal(value, before[key]) for key, value in held.items())
    assert unchanged()
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="planted"), defense.moved(lambda: loss(fit), fit):
        raise RuntimeError("planted")
    assert unchanged()
    assert all(weight.requires_grad for weight in fit.model.parameters())


def moves(defense: Defense, fit: Fit) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """How each weight is moved, and the gradients where they were."""
    names, weights = zip(*fit.model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss(fit), weights)
    before = [weight.detach().clone() for weight in weights]
    with defense.moved(lambda: loss(fit), fit):
        changes = [w.detach() - b for w, b in zip(weights, before, strict=True)]
    return dict(zip(names, changes, strict=True)), dict(zip(names, found, strict=True))


def test_awp_moves_each_layer_by_a_share_of_its_size_and_no_bias() -> None:
    fit = under_way(network().eval())
    sizes = {name: weight.norm() for name, weight in fit.model.named_parameters()}
    changes, gradients = moves(AWP(gamma=0.1), fit)
    for name, change in changes.items():
        if change.dim() == 1:
            assert not change.any()
        else:
            g = gradients[name]
            expected = 0.1 * sizes[name] * g / g.norm()
            torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-6)
    assert sum(change.dim() > 1 for change in changes.values()) == 2


@pytest.mark.parametrize("defense", BOTH, ids=repr)
def test_the_loss_is_larger_there(defense: Defense) -> None:
    fit = under_way(network().eval())
    here = loss(fit)
    with defense.moved(lambda: loss(fit), fit):
        assert loss(fit) > here + 0.05


def test_shared_weights_move_once_and_unused_ones_stay() -> None:
    shared = nn.Linear(64, 64)
    model = nn.Sequential(nn.Flatten(), shared, nn.Tanh(), shared, nn.Linear(64, 10))
    model.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    fit = under_way(model)
    before = shared.weight.detach().clone()
    with AWP(gamma=0.1).moved(lambda: loss(fit), fit):
        share = (shared.weight - before).norm() / before.norm()
        assert share.item() == pytest.approx(0.1, rel=1e-4)
        assert torch.equal(model.get_parameter("unused"), torch.ones(2, 2))
    assert torch.equal(shared.weight, before)


@pytest.mark.parametrize("defense", BOTH, ids=repr)
def test_a_gradient_of_zero_moves_nothing(defense: Defense) -> None:
    fit = under_way(network().eval())
    before = weights_of(fit.model)
    with defense.moved(lambda: 0 * loss(fit), fit):
        now = weights_of(fit.model)
        assert all(torch.equal(value, before[key]) for key, value in now.items())


def test_awp_begins_after_its_warmup() -> None:
    fit = under_way(network().eval(), epoch=1.9)
    weight = next(fit.model.parameters())
    before = weight.detach().clone()
    for epoch, moved in ((1.9, False), (2.0, True)):
        fit.epoch = epoch
        with AWP(warmup=2.0).moved(lambda: loss(fit), fit):
            assert torch.equal(weight, before) != moved


@pytest.mark.parametrize("defense", BOTH, ids=repr)
def test_it_goes_with_adversarial_training(defense: Defense) -> None:
    attacked = AdversarialTraining(attack=PGD(steps=2), eps=0.05)
    both = trained(attacked, defense, epochs=5)
    assert both.log[-1].loss < both.log[0].loss
    assert not same_weights(both.model, trained(attacked, epochs=5).model)


def test_only_one_of_them_can_decide_the_step() -> None:
    with pytest.raises(ValueError, match="AWP and SAM contradict each other: both decide step"):
        check_together((AWP(), SAM()))


@pytest.mark.parametrize(
    ("make", "wrong"), [(AWP, {"gamma": -1.0}), (AWP, {"warmup": -1.0}), (SAM, {"rho": -0.1})]
)
def test_negative_values_are_refused(make: type[AWP | SAM], wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        make(**wrong)
