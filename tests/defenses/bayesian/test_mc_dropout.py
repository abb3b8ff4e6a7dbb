import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from advbench.defenses.bayesian.mc_dropout import MCDropout
from advbench.defenses.bayesian.predictive import Predictive
from advbench.defenses.defense import built, wrapped
from advbench.defenses.regularization.dropout import Drop, Dropout
from tests.defenses.fitting import SAMPLES, SMALL_LENET, answers, same_weights, trained


class Draw(nn.Module):
    """Logits that are drawn for every row by itself, around the row."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_the_answer_is_the_log_of_the_mean_probability() -> None:
    x = torch.rand(7, 3)
    torch.manual_seed(0)
    found = Predictive(Draw(), 400)(x)  # more rows than go at once
    torch.manual_seed(0)
    drawn = torch.cat([part + torch.randn_like(part) for part in x.repeat(400, 1).split(1024)])
    expected = drawn.view(400, 7, 3).softmax(2).mean(0).log()
    torch.testing.assert_close(found, expected)
    assert found.exp().sum(1).tolist() == pytest.approx([1] * 7, abs=1e-5)


def test_a_certain_answer_stays_finite_and_keeps_its_gradient() -> None:
    x = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    answer = Predictive(nn.Identity(), 30)(x)
    torch.testing.assert_close(answer, torch.tensor([[0.0, -300.0, -600.0]]))
    (gradient,) = torch.autograd.grad(answer[0, 2], x)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.0, 1.0]]), atol=1e-4, rtol=0)


def test_the_mean_is_over_every_way_to_drop() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4))
    first, last = model[0], model[2]
    x = torch.rand(1, 2)
    defense = MCDropout(share=0.4, samples=20_000)
    deployed = defense.wrap(defense.build(lambda shape, classes: model, (2,), 4)).eval()
    hidden, expected = first(x).tanh(), torch.zeros(1, 4)
    for kept in itertools.product((0, 1), repeat=3):
        chance = math.prod(0.6 if unit else 0.4 for unit in kept)
        expected += chance * last(hidden * torch.tensor(kept) / 0.6).softmax(1)
    torch.testing.assert_close(deployed(x).exp(), expected, atol=2e-3, rtol=0)


def test_training_is_that_of_dropout_and_the_answer_is_random() -> None:
    plain, model = trained(Dropout()).model, trained(MCDropout(samples=4)).model
    assert same_weights(plain, model)
    assert not model.training
    first, again, other = (answers(model, SAMPLES.x, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, answers(plain, SAMPLES.x).log_softmax(1))
    without = trained(MCDropout(share=0, conv_share=0, samples=4)).model
    expected = answers(trained().model, SAMPLES.x).log_softmax(1)
    torch.testing.assert_close(answers(without, SAMPLES.x), expected)


def test_rows_of_a_batch_are_thinned_apart() -> None:
    model = trained(MCDropout(samples=1), model=SMALL_LENET, epochs=1).model
    found = answers(model, SAMPLES.x[:1].expand(8, -1, -1, -1))
    assert len(found.unique(dim=0)) == 8


def test_weights_fill_a_network_that_was_built_for_them() -> None:
    defenses = (MCDropout(samples=3),)
    model = trained(*defenses, model=SMALL_LENET, epochs=1).model
    other = wrapped(defenses, built(defenses, SMALL_LENET.build, (1, 8, 8), 10)).eval()
    other.load_state_dict(model.state_dict())
    assert sum(isinstance(module, Drop) and module.always for module in other.modules()) == 3
    assert torch.equal(answers(model, SAMPLES.x), answers(other, SAMPLES.x))


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="mc_dropout: samples must be at least 1; got 0"):
        MCDropout(samples=0)
    with pytest.raises(ValueError, match="mc_dropout: share and conv_share"):
        MCDropout(share=1)
