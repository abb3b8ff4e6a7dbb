"""Auto-PGD: where it judges its step, what it then does, and the limits in which it is PGD."""

import pytest
import torch
from torch import Tensor

from advbench.attacks import APGD, BIM, DLR, L0, L1, L2, CrossEntropy, Linf, Perturbation
from advbench.attacks.criterion import Criterion
from advbench.attacks.gradient.apgd import (
    Watch,
    checkpoints,
    first_watch,
    glide,
    observe,
    rises,
    start,
    windows,
)
from advbench.attacks.gradient.steepest import move
from advbench.attacks.query import Probe, Problem
from advbench.attacks.randomness import Draws
from advbench.testing.victims import Watched, numbers, scale, smooth

from .closed_form import assert_sharp

SETS = [Linf(), L2()]


def problem(count: int = 4, eps: float = 0.1) -> Problem:
    zero = torch.zeros(count, dtype=torch.int64)
    x = numbers(5, count, 1, 4, 5).sigmoid()
    draws = Draws(zero, torch.arange(count), zero, zero)
    return Problem(x, torch.full((count,), eps, dtype=x.dtype), Criterion(zero), draws, zero)


def test_published_defaults() -> None:
    attack = APGD()
    assert attack.perturbation == Linf()
    assert attack.loss == CrossEntropy()
    assert (attack.steps, attack.restarts, attack.rho, attack.target_classes) == (100, 1, 0.75, 0)
    watch = first_watch(torch.zeros(2, 3), problem(2))
    assert watch.step_size.tolist() == [2, 2]


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(50)[:4] == (11, 21, 30, 38)
    assert checkpoints(1) == ()
    assert checkpoints(5) == (1, 2, 3, 4)


def test_each_row_has_its_own_place_in_the_schedule() -> None:
    t = torch.tensor([0, 22, 23, 41, 99, 98])
    assert windows(100, t).tolist() == [0, 22, 0, 19, 6, 0]


def entered(watch: Watch, losses: list[float], window: int, rho: float = 0.75) -> Watch:
    """Enter a row of losses, at points numbered from 1, the last of which ends a window."""
    for place, loss in enumerate(losses, 1):
        here = torch.full((1, 1), float(place))
        ends = torch.tensor([window if place == len(losses) else 0])
        nothing = torch.empty(0)
        probe = Probe(torch.tensor([float(loss)]), 10 * here, nothing, nothing)
        watch = observe(watch, here, probe, ends, rho)
    return watch


def fresh() -> Watch:
    return first_watch(torch.zeros(1, 1), problem(1)._replace(eps=torch.ones(1)))


@pytest.mark.parametrize(
    ("losses", "halved"),
    [
        ([0.0, 1, 2, 3, 4], False),
        ([0.0, 1, 2, 3, 2], True),
        ([5.0, 1, 2, 3, 4], True),
        ([-4.0, -3, -2, -1, -0.5], False),
    ],
    ids=["rises", "3 of 4", "falls at first", "negative"],
)
def test_the_step_is_halved_when_the_loss_stalls(losses: list[float], halved: bool) -> None:
    watch = entered(fresh(), losses, window=4)
    best = max(range(5), key=losses.__getitem__) + 1
    assert watch.halved.item() == halved
    assert watch.step_size.item() == (1 if halved else 2)
    assert (watch.best_p.item(), watch.best_g.item()) == (best, 10 * best)
    assert watch.rises.item() == 0
    assert watch.last.item() == (max(losses) if halved else losses[-1])


def test_the_step_is_halved_when_a_window_brings_nothing_better() -> None:
    low_bar = 0.0
    watch = entered(fresh(), [0.0, 1, 9, 8, 3], window=4, rho=low_bar)
    assert not watch.halved.item()
    kept = entered(watch, [4.0, 5, 6], window=3, rho=low_bar)
    assert kept.halved.item()
    assert kept.best.item() == 9
    better = entered(watch, [4.0, 5, 10], window=3, rho=low_bar)
    assert not better.halved.item()
    # Just after a halving, a window without a better point is forgiven.
    halved = entered(fresh(), [0.0, 1, 9, 8, 3], window=4)
    assert not entered(halved, [4.0, 5, 6], window=3, rho=low_bar).halved.item()


def test_rounding_and_nan_are_no_rise() -> None:
    old = torch.tensor([1.0, 1.0, -torch.inf, 0.0, 1.0, torch.inf], dtype=torch.float64)
    new = torch.tensor([1 + 1e-15, 1 + 1e-13, -5, 0.0, torch.nan, 1], dtype=torch.float64)
    assert rises(new, old).tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_the_start_is_as_far_as_eps_allows(perturbation: Perturbation) -> None:
    inside = problem(64, eps=0.01)
    p = start(perturbation, inside)
    torch.testing.assert_close(perturbation.size(inside.x, p), inside.eps)
    signs = (p > 0).double().mean()
    assert 0.4 < signs < 0.6
    if perturbation == Linf():
        assert (p.abs() < 0.005).any(), "the start is no corner"


