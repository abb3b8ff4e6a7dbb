"""The query: its gradient, what it lets through, what it counts and remembers."""

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from advbench import registry
from advbench.attacks import (
    BPDA,
    EOT,
    PGD,
    CrossEntropy,
    Flag,
    Linf,
    Loss,
    Margin,
    Patch,
    Placement,
    TotalVariation,
    View,
)
from advbench.attacks.criterion import Criterion
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.query import AccessError, Problem, Query, Record, Rules, keep_better
from advbench.attacks.randomness import Draws
from advbench.attacks.victim import Victim
from advbench.models.ffn import ACTIVATIONS
from advbench.testing.victims import SCENE, SHAPE, Affine, After, Watched, inputs, numbers, smooth

NAMES = registry.names("perturbations")
SETS: list[Perturbation] = [registry.get("perturbations", name)() for name in NAMES]
FIXED = Patch(placement=Placement(location=(0.4, 0.5)), penalties=(TotalVariation(0.5),))
LOSSES: list[Loss] = [registry.get("losses", name)() for name in registry.names("losses")]
WIDTH = 12


def net(activation: str, classes: int) -> nn.Module:
    hidden = Affine(21, WIDTH, 9, torch.float64)
    return nn.Sequential(
        hidden, ACTIVATIONS[activation](), Affine(23, 9, classes, torch.float64)
    ).eval()


def query(model: Any, criterion: Criterion, x: Tensor, **changes: Any) -> Query:
    rules = Rules(Victim(model, x), Linf(), CrossEntropy(), "gradient", "inside")
    count = torch.zeros(len(x), dtype=torch.int64)
    draws = Draws(count, torch.arange(len(x)), count, count)
    eps = torch.full((len(x),), 0.1, dtype=x.dtype)
    problem = Problem(x, eps, criterion, draws, count)
    rules = dataclasses.replace(rules, **changes)
    return Query(rules, problem, Record.blank(rules.perturbation.zero(x)))


def differences(ask: Query, p: Tensor, h: float = 1e-6) -> Tensor:
    """The gradient by central differences, one coordinate at a time."""
    flat = p.flatten(1)
    columns = []
    for j in range(flat.shape[1]):
        step = torch.zeros_like(flat)
        step[:, j] = h
        up, down = ask((flat + step).view_as(p)).loss, ask((flat - step).view_as(p)).loss
        columns.append((up - down) / (2 * h))
    return torch.stack(columns, 1).view_as(p)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradient_is_that_of_the_loss(activation: str, classes: int, loss: Loss) -> None:
    x, p = inputs(25, 5, (WIDTH,), torch.float64), 0.05 * numbers(26, 5, WIDTH)
    model = net(activation, classes)
    before = model[0](x + p)  # type: ignore[index]
    assert before.abs().amin() > 1e-4, "a kink within the differences"
    y = torch.arange(5) % classes
    clean = model(x).detach() if loss.wants_clean else None
    for targets in (None,) if loss.wants_clean else (None, (y + 1) % classes):
        ask = query(model, Criterion(y, targets, clean), x, loss=loss)
        got = ask(p, grad=True).grad
        assert bool((got == 0).all()) == (activation == "step")
        torch.testing.assert_close(got, differences(ask, p), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("perturbation", "eot"),
    [
        *((one, None) for one in [*SETS, FIXED]),
        # What varies would be drawn anew in each query: no differences to take.
        *((one, EOT(2)) for one in [*SETS, FIXED] if not one.varies),
    ],
    ids=repr,
)
def test_gradient_in_every_set(perturbation: Perturbation, eot: EOT | None) -> None:
    shape = SHAPE if perturbation.bounds == (0, 1) else SCENE
    model, x, y, _ = smooth(count=3, shape=shape)
    ask = query(model, Criterion(y), x, perturbation=perturbation, loss=Margin(), eot=eot)
    start = perturbation.project(x, perturbation.zero(x), torch.full((3,), 0.2).to(x))
    p = start + 0.05 * numbers(26, *start.shape)
    expected = differences(ask, p)
    if isinstance(perturbation, Patch):  # no gradient reaches the share that is covered
        expected[:, len(perturbation.placement.names)] = 0
    torch.testing.assert_close(ask(p, grad=True).grad, expected, rtol=1e-6, atol=1e-8)


