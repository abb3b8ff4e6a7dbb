"""The alarm for catastrophic overfitting, on planted collapses."""

import logging

import pytest
import torch
from torch import Tensor, nn

from advbench.defenses.adversarial import collapse
from advbench.defenses.adversarial.fast_at import FastAT
from advbench.defenses.adversarial.free_at import FreeAT
from advbench.defenses.adversarial.n_fgsm import NFGSM
from advbench.defenses.fit import Batch, Epoch, Fit, Score, weights_of
from advbench.defenses.regularization.early_stopping import EarlyStopping

from ..fitting import VALIDATION, trained, under_way

SHARES = [0.4, 0.5, 0.45, 0.1, 0.5]  # under ten steps; it collapses in epoch 3


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(SHARES)
    monkeypatch.setattr(collapse, "robust_accuracy", lambda *_: next(left))
    answers = nn.functional.one_hot(VALIDATION.y, 10).float()
    monkeypatch.setattr(collapse, "logits", lambda *_: answers)


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("kind", [FastAT, NFGSM, FreeAT])
def test_a_collapse_ends_training_with_the_weights_before_it(
    kind: type[FastAT | NFGSM | FreeAT],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Weights after every epoch, before the defence looks at them.
    seen: list[dict[str, Tensor]] = []
    watch = collapse.watch

    def spy(defense: object, fit: Fit, *rest: object) -> None:
        seen.append(weights_of(fit.model))
        watch(defense, fit, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(f"{kind.__module__}.watch", spy)
    with caplog.at_level(logging.WARNING):
        found = trained(kind(eps=0.1), epochs=24)
    assert found.alarm.startswith("catastrophic overfitting in epoch 3: ")
    assert "from 45.0% to 10.0%" in found.alarm
    assert found.alarm in caplog.text
    assert (len(found.log), found.kept) == (4, 2)
    assert all(torch.equal(v, seen[2][k]) for k, v in found.model.state_dict().items())
    assert any(not torch.equal(v, seen[3][k]) for k, v in found.model.state_dict().items())


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_keeps_its_own_choice(first: bool) -> None:
    fast, stopping = FastAT(eps=0.1), EarlyStopping()
    pair = (fast, stopping) if first else (stopping, fast)
    found = trained(*pair, epochs=5)
    best = max(found.log[:4], key=lambda e: (e.validation.accuracy, -e.validation.loss))
    assert found.alarm
    assert found.kept == best.number


def answering(y: Tensor, own: float) -> Tensor:
    """Logits of which a share is right."""
    wrong = torch.arange(len(y)) >= round(own * len(y))
    return nn.functional.one_hot((y + wrong) % 10, 10).float()


@pytest.mark.parametrize(
    ("before", "after", "alarm"),
    [
        ((0.5, 0.6), (0.5, 0.2), True),  # own accuracy stays
        ((0.5, 0.6), (0.8, 0.2), True),
        ((0.5, 0.6), (0.4, 0.2), False),  # everything falls: a bad epoch
        ((0.5, 0.6), (0.8, 0.45), False),  # by 15 points, but only by a quarter
        ((0.5, 0.12), (0.8, 0.03), False),  # by three quarters, but only by 9 points
        ((0.5, 0.3), (0.8, 0.19), True),  # by 11 points and by more than a third
        ((0.5, 0.2), (0.8, 0.6), False),
    ],
)
def test_what_is_a_collapse(
    before: tuple[float, float],
    after: tuple[float, float],
    alarm: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defense, model = FastAT(eps=0.1), nn.Linear(1, 10)
    fit = under_way(model)
    start = weights_of(model)

    def same(batch: Batch, fit: Fit, eps: float) -> Tensor:
        return batch.x

    for number, (own, robust) in enumerate((before, after)):
        fit.log.append(Epoch(number, 1.0, 1.0, Score(1.0, 1.0)))
        answers = answering(fit.validation.y, own)
        monkeypatch.setattr(collapse, "robust_accuracy", lambda *_, share=robust: share)
        monkeypatch.setattr(collapse, "logits", lambda *_, answers=answers: answers)
        collapse.watch(defense, fit, defense.perturbation, 0.1, same)
        kept = fit.kept(defense)
        assert (kept["own"], kept["good"]) == (
            pytest.approx(before[0] if number == 0 or alarm else own, abs=0.01),
            0 if number == 0 or alarm else 1,
        )
        if number == 0:
            with torch.no_grad():
                model.weight.zero_()
    assert (bool(fit.alarm), fit.stop) == (alarm, alarm)
    assert torch.equal(model.weight, start["weight"]) == alarm


def test_a_training_that_goes_well_is_left_alone() -> None:
    found = trained(FastAT(eps=0.05), epochs=3)
    assert not found.alarm
    assert (len(found.log), found.kept) == (3, 2)


def test_looking_changes_nothing() -> None:
    # The alarm draws no numbers of the training's generator and leaves modes and weights alone.
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    fit = under_way(model)
    fit.log.append(Epoch(0, 1.0, 1.0, Score(1.0, 1.0)))
    before, state = weights_of(model), torch.random.get_rng_state()
    FastAT(eps=0.1).after_epoch(fit)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in weights_of(model).items())