@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_with_full_weight_a_step_is_one_of_pgd(perturbation: Perturbation) -> None:
    given = problem()
    p, before = start(perturbation, given), torch.zeros_like(given.x)
    g = numbers(6, *given.x.shape)
    step_size = torch.full_like(given.eps, 0.3)
    one = torch.ones_like(given.eps)
    plain = move(perturbation, p, g, given, 0.3)
    full = glide(perturbation, p, before, g, given, step_size, one)
    torch.testing.assert_close(full, plain)
    mixed = glide(perturbation, p, before, g, given, step_size, one * 0.75)
    by_hand = p + 0.75 * (plain - p) + 0.25 * (p - before)
    torch.testing.assert_close(mixed, perturbation.project(given.x, by_hand, given.eps))
    assert (mixed - plain).abs().amax() > 1e-3


def visited(attack: APGD) -> list[Tensor]:
    model, x, y, _ = smooth(count=3)
    watched = Watched(model)
    attack.run(watched, x, y, eps=scale(attack, x, 0.1), stop="never")
    return [images for images, _ in watched.seen]


def test_the_first_step_has_no_momentum_and_length_two_eps() -> None:
    model, x, y, _ = smooth(count=3)
    seen = visited(APGD(steps=4))
    first = seen[0].clone().requires_grad_()
    loss = CrossEntropy()(model(first), Criterion(y)).sum()
    (g,) = torch.autograd.grad(loss, first)
    eps = scale(APGD(), x, 0.1)
    delta = (first.detach() - x + 2 * eps * g.sign()).clamp(-eps, eps)
    torch.testing.assert_close(seen[1], (x + delta).clamp(0, 1))


@pytest.mark.parametrize(
    "attack",
    [APGD(steps=9), APGD(steps=9, restarts=2, perturbation=L2())],
    ids=["Linf", "L2"],
)
def test_no_last_gradient_is_wasted(attack: APGD) -> None:
    model, x, y, _ = smooth(count=3)
    found = attack.run(model, x, y, eps=scale(attack, x, 0.1), stop="never")
    assert (found.forwards == attack.restarts * 10).all()
    assert (found.backwards == attack.restarts * 9).all()


def test_each_target_class_has_its_run() -> None:
    for classes, runs in ((2, 1), (3, 2), (10, 4)):
        model, x, y, _ = smooth(classes, count=3)
        attack = APGD(loss=DLR(), target_classes=4, steps=6)
        found = attack.run(model, x, y, eps=scale(attack, x, 0.01), stop="never")
        assert (found.backwards == runs * 6).all()
        assert (found.forwards == runs * 7 + 1).all()


def test_rows_that_start_late_go_through_the_same_schedule() -> None:
    model, x, y, _ = smooth(count=7)
    attack = APGD(steps=20, restarts=2)
    together = attack.run(model, x, y, eps=0.05)
    refilled = attack.run(model, x, y, eps=0.05, batch_size=3)
    torch.testing.assert_close(refilled.x_adv, together.x_adv, rtol=0, atol=1e-9)
    assert torch.equal(refilled.forwards, together.forwards)


@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_it_is_sharp_on_linear_models(perturbation: Perturbation) -> None:
    assert_sharp(APGD(perturbation=perturbation, steps=30), classes=2, beyond=1.002)


@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_with_target_classes_it_is_sharp_among_many(perturbation: Perturbation) -> None:
    attack = APGD(perturbation=perturbation, loss=DLR(), steps=12, target_classes=9)
    assert_sharp(attack, classes=10, beyond=1.002)


def test_it_goes_further_than_plain_steps() -> None:
    model, x, y, _ = smooth(10, count=12)
    for perturbation in SETS:
        attack = APGD(perturbation=perturbation, steps=30)
        plain = BIM(perturbation=perturbation, steps=30)
        eps = scale(attack, x, 0.3)
        ours, theirs = (one.run(model, x, y, eps=eps, stop="never").loss for one in (attack, plain))
        assert ours.mean() > theirs.mean()


def test_what_it_cannot_do_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"Linf\(\) or L2\(\); for L1 there is APGDL1\(\)"):
        APGD(perturbation=L1())
    with pytest.raises(ValueError, match=r"must be Linf\(\) or L2\(\); got L0\(\)"):
        APGD(perturbation=L0())
    with pytest.raises(ValueError, match="rho must lie in"):
        APGD(rho=1.5)
    with pytest.raises(ValueError, match="target_classes must be a whole number"):
        APGD(target_classes=-1)
