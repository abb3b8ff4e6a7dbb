import pytest
import torch
from torch import Tensor, nn

from advbench import data
from advbench.attacks import L2, PGD, Margin
from advbench.defenses.adversarial.adversarial_training import AdversarialTraining
from advbench.defenses.controls.bit_depth import Quantiser
from advbench.defenses.fit import Batch, Split, robust_accuracy
from advbench.models.ffn import FFN, Linear
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import train

from ..fitting import SAMPLES, under_way

BATCH = Batch(SAMPLES.x, SAMPLES.y, SAMPLES.ids)


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FFN(hidden=(8,)).build((1, 8, 8), 10)


def attacked(defense: AdversarialTraining, net: nn.Module, epoch: float = 9) -> Tensor:
    batch = defense.batch(BATCH, under_way(net, epoch=epoch))
    assert batch == BATCH._replace(x=batch.x)
    return batch.x


def test_the_batch_is_what_the_attack_makes_of_it() -> None:
    net, attack = model(), PGD(steps=3)
    x, y, ids, _, _ = BATCH
    seed = under_way(net, epoch=9).epoch_seed
    expected = attack(net, x, y, eps=0.1, seed=seed, ids=ids, stop="never")
    found = attacked(AdversarialTraining(attack=attack, eps=0.1), net)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert (found - x).abs().max() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(("epoch", "eps"), [(0, 0), (1, 0.1), (3, 0.3), (4, 0.3)])
def test_eps_grows_in_the_warmup(epoch: float, eps: float) -> None:
    defense = AdversarialTraining(attack=PGD(steps=3), eps=0.3, warmup=3)
    found = attacked(defense, model(), epoch)
    assert (found - SAMPLES.x).abs().max() == pytest.approx(eps, abs=1e-6)


def test_the_model_is_left_in_training_mode() -> None:
    net = model().train()
    before = [weight.clone() for weight in net.parameters()]
    attacked(AdversarialTraining(attack=PGD(steps=2), eps=0.1), net)
    assert net.training
    for weight, old in zip(net.parameters(), before, strict=True):
        assert weight.requires_grad
        assert weight.grad is None
        assert torch.equal(weight, old)


def test_on_two_classes_the_loss_is_that_of_the_reduced_margin() -> None:
    # A linear model loses eps times the dual norm of its weights' difference, exactly.
    torch.manual_seed(0)
    net = Linear().build((6,), 2)
    x, y = torch.full((5, 6), 0.5) + 0.1 * torch.rand(5, 6), torch.tensor([0, 1, 0, 1, 1])
    defense = AdversarialTraining(attack=PGD(perturbation=L2(), steps=20), eps=0.2)
    fit = under_way(net)
    batch = defense.batch(Batch(x, y, torch.arange(5)), fit)
    with torch.no_grad():
        weight = next(net.parameters())
        sign = 1 - 2 * y
        margin = sign * (net(x)[:, 0] - net(x)[:, 1])
        reduced = margin - 0.2 * (weight[0] - weight[1]).norm()
        loss = fit.loss(net(batch.x), batch.wanted)
    torch.testing.assert_close(loss, nn.functional.softplus(-reduced).mean(), atol=2e-3, rtol=0)
    assert loss > nn.functional.softplus(-margin).mean() + 0.02


@pytest.mark.slow
def test_it_makes_networks_more_robust() -> None:
    samples, validation = data.load("digits", "train", 400), data.load("digits", "validation")
    defense = AdversarialTraining(attack=PGD(steps=5), eps=0.1, warmup=2)
    split = Split(validation.x, validation.y, validation.ids)

    def robust(defenses: tuple[AdversarialTraining, ...]) -> float:
        recipe = Recipe(
            train=Train(epochs=10, batch_size=32),
            data=Data(name="digits"),
            model=FFN(hidden=(32,)),
            optimizer=Optimizer(lr=5e-3),
            defenses=defenses,
        )
        trained = train(recipe, data=samples, validation=validation)
        attack = PGD(steps=10, loss=Margin())
        return robust_accuracy(trained.model, trained.model, split, attack, 0.1)

    assert robust((defense,)) > robust(()) + 0.1


@pytest.mark.parametrize("wrong", [{"eps": -0.1}, {"eps": 0.1, "warmup": -1.0}])
def test_negative_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        AdversarialTraining(attack=PGD(), **wrong)


def test_a_share_of_the_samples_is_attacked_anew_in_each_epoch() -> None:
    net, attack = model(), PGD(steps=2)
    part = AdversarialTraining(attack=attack, eps=0.1, share=0.5)
    every = AdversarialTraining(attack=attack, eps=0.1)
    epochs = []
    for epoch in (4, 5):
        whole, some = attacked(every, net, epoch), attacked(part, net, epoch)
        changed = (some != SAMPLES.x).flatten(1).any(1)
        assert 15 < int(changed.sum()) < 45
        torch.testing.assert_close(some[changed], whole[changed], rtol=0, atol=1e-6)
        epochs.append(changed)
    assert not torch.equal(*epochs)
    with pytest.raises(ValueError, match="share must lie in"):
        AdversarialTraining(attack=attack, eps=0.1, share=0)


def test_examples_are_made_through_layers_that_hide_gradients() -> None:
    blind = nn.Sequential(Quantiser(2), model())
    attack = PGD(steps=3, random_start=False)
    assert torch.equal(attack(blind, SAMPLES.x, SAMPLES.y, eps=0.3), SAMPLES.x)
    found = attacked(AdversarialTraining(attack=attack, eps=0.3), blind)
    assert (found - SAMPLES.x).abs().max() == pytest.approx(0.3, abs=1e-6)
    split = Split(SAMPLES.x, SAMPLES.y, SAMPLES.ids)
    right = blind(SAMPLES.x).argmax(1) == SAMPLES.y
    assert robust_accuracy(blind, blind, split, attack, 0.3) < right.double().mean()
