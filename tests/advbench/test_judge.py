"""The judge believes nothing: every rule of the threat model has an attack that breaks it."""

import numpy as np
import pytest
import torch

from advbench.attacks import L0, L1, L2, PGD, Flag, Linf, Outcome
from advbench.bench import judge as judging
from advbench.bench.judge import judge
from advbench.trust.answers import (
    answers_at_random,
    classes,
    confidence,
    draw_seeds,
    fooled,
    predict,
    tally,
)
from tests.advbench.fakes import Plane, Push, samples

_X = samples([0.45, 0.3, 0.55], [0, 0, 1])
_PUSH = torch.tensor([0.1, 0.1, -0.1]).reshape(-1, 1, 1, 1).expand_as(_X.x)


def _outcome(x_adv, p, success=None):
    n = len(x_adv)
    count = torch.ones(n, dtype=torch.int64)
    claimed = torch.ones(n, dtype=torch.bool) if success is None else success
    return Outcome(
        x_adv, p, claimed, torch.zeros(n), torch.zeros(n), count, count, count, count, count
    )


def _judge(x_adv=None, p=_PUSH, eps=0.1, perturbation=None, success=None):
    x_adv = _X.x + p if x_adv is None else x_adv
    attack = PGD(perturbation=perturbation or Linf())
    return judge(Plane(), attack, _X.x, _X.y, eps, _outcome(x_adv, p, success), 2)


def test_a_success_is_what_a_fresh_forward_finds():
    verdict = _judge(success=torch.zeros(3, dtype=torch.bool))
    assert verdict.success.tolist() == [True, False, True]
    assert verdict.prediction.tolist() == [1, 0, 0]
    assert not verdict.invalid.any()
    assert verdict.detail == ""
    assert verdict.size == pytest.approx(0.1)


def test_a_claim_without_a_change_is_no_success():
    verdict = _judge(p=torch.zeros_like(_X.x))
    assert not verdict.success.any()
    assert not verdict.invalid.any()


def test_past_eps_is_invalid_and_no_success():
    """N5: Never clipped into what is legal, and never a success."""
    verdict = _judge(eps=0.09)
    assert verdict.invalid.all()
    assert not verdict.success.any()
    assert verdict.detail == "3 rows larger than 0.09"


@pytest.mark.parametrize(("excess", "legal"), [(5e-7, True), (3e-6, False)])
def test_rounding_past_eps_is_tolerated_and_more_is_not(excess, legal):
    """N5: In Linf, 1e-6 at any eps."""
    assert bool(_judge(eps=0.1 - excess).invalid.any()) is not legal


@pytest.mark.parametrize("perturbation", [L2(), L1()], ids=repr)
def test_l2_and_l1_are_tolerated_in_proportion(perturbation):
    """N5: One part in 100,000 of eps."""
    p = torch.zeros_like(_X.x)
    p[..., 0] = 0.1
    assert not _judge(p=p, eps=0.1 / (1 + 9e-6), perturbation=perturbation).invalid.any()
    assert _judge(p=p, eps=0.1 / (1 + 2e-5), perturbation=perturbation).invalid.all()


def test_n5_a_count_is_exact():
    assert not _judge(eps=2, perturbation=L0()).invalid.any()
    assert _judge(eps=1.999999, perturbation=L0()).invalid.all()


def test_n5_sizes_are_measured_in_64_bits():
    """In 32 bits 0.1 and its neighbours are one number; the verdict is on the one that was used."""
    p = torch.full_like(_X.x, 0.1)
    verdict = _judge(p=p)
    assert verdict.size.dtype == np.float64
    assert (verdict.size == float(torch.tensor(0.1))).all()
    assert float(torch.tensor(0.1)) > 0.1


def test_outside_the_box_is_invalid_and_not_clipped():
    """N6: Whatever attack it comes from."""
    p = torch.full_like(_X.x, 0.6)
    verdict = _judge(p=p, eps=1)
    assert verdict.invalid.tolist() == [True, False, True]
    assert "2 rows outside [0, 1]" in verdict.detail


