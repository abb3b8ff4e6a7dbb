import math

import pytest
import torch
from torch import nn

from advbench.attacks import PGD
from advbench.defenses.adversarial.mart import MART
from advbench.defenses.fit import Batch

from ..fitting import trained, under_way


def loss_of(beta: float, batch: Batch) -> float:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [2.0, -1.0]]))  # type: ignore[index]
    inner = torch.tensor(float("nan"))
    return MART(eps=0.1, beta=beta).objective(lambda: inner, batch, under_way(model)).item()


@pytest.mark.parametrize("y", [0, 1])
def test_on_two_classes_it_is_the_formula(y: int) -> None:
    # With logits (0, z) everything is a function of the logistic of z; on two classes the boosted
    # cross-entropy is twice the cross-entropy, up to the authors' constants.
    clean, attacked = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.3, 0.4]])
    batch = Batch(attacked, torch.tensor([y]), torch.tensor([0]), clean=clean)
    one, two = (1 / (1 + math.exp(-z)) for z in (0.8, 0.2))
    gap = one * math.log(one / two) + (1 - one) * math.log((1 - one) / (1 - two))
    p, q = (one, two) if y else (1 - one, 1 - two)
    for beta in (0.0, 5.0):
        expected = -2 * math.log(q) + beta * gap * (1 - p)
        assert loss_of(beta, batch) == pytest.approx(expected, abs=3e-4)
    exact = -math.log(q) - math.log(1.0001 - (1 - q) + 1e-12)
    assert loss_of(0.0, batch) == pytest.approx(exact, rel=1e-6)
    soft = torch.tensor([[0.25, 0.75]])
    smoothed = exact + math.log(q) - 0.25 * math.log(1 - two) - 0.75 * math.log(two)
    assert loss_of(0.0, batch._replace(soft=soft)) == pytest.approx(smoothed, rel=1e-6)


def test_samples_that_are_right_anyway_hardly_pay_for_the_divergence() -> None:
    clean = torch.tensor([[9.0, 0.0], [-9.0, 0.0]])  # right and wrong beyond doubt, for class 1
    batches = [
        Batch(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0]), clean=x.unsqueeze(0))
        for x in clean
    ]
    sure, doubtful = (loss_of(5.0, b) - loss_of(0.0, b) for b in batches)
    assert sure < 1e-5
    assert doubtful == pytest.approx(5 * math.log(2), rel=1e-3)


def test_a_saturated_prediction_leaves_the_loss_and_its_gradient_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    x = torch.tensor([[1e4, -1e4]])
    batch = Batch(x, model(x).argmin(1), torch.tensor([0]), clean=x)
    loss = MART(eps=0.1).objective(lambda: torch.zeros(()), batch, under_way(model))
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())  # type: ignore[union-attr]


def test_it_trains() -> None:
    log = trained(MART(attack=PGD(steps=2), eps=0.05), epochs=6).log
    assert log[-1].loss < 0.95 * log[0].loss


@pytest.mark.parametrize("wrong", [{"eps": -1.0}, {"beta": -1.0}, {"warmup": -1.0}])
def test_negative_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        MART(**{"eps": 0.1, **wrong})
