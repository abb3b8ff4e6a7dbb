import pytest
import torch
from torch import nn

from advbench.attacks import PGD, Divergence
from advbench.defenses.adversarial.trades import TRADES
from advbench.defenses.fit import Batch
from advbench.defenses.regularization.label_smoothing import LabelSmoothing

from ..fitting import SMALL_LENET, answers, first_batch, same_weights, trained, under_way

QUICK = PGD(steps=3, loss=Divergence())


def loss_of(defense: TRADES, batch: Batch, model: nn.Module) -> float:
    return defense.objective(lambda: torch.tensor(float("nan")), batch, under_way(model)).item()


def test_without_beta_it_is_training_on_the_clean_samples() -> None:
    defense = TRADES(attack=QUICK, eps=0.1, beta=0.0)
    for model in (None, SMALL_LENET):
        given = {} if model is None else {"model": model}
        assert same_weights(trained(defense, **given).model, trained(**given).model)
    assert not same_weights(trained(TRADES(attack=QUICK, eps=0.1)).model, trained().model)


def test_without_eps_the_divergence_is_none() -> None:
    ours, plain = trained(TRADES(attack=QUICK, eps=0.0)), trained()
    assert [e.loss for e in ours.log] == pytest.approx([e.loss for e in plain.log], abs=1e-6)


def test_on_two_classes_it_is_the_formula() -> None:
    # With logits (0, z) everything is a function of the logistic of z.
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [2.0, -1.0]]))  # type: ignore[index]
    clean, attacked = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.3, 0.4]])
    batch = Batch(attacked, torch.tensor([1]), torch.tensor([0]), clean=clean)
    p, q = torch.sigmoid(torch.tensor([0.8, 0.2], dtype=torch.float64))
    gap = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    expected = -p.log() + 2.5 * gap
    assert loss_of(TRADES(eps=0.1, beta=2.5), batch, model) == pytest.approx(float(expected))
    soft = torch.tensor([[0.25, 0.75]])
    smoothed = -0.75 * p.log() - 0.25 * (1 - p).log() + 2.5 * gap
    batch = batch._replace(soft=soft)
    assert loss_of(TRADES(eps=0.1, beta=2.5), batch, model) == pytest.approx(float(smoothed))


def test_the_examples_lead_the_prediction_away_and_stay_near() -> None:
    model = SMALL_LENET.build((1, 8, 8), 10).train()
    fit, batch = under_way(model), first_batch()
    found = TRADES(attack=PGD(steps=5, loss=Divergence()), eps=0.1).batch(batch, fit)
    assert found.clean is batch.x
    assert model.training
    assert (found.x - batch.x).abs().max() <= 0.1 + 1e-6
    near = batch.x + 0.1 * torch.randn_like(batch.x).sign()
    p = answers(model, batch.x).log_softmax(1)
    gaps = [
        (p.exp() * (p - answers(model, x).log_softmax(1))).sum(1).mean()
        for x in (found.x, near.clamp(0, 1))
    ]
    assert gaps[0] > 2 * gaps[1]


def test_the_gradient_reaches_both_predictions() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    batch = first_batch()
    batch = batch._replace(clean=batch.x, x=batch.x.flip(0))
    gradients = []
    for beta in (0.0, 1.0):
        loss = TRADES(eps=0.1, beta=beta).objective(
            lambda: torch.zeros(()), batch, under_way(model)
        )
        gradients.append(torch.autograd.grad(loss, model.parameters())[0])
    p, q = (model(x).log_softmax(1) for x in (batch.clean, batch.x))
    kl = (p.exp() * (p - q)).sum(1).mean()
    torch.testing.assert_close(
        gradients[1] - gradients[0], torch.autograd.grad(kl, model.parameters())[0]
    )


def test_it_goes_with_what_asks_for_other_labels() -> None:
    ours = trained(LabelSmoothing(), TRADES(attack=QUICK, eps=0.1, beta=0.0))
    assert same_weights(ours.model, trained(LabelSmoothing()).model)


@pytest.mark.parametrize("wrong", [{"eps": -1.0}, {"beta": -1.0}, {"warmup": -1.0}])
def test_negative_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        TRADES(**{"eps": 0.1, **wrong})
