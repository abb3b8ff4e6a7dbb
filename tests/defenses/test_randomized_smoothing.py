"""Answers as a mean over noisy copies."""

import math

import pytest
import torch
from torch import Tensor, nn

from advbench import data
from advbench.defenses.fit import Batch, Fit, Split
from advbench.defenses.randomized_smoothing import RandomizedSmoothing
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Recipe, Train
from advbench.training.trainer import train

SAMPLES = data.load("digits", "train", 60)


def linear() -> nn.Module:
    """Two classes in four pixels, undecided at 0.5 throughout."""
    layer = nn.Linear(4, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * 4, [3.0, -2.0, 1.0, 4.0]]))
        layer.bias.copy_(torch.tensor([0.0, -3.0]))
    return nn.Sequential(nn.Flatten(), layer)


def expected(logit: float, spread: float) -> float:
    """The mean of the sigmoid of a normal variable."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = (-z.square() / 2).exp()
    return float((density * torch.sigmoid(logit + spread * z)).sum() / density.sum())


def fit(x: Tensor) -> Fit:
    model = linear()
    split = Split(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = nn.functional.cross_entropy
    return Fit(model, model, model, optimizer, loss, split, split, classes=2, epochs=1, seed=0)


def test_a_linear_model_has_the_mean_that_it_must() -> None:
    sigma, weight = 0.3, torch.tensor([3.0, -2.0, 1.0, 4.0])
    model = RandomizedSmoothing(sigma=sigma, samples=4000).wrap(linear())
    shift = torch.tensor([0.0, 0.25, -0.25]).view(3, 1, 1, 1)
    x = (0.5 + shift * torch.ones(3, 1, 2, 2)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        answer = model(x)
    torch.testing.assert_close(answer.exp().sum(1), torch.ones(3, dtype=torch.float64))
    found = answer.exp()[:, 1].tolist()
    spread = sigma * float(weight.norm())
    for place, logit in enumerate((0.0, 1.5, -1.5)):
        assert found[place] == pytest.approx(expected(logit, spread), abs=0.02)
    assert found[0] == pytest.approx(0.5, abs=0.02)
    assert found[1] + found[2] == pytest.approx(1, abs=0.03)
    assert found[1] < torch.sigmoid(torch.tensor(1.5)) - 0.05  # noise makes it less sure


def test_without_noise_it_is_the_log_probability() -> None:
    x = torch.rand(5, 1, 2, 2, dtype=torch.float64)
    plain = linear()
    model = RandomizedSmoothing(sigma=0.0, samples=3).wrap(plain)
    torch.testing.assert_close(model(x), plain(x).log_softmax(1))


def test_an_answer_is_drawn_and_does_not_depend_on_its_neighbours() -> None:
    model = RandomizedSmoothing(samples=4).wrap(linear())
    x = torch.rand(5, 1, 2, 2, dtype=torch.float64)
    other = x.clone()
    other[1:] = 1 - other[1:]

    def answer(images: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(images).detach()

    assert torch.equal(answer(x, 3), answer(x, 3))
    assert not torch.equal(answer(x, 3), answer(x, 4))
    assert torch.equal(answer(x, 3)[0], answer(other, 3)[0])
    same = answer(x[:1].expand(5, -1, -1, -1), 3)
    assert len(same.unique(dim=0)) == 5  # each row has noise of its own


def test_training_sees_noise_of_the_size_that_is_not_clipped() -> None:
    x = torch.rand(200, 1, 8, 8)
    batch = Batch(x, torch.zeros(200, dtype=torch.int64), torch.arange(200), clean=x + 1)
    torch.manual_seed(0)
    found = RandomizedSmoothing(sigma=0.5).batch(batch, fit(x))
    delta = found.x - x
    assert float(delta.std()) == pytest.approx(0.5, rel=0.03)
    assert float(delta.mean()) == pytest.approx(0, abs=3 * 0.5 / math.sqrt(delta.numel()))
    assert found.x.min() < 0
    assert found.clean is not None
    torch.testing.assert_close(found.clean, x + 1 + delta)
    scenes = batch._replace(x=torch.rand(200, 17))
    with pytest.raises(ValueError, match=r"noise goes on images.*got samples \(200, 17\)"):
        RandomizedSmoothing().batch(scenes, fit(x))


def test_without_noise_training_is_the_plain_one() -> None:
    def weights(*defenses: RandomizedSmoothing) -> list[Tensor]:
        recipe = Recipe(
            train=Train(epochs=2, batch_size=16),
            data=Data(name="digits"),
            model=FFN(hidden=(8,)),
            defenses=defenses,
        )
        return list(train(recipe, data=SAMPLES, validation=SAMPLES).model.parameters())

    plain, silent = weights(), weights(RandomizedSmoothing(sigma=0.0, samples=1))
    assert all(torch.equal(a, b) for a, b in zip(plain, silent, strict=True))
    noisy = weights(RandomizedSmoothing(sigma=0.2, samples=1))
    assert not torch.equal(plain[0], noisy[0])


@pytest.mark.parametrize("wrong", [{"sigma": -0.1}, {"samples": 0}])
def test_values_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        RandomizedSmoothing(**wrong)  # type: ignore[arg-type]
