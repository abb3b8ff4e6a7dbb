"""The judge believes nothing: every rule of the threat model has an attack that breaks it."""

import pytest
import torch

from advbench.attacks import L2, PGD, Linf, Outcome
from advbench.bench import judge as judging
from advbench.bench.judge import classes, fooled, judge, predict
from tests.advbench.fakes import Plane, Push, samples

_X = samples([0.45, 0.3, 0.55], [0, 0, 1])
_PUSH = torch.tensor([0.1, 0.1, -0.1]).reshape(-1, 1, 1, 1).expand_as(_X.x)


def _outcome(x_adv, p, success=None):
    n = len(x_adv)
    count = torch.ones(n, dtype=torch.int64)
    claimed = torch.ones(n, dtype=torch.bool) if success is None else success
    return Outcome(x_adv, p, claimed, torch.zeros(n), torch.zeros(n), count, count, count, count)


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
    verdict = _judge(eps=0.09)
    assert verdict.invalid.all()
    assert not verdict.success.any()
    assert verdict.detail == "3 rows larger than 0.09"


@pytest.mark.parametrize(("excess", "legal"), [(5e-7, True), (3e-6, False)])
def test_rounding_past_eps_is_tolerated_and_more_is_not(excess, legal):
    assert bool(_judge(eps=0.1 - excess).invalid.any()) is not legal


def test_l2_is_tolerated_in_proportion():
    p = torch.zeros_like(_X.x)
    p[..., 0] = 0.1
    assert not _judge(p=p, eps=0.1 / (1 + 9e-6), perturbation=L2()).invalid.any()
    assert _judge(p=p, eps=0.1 / (1 + 2e-5), perturbation=L2()).invalid.all()


def test_outside_the_box_is_invalid_and_not_clipped():
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


def test_logits_that_are_not_finite_are_neither_robust_nor_broken():
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


def test_eight_bits_can_undo_a_success():
    x = samples([0.4999, 0.45], [0, 0])
    p = torch.tensor([0.0002, 0.1]).reshape(-1, 1, 1, 1).expand_as(x.x)
    verdict = judge(Plane(), PGD(), x.x, x.y, 0.1, _outcome(x.x + p, p), 2)
    assert verdict.success.tolist() == [True, True]
    below = torch.tensor(0.5001 * 255).round() / 255 > 0.5
    assert verdict.success_8bit.tolist() == [bool(below), True]


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
