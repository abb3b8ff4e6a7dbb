"""The search for one change for many images: nothing hidden between steps, a fair committee."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from advbench.attacks import EOT, MIFGSM, PGD, CrossEntropy, Patch, RandomSearch, Rule, Sticker
from advbench.attacks.criterion import Criterion
from advbench.attacks.expectation import Crowd
from advbench.attacks.gradient.mi_fgsm import Momentum
from advbench.attacks.query import Problem, Query, Record, Rules
from advbench.attacks.randomness import Draws
from advbench.attacks.universal.fitting import Committee, fit_shared
from advbench.attacks.victim import Victim
from advbench.testing.victims import Watched, balanced

PATCH = Patch(resolution=3)
SEARCH = MIFGSM(perturbation=PATCH, steps=12, step_size=0.2, decay=0.8)
CASE = balanced()
EPS = 0.3


def shared(rule: Rule, seed: int = 0) -> Tensor:
    batches = [(CASE.x, CASE.y)]
    return fit_shared(rule, CASE.model, batches, eps=EPS, targets=None, seed=seed, samples=8)


def by_hand(state: Momentum | None, first: int, last: int) -> Momentum:
    """Steps ``first`` to ``last`` of ``SEARCH`` from a state, none for the start."""
    x, zero = CASE.x, torch.zeros(1, dtype=torch.int64)
    criterion = Criterion(CASE.y)
    rules = Rules(Victim(CASE.model, x), PATCH, CrossEntropy(), "gradient", "inside")
    rules = replace(rules, eot=EOT(8, crowd=Crowd(x, criterion)))
    eps = torch.full((1,), EPS, dtype=torch.float64)
    start = Problem(x[:1], eps, Criterion(CASE.y[:1]), Draws(zero, zero, zero, zero), zero)
    state = SEARCH.init(start) if state is None else state
    for t in range(first, last):
        now = start._replace(draws=start.draws._replace(number=zero + t + 1), t=zero + t)
        query = Query(rules, now, Record.blank(PATCH.zero(x[:1])))
        state = SEARCH.step(state, query, now)
    return state


def test_six_steps_and_six_more_are_twelve() -> None:
    """The state is all that a step leaves behind: no gradient, no count, no best answer."""
    half = by_hand(None, 0, 6)
    copied = Momentum(half.p.clone(), half.g.clone())
    by_hand(None, 0, 3)
    assert torch.equal(by_hand(copied, 6, 12).p, by_hand(None, 0, 12).p)
    assert torch.equal(by_hand(None, 0, 12).p, shared(SEARCH))
    assert not torch.equal(half.p, shared(SEARCH))


def test_the_first_steps_are_those_of_a_shorter_fit() -> None:
    """Without ``anneal`` the number of steps changes no step; with it, it does."""
    short = replace(SEARCH, steps=6)
    assert torch.equal(shared(short), by_hand(None, 0, 6).p)
    shrinking = replace(SEARCH, anneal=True)
    assert not torch.equal(shared(replace(shrinking, steps=6)), shared(short))


@pytest.mark.parametrize(
    "rule", [SEARCH, RandomSearch(perturbation=PATCH, steps=20)], ids=lambda r: type(r).__name__
)
def test_another_seed_gives_another_sticker(rule: Rule) -> None:
    one = Sticker(attack=rule, samples=8)
    batches = [(CASE.x, CASE.y)]
    fits = {one.fit(CASE.model, batches, eps=EPS, seed=seed) for seed in (0, 1, 2, 0)}
    assert len(fits) == 3


def test_a_search_that_compares_meets_the_same_images_at_the_same_places() -> None:
    """One parameter is asked about twice: without fresh draws the loss is the same."""
    x, zero = CASE.x, torch.zeros(1, dtype=torch.int64)
    losses: dict[bool, list[Tensor]] = {True: [], False: []}
    for fresh, found in losses.items():
        crowd = Crowd(x, Criterion(CASE.y), fresh=fresh)
        rules = Rules(Victim(CASE.model, x), PATCH, CrossEntropy(), "scores", "inside")
        rules = replace(rules, eot=EOT(8, crowd=crowd))
        eps = torch.full((1,), EPS, dtype=torch.float64)
        p = PATCH.project(x[:1], PATCH.zero(x[:1]), eps)
        for t in range(3):
            draws = Draws(zero, zero, zero, zero + t + 1)
            now = Problem(x[:1], eps, Criterion(CASE.y[:1]), draws, zero + t)
            found.append(Query(rules, now, Record.blank(p))(p).loss)
    assert len({float(loss) for loss in losses[False]}) == 1
    assert len({float(loss) for loss in losses[True]}) == 3


def test_a_committee_shares_the_rows() -> None:
    members = [Watched(CASE.model) for _ in range(3)]
    committee = Committee(members, CASE.x)
    torch.testing.assert_close(committee(CASE.x[:8]), CASE.model(CASE.x[:8]))
    assert [member.forwards for member in members] == [3, 3, 2]


def test_a_committee_in_mixed_precision() -> None:
    batches = [(CASE.x.float(), CASE.y)]
    one = Sticker(attack=SEARCH, samples=8)
    single = balanced(dtype=torch.float32).model
    assert one.fit([CASE.model, single], batches, eps=EPS, targets=1)


def test_each_model_needs_an_image() -> None:
    one = Sticker(attack=SEARCH, samples=2)
    with pytest.raises(ValueError, match="samples must be at least 3, an image for each model"):
        one.fit([CASE.model] * 3, [(CASE.x, CASE.y)], eps=EPS)
    with pytest.raises(ValueError, match="no model"):
        one.fit([], [(CASE.x, CASE.y)], eps=EPS)


def test_the_answer_is_where_the_search_ends() -> None:
    """Not the best query, which under a random mean is the luckiest."""
    still = PGD(perturbation=PATCH, steps=1, step_size=1e-9)
    later = replace(still, steps=5)
    assert float((shared(still) - shared(later)).abs().amax()) < 1e-6
