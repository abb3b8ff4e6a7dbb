"""The loop: what drops out of the batch, or joins it, is seen by nobody else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks import BIM, EOT, FGSM, PGD, Flag, MinimumEps, RandomNoise, RandomSearch
from advbench.attacks.attack import Attack
from advbench.testing.requirement import require_same
from advbench.testing.victims import Watched, smooth

EPS = 0.1


@pytest.mark.parametrize(
    ("attack", "forwards", "backwards"),
    [
        (FGSM(), 2, 1),
        (BIM(), 11, 10),
        (PGD(), 41, 40),
        (PGD(steps=7, restarts=3), 24, 21),
        (RandomNoise(steps=9), 9, 0),
        (RandomSearch(steps=9, restarts=2), 18, 0),
    ],
    ids=repr,
)
def test_a_whole_search_costs_what_it_says(attack: Attack, forwards: int, backwards: int) -> None:
    model, x, y, _ = smooth(count=3)
    watched = Watched(model)
    found = attack.run(watched, x, y, eps=EPS, stop="never")
    assert (watched.forwards, watched.backwards) == (3 * forwards, 3 * backwards)
    assert (found.forwards == forwards).all()
    assert (found.backwards == backwards).all()
    assert (found.steps == max(backwards, forwards - backwards if not backwards else 0)).all()


def test_early_stopping_drops_rows() -> None:
    model, x, y, _ = smooth(count=12)
    watched = Watched(model)
    found = PGD(steps=10).run(watched, x, y, eps=EPS)
    sizes = [len(images) for images, _ in watched.seen]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < int(found.success.sum()) < 12
    assert (found.forwards[~found.success] == 12).all()
    assert (found.forwards[found.success] < 12).any()


def test_the_batch_is_kept_full_from_the_queue() -> None:
    model, x, y, _ = smooth(count=12)
    watched = Watched(model)
    known = torch.ones(12, dtype=torch.bool)
    found = PGD(steps=10).run(watched, x, y, eps=EPS, correct=known, batch_size=4)
    sizes = [len(images) for images, _ in watched.seen]
    assert max(sizes) == 4
    # Steps that begin a row run beside scorings of a last iterate, which come in smaller batches.
    full = sum(size == 4 for size in sizes)
    assert full >= int(found.steps.sum()) // 4 - 10


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 9, 15, 64])
@pytest.mark.parametrize(
    "attack", [PGD(steps=4, restarts=3), RandomSearch(steps=4, restarts=3)], ids=repr
)
def test_restarts_side_by_side_or_in_turn(attack: Attack, batch_size: int) -> None:
    model, x, y, _ = smooth(count=5)
    together = attack.run(model, x, y, eps=EPS, stop="never")
    in_turn = attack.run(model, x, y, eps=EPS, stop="never", batch_size=batch_size)
    require_same(attack, in_turn, together, f"batch_size={batch_size}")
    early = attack.run(model, x, y, eps=EPS)
    refilled = attack.run(model, x, y, eps=EPS, batch_size=batch_size)
    require_same(attack, refilled, early, f"batch_size={batch_size}")
    assert torch.equal(early.success, together.success)


def test_restarts_differ_and_the_best_is_kept() -> None:
    model, x, y, _ = smooth(count=6)
    one, many = (PGD(steps=2, restarts=r).run(model, x, y, eps=EPS, stop="never") for r in (1, 4))
    assert (many.loss[many.success == one.success] >= one.loss[many.success == one.success]).all()
    assert (many.loss > one.loss).any()
    assert (many.success | ~one.success).all()


def test_more_steps_never_hurt_with_the_same_step_size() -> None:
    model, x, y, _ = smooth(count=8)
    before = None
    for steps in (1, 2, 4, 8, 16):
        attack = PGD(steps=steps, step_size=0.3)
        found = attack.run(model, x, y, eps=EPS, stop="never")
        if before is not None:
            assert (found.success | ~before.success).all()
            stays = found.success == before.success
            assert (found.loss[stays] >= before.loss[stays] - 1e-12).all()
        before = found


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("stop", ["success", "never"])
@pytest.mark.parametrize(
    "attack",
    [PGD(steps=4, restarts=3), MinimumEps(attack=PGD(steps=3), rounds=4), RandomNoise(steps=9)],
    ids=repr,
)
def test_every_budget_is_kept_to_the_last_pass(
    attack: Attack, stop: Any, batch_size: int | None
) -> None:
    model, x, y, _ = smooth(count=4)
    free = attack.run(model, x, y, eps=EPS, stop=stop, batch_size=batch_size)
    for budget in (1, 2, 3, 4, 5, 6, 9, 11, 14, 15, 16, 17):
        watched = Watched(model)
        found = attack.run(watched, x, y, eps=EPS, stop=stop, batch_size=batch_size, budget=budget)
        assert watched.forwards == int(found.forwards.sum())
        assert torch.equal(found.forwards, free.forwards.clamp_max(budget))
        cut = (found.flags & Flag.OUT_OF_BUDGET) != 0
        assert torch.equal(cut, free.forwards > budget)


def test_a_budget_counts_every_pass_of_an_expectation() -> None:
    model, x, y, _ = smooth(count=3)
    for budget in (1, 2, 3, 4, 7, 8):
        watched = Watched(model)
        found = PGD(steps=5).run(watched, x, y, eps=0.01, stop="never", budget=budget, eot=EOT(3))
        assert watched.forwards == int(found.forwards.sum())
        assert (found.forwards == budget // 3 * 3).all()


def test_state_and_step_counter_belong_to_the_row() -> None:
    """A row that boards late starts at its own step 0, beside rows that are further."""
    model, x, y, _ = smooth(count=9)
    alone = [
        PGD(steps=6).run(model, x[i : i + 1], y[i : i + 1], eps=EPS, ids=torch.tensor([i]))
        for i in range(9)
    ]
    mixed = PGD(steps=6).run(model, x, y, eps=EPS, batch_size=4)
    steps: list[Tensor] = [one.steps for one in alone]
    assert torch.equal(mixed.steps, torch.cat(steps))
    assert len(set(mixed.steps.tolist())) > 1, "rows leave at different steps"


def test_draws_follow_the_ids() -> None:
    model, x, y, _ = smooth(count=4)
    same = x[:1].expand(4, *x.shape[1:])
    found = RandomNoise(steps=1).run(
        model, same, y[:1].expand(4), eps=EPS, ids=torch.tensor([3, 8, 3, 9]), stop="never"
    )
    p = found.p.flatten(1)
    assert torch.equal(p[0], p[2])
    assert not torch.equal(p[0], p[1])
    assert not torch.equal(p[1], p[3])
    other = RandomNoise(steps=1).run(model, same, y[:1].expand(4), eps=EPS, seed=1, stop="never")
    assert not torch.equal(other.p, found.p)