def test_inputs_must_be_made_by_their_parameters():
    verdict = _judge(x_adv=_X.x + _PUSH, p=_PUSH * 0.5)
    assert verdict.invalid.all()
    assert verdict.detail == "3 rows not what their parameters make"


def test_nan_inputs_are_invalid():
    verdict = _judge(p=_PUSH * torch.nan)
    assert verdict.invalid.all()
    assert not verdict.success.any()
    assert (verdict.prediction == -1).all()


@pytest.mark.parametrize(
    ("flags", "size", "nan"),
    [
        (Flag.NON_FINITE, 0.0, True),
        (Flag.NON_FINITE | Flag.OUT_OF_BUDGET, 0.0, True),
        (Flag.NON_FINITE, 0.01, False),
        (Flag.ZERO_GRADIENT, 0.0, False),
    ],
)
def test_n2_a_search_that_met_nothing_finite_has_not_evaluated(flags, size, nan):
    """It comes back with the sample itself, to which the model's answer is finite and right."""
    x = samples([0.3], [0])
    p = torch.full_like(x.x, size)
    outcome = _outcome(x.x + p, p, torch.zeros(1, dtype=torch.bool))
    outcome = outcome._replace(flags=torch.tensor([int(flags)]))
    verdict = judge(Plane(), PGD(), x.x, x.y, 0.1, outcome, 2)
    assert verdict.nan.tolist() == [nan]
    assert not verdict.success.any()
    assert verdict.prediction.tolist() == [0]


def test_logits_that_are_not_finite_are_neither_robust_nor_broken():
    """N2: Both NaN and infinity; a prediction of NaN would never change."""

    class Spoilt(Plane):
        def forward(self, x):
            return super().forward(x) / (x.flatten(1).mean(1, keepdim=True) < 0.5)

    outcome = _outcome(_X.x + _PUSH, _PUSH)
    verdict = judge(Spoilt(), PGD(), _X.x, _X.y, 0.1, outcome, 2)
    assert verdict.nan.tolist() == [True, False, False]
    assert verdict.success.tolist() == [False, False, True]
    assert not verdict.invalid.any()


def test_a_tie_is_no_success():
    tied = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert fooled(tied, torch.tensor([0, 1, 0])).tolist() == [False, False, True]


def test_n7_eight_bits_can_undo_a_success_and_are_rounded():
    """Of 255 levels 127.53 is 128, a success, where it is rounded; cut off it would be 127."""
    x = samples([0.4999, 0.45, 0.4995], [0, 0, 0])
    p = torch.tensor([[0.0002, 0.0002], [0.1, 0.1], [-0.0995, 0.1015]]).reshape(-1, 1, 1, 2)
    verdict = judge(Plane(), PGD(), x.x, x.y, 0.2, _outcome(x.x + p, p), 2)
    assert verdict.success.tolist() == [True, True, True]
    assert verdict.success_8bit.tolist() == [True, True, False]  # 0.4 and 0.601 become 0.4 and 0.6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o: None, "PGD must return an Outcome; got NoneType"),
        (lambda o: o._replace(x_adv=o.x_adv[:2]), "x_adv must have 3 rows; got 2"),
        (lambda o: o._replace(x_adv=o.x_adv.double()), "torch.float64"),
        (lambda o: o._replace(x_adv=o.x_adv[..., :1]), r"x_adv must be \(3, 1, 1, 2\)"),
        (lambda o: o._replace(success=None), "success must be a tensor; got NoneType"),
    ],
)
def test_an_answer_of_the_wrong_form_is_refused(spoil, message):
    with pytest.raises((TypeError, ValueError), match=message):
        judge(Plane(), PGD(), _X.x, _X.y, 0.1, spoil(_outcome(_X.x + _PUSH, _PUSH)), 2)


def test_every_rule_is_watched_by_a_fault():
    """Without its rules the judge would let the faults above through."""
    _, broken = judging._measure(Linf(), _X.x, _X.x + 9, _PUSH * 9, 0.1, 2)
    assert set(broken) == {
        "larger than 0.1",
        "outside [0, 1]",
        "not finite",
        "not what their parameters make",
    }


