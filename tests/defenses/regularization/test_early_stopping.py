from typing import Any

import pytest
import torch
from torch import nn

from advbench.attacks.gradient.pgd import PGD
from advbench.defenses.fit import Epoch, Fit, Score, robust_accuracy
from advbench.defenses.regularization import early_stopping
from advbench.defenses.regularization.early_stopping import EarlyStopping
from advbench.training.recipe import Optimizer
from tests.defenses.fitting import fit_of, same_weights, trained

WILD = Optimizer(lr=0.3)


def lived(defense: EarlyStopping, standings: list[tuple[float, float]]) -> tuple[Fit, int]:
    """A training that stood so, (accuracy, loss) by epoch; and how many epochs it went on.

    The first weight is the number of the epoch.
    """
    fit = fit_of(nn.Linear(1, 2), torch.rand(4, 1), torch.tensor([0, 1, 0, 1]))
    for number, (accuracy, loss) in enumerate(standings):
        nn.init.constant_(fit.model.weight, number)  # type: ignore[arg-type]
        fit.log.append(Epoch(number, 0.1, 1.0, Score(accuracy, loss)))
        defense.after_epoch(fit)
        if fit.stop:
            break
    went = len(fit.log)
    defense.finish(fit)
    assert fit.kept_epoch is not None
    assert next(fit.model.parameters()).unique().tolist() == [fit.kept_epoch]
    return fit, went


@pytest.mark.parametrize(
    ("standings", "kept"),
    [
        ([(0.1, 2.0), (0.5, 1.0), (0.3, 0.5)], 1),
        ([(0.5, 2.0), (0.5, 1.0), (0.5, 1.5)], 1),
        ([(0.5, 1.0), (0.5, 1.0), (0.4, 0.1)], 0),
        ([(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)], 2),
    ],
    ids=["accuracy", "loss decides among equals", "the earlier among equals", "last"],
)
def test_the_best_epoch_is_kept(standings: list[tuple[float, float]], kept: int) -> None:
    fit, went = lived(EarlyStopping(), standings)
    assert (fit.kept_epoch, went) == (kept, 3)


@pytest.mark.parametrize(("patience", "went"), [(1, 3), (2, 6), (None, 7)])
def test_training_ends_when_patience_is_over(patience: int | None, went: int) -> None:
    accuracies = [0.1, 0.3, 0.2, 0.4, 0.3, 0.4, 0.5]
    standings = [(accuracy, 1.0) for accuracy in accuracies]
    fit, epochs = lived(EarlyStopping(patience=patience), standings)
    assert epochs == went
    assert fit.stop == (patience is not None)
    assert fit.kept_epoch == {1: 1, 2: 3, None: 6}[patience]


def test_the_robust_measure_comes_before_the_clean_one(monkeypatch: pytest.MonkeyPatch) -> None:
    robust = iter([0.1, 0.3, 0.3, 0.2])
    monkeypatch.setattr(early_stopping, "robust_accuracy", lambda *_: next(robust))
    standings = [(0.9, 1.0), (0.5, 1.0), (0.6, 1.0), (0.9, 0.1)]
    fit, _ = lived(EarlyStopping(measure="robust", eps=0.1), standings)
    assert fit.kept_epoch == 2


def test_the_robust_measure_is_that_of_its_attack() -> None:
    defense = EarlyStopping(measure="robust", attack=PGD(steps=2), eps=0.3)
    torch.manual_seed(0)
    fit = fit_of(nn.Linear(3, 2), torch.rand(20, 3), torch.tensor([0, 1] * 10))
    fit.log.append(Epoch(0, 0.1, 1.0, Score(0.75, 1.0)))
    defense.after_epoch(fit)
    expected = robust_accuracy(
        fit.model, fit.seen_validation, fit.validation, PGD(steps=2), 0.3, fit.seed
    )
    assert fit.kept(defense)["standing"] == [expected, 0.75, -1.0]
    assert 0 < expected < 1


def test_the_model_deployed_is_that_of_an_earlier_end() -> None:
    stopped = trained(EarlyStopping(), epochs=8, optimizer=WILD)
    assert stopped.kept is not None
    assert stopped.kept < 7
    shorter = trained(epochs=stopped.kept + 1, optimizer=WILD)
    assert same_weights(stopped.model, shorter.model)
    best = max(epoch.validation.accuracy for epoch in stopped.log)
    assert stopped.log[stopped.kept].validation.accuracy == best


def test_patience_shortens_a_training_and_changes_nothing_else() -> None:
    whole = trained(EarlyStopping(), epochs=8, optimizer=WILD)
    short = trained(EarlyStopping(patience=1), epochs=8, optimizer=WILD)
    assert len(short.log) < len(whole.log)
    assert short.log == whole.log[: len(short.log)]
    assert short.kept is not None
    assert len(short.log) == short.kept + 2


def test_kept_weights_do_not_change_with_the_network() -> None:
    fit = fit_of(nn.Linear(1, 2), torch.rand(4, 1), torch.tensor([0, 1, 0, 1]))
    fit.log.append(Epoch(0, 0.1, 1.0, Score(1.0, 0.0)))
    EarlyStopping().after_epoch(fit)
    before = [weight.detach().clone() for weight in fit.model.parameters()]
    with torch.no_grad():
        for weight in fit.model.parameters():
            weight.add_(1)
    EarlyStopping().finish(fit)
    assert all(map(torch.equal, before, fit.model.parameters()))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"measure": "robust"}, "'robust' needs an eps above 0"),
        ({"eps": 0.1}, "'clean' takes none; got 'clean' and 0.1"),
        ({"measure": "robust", "eps": -0.1}, "needs an eps above 0"),
        ({"patience": 0}, "patience must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EarlyStopping(**wrong)
