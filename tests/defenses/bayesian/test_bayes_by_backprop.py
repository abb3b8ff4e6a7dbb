import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from advbench.defenses.bayesian.bayes_by_backprop import BayesByBackprop, Gaussian
from advbench.defenses.defense import built, wrapped
from advbench.defenses.locally_connected import LocallyConnected2d
from advbench.models.lenet import LeNet
from tests.defenses.fitting import SAMPLES, SMALL_LENET, answers, first_batch, trained, under_way


def spread_out(layer: nn.Linear | nn.Conv2d | LocallyConnected2d) -> Gaussian:
    """A layer whose weights have different standard deviations."""
    gaussian = Gaussian(layer, -1.0)
    with torch.no_grad():
        for rho in (gaussian.weight_rho, gaussian.bias_rho):
            if rho is not None:
                rho += torch.randn_like(rho)
    return gaussian


def test_the_divergence_is_that_between_gaussians() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(5, 3), nn.Conv2d(2, 3, 2, bias=False)):
        gaussian = spread_out(layer)
        expected = torch.zeros(())
        for mean, rho in (
            (gaussian.weight, gaussian.weight_rho),
            (gaussian.bias, gaussian.bias_rho),
        ):
            if mean is not None and rho is not None:
                fitted = Normal(mean, functional.softplus(rho))
                expected = expected + kl_divergence(fitted, Normal(0.0, 0.3)).sum()
        torch.testing.assert_close(gaussian.divergence(0.3), expected)


def test_there_is_no_divergence_from_the_prior_itself() -> None:
    gaussian = Gaussian(nn.Linear(4, 3), 0.7)
    with torch.no_grad():
        gaussian.weight.zero_()
        assert gaussian.bias is not None
        gaussian.bias.zero_()
    prior = functional.softplus(torch.tensor(0.7)).item()
    assert gaussian.divergence(prior).item() == pytest.approx(0, abs=1e-5)
    assert gaussian.divergence(2 * prior).item() > 0.1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (6,)),
        (nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 4, 5)),
        (LocallyConnected2d((4, 5), 2, 3, 3, padding=1), (2, 4, 5)),
    ],
    ids=["linear", "convolution", "locally connected"],
)
def test_outputs_have_the_moments_of_drawn_weights(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    assert isinstance(layer, nn.Linear | nn.Conv2d | LocallyConnected2d)
    gaussian, x, count = spread_out(layer).eval(), torch.rand(1, *shape), 4000
    with torch.no_grad():
        mine = gaussian(x.expand(count, *shape))
        assert gaussian.bias is not None
        assert gaussian.bias_rho is not None
        weight_spread = functional.softplus(gaussian.weight_rho)
        bias_spread = functional.softplus(gaussian.bias_rho)
        drawn = torch.cat(
            [
                gaussian.connect(
                    x,
                    gaussian.weight + weight_spread * torch.randn_like(weight_spread),
                    gaussian.bias + bias_spread * torch.randn_like(bias_spread),
                )
                for _ in range(count)
            ]
        )
    error = (drawn.var(0) / count).sqrt()
    assert ((mine.mean(0) - drawn.mean(0)).abs() < 6 * error).all()
    assert ((mine.std(0) / drawn.std(0) - 1).abs() < 0.1).all()


def test_it_is_the_layer_itself_where_nothing_is_uncertain() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.rand(4, 2, 5, 5)
    torch.testing.assert_close(Gaussian(layer, -40.0)(x), layer(x))


def test_the_gradient_is_finite_where_the_variance_is_nothing() -> None:
    gaussian = Gaussian(nn.Linear(3, 2, bias=False), -5.0)
    gaussian(torch.zeros(4, 3)).sum().backward()
    for weight in gaussian.parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()


@pytest.mark.parametrize(("epoch", "grown"), [(0.0, 0.0), (2.5, 0.25), (10.0, 1.0), (12.0, 1.0)])
def test_the_objective_adds_the_divergence_per_sample(epoch: float, grown: float) -> None:
    defense = BayesByBackprop(kl_weight=0.5, prior=0.2)
    model = built((defense,), SMALL_LENET.build, (1, 8, 8), 10)
    layers = [module for module in model.modules() if isinstance(module, Gaussian)]
    assert len(layers) == 4
    total = sum(layer.divergence(0.2).item() for layer in layers)
    found = defense.objective(
        lambda: torch.tensor(3.0), first_batch(), under_way(model, epoch=epoch)
    )
    assert found.item() == pytest.approx(3 + 0.5 * grown * total / 60, rel=1e-5)


def test_without_warmup_the_divergence_counts_at_once() -> None:
    defense = BayesByBackprop(warmup=0)
    model = built((defense,), SMALL_LENET.build, (1, 8, 8), 10)
    assert defense.objective(lambda: torch.zeros(()), first_batch(), under_way(model)).item() > 1


def test_means_start_as_the_weights_and_no_draw_is_spent() -> None:
    torch.manual_seed(0)
    plain = SMALL_LENET.build((1, 8, 8), 10).state_dict()
    after = torch.rand(1)
    torch.manual_seed(0)
    model = BayesByBackprop().build(SMALL_LENET.build, (1, 8, 8), 10).state_dict()
    assert torch.equal(torch.rand(1), after)
    assert {key for key in model if not key.endswith("_rho")} == set(plain)
    for key, value in plain.items():
        assert torch.equal(model[key], value)
        assert (model[f"{key}_rho"] == -5).all()


def test_what_is_deployed_is_the_mean_over_draws_and_can_be_filled_again() -> None:
    defenses = (BayesByBackprop(samples=2, warmup=1),)
    architecture = LeNet(channels=(4,), kernel=3, hidden=8, shared=False)
    model = trained(*defenses, model=architecture, epochs=2).model
    first, again, other = (answers(model, SAMPLES.x, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.exp().sum(1).tolist() == pytest.approx([1] * 60, abs=1e-5)
    filled = wrapped(defenses, built(defenses, architecture.build, (1, 8, 8), 10)).eval()
    filled.load_state_dict(model.state_dict())
    assert torch.equal(answers(filled, SAMPLES.x), first)
    assert all(weight.dim() < 5 for weight in model.state_dict().values())


def test_a_strong_prior_holds_the_weights() -> None:
    def size(prior: float) -> float:
        model = trained(BayesByBackprop(prior=prior, warmup=0, samples=2), epochs=30).model
        layers = [module for module in model.modules() if isinstance(module, Gaussian)]
        return sum(layer.weight.detach().norm().item() for layer in layers)

    assert size(0.02) < 0.5 * size(1.0)


def test_wrong_fields_and_networks_are_refused() -> None:
    for wrong, message in (
        ({"prior": 0.0}, "prior must be positive"),
        ({"kl_weight": -1.0}, "must not be negative"),
        ({"warmup": -1.0}, "must not be negative"),
        ({"samples": 0}, "samples must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            BayesByBackprop(**wrong)
    with pytest.raises(ValueError, match="Flatten has none"):
        BayesByBackprop().build(lambda shape, classes: nn.Flatten(), (1, 8, 8), 10)
    circular = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    with pytest.raises(ValueError, match="must pad with zeros; got 'circular'"):
        BayesByBackprop().build(lambda shape, classes: circular, (1, 8, 8), 10)
