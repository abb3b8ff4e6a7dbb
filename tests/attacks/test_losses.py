"""Losses against their formulas, written out by hand."""

import math

import pytest
import torch

from advbench import registry
from advbench.attacks import DLR, FGSM, PGD, CrossEntropy, Divergence, Loss, Margin, MinimumEps
from advbench.attacks.criterion import Criterion
from advbench.attacks.rows import take
from advbench.attacks.universal.fitting import fit_shared
from advbench.testing.victims import inputs, numbers

LOSSES: list[Loss] = [registry.get("losses", name)() for name in registry.names("losses")]
LABELLED = [loss for loss in LOSSES if not loss.wants_clean]
Z = torch.tensor([[2.0, -1.0, 0.5, 1.0]], dtype=torch.float64)


def test_all_are_tested() -> None:
    assert {CrossEntropy, Margin, DLR, Divergence} <= {type(loss) for loss in LOSSES}


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
    clean = numbers(classes + 1, 6, classes) if loss.wants_clean else None
    for targets in (None,) if loss.wants_clean else (None, (y + 1) % classes):
        given = Criterion(y, targets, clean)
        plain = loss(z, given)
        assert plain.shape == (6,)
        for shift in (-100.0, 100.0):
            torch.testing.assert_close(loss(z + shift, given), plain)
        single = [loss(z[i : i + 1], take(given, [i])) for i in range(6)]
        torch.testing.assert_close(torch.cat(single), plain)


@pytest.mark.parametrize("loss", LABELLED, ids=repr)
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


def test_divergence_is_the_formula() -> None:
    clean = torch.tensor([[0.0, 1.0, -0.5, 2.0]], dtype=torch.float64)
    p, q = clean.softmax(1), Z.softmax(1)
    expected = float((p * (p / q).log()).sum())
    found = Divergence()(Z, Criterion(torch.tensor([2]), clean=clean))
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert float(found) > 0
    two = Divergence()(Z[:, :2], Criterion(torch.tensor([0]), clean=torch.zeros(1, 2)))
    q0 = 1 / (1 + math.exp(-3.0))
    assert float(two) == pytest.approx(math.log(0.5) - 0.5 * math.log(q0 * (1 - q0)), rel=1e-6)


def test_divergence_is_nothing_with_no_slope_where_nothing_has_changed() -> None:
    z = numbers(3, 8, 5).requires_grad_()
    loss = Divergence()(z, Criterion(torch.zeros(8, dtype=torch.int64), clean=z.detach()))
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_divergence_stays_finite_where_the_softmax_saturates() -> None:
    z = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = Divergence()(z, Criterion(torch.tensor([0]), clean=torch.tensor([[-1e4, 0.0, 1e4]])))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert float(loss.detach()) == pytest.approx(2e4)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


def test_divergence_refuses_what_it_cannot_do() -> None:
    y, z = torch.tensor([0]), torch.zeros(1, 4)
    with pytest.raises(ValueError, match="divergence: there is no form of it with targets"):
        Divergence()(z, Criterion(y, y + 1, z))
    with pytest.raises(ValueError, match="divergence: the logits of the clean samples are missing"):
        Divergence()(z, Criterion(y))


class Counted(torch.nn.Module):
    """A linear network that counts the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = numbers(4, 6, 3).float()
        self.images = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.images += len(x)
        return x @ self.weight


X, Y = 0.3 + 0.4 * inputs(5, 9, (6,), torch.float32), torch.arange(9) % 3


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("restarts", [1, 2])
def test_a_search_pays_a_query_for_the_clean_logits(restarts: int, batch_size: int | None) -> None:
    costs = []
    for loss in (CrossEntropy(), Divergence()):
        model = Counted()
        attack = PGD(steps=3, loss=loss, restarts=restarts)
        found = attack.run(model, X, Y, eps=0.2, stop="never", batch_size=batch_size)
        assert model.images == int(found.forwards.sum())
        assert found.forwards.tolist() == [attack.queries] * 9
        assert found.backwards.tolist() == [3 * restarts] * 9
        costs.append(attack.queries)
    assert costs[1] == costs[0] + 1
    clean, changed = model(X), model(found.x_adv)
    torch.testing.assert_close(found.loss, Divergence()(changed, Criterion(Y, clean=clean)))


def test_a_search_keeps_to_its_budget_with_clean_logits() -> None:
    for budget in (1, 2, 4):
        model = Counted()
        attack = PGD(steps=8, loss=Divergence())
        found = attack.run(model, X, Y, eps=0.2, stop="never", budget=budget)
        assert found.forwards.tolist() == [budget] * 9
        assert model.images == 9 * budget


def test_samples_do_not_mix_their_clean_logits() -> None:
    # Rows leave at different times and others take their places: each keeps its own.
    attack = PGD(steps=6, loss=Divergence(), restarts=2)
    y, eps = Counted()(X).argmax(1), torch.linspace(0.4, 0.05, 9)
    found = attack.run(Counted(), X, y, eps=eps, batch_size=4)
    assert len(set(found.forwards.tolist())) > 2
    for i in range(9):
        one, ids = slice(i, i + 1), torch.tensor([i])
        alone = attack.run(Counted(), X[one], y[one], eps=eps[one], ids=ids)
        torch.testing.assert_close(found.x_adv[one], alone.x_adv)
        assert found.forwards[i] == alone.forwards[0]


def test_the_smallest_eps_can_be_sought_with_it() -> None:
    attack = MinimumEps(attack=PGD(steps=3, loss=Divergence()), rounds=4)
    found = attack.run(Counted(), X, Y, eps=0.5)
    assert found.success.any()
    assert (found.forwards <= attack.queries + 1).all()


def test_targets_and_shared_changes_are_refused_in_a_search() -> None:
    with pytest.raises(ValueError, match="no form of it with targets"):
        FGSM(loss=Divergence()).run(Counted(), X, Y, eps=0.1, targets=(Y + 1) % 3, stop="never")
    with pytest.raises(ValueError, match="a change that many images share has none"):
        fit_shared(
            PGD(steps=2, loss=Divergence()),
            Counted(),
            [(X, Y)],
            eps=0.1,
            targets=None,
            seed=0,
            samples=2,
        )
