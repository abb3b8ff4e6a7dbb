import pytest
import torch
from torch import nn

from advbench import data
from advbench.defenses.averaging.ema import EMA
from advbench.defenses.fit import Batch
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Recipe, Train
from advbench.training.trainer import train
from tests.defenses.fitting import fit_of, scrambled

X, Y = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
BATCH = Batch(X, Y, torch.arange(40))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.995])
def test_the_result_is_the_moving_average_of_the_steps(decay: float) -> None:
    fit = fit_of(nn.Linear(3, 2), X, Y)
    defense = EMA(decay=decay)
    expected: list[torch.Tensor] = []
    for step in range(6):
        current = scrambled(fit.model, step)
        defense.after_step(BATCH, fit)
        stay = min(decay, (1 + step) / (10 + step)) if step else 0.0
        old = expected or current
        expected = [stay * a + (1 - stay) * b for a, b in zip(old, current, strict=True)]
    defense.finish(fit)
    assert fit.kept_epoch is None
    for weight, average in zip(fit.model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.detach(), average)


def test_statistics_are_averaged_and_counts_copied() -> None:
    model = nn.BatchNorm1d(3)
    fit = fit_of(nn.Sequential(model, nn.Linear(3, 2)), X, Y)
    defense = EMA(decay=0.1)
    assert model.running_mean is not None
    assert model.num_batches_tracked is not None
    for value in (1.0, 2.0):
        model.running_mean.fill_(value)
        model.num_batches_tracked.fill_(int(value))
        defense.after_step(BATCH, fit)
    defense.finish(fit)
    torch.testing.assert_close(model.running_mean, torch.full((3,), 1.9))
    assert model.num_batches_tracked == 2


def test_decay_0_is_plain_training_and_more_is_not() -> None:
    samples = data.load("digits", "train", 60)

    def trained(*defenses: EMA) -> dict[str, torch.Tensor]:
        recipe = Recipe(
            train=Train(epochs=2, batch_size=20),
            data=Data(name="digits"),
            model=FFN(hidden=(8,)),
            defenses=defenses,
        )
        return train(recipe, data=samples, validation=samples).model.state_dict()

    plain, none, some = trained(), trained(EMA(decay=0)), trained(EMA())
    assert all(torch.equal(none[key], plain[key]) for key in plain)
    assert not any(torch.equal(some[key], plain[key]) for key in plain)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_senseless_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must lie in"):
        EMA(decay=decay)
