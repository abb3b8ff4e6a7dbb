import math

import pytest
import torch
from torch import Tensor, nn

from advbench import data
from advbench.defenses.bayesian.swag import SWAG, WeightDraws
from advbench.defenses.fit import Fit
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import train
from tests.defenses.fitting import fit_of, scrambled

X, Y = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


def after_snapshots(defense: SWAG, count: int) -> tuple[Fit, Tensor]:
    """A training after its last epoch, and the weights (count, P) at the end of each."""
    fit = fit_of(nn.Linear(2, 2, bias=False), X, Y, epochs=count)
    seen = []
    for number in range(count):
        fit.epoch = number + 1
        seen.append(torch.cat([w.reshape(-1) for w in scrambled(fit.model, number)]))
        defense.after_epoch(fit)
    defense.finish(fit)
    return fit, torch.stack(seen).double()


def deployed(defense: SWAG, fit: Fit) -> WeightDraws:
    model = defense.deploy(fit.model, fit).eval()
    assert isinstance(model, WeightDraws)
    return model


def covariance_of(weights: Tensor, rank: int, scale: float) -> Tensor:
    """The paper's covariance, from its definition."""
    variance = weights.square().mean(0) - weights.mean(0).square()
    columns = [weights[i] - weights[: i + 1].mean(0) for i in range(len(weights))][-rank:]
    low = torch.stack(columns, 1)
    return scale * (variance.diag() + low @ low.T / (low.shape[1] - 1))


@pytest.mark.parametrize(("rank", "count", "scale"), [(3, 5, 0.5), (20, 4, 0.5), (3, 5, 2.0)])
def test_draws_have_the_moments_of_the_paper(rank: int, count: int, scale: float) -> None:
    defense = SWAG(after=0, rank=rank, scale=scale)
    fit, weights = after_snapshots(defense, count)
    model = deployed(defense, fit)
    expected = covariance_of(weights, rank, scale)
    exact = model.spread.square().diag() + model.deviations.T @ model.deviations
    torch.testing.assert_close(exact.double(), expected, rtol=1e-5, atol=1e-6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([model.draw() for _ in range(4_000)]).double()
    largest = expected.diag().max().item()
    torch.testing.assert_close(draws.mean(0), weights.mean(0), rtol=0, atol=0.1 * largest**0.5)
    torch.testing.assert_close(draws.T.cov(), expected, rtol=0, atol=0.1 * largest)


def test_the_network_gets_the_mean_weights() -> None:
    fit, weights = after_snapshots(SWAG(after=0), 4)
    found = next(iter(fit.model.parameters())).detach().reshape(-1)
    torch.testing.assert_close(found.double(), weights.mean(0), rtol=1e-6, atol=1e-7)
    assert fit.kept_epoch is None


def test_without_spread_it_answers_as_the_network_does() -> None:
    fit, _ = after_snapshots(SWAG(after=0), 4)
    blank = SWAG(samples=3).wrap(fit.model).eval()
    none = SWAG(after=0, scale=0, samples=3)
    for model in (blank, deployed(none, fit)):
        torch.testing.assert_close(model(X), fit.model(X).log_softmax(1))


def test_it_answers_with_the_log_of_the_mean_probability() -> None:
    defense = SWAG(after=0, samples=4)
    fit, _ = after_snapshots(defense, 4)
    model = deployed(defense, fit)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        answers = model(X)
        torch.manual_seed(1)
        weights = [model.draw().view(2, 2) for _ in range(4)]
    expected = torch.stack([(X @ weight.T).softmax(1) for weight in weights]).mean(0)
    torch.testing.assert_close(answers.exp(), expected)
    assert not torch.equal(model(X), model(X))


@pytest.mark.parametrize("shared", ["layer", "weight"])
def test_shared_weights_are_drawn_once(shared: str) -> None:
    first = nn.Linear(2, 2, bias=False)
    scrambled(first, 1)
    last = first if shared == "layer" else nn.Linear(2, 2, bias=False)
    last.weight = first.weight
    before = first.weight.detach().clone()
    draws = WeightDraws(nn.Sequential(first, nn.Sigmoid(), last), rank=2, samples=1)
    assert draws.spread.shape == (4,)
    draws.spread.fill_(1.0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        answer = draws(X)
        torch.manual_seed(1)
        weight = draws.draw().view(2, 2)
    expected = ((X @ weight.T).sigmoid() @ weight.T).log_softmax(1)
    torch.testing.assert_close(answer, expected)
    assert first.weight is last.weight
    assert torch.equal(first.weight, before)


def test_a_trained_one_has_spread_and_its_file_fills_a_blank_one() -> None:
    samples = data.load("digits", "train", 60)
    recipe = Recipe(
        train=Train(epochs=3, batch_size=20),
        data=Data(name="digits"),
        model=FFN(hidden=(8,)),
        optimizer=Optimizer(lr=0.01),
        defenses=(SWAG(after=0, rank=4, samples=3),),
    )
    model = train(recipe, data=samples, validation=samples).model
    assert isinstance(model, WeightDraws)
    assert model.spread.count_nonzero() > 0.6 * len(model.spread)
    assert model.deviations.abs().amax(1).tolist()[1] > 0
    blank = recipe.defenses[0].wrap(recipe.model.build((1, 8, 8), 10)).eval()
    blank.load_state_dict(model.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = model(samples.x)
        torch.manual_seed(0)
        assert torch.equal(blank(samples.x), first)


def test_batch_normalisation_and_single_snapshots_are_refused() -> None:
    normalised = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="batch normalisation"):
        SWAG(after=0).start(fit_of(normalised, X, Y))
    with pytest.raises(ValueError, match="batch normalisation"):
        SWAG().wrap(normalised)
    with pytest.raises(ValueError, match=r"at least 2 epochs that end after 0\.75"):
        SWAG().start(fit_of(nn.Linear(2, 2), X, Y, epochs=4))
    SWAG().start(fit_of(nn.Linear(2, 2), X, Y, epochs=8))


def test_a_training_that_ends_early_is_left_without_spread() -> None:
    fit = fit_of(nn.Linear(2, 2, bias=False), X, Y, epochs=8)
    defense = SWAG()
    fit.epoch = 1
    (before,) = scrambled(fit.model, 0)
    defense.after_epoch(fit)
    defense.finish(fit)
    model = deployed(defense, fit)
    assert torch.equal(next(iter(fit.model.parameters())), before)
    assert not model.spread.any()
    assert not model.deviations.any()


@pytest.mark.parametrize(
    "wrong",
    [{"after": 1.0}, {"learning_rate": 0.0}, {"scale": -1.0}, {"rank": 1}, {"samples": 0}],
)
def test_senseless_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SWAG(**wrong)  # type: ignore[arg-type]


def test_the_variance_survives_rounding() -> None:
    # Weights of 100 that differ by 0.001: in 32 bits the difference of squares is lost.
    fit = fit_of(nn.Linear(2, 2, bias=False), X, Y, epochs=4)
    defense = SWAG(after=0, scale=1.0)
    for number in range(4):
        fit.epoch = number + 1
        with torch.no_grad():
            fit.model.weight.fill_(100 + 0.001 * (-1) ** number)  # type: ignore[operator, union-attr]
        defense.after_epoch(fit)
    defense.finish(fit)
    spread = deployed(defense, fit).spread
    assert all(math.isclose(value, 0.001, rel_tol=0.01) for value in spread.tolist())
