"""Auto-PGD in the sum norm: its stages, its sparse steps, and that nothing beyond eps counts."""

import pytest
import torch

from advbench.attacks import APGDL1, DLR, L1, PGD, CrossEntropy
from advbench.attacks.gradient.apgd_l1 import schedule, sparse_step, support
from advbench.testing.victims import Watched, scale, smooth

from .closed_form import assert_sharp, linear_cases


def test_published_defaults() -> None:
    attack = APGDL1()
    assert attack.perturbation == L1()
    assert attack.loss == CrossEntropy()
    assert (attack.steps, attack.restarts, attack.target_classes) == (100, 1, 0)
    assert attack.large_eps


def test_stages_and_looks_are_those_of_the_paper() -> None:
    balls, after, looks = zip(*schedule(100, large_eps=True), strict=True)
    assert balls == (3,) * 30 + (2,) * 30 + (1,) * 40
    assert after == (*balls[1:], 1)
    # 4 % of 30 or 40 steps is one: a look after each step but the first of a stage.
    assert [step for step, looked in enumerate(looks) if not looked] == [0, 30, 60]
    balls, after, looks = zip(*schedule(100, large_eps=False), strict=True)
    assert set(balls) == set(after) == {1}
    assert [step for step, looked in enumerate(looks) if looked] == list(range(4, 100, 4))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 33])
def test_short_runs_end_inside(steps: int) -> None:
    plan = schedule(steps, large_eps=True)
    assert len(plan) == steps
    assert plan[-1][1] == 1
    balls = [ball for ball, _, _ in plan]
    assert balls == sorted(balls, reverse=True)


def test_a_sparse_step_by_hand() -> None:
    g = torch.tensor([[0.1, -3.0, 2.0, 0.0], [1.0, 1.0, -1.0, 0.5], [0.0, 0.0, 0.0, 7.0]])
    step = sparse_step(g, torch.tensor([2, 1, 3]), torch.tensor([1.0, 3.0, 2.0]))
    # Ties share; a coordinate without gradient takes no part.
    assert step.tolist() == [[0, -0.5, 0.5, 0], [1, 1, -1, 0], [0, 0, 0, 2]]
    assert sparse_step(torch.zeros(1, 4), torch.tensor([2]), torch.ones(1)).tolist() == [[0] * 4]


def test_support_counts_changed_coordinates() -> None:
    p = torch.tensor([[[0.0, 1e-3], [-1.0, 1e-9]], [[0.0, 0.0], [0.0, 0.0]]])
    assert support(p).tolist() == [2, 0]
    assert support(p * 1e-20).tolist() == [2, 0]


def test_nothing_beyond_eps_is_an_answer() -> None:
    """Between one and three times the exact distance the larger balls hold successes; none count.

    Short of the distance, a success was seen there and is not told.
    """
    attack = APGDL1(steps=30)
    given, exact = linear_cases(attack, 10)
    for stop in ("success", "never"):
        watched = Watched(given.model)
        found = attack.run(watched, given.x, given.y, eps=exact * 0.9, stop=stop)
        seen = torch.cat([logits.argmax(1) for _, logits in watched.seen])
        asked = torch.cat([images for images, _ in watched.seen])
        assert not found.success.any()
        assert (found.size <= exact * 0.9 * (1 + 1e-9)).all()
        assert found.loss.isfinite().all()
        assert (seen.view(-1, len(given.y))[1:-1] != given.y).any()
        sizes = (asked.view(-1, *given.x.shape) - given.x).abs().flatten(2).sum(2) / (exact * 0.9)
        assert 2.9 < sizes.amax() < 3.001


def test_without_larger_balls_it_never_leaves_its_own() -> None:
    attack = APGDL1(steps=30, large_eps=False)
    model, x, y, _ = smooth(count=4)
    watched = Watched(model)
    attack.run(watched, x, y, eps=0.7, stop="never")
    sizes = torch.stack([images - x for images, _ in watched.seen]).abs().flatten(2).sum(2)
    assert sizes.amax() <= 0.7 * (1 + 1e-9)


@pytest.mark.parametrize("large_eps", [False, True])
def test_it_is_sharp_on_linear_models(large_eps: bool) -> None:
    assert_sharp(APGDL1(steps=60, large_eps=large_eps), classes=2, beyond=1.002)


def test_with_target_classes_it_is_sharp_among_many() -> None:
    attack = APGDL1(loss=DLR(), steps=24, target_classes=9)
    given, exact = linear_cases(attack, 10)
    found = attack.run(given.model, given.x, given.y, eps=exact * 1.01)
    assert found.success.all()


def test_cost_and_target_classes() -> None:
    model, x, y, _ = smooth(3, count=3)
    for large_eps in (False, True):
        attack = APGDL1(steps=10, large_eps=large_eps)
        found = attack.run(model, x, y, eps=scale(attack, x, 0.01), stop="never")
        assert found.forwards.tolist() == [11] * 3
        assert found.backwards.tolist() == [10] * 3
    attack = APGDL1(steps=10, loss=DLR(), target_classes=5)
    found = attack.run(model, x, y, eps=scale(attack, x, 0.01), stop="never")
    assert found.backwards.tolist() == [20] * 3


def test_rows_that_start_late_go_through_the_same_stages() -> None:
    model, x, y, _ = smooth(count=5)
    attack = APGDL1(steps=20, restarts=2)
    together = attack.run(model, x, y, eps=0.6)
    refilled = attack.run(model, x, y, eps=0.6, batch_size=3)
    torch.testing.assert_close(refilled.x_adv, together.x_adv, rtol=0, atol=1e-9)
    assert torch.equal(refilled.forwards, together.forwards)


def test_the_start_is_a_projected_gaussian() -> None:
    model, x, y, _ = smooth(count=4)
    watched = Watched(model)
    APGDL1(steps=5).run(watched, x, y, eps=0.2, stop="never")
    first = watched.seen[0][0] - x
    torch.testing.assert_close(first.abs().flatten(1).sum(1), torch.full_like(x[:, 0, 0, 0], 0.6))
    assert (support(first) < x[0].numel()).all()


def test_it_goes_further_than_plain_steps() -> None:
    model, x, y, _ = smooth(10, count=12)
    eps = scale(APGDL1(), x, 0.3)
    ours = APGDL1(steps=40).run(model, x, y, eps=eps, stop="never").loss
    theirs = PGD(perturbation=L1(), steps=40).run(model, x, y, eps=eps, stop="never").loss
    assert ours.mean() > theirs.mean()


def test_what_it_cannot_do_it_refuses() -> None:
    with pytest.raises(TypeError, match="large_eps must be True or False"):
        APGDL1(large_eps=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target_classes must be a whole number"):
        APGDL1(target_classes=-2)
