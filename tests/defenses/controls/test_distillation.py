"""A student of a tempered teacher."""

import pytest
import torch
from torch import nn

from advbench import data
from advbench.attacks import unmasked
from advbench.defenses.controls.distillation import Distillation
from advbench.defenses.fit import Batch, Fit, Split, logits
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import train

SAMPLES = data.load("digits", "train", 60)


def fit() -> Fit:
    """A training about to begin, its samples in an order other than that of their numbers."""
    torch.manual_seed(0)
    model = FFN(hidden=(16,)).build((1, 8, 8), 10)
    order = torch.randperm(60)
    split = Split(SAMPLES.x[order], SAMPLES.y[order], SAMPLES.ids[order])
    return Fit(
        model=model,
        seen=model,
        seen_validation=model,
        optimizer=torch.optim.Adam(model.parameters(), 1e-2),
        loss=nn.functional.cross_entropy,
        train=split,
        validation=split,
        classes=10,
        epochs=3,
        seed=0,
    )


def test_the_teacher_is_kept_and_the_network_comes_back() -> None:
    under_way, defense = fit(), Distillation(temperature=5.0, epochs=120)
    before = [parameter.clone() for parameter in under_way.model.parameters()]
    defense.start(under_way)
    soft = under_way.kept(defense)["soft"]
    assert soft.shape == (60, 10)
    torch.testing.assert_close(soft.sum(1), torch.ones(60))
    assert (soft.argmax(1) == SAMPLES.y[SAMPLES.ids.argsort()]).float().mean() > 0.9
    assert 0.2 < soft.amax(1).mean() < 0.999
    for parameter, old in zip(under_way.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


def test_probabilities_are_those_of_the_samples() -> None:
    under_way, defense = fit(), Distillation()
    ids, classes = torch.arange(60) * 3, torch.arange(10)
    soft = (ids.view(-1, 1) + classes).double()
    under_way.kept(defense).update(ids=ids, soft=soft)
    rows = torch.tensor([7, 0, 59, 31])
    batch = Batch(SAMPLES.x[rows], SAMPLES.y[rows], ids[rows])
    found = defense.batch(batch, under_way)
    assert found.soft is not None
    assert torch.equal(found.soft[:, 0], ids[rows].double())
    assert found.x is batch.x
    with pytest.raises(ValueError, match="list distillation first"):
        defense.batch(found, under_way)


def test_the_objective_is_least_at_the_teacher() -> None:
    under_way, defense = fit(), Distillation(temperature=4.0)
    answers = logits(under_way.model, under_way.seen, SAMPLES.x) / 4
    batch = Batch(SAMPLES.x, SAMPLES.y, SAMPLES.ids, soft=answers.softmax(1).clone())
    found = defense.objective(lambda: torch.tensor(torch.nan), batch, under_way)
    entropy = -(answers.softmax(1) * answers.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found.detach(), entropy.clone())
    found.backward()
    gradient = torch.cat([p.grad.flatten() for p in under_way.model.parameters()])  # type: ignore[union-attr]
    assert gradient.abs().max() < 1e-6


def test_the_stand_in_divides_the_logits_and_nothing_else() -> None:
    network = fit().model
    model = Distillation(temperature=50.0).wrap(network)
    known = unmasked(model)
    assert torch.equal(model(SAMPLES.x), network(SAMPLES.x))
    assert torch.equal(known(SAMPLES.x), network(SAMPLES.x) / 50)
    assert isinstance(known, nn.Module)
    ours, theirs = list(known.parameters()), list(network.parameters())
    assert all(a is b for a, b in zip(ours, theirs, strict=True))


def test_a_student_has_large_logits_and_no_gradient_where_it_is_sure() -> None:
    recipe = Recipe(
        train=Train(epochs=40, batch_size=16),
        data=Data(name="digits"),
        model=FFN(hidden=(32,)),
        optimizer=Optimizer(lr=0.1),
        defenses=(Distillation(temperature=100.0, epochs=100),),
    )
    model = train(recipe, data=SAMPLES, validation=SAMPLES).model
    known = unmasked(model)
    x = SAMPLES.x.clone().requires_grad_()
    sure = model(x).argmax(1) == SAMPLES.y
    assert sure.float().mean() > 0.9
    share = []
    for one in (model, known):
        loss = nn.functional.cross_entropy(one(x), SAMPLES.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        share.append((gradient[sure].flatten(1).abs().amax(1) > 0).float().mean())
    assert share[0] < 0.2
    assert share[1] == 1


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"epochs": 0}])
def test_values_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Distillation(**wrong)  # type: ignore[arg-type]
