"""FastAT and N-FGSM: examples of one step, and what they cost."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L2, Affine, Linf, Perturbation
from advbench.attacks.randomness import Draws
from advbench.defenses.adversarial.fast_at import FastAT
from advbench.defenses.adversarial.n_fgsm import NFGSM
from advbench.defenses.adversarial.one_step import one_step
from advbench.defenses.fit import Batch, Fit

from ..fitting import SMALL_LENET, first_batch, same_weights, trained, under_way

BATCH = first_batch()


class Counted(nn.Module):
    """A linear network that remembers what it was shown and counts its backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.shown: list[Tensor] = []
        self.modes: list[bool] = []
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        self.modes.append(self.training)
        logits: Tensor = self.linear(x.flatten(1))
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient: Tensor) -> None:
        self.backwards += 1


def uniform(fit: Fit) -> Tensor:
    zero = torch.zeros_like(BATCH.ids)
    draws = Draws(zero + fit.epoch_seed, BATCH.ids, zero, zero)
    return draws.uniform(BATCH.x.shape[1:]) * 2 - 1


def sign(model: Counted, x: Tensor) -> Tensor:
    with torch.no_grad():
        p = model.linear(x.flatten(1)).softmax(1)
        p = p - nn.functional.one_hot(BATCH.y, 10)
        return (p @ model.linear.weight).sign().view_as(x)


@pytest.mark.parametrize("epoch", [0.0, 3.5])
def test_fast_at_is_the_papers_algorithm_at_the_papers_cost(epoch: float) -> None:
    model = Counted().train()
    fit = under_way(model, epoch=epoch)
    found = FastAT(eps=0.1).batch(BATCH, fit)
    assert (len(model.shown), model.backwards, model.modes) == (1, 1, [False])
    assert model.training
    start = (BATCH.x + 0.1 * uniform(fit)).clamp(0, 1)
    torch.testing.assert_close(model.shown[0], start, rtol=0, atol=1e-6)
    step = (start - BATCH.x + 0.125 * sign(model, start)).clamp(-0.1, 0.1)
    torch.testing.assert_close(found.x, (BATCH.x + step).clamp(0, 1), rtol=0, atol=1e-6)
    assert not found.x.requires_grad
    assert found == BATCH._replace(x=found.x)


def test_n_fgsm_steps_from_strong_noise_and_is_not_brought_back() -> None:
    model = Counted()
    fit = under_way(model, epoch=2.0)
    found = NFGSM(eps=0.1, magnitude=2.0, step_size=0.5).batch(BATCH, fit).x
    assert (len(model.shown), model.backwards) == (1, 1)
    start = (BATCH.x + 0.2 * uniform(fit)).clamp(0, 1)
    torch.testing.assert_close(model.shown[0], start, rtol=0, atol=1e-6)
    expected = (start + 0.05 * sign(model, start)).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert 0.2 < (found - BATCH.x).abs().max() <= 0.25 + 1e-6


def test_noise_is_of_the_sample_and_the_epoch() -> None:
    defense, model = FastAT(eps=0.1), Counted()
    one = defense.batch(BATCH, under_way(model)).x
    back = BATCH._replace(x=BATCH.x.flip(0), y=BATCH.y.flip(0), ids=BATCH.ids.flip(0))
    torch.testing.assert_close(defense.batch(back, under_way(model)).x.flip(0), one)
    assert not torch.equal(defense.batch(BATCH, under_way(model, epoch=1.0)).x, one)


def test_eps_grows_in_the_warmup() -> None:
    defense, model = FastAT(eps=0.1, warmup=4.0), Counted()
    for epoch, eps in ((0.0, 0.0), (1.0, 0.025), (4.0, 0.1), (5.0, 0.1)):
        x = defense.batch(BATCH, under_way(model, epoch=epoch)).x
        assert (x - BATCH.x).abs().max().item() == pytest.approx(eps, abs=1e-6)


@pytest.mark.parametrize("perturbation", [Linf(), L2()], ids=repr)
def test_a_step_raises_the_loss_and_stays_in_the_set(perturbation: Perturbation) -> None:
    model = SMALL_LENET.build((1, 8, 8), 10)
    fit = under_way(model)
    found = FastAT(perturbation=perturbation, eps=0.2).batch(BATCH, fit).x
    start = one_step("x", perturbation, BATCH, fit, start=0.2, length=0.0, bound=0.2)
    for x in (found, start):
        assert x.min() >= 0
        assert x.max() <= 1
        size = perturbation.size(BATCH.x, x - BATCH.x)
        assert (size <= perturbation.limit(torch.full((20,), 0.2))).all()
    with torch.no_grad():
        losses = [fit.loss(model(x), BATCH.y) for x in (BATCH.x, start, found)]
    assert losses[2] > losses[1]
    assert losses[2] > losses[0]


@pytest.mark.parametrize("defense", [FastAT(eps=0.0), NFGSM(eps=0.0)], ids=repr)
def test_without_eps_it_is_plain_training(defense: FastAT | NFGSM) -> None:
    assert same_weights(trained(defense).model, trained().model)


@pytest.mark.parametrize("defense", [FastAT(eps=0.1), NFGSM(eps=0.1)], ids=repr)
def test_scenes_are_refused(defense: FastAT | NFGSM) -> None:
    scenes = Batch(torch.full((2, 17), -3.0), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(ValueError, match="must lie in"):
        defense.batch(scenes, under_way(nn.Sequential(nn.Linear(17, 10))))


def test_a_set_that_cannot_change_the_samples_is_refused() -> None:
    flat = BATCH._replace(x=BATCH.x.flatten(1))
    with pytest.raises(ValueError, match="fast_at: an affine change needs images"):
        FastAT(perturbation=Affine(), eps=0.1).batch(flat, under_way(Counted()))


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (FastAT, {"eps": -0.1}),
        (FastAT, {"warmup": -1.0}),
        (FastAT, {"step_size": 0.0}),
        (NFGSM, {"eps": -0.1}),
        (NFGSM, {"magnitude": -1.0}),
        (NFGSM, {"step_size": 0.0}),
    ],
)
def test_values_out_of_range_are_refused(
    make: type[FastAT | NFGSM], wrong: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=r"must (not be negative|be above 0)"):
        make(**{"eps": 0.1, **wrong})
