import pytest
import torch
from torch import nn

from advbench import data
from advbench.attacks.gradient.pgd import PGD
from advbench.attacks.perturbations import L2
from advbench.defenses.adversarial_training import AdversarialTraining
from advbench.models.ffn import FFN, Linear
from advbench.recipe import Data, Optimizer, Recipe, Train
from advbench.training import robust_accuracy, train

SAMPLES = data.load("digits", "train", 40)


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FFN(hidden=(8,)).build((1, 8, 8), 10)


def batch(defense: AdversarialTraining, net: nn.Module, epoch: float = 9, seed: int = 0) -> object:
    x, y = defense.batch(net, SAMPLES.x, SAMPLES.y, SAMPLES.ids, epoch, seed)
    assert torch.equal(y, SAMPLES.y)
    return x


def test_the_batch_is_what_the_attack_makes_of_it() -> None:
    net, attack = model(), PGD(steps=3)
    expected = attack(net, SAMPLES.x, SAMPLES.y, eps=0.1, seed=4, ids=SAMPLES.ids, stop="never")
    found = batch(AdversarialTraining(attack=attack, eps=0.1), net, seed=4)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert (found - SAMPLES.x).abs().max() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(("epoch", "eps"), [(0, 0), (1, 0.1), (3, 0.3), (4, 0.3)])
def test_eps_grows_in_the_warmup(epoch: float, eps: float) -> None:
    defense = AdversarialTraining(attack=PGD(steps=3), eps=0.3, warmup=3)
    found = batch(defense, model(), epoch)
    assert isinstance(found, torch.Tensor)
    assert (found - SAMPLES.x).abs().max() == pytest.approx(eps, abs=1e-6)


def test_the_model_is_left_in_training_mode() -> None:
    net = model().train()
    before = [weight.clone() for weight in net.parameters()]
    batch(AdversarialTraining(attack=PGD(steps=2), eps=0.1), net)
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
    x_adv, _ = defense.batch(net, x, y, torch.arange(5), 0, 0)
    with torch.no_grad():
        weight = next(net.parameters())
        sign = 1 - 2 * y
        margin = sign * (net(x)[:, 0] - net(x)[:, 1])
        reduced = sign * (net(x_adv)[:, 0] - net(x_adv)[:, 1])
        expected = margin - 0.2 * (weight[0] - weight[1]).norm()
    torch.testing.assert_close(reduced, expected, atol=5e-3, rtol=0)


def test_it_makes_networks_more_robust() -> None:
    samples, validation = data.load("digits", "train", 400), data.load("digits", "validation")
    defense = AdversarialTraining(attack=PGD(steps=5), eps=0.1, warmup=2)

    def robust(defenses: tuple[AdversarialTraining, ...]) -> float:
        recipe = Recipe(
            train=Train(epochs=20, batch_size=32),
            data=Data(name="digits"),
            model=FFN(hidden=(32,)),
            optimizer=Optimizer(lr=5e-3),
            defense=defenses,
        )
        trained = train(recipe, data=samples, validation=validation)
        judge = Recipe(train=recipe.train, data=recipe.data, model=recipe.model, defense=(defense,))
        return robust_accuracy(judge, trained.model, validation)

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
    for seed in (4, 5):
        whole, some = batch(every, net, seed=seed), batch(part, net, seed=seed)
        assert isinstance(whole, torch.Tensor)
        assert isinstance(some, torch.Tensor)
        changed = (some != SAMPLES.x).flatten(1).any(1)
        assert 10 < int(changed.sum()) < 30
        torch.testing.assert_close(some[changed], whole[changed], rtol=0, atol=1e-6)
        epochs.append(changed)
    assert not torch.equal(*epochs)
    final = batch(part, net, epoch=float("inf"), seed=4)
    assert isinstance(final, torch.Tensor)
    assert torch.equal(final, batch(every, net, seed=4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share must lie in"):
        AdversarialTraining(attack=attack, eps=0.1, share=0)
