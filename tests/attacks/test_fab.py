"""FAB against exact distances, its published algorithm, and its costs."""

import pytest
import torch

from advbench.attacks import FAB, L0, L1, L2, Linf, Perturbation, Worst
from advbench.testing.requirement import require_same
from advbench.testing.strength import half_space
from advbench.testing.victims import Watched, linear, numbers, smooth
from tests.attacks.closed_form import assert_smallest

NORMS = [Linf(), L2(), L1()]


@pytest.mark.parametrize(("classes", "target_classes"), [(2, 0), (10, 0), (10, 9)])
@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_the_smallest_change(perturbation: Perturbation, classes: int, target_classes: int) -> None:
    attack = FAB(perturbation=perturbation, steps=10, target_classes=target_classes)
    assert_smallest(attack, classes, within=1.006)


def test_published_defaults() -> None:
    attack = FAB()
    assert (attack.steps, attack.restarts, attack.target_classes) == (100, 1, 0)
    assert (attack.bias, attack.overshoot, attack.backward) == (0.1, 1.05, 0.9)
    assert attack.perturbation == Linf()


def test_the_first_steps_by_hand() -> None:
    """On a linear model far from the box the projections are known."""
    (model, x, y, _), w, lead = half_space((6,), count=4)
    watched = Watched(model)
    FAB(perturbation=L2(), steps=2).run(watched, x, y)
    away = torch.where(y == 1, -lead, lead).unsqueeze(1)
    d = away * w / w.square().sum()  # from the input to the boundary
    assert (x + 1.1 * d == (x + 1.1 * d).clamp(0, 1)).all()
    asked = [(images - x).flatten(1) for images, _ in watched.seen]
    assert len(asked) == 5  # the clean images, then an iterate and a verdict for each step
    # Both projections are d, so their mean is too; the verdict is a success.
    torch.testing.assert_close(asked[2], 1.05 * d)
    back = 0.9 * 1.05
    torch.testing.assert_close(asked[3], back * d)
    # 1 - .945 of the way is left from there, so that the weight of the input is 0.055 / 1.055.
    share = (1 - back) / (1 - back + 1)
    step = (1 - share) * (back + 1.05 * (1 - back)) + share * 1.05
    torch.testing.assert_close(asked[4], step * d)


def test_costs_of_fab_and_fab_t() -> None:
    model, x, y, targets = smooth(classes=4, count=3)
    plain = FAB(steps=5).run(model, x, y)
    assert (plain.forwards == 1 + 10).all()
    assert (plain.backwards == 4 * 5).all()
    each = FAB(steps=5, target_classes=9).run(model, x, y)
    assert (each.forwards == 2 + 3 * 10).all()
    assert (each.backwards == 3 * 5).all()
    assert FAB(target_classes=9).queries == 1801
    aimed = FAB(steps=5, target_classes=9).run(model, x, y, targets=targets)
    assert (aimed.forwards == 2 + 10).all()
    assert (aimed.backwards == 5).all()


def test_a_target_has_to_beat_every_class() -> None:
    """The boundary between label and target lies where a third class wins."""
    model, x, y, _ = linear(classes=3, count=8)
    with torch.no_grad():
        z = model(x)
    last = z.argmin(1)
    found = FAB(steps=20).run(model, x, y, targets=last)
    assert found.success.all()
    assert (model(found.x_adv).argmax(1) == last).all()


@pytest.mark.parametrize("perturbation", NORMS, ids=repr)
def test_only_restarts_start_at_random(perturbation: Perturbation) -> None:
    """Every class is headed for from the input; a restart begins half as far as eps or nearer."""
    model, x, y, _ = smooth(classes=3, count=4)
    eps = 0.02 * perturbation.largest(x)
    attack = FAB(perturbation=perturbation, steps=2, restarts=2, target_classes=2)
    verdicts = []
    for seed in (0, 1):
        watched = Watched(model)
        attack.run(watched, x, y, eps=eps, batch_size=4, stop="never", seed=seed)
        asked = [images - x for images, _ in watched.seen[2:]]
        assert len(asked) == 16  # two classes, each with a restart, of two steps of two queries
        assert all((asked[run] == 0).all() for run in (0, 4, 8, 12))
        verdicts.append([asked[run + 1] for run in (0, 4, 8, 12)])
        for again in (1, 3):
            size = perturbation.size(x, verdicts[-1][again])
            assert (size <= eps / 2 * (1 + 1e-9)).all()
            assert (size > 0).all()
    one, other = verdicts
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[2], other[2])
    for first, second in ((one[1], other[1]), (one[3], other[3]), (one[1], one[3])):
        assert not torch.isclose(first, second).all()


def test_restarts_are_the_same_side_by_side_and_in_turn() -> None:
    model, x, y, _ = smooth(classes=4, count=5)
    attack = FAB(steps=2, restarts=3, target_classes=3)
    whole = attack.run(model, x, y, stop="never")
    seen = []
    for batch_size in (15, 1, 3, 7):
        watched = Watched(model)
        found = attack.run(watched, x, y, stop="never", batch_size=batch_size)
        require_same(attack, found, whole, f"batch_size={batch_size}")
        sums = torch.cat([images.flatten(1) @ numbers(1, 20) for images, _ in watched.seen])
        seen.append(sums.sort().values)
        torch.testing.assert_close(seen[-1], seen[0])


def test_a_budget_that_ends_before_the_clean_logits() -> None:
    model, x, y, _ = smooth(count=3)
    found = FAB(steps=2, target_classes=2).run(model, x, y, budget=1)
    assert (found.forwards == 1).all()
    assert not found.success.any()


def test_inside_an_ensemble_a_row_leaves_at_the_first_success() -> None:
    model, x, y, _ = smooth(count=8)
    alone = FAB(steps=20).run(model, x, y)
    eps = alone.size * torch.tensor([1.2, 0.8]).repeat(4)
    team = Worst(attacks=(FAB(steps=20),)).run(model, x, y, eps=eps)
    assert torch.equal(team.success, torch.tensor([True, False]).repeat(4))
    assert (team.steps[team.success] < 20).all()
    assert (team.steps[~team.success] == 20).all()


def test_a_masked_first_gradient_moves_nothing() -> None:
    x = 0.5 + 0.1 * numbers(9, 2, 6).tanh()
    flat = torch.nn.Linear(6, 3).double()
    torch.nn.init.zeros_(flat.weight)
    found = FAB(steps=3).run(flat, x, flat(x).argmax(1))
    assert (found.x_adv == x).all()
    assert not found.success.any()


@pytest.mark.parametrize(
    ("field", "value"),
    [("bias", 1.1), ("overshoot", 0.9), ("backward", 0.0), ("target_classes", -1)],
)
def test_fields_out_of_range(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"FAB: {field} must .* got {value}"):
        FAB(**{field: value})  # type: ignore[arg-type]


def test_no_form_for_the_number_of_pixels() -> None:
    with pytest.raises(ValueError, match=r"FAB: perturbation must be one of Linf\(\), L2\(\), L1"):
        FAB(perturbation=L0())
