"""Losses against their formulas, written out by hand."""

import pytest
import torch

from advbench import registry
from advbench.attacks import DLR, CrossEntropy, Loss, Margin
from advbench.attacks.criterion import Criterion
from advbench.attacks.rows import take
from advbench.testing.victims import numbers

LOSSES: list[Loss] = [registry.get("losses", name)() for name in registry.names("losses")]
Z = torch.tensor([[2.0, -1.0, 0.5, 1.0]], dtype=torch.float64)


def test_all_are_tested() -> None:
    assert {CrossEntropy, Margin, DLR} <= {type(loss) for loss in LOSSES}


def criterion(y: int, target: int | None = None) -> Criterion:
    return Criterion(torch.tensor([y]), None if target is None else torch.tensor([target]))


@pytest.mark.parametrize(
    ("loss", "y", "target", "expected"),
    [
        (CrossEntropy(), 2, None, float(Z.logsumexp(1)) - 0.5),
        (CrossEntropy(), 2, 1, -(float(Z.logsumexp(1)) + 1.0)),
        (Margin(), 0, None, 1.0 - 2.0),
        (Margin(), 1, None, 2.0 - -1.0),
        (Margin(), 0, 2, 0.5 - 2.0),
        (Margin(), 1, 0, 2.0 - 1.0),
        (DLR(), 0, None, -(2.0 - 1.0) / (2.0 - 0.5)),
        (DLR(), 3, None, -(1.0 - 2.0) / (2.0 - 0.5)),
        (DLR(), 0, 1, -(2.0 - -1.0) / (2.0 - (0.5 - 1.0) / 2)),
    ],
)
def test_formulas(loss: Loss, y: int, target: int | None, expected: float) -> None:
    assert float(loss(Z, criterion(y, target))) == pytest.approx(expected, rel=1e-9)


def test_dlr_with_few_classes() -> None:
    three, two = Z[:, :3], Z[:, :2]
    assert float(DLR()(three, criterion(0))) == pytest.approx(-(2 - 0.5) / (2 - -1))
    assert float(DLR()(three, criterion(0, 1))) == pytest.approx(-(2 - -1) / (2 - -1))
    assert float(DLR()(two, criterion(0))) == -3
    assert float(DLR()(two, criterion(0, 1))) == -3


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_shift_changes_nothing_and_rows_are_alone(loss: Loss, classes: int) -> None:
    z = numbers(classes, 6, classes)
    y = torch.arange(6) % classes
    for targets in (None, (y + 1) % classes):
        plain = loss(z, Criterion(y, targets))
        assert plain.shape == (6,)
        for shift in (-100.0, 100.0):
            torch.testing.assert_close(loss(z + shift, Criterion(y, targets)), plain)
        single = [loss(z[i : i + 1], take(Criterion(y, targets), [i])) for i in range(6)]
        torch.testing.assert_close(torch.cat(single), plain)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_two_classes_targeted_is_untargeted(loss: Loss) -> None:
    z = numbers(1, 6, 2)
    y = torch.arange(6) % 2
    untargeted = loss(z, Criterion(y))
    if isinstance(loss, CrossEntropy):  # -log p and log(1 - p): another number, the same order
        untargeted = torch.log1p(-(-untargeted).exp())
    torch.testing.assert_close(loss(z, Criterion(y, 1 - y)), untargeted)


@pytest.mark.parametrize("loss", [Margin(), DLR()], ids=repr)
def test_margin_and_dlr_change_sign_with_the_decision(loss: Loss) -> None:
    z = numbers(3, 40, 5)
    y, targets = torch.zeros(40, dtype=torch.int64), torch.ones(40, dtype=torch.int64)
    assert torch.equal(loss(z, Criterion(y)) > 0, z.argmax(1) != y)
    if isinstance(loss, Margin):
        assert torch.equal(loss(z, Criterion(y, targets)) > 0, z.argmax(1) == targets)


def test_dlr_ignores_the_scale_and_cross_entropy_saturates() -> None:
    z = numbers(3, 8, 5)
    given = Criterion(z.argmax(1))
    torch.testing.assert_close(DLR()(z * 1e5, given), DLR()(z, given))
    logits = (z * 1e5).float().requires_grad_()
    (gradient,) = torch.autograd.grad(CrossEntropy()(logits, given).sum(), logits)
    assert (gradient == 0).all()
    (gradient,) = torch.autograd.grad(Margin()(logits, given).sum(), logits)
    assert (gradient != 0).any(1).all()


@pytest.mark.parametrize(
    ("logits", "y", "target", "success"),
    [
        ([1.0, 2.0, 0.0], 0, None, True),
        ([2.0, 1.0, 0.0], 0, None, False),
        ([1.0, 1.0, 0.0], 0, None, False),
        ([1.0, 1.0, 0.0], 1, None, False),
        ([1.0, 2.0, 0.0], 0, 1, True),
        ([1.0, 2.0, 3.0], 0, 1, False),
        ([1.0, 3.0, 3.0], 0, 1, False),
        ([float("nan"), 2.0, 0.0], 0, None, False),
        ([0.0, float("nan"), 1.0], 0, None, False),
        ([float("-inf"), 2.0, 0.0], 0, None, False),
        ([0.0, float("inf"), 1.0], 0, None, False),
        ([0.0, float("inf"), 1.0], 0, 1, False),
    ],
)
def test_success(logits: list[float], y: int, target: int | None, success: bool) -> None:
    assert bool(criterion(y, target).success(torch.tensor([logits]))) is success
