"""What is SAM's own; what it shares with AWP is tested there."""

import pytest
import torch
from torch import nn

from advbench.defenses.regularization.sam import SAM

from ..fitting import first_batch, under_way


def test_all_weights_move_together_by_rho_along_the_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    fit, batch = under_way(model), first_batch()
    weights = list(model.parameters())
    before = [weight.detach().clone() for weight in weights]
    gradients = torch.autograd.grad(fit.loss(fit.seen(batch.x), batch.y), weights)
    length = torch.cat([g.flatten() for g in gradients]).norm()
    with SAM(rho=0.5).moved(lambda: fit.loss(fit.seen(batch.x), batch.y), fit):
        changes = [w.detach() - b for w, b in zip(weights, before, strict=True)]
    for change, g in zip(changes, gradients, strict=True):
        torch.testing.assert_close(change, 0.5 * g / length, rtol=1e-4, atol=1e-6)
    total = torch.cat([change.flatten() for change in changes]).norm()
    assert total.item() == pytest.approx(0.5, rel=1e-4)


def test_on_a_parabola_the_gradient_is_that_further_up() -> None:
    # Of |w|^2 / 2 the gradient is w, and at w + rho w / |w| it is (1 + rho / |w|) w.
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -4.0]]))
    fit = under_way(model)
    with SAM(rho=0.5).moved(lambda: model.weight.square().sum() / 2, fit):
        (gradient,) = torch.autograd.grad(model.weight.square().sum() / 2, model.weight)
    torch.testing.assert_close(gradient, 1.1 * torch.tensor([[3.0, -4.0]]))
    assert torch.equal(model.weight, torch.tensor([[3.0, -4.0]]))
