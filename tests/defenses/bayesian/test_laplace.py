import math

import pytest
import torch
from torch import Tensor, nn

from advbench import data
from advbench.attacks.victim import SceneModel
from advbench.defenses.bayesian.laplace import (
    Laplace,
    Tempered,
    gauss_newton,
    likeliest_prior,
    with_one,
)
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import train
from tests.defenses.fitting import fit_of, scrambled

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(150, 2, generator=GENERATOR)
Y = torch.randint(3, (150,), generator=GENERATOR)


def linear() -> nn.Linear:
    model = nn.Linear(2, 3)
    scrambled(model, 1)
    return model


def hessian_of(model: nn.Linear) -> Tensor:
    """The Hessian (9, 9) of the summed cross-entropy, by automatic differentiation."""

    def total(flat: Tensor) -> Tensor:
        logits = with_one(X.double()) @ flat.view(3, 3).T
        return nn.functional.cross_entropy(logits, Y, reduction="sum")

    flat = torch.cat([model.weight, model.bias.unsqueeze(1)], 1).detach().double().reshape(-1)
    found: Tensor = torch.autograd.functional.hessian(total, flat)
    return found


def test_the_matrix_is_the_hessian_of_a_linear_layer() -> None:
    model = linear()
    with torch.no_grad():
        found = gauss_newton(with_one(X).double(), model(X).double())
    torch.testing.assert_close(found, hessian_of(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scenes", [False, True])
def test_logits_are_divided_by_the_probit_factor_of_their_variance(scenes: bool) -> None:
    model = linear()
    fit = fit_of(model, X - 1 if scenes else X, Y)
    if scenes:
        fit.seen = SceneModel(lambda x: x + 1, model)  # type: ignore[arg-type]
    tempered = Laplace(prior=2.0).deploy(model, fit)
    covariance = (hessian_of(model) + 2 * torch.eye(9)).inverse()
    with torch.no_grad():
        features = with_one(X).double()
        logits, found = model(X), tempered(X)
    for row in range(0, len(X), 50):
        of_logits = torch.kron(torch.eye(3), features[row : row + 1])  # (3, 9): weights to logits
        less_mean = (torch.eye(3) - 1 / 3).double()
        variance = less_mean @ of_logits @ covariance @ of_logits.T @ less_mean
        centre = less_mean @ logits[row].double()
        expected = centre / (1 + math.pi / 8 * variance.diagonal()).sqrt()
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_prior_is_the_likeliest() -> None:
    model = linear()
    hessian = hessian_of(model)
    with torch.no_grad():
        fitted = -nn.functional.cross_entropy(model(X), Y, reduction="sum").item()
    squares = sum(weight.detach().square().sum().item() for weight in model.parameters())

    def evidence(prior: float) -> float:
        volume = torch.logdet(hessian + prior * torch.eye(9)).item()
        return fitted - prior * squares / 2 + 9 / 2 * math.log(prior) - volume / 2

    found = likeliest_prior(fitted, squares, torch.linalg.eigvalsh(hessian))
    assert evidence(found) > max(evidence(0.8 * found), evidence(1.25 * found))
    chosen = Laplace().deploy(model, fit_of(model, X, Y)).state_dict()["covariance"]
    given = Laplace(prior=found).deploy(model, fit_of(model, X, Y)).state_dict()["covariance"]
    torch.testing.assert_close(chosen, given)


def test_a_certain_prior_and_a_blank_wrapper_leave_logits_as_they_are() -> None:
    model = linear()
    certain = Laplace(prior=1e12).deploy(model, fit_of(model, X, Y))
    for one in (certain, Laplace().wrap(model)):
        torch.testing.assert_close(one(X).softmax(1), model(X).softmax(1))


def test_what_all_logits_have_in_common_is_not_uncertain() -> None:
    # The samples say nothing of it, so under a vague prior its variance would drown all others.
    model = linear()
    vague = [Laplace(prior=p).deploy(model, fit_of(model, X, Y)) for p in (1e-2, 1e-4)]
    one, other = (tempered(X).softmax(1) for tempered in vague)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0)


def test_a_layer_without_biases_has_none_in_its_covariance() -> None:
    model = nn.Linear(2, 3, bias=False)
    tempered = Laplace().deploy(model, fit_of(model, X, Y))
    assert tempered.state_dict()["covariance"].shape == (3, 2, 2)
    found, plain = tempered(X).softmax(1), model(X).softmax(1)
    assert found.amax(1).mean() < plain.amax(1).mean()


def test_confidence_does_not_grow_without_bound_away_from_the_samples() -> None:
    model = linear()
    tempered = Laplace().deploy(model, fit_of(model, X, Y))
    with torch.no_grad():
        far, farther = tempered(1e4 * X), tempered(1e5 * X)
        assert (model(1e5 * X) / model(1e4 * X)).median() > 9
    torch.testing.assert_close(far, farther, rtol=1e-2, atol=1e-2)


def test_confidence_falls_and_classes_stay() -> None:
    samples, test = data.load("digits", "train", 200), data.load("digits", "test", 300)
    recipe = Recipe(
        train=Train(epochs=15, batch_size=20),
        data=Data(name="digits"),
        model=FFN(hidden=(16,)),
        optimizer=Optimizer(lr=0.01),
        defenses=(Laplace(),),
    )
    model = train(recipe, data=samples, validation=samples).model
    assert isinstance(model, Tempered)
    assert not model.training
    with torch.no_grad():
        plain, tempered = model.model(test.x), model(test.x)
    assert (plain.argmax(1) == tempered.argmax(1)).double().mean() > 0.97
    confidence = [z.softmax(1).amax(1).mean().item() for z in (plain, tempered)]
    assert confidence[1] < confidence[0] - 0.01
    blank = Laplace().wrap(recipe.model.build((1, 8, 8), 10)).eval()
    blank.load_state_dict(model.state_dict())
    assert torch.equal(blank(test.x), model(test.x))


def test_networks_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ValueError, match="4010 weights and biases"):
        Laplace().wrap(nn.Linear(400, 10))
    with pytest.raises(ValueError, match=r"has no nn\.Linear"):
        Laplace().wrap(nn.ReLU())
    with pytest.raises(ValueError, match="must be the logits"):
        Laplace().start(fit_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), X, Y))
    with pytest.raises(ValueError, match="prior must be positive"):
        Laplace(prior=0)