def test_predicting_leaves_the_model_as_it_was():
    model = Plane().train()
    logits = predict(model, _X.x, 2)
    assert model.training
    assert model.seen == [2, 1]
    assert not logits.requires_grad
    assert classes(logits).tolist() == [0, 0, 1]


def test_batch_size_changes_no_verdict():
    outcome = _outcome(_X.x + _PUSH, _PUSH)
    verdicts = [judge(Plane(), Push(), _X.x, _X.y, 0.1, outcome, n) for n in (1, 2, 50)]
    for other in verdicts[1:]:
        assert (other.success == verdicts[0].success).all()
        assert (other.size == verdicts[0].size).all()


class Noisy(Plane):
    """A `Plane` with noise on its margin, a draw of it for each row."""

    def forward(self, x):
        noise = torch.randn(len(x))
        return super().forward(x) + 0.1 * torch.stack([-noise, noise], 1)


class Drawn(Plane):
    """Draws, but answers the same."""

    def forward(self, x):
        torch.rand(1)
        return super().forward(x)


class Foreign(Plane):
    """Draws from a generator that no seed of torch reaches."""

    generator = np.random.default_rng(0)

    def forward(self, x):
        return super().forward(x) + float(self.generator.random())


class Spoilt(Plane):
    """Answers with what is not a number."""

    def forward(self, x):
        return super().forward(x) * torch.nan


@pytest.mark.parametrize(
    ("model", "expected"),
    [(Plane(), False), (Spoilt(), False), (Noisy(), True), (Drawn(), True), (Foreign(), True)],
    ids=lambda value: type(value).__name__,
)
def test_a_random_model_is_told_by_its_answers_and_its_draws(model, expected):
    state = torch.get_rng_state()
    assert answers_at_random(model, _X.x, 2) is expected
    assert model.seen == [2, 1, 2, 1]
    assert torch.equal(state, torch.get_rng_state())


def test_one_draw_is_counted_as_a_single_answer():
    once, logits = tally(Plane(), _X.x, _X.y, 2), predict(Plane(), _X.x, 2)
    assert torch.equal(once.prediction, classes(logits))
    assert torch.equal(once.confidence, confidence(logits))
    assert torch.equal(once.right, (~fooled(logits, _X.y)).double())
    spoilt = tally(Spoilt(), _X.x, _X.y, 2)
    assert (spoilt.prediction == -1).all()
    assert not spoilt.right.any()
    assert not spoilt.finite.any()


def test_many_draws_are_counted_one_by_one():
    seeds = draw_seeds("right", 0, 7)
    answers = torch.stack([predict(Noisy(), _X.x, 2, seed=seed) for seed in seeds])
    found = tally(Noisy(), _X.x, _X.y, 2, seeds=seeds)
    assert torch.equal(found.right, (answers.argmax(2) == _X.y).double().mean(0))
    assert torch.equal(found.prediction, answers.argmax(2).mode(0).values)
    mean = answers.double().softmax(2).mean(0)
    assert torch.allclose(found.confidence, mean.gather(1, found.prediction[:, None])[:, 0])
    assert 0 < found.right[0] < 1


def test_most_draws_decide_on_a_success_and_others_screen():
    outcome = _outcome(_X.x + _PUSH, _PUSH)
    seeds, others = draw_seeds("right", 0, 40), draw_seeds("screened", 0, 40)
    verdict = judge(Noisy(), PGD(), _X.x, _X.y, 0.1, outcome, 3, seeds=seeds, screening=others)
    assert verdict.success.tolist() == [True, False, True]
    assert (verdict.success == (verdict.right < 0.5)).all()
    assert 0 < verdict.right[0] < 0.5
    again = tally(Noisy(), _X.x + _PUSH, _X.y, 3, seeds=others)
    assert verdict.screened.tolist() == again.right.tolist() != verdict.right.tolist()


def test_seeds_of_draws_are_all_different_and_can_be_seeds():
    seeds = [
        seed
        for purpose in ("right", "screened")
        for start in range(10)
        for seed in draw_seeds(purpose, start, 20)
    ]
    assert len(set(seeds)) == 400
    assert all(100 < seed < 2**32 for seed in seeds)
    assert draw_seeds("right", 3, 20)[:5] == draw_seeds("right", 3, 5)