def test_bpda_runs_one_way_and_differentiates_another() -> None:
    model, x, y, _ = smooth(count=3)

    def quantise(images: Tensor) -> Tensor:
        return (images * 8).round() / 8

    plain = query(nn.Sequential(quantised := Called(quantise), model), Criterion(y), x)
    p = torch.zeros_like(x)
    assert (plain(p, grad=True).grad == 0).all()
    assert quantised.calls == 1
    bridged = query(nn.Sequential(BPDA(quantise), model), Criterion(y), x)
    probe = bridged(p, grad=True)
    assert torch.equal(probe.logits, plain(p).logits)
    at = query(model, Criterion(y), quantise(x))
    torch.testing.assert_close(probe.grad, at(p, grad=True).grad)
    double = query(nn.Sequential(BPDA(quantise, lambda z: 2 * z), model), Criterion(y), x)
    assert torch.equal(double(p).logits, plain(p).logits)
    torch.testing.assert_close(double(p, grad=True).grad, 2 * probe.grad)


class Called(nn.Module):
    """A function as a module without a useful gradient, counting its calls."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.function(x) + 0 * x


def test_eot_takes_the_mean_of_losses_not_of_logits() -> None:
    model, x, y, _ = smooth(count=3)
    asked: list[Tensor] = []

    class Shifted(View):
        copies: ClassVar[int] = 1

        def __call__(self, images: Tensor, copy: Tensor, draws: Draws) -> Tensor:
            shift = draws.uniform((1, 1, 1), images.dtype) - 0.5
            asked.append(shift)
            return images + shift

    watched = Watched(model)
    ask = query(watched, Criterion(y), x, eot=EOT(3, (Shifted(),)))
    probe = ask(torch.zeros_like(x), grad=True)
    losses = [
        CrossEntropy()(model(x + shifts), Criterion(y))
        for shifts in asked[0].view(3, 3, 1, 1, 1).unbind(1)  # the k-th view of every row
    ]
    torch.testing.assert_close(probe.loss, torch.stack(losses).mean(0))
    torch.testing.assert_close(probe.logits, model(x))
    assert len(set(asked[0].flatten().tolist())) == 9, "fresh draws in each view and row"
    assert watched.forwards == 4 * len(x)
    assert (ask.record.forwards == 4).all()
    assert (ask.record.backwards == 3).all()
    ask(torch.zeros_like(x))
    assert len(set(torch.cat(asked).flatten().tolist())) == 18, "fresh draws in each query"


def test_eot_without_a_view_judges_by_majority() -> None:
    _, x, _, _ = smooth(count=1)
    answers = iter([0, 1, 1, 0, 0, 1])

    def fickle(images: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor([next(answers)]), 2).double() + 0 * images.sum()

    ask = query(fickle, Criterion(torch.tensor([0])), x, eot=EOT(3))
    assert ask(torch.zeros_like(x)).success.tolist() == [True]
    assert ask(torch.zeros_like(x)).success.tolist() == [False]


@pytest.mark.parametrize("access", ["scores", "labels", "none"])
def test_access_is_enforced(access: Any) -> None:
    model, x, y, _ = smooth()
    ask = query(model, Criterion((y + 1) % 3), x, access=access)
    with pytest.raises(AccessError, match=access):
        ask(torch.zeros_like(x), grad=True)
    assert (ask.record.forwards == 0).all()
    probe = ask(torch.zeros_like(x))
    assert ask.record.success.all(), "the record knows, whatever the attack may"
    if access == "scores":
        assert torch.equal(probe.logits, model(x))
    elif access == "labels":
        assert torch.equal(probe.logits, nn.functional.one_hot(y, 3).double())
        assert torch.equal(probe.loss, probe.success.double())
    else:
        assert not probe.success.any()
        assert not probe.loss.any()
        assert not probe.logits.any()


def test_a_budget_that_is_spent_answers_nothing() -> None:
    model, x, y, _ = smooth(count=3)
    watched = Watched(model)
    ask = query(watched, Criterion(y), x, budget=2)
    ask(torch.zeros_like(x))
    ask.record = ask.record._replace(forwards=torch.tensor([1, 2, 0]))
    probe = ask(torch.zeros_like(x), grad=True)
    assert watched.forwards == 3 + 2
    assert ask.record.forwards.tolist() == [2, 2, 1]
    assert ((ask.record.flags & Flag.OUT_OF_BUDGET) != 0).tolist() == [False, True, False]
    assert (probe.grad[1] == 0).all()
    assert (probe.grad[[0, 2]] != 0).flatten(1).any(1).all()
    assert not probe.success[1]


@pytest.mark.parametrize("weights", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("images", [torch.float32, torch.float64], ids=str)
def test_a_budget_in_mixed_precision(weights: torch.dtype, images: torch.dtype) -> None:
    """Rows within and beyond their budget are joined, whatever the precision of either side."""
    model, x, y, _ = smooth(count=3)
    ask = query(model.to(weights), Criterion(y), x.to(images), budget=2)
    ask(torch.zeros_like(x, dtype=images))
    ask.record = ask.record._replace(forwards=torch.tensor([1, 2, 0]))
    probe = ask(torch.zeros_like(x, dtype=images), grad=True)
    assert probe.loss.dtype == probe.grad.dtype == ask.record.loss.dtype == images


def test_no_gradient_is_an_error_that_names_the_way_out() -> None:
    model, x, y, _ = smooth()
    detached = After(model, lambda _, z: z.detach())
    with pytest.raises(ValueError, match=r"no gradient reaches the input.*random_noise.*BPDA"):
        PGD(steps=1).run(detached, x, y, eps=0.1)
    with pytest.raises(ValueError, match="no gradient reaches the input"):  # penalties have one
        PGD(perturbation=FIXED, steps=1).run(detached, x, y, eps=0.1)


def test_flags_name_what_was_wrong() -> None:
    model, x, y, _ = smooth(count=3)
    factor = torch.tensor([[1.0], [0.0], [torch.nan]], dtype=torch.float64)
    ask = query(After(model, lambda _, z: z * factor), Criterion(y), x)
    probe = ask(torch.zeros_like(x), grad=True)
    assert ask.record.flags.tolist() == [0, Flag.ZERO_GRADIENT, Flag.NON_FINITE]
    assert (probe.grad[1:] == 0).all()
    assert probe.grad.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_answer_without_a_number_is_never_the_best(value: float) -> None:
    """N2: A failure with an infinite loss must not keep later, finite ones out."""
    model, x, y, _ = smooth(count=1)
    broken = [True]

    def logits(_: Tensor, z: Tensor) -> Tensor:
        own = nn.functional.one_hot(y, 3).bool()
        return torch.where(own, -value, z) if broken[0] else z

    ask = query(After(model, logits), Criterion(y), x)
    ask(torch.full_like(x, 0.01))
    assert not ask.record.success.any()
    broken[0] = False
    ask(torch.full_like(x, 0.02))
    assert torch.equal(ask.record.p, torch.full_like(x, 0.02))
    assert ask.record.loss.isfinite().all()


def record(success: bool, loss: float, size: float) -> Record:
    count = torch.ones(1, dtype=torch.int64)
    p = torch.full((1, 1), loss)
    return Record(
        p, torch.tensor([success]), torch.tensor([size]), torch.tensor([loss]), *([count] * 5)
    )


@pytest.mark.parametrize(
    ("finds", "old", "new", "wins"),
    [
        ("inside", (False, 1.0, 1.0), (False, 2.0, 1.0), True),
        ("inside", (False, 2.0, 1.0), (False, 1.0, 1.0), False),
        ("inside", (False, 2.0, 1.0), (True, 1.0, 1.0), True),
        ("inside", (True, 1.0, 1.0), (False, 2.0, 1.0), False),
        ("inside", (True, 1.0, 1.0), (True, 2.0, 9.0), True),
        ("inside", (True, 1.0, 1.0), (True, 1.0, 1.0), False),
        ("inside", (False, 1.0, 1.0), (False, float("nan"), 1.0), False),
        ("smallest", (True, 1.0, 2.0), (True, 0.0, 1.0), True),
        ("smallest", (True, 1.0, 1.0), (True, 9.0, 2.0), False),
        ("smallest", (False, 9.0, 1.0), (True, 1.0, 2.0), True),
        ("smallest", (False, 1.0, 1.0), (False, 2.0, 9.0), True),
    ],
)
def test_the_better_answer(finds: Any, old: Any, new: Any, wins: bool) -> None:
    kept = keep_better(finds, record(*old), record(*new))
    assert float(kept.p) == (new if wins else old)[1]
    assert bool(kept.success) == (old[0] or new[0])


@pytest.mark.parametrize("bad", [3, -1])
@pytest.mark.parametrize("stop", ["success", "never"])
@pytest.mark.parametrize("batch_size", [None, 1])
def test_labels_out_of_range_are_named(bad: int, stop: Any, batch_size: int | None) -> None:
    model, x, y, targets = smooth(count=3)
    wrong = torch.tensor([int(y[0]), int(y[1]), bad])
    with pytest.raises(ValueError, match=rf"label {bad} of sample 2.*3 classes"):
        PGD(steps=2).run(model, x, wrong, eps=0.1, stop=stop, batch_size=batch_size)
    aims = torch.tensor([int(targets[0]), int(targets[1]), bad])
    with pytest.raises(ValueError, match=rf"target {bad} of sample 2.*3 classes"):
        PGD(steps=2).run(model, x, y, eps=0.1, targets=aims, stop=stop, batch_size=batch_size)
