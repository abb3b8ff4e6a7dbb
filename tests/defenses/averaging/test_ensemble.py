import copy

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks.victim import SceneModel
from advbench.defenses.averaging.ensemble import Ensemble, MeanProbability
from advbench.defenses.bayesian.mc_dropout import MCDropout
from advbench.models.normalized import Normalized
from advbench.training.recipe import Optimizer
from tests.defenses.fitting import (
    SAMPLES,
    SMALL_FFN,
    SMALL_LENET,
    answers,
    first_batch,
    same_weights,
    trained,
    under_way,
)

SHAPE = (1, 8, 8)


def small(shape: tuple[int, ...], classes: int) -> nn.Module:
    return SMALL_FFN.build(shape, classes)


def step(model: nn.Module, defense: Ensemble | None = None) -> None:
    """One step of SGD on the first samples."""
    fit, batch = under_way(model), first_batch()

    def plain() -> Tensor:
        return fit.loss(fit.seen(batch.x), batch.wanted)

    loss = plain() if defense is None else defense.objective(plain, batch, fit)
    loss.backward()
    fit.optimizer.step()


def test_the_answer_is_the_log_of_the_mean_probability() -> None:
    torch.manual_seed(0)
    model = Ensemble(members=3).build(small, SHAPE, 10)
    assert isinstance(model, MeanProbability)
    with torch.no_grad():
        expected = sum(member(SAMPLES.x).softmax(1) for member in model.members) / 3
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(answers(model, SAMPLES.x), expected.log())


def test_members_start_apart_and_the_first_as_without_the_others() -> None:
    torch.manual_seed(0)
    plain = small(SHAPE, 10)
    torch.manual_seed(0)
    model = Ensemble(members=2).build(small, SHAPE, 10)
    assert isinstance(model, MeanProbability)
    assert same_weights(model.members[0], plain)
    assert not same_weights(*model.members)


@pytest.mark.parametrize("optimizer", [Optimizer(lr=5e-3), Optimizer(name="sgd", lr=0.1)], ids=repr)
def test_one_member_is_plain_training(optimizer: Optimizer) -> None:
    model, plain = trained(Ensemble(members=1), optimizer=optimizer), trained(optimizer=optimizer)
    assert same_weights(model.model, plain.model)
    expected = answers(plain.model, SAMPLES.x).log_softmax(1)
    torch.testing.assert_close(answers(model.model, SAMPLES.x), expected)


def test_a_step_moves_each_member_as_if_it_were_alone() -> None:
    torch.manual_seed(0)
    defense = Ensemble(members=3)
    model = defense.build(small, SHAPE, 10)
    assert isinstance(model, MeanProbability)
    alone = copy.deepcopy(model.members)
    step(model, defense)
    for member, other in zip(model.members, alone, strict=True):
        step(other)
        assert same_weights(member, other)


def test_the_first_of_several_is_trained_as_without_the_others() -> None:
    model = trained(Ensemble(members=2), model=SMALL_LENET).model
    assert isinstance(model, MeanProbability)
    assert same_weights(model.members[0], trained(model=SMALL_LENET).model)


def test_members_see_what_is_put_before_them_and_scenes_as_images() -> None:
    torch.manual_seed(0)
    inner = Ensemble(members=2).build(small, SHAPE, 10)
    assert isinstance(inner, MeanProbability)
    before = Normalized(inner, (0.5,), (0.25,))
    fit, batch = under_way(before), first_batch()
    render = nn.Identity()
    fit.seen = SceneModel(render, before)  # type: ignore[arg-type]

    def plain() -> Tensor:
        return fit.loss(fit.seen(batch.x), batch.wanted)

    found = Ensemble(members=2).objective(plain, batch, fit)
    losses = [fit.loss(member((batch.x - 0.5) / 0.25), batch.y) for member in inner.members]
    torch.testing.assert_close(found, losses[0] + losses[1])


def test_the_mean_answers_again_after_an_objective_that_failed() -> None:
    defense = Ensemble(members=2)
    model = defense.build(small, SHAPE, 10)
    expected = answers(model, SAMPLES.x)

    def failing() -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        defense.objective(failing, first_batch(), under_way(model))
    assert torch.equal(answers(model, SAMPLES.x), expected)


def test_members_may_answer_at_random() -> None:
    model = trained(MCDropout(samples=2), Ensemble(members=2), epochs=1).model
    assert not torch.equal(answers(model, SAMPLES.x, 0), answers(model, SAMPLES.x, 1))


def test_an_ensemble_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="members must be at least 1; got 0"):
        Ensemble(members=0)
