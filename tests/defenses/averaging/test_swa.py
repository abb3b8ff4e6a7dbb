import pytest
import torch
from torch import nn

from advbench import data
from advbench.attacks.victim import SceneModel
from advbench.defenses.averaging.swa import SWA
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import train
from tests.defenses.fitting import fit_of, scrambled

X, Y = torch.rand(600, 3, generator=torch.Generator().manual_seed(0)), torch.arange(600) % 2


def test_the_result_is_the_mean_of_the_weights_at_the_ends_of_the_last_epochs() -> None:
    fit = fit_of(nn.Linear(3, 2), X, Y, epochs=4)
    defense = SWA(after=0.25)
    seen = []
    for number in range(4):
        fit.epoch = number + 1
        seen.append(scrambled(fit.model, number))
        defense.after_epoch(fit)
    defense.finish(fit)
    for place, weight in enumerate(fit.model.parameters()):
        expected = torch.stack([weights[place] for weights in seen[1:]]).mean(0)
        torch.testing.assert_close(weight.detach(), expected)
    assert fit.kept_epoch is None


def test_the_rate_is_constant_in_the_phase() -> None:
    fit = fit_of(nn.Linear(3, 2), X, Y, epochs=4)
    defense = SWA(after=0.5, learning_rate=0.25)
    fit.epoch = 1.75
    assert defense.rate(0.9, fit) == 0.9
    fit.epoch = 2.0
    assert defense.rate(0.9, fit) == 0.25


def test_a_training_that_ends_before_the_phase_keeps_its_weights() -> None:
    fit = fit_of(nn.Linear(3, 2), X, Y)
    fit.epoch, fit.kept_epoch = 1, 0
    before = scrambled(fit.model, 0)
    defense = SWA(after=0.5)
    defense.after_epoch(fit)
    defense.finish(fit)
    assert fit.kept_epoch == 0
    for weight, old in zip(fit.model.parameters(), before, strict=True):
        assert torch.equal(weight, old)


@pytest.mark.parametrize("scenes", [False, True])
def test_batch_normalisation_gets_the_statistics_of_the_training_samples(scenes: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    fit = fit_of(model, X, Y)
    if scenes:
        fit.seen = SceneModel(nn.Hardtanh(0, 0.5), model)  # type: ignore[arg-type]
    fit.epoch = 4
    defense = SWA()
    defense.after_epoch(fit)
    defense.finish(fit)
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    images = X.clamp(max=0.5) if scenes else X
    torch.testing.assert_close(norm.running_mean, images.mean(0))
    variance = torch.stack([part.var(0) for part in images.split(300)]).mean(0)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == 0.1


def test_with_the_last_epoch_alone_and_the_recipe_s_rate_it_is_plain_training() -> None:
    samples = data.load("digits", "train", 60)

    def trained(*defenses: SWA) -> dict[str, torch.Tensor]:
        recipe = Recipe(
            train=Train(epochs=3, batch_size=20),
            data=Data(name="digits"),
            model=FFN(hidden=(8,)),
            optimizer=Optimizer(lr=0.01),
            defenses=defenses,
        )
        found = train(recipe, data=samples, validation=samples)
        assert (found.kept is None) == bool(defenses)
        return found.model.state_dict()

    plain, last, mean = trained(), trained(SWA(learning_rate=1)), trained(SWA(after=0))
    assert all(torch.equal(last[key], plain[key]) for key in plain)
    assert not all(torch.equal(mean[key], plain[key]) for key in plain)


@pytest.mark.parametrize("wrong", [{"after": 1.0}, {"after": -0.1}, {"learning_rate": 0.0}])
def test_senseless_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        SWA(**wrong)
