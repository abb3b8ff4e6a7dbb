"""The search over the weight of the lead, and the trim of the answer."""

import pytest
import torch
from torch import Tensor

from advbench.attacks.checks import above_zero
from advbench.attacks.criterion import Criterion
from advbench.attacks.minimal.weight import HALVINGS, Smallest, Weight
from advbench.attacks.perturbations import L2, Linf
from advbench.attacks.query import Problem
from advbench.attacks.randomness import Draws


def problem(rows: int) -> Problem:
    none = torch.zeros(rows, dtype=torch.int64)
    draws = Draws(none, none, none, none)
    return Problem(torch.full((rows, 4), 0.5), torch.ones(rows), Criterion(none), draws, none)


def search(weight: Weight, success: Tensor, objectives: list[float]) -> tuple[Weight, Tensor]:
    for number in objectives:
        weight, over = weight.after(success, torch.full_like(weight.c, number), steps=20)
    return weight, over


def test_ten_times_as_large_until_a_success_then_half_way() -> None:
    weight = Weight.first(problem(2), 1e-3)
    falling = [1 / k for k in range(1, 21)]
    weight, over = search(weight, torch.tensor([False, True]), falling)
    assert over.all()
    assert weight.number.tolist() == [1, 1]
    assert weight.age.tolist() == [0, 0]
    torch.testing.assert_close(weight.c, torch.tensor([1e-2, 5e-4]))
    weight, _ = search(weight, torch.tensor([True, False]), falling)
    torch.testing.assert_close(weight.c, torch.tensor([5.5e-3, 7.5e-4]))
    assert weight.low.tolist() == pytest.approx([1e-3, 5e-4])


def test_each_row_leaves_on_its_own_objective() -> None:
    """B3: the rows of a batch do not wait for one another."""
    weight, ends = Weight.first(problem(2), 1.0), []
    for k in range(1, 21):
        objective = torch.tensor([5.0, 5.0 / k])
        weight, over = weight.after(torch.tensor([False, False]), objective, steps=20)
        ends.append(over.tolist())
    assert ends[:4] == [[False, False]] * 3 + [[True, False]]
    assert [row[1] for row in ends] == [False] * 19 + [True]


def test_an_early_success_is_no_success_of_the_search_and_a_late_one_keeps_it_going() -> None:
    none, hit = torch.tensor([False]), torch.tensor([True])
    weight, _ = search(Weight.first(problem(1), 1.0), hit, [1.0])
    weight, over = search(weight, none, [1 / k for k in range(2, 21)])
    assert over.all()
    assert weight.c.tolist() == [10.0], "a step too far told that 1 is enough"
    weight, over = search(Weight.first(problem(1), 1.0), hit, [1.0] * 19)
    assert not over.any(), "a search that succeeds is left"


def test_a_trim_halves_what_is_known_to_fail() -> None:
    given, p = problem(2), torch.tensor([[0.4, 0, 0, 0], [0.2, -0.4, 0, 0]])
    for perturbation, cut in ((L2(), [[0.3, 0, 0, 0]]), (Linf(), [[0.3, 0, 0, 0]])):
        best = Smallest.none(given, torch.zeros_like(p))
        assert best.trimmed.all()
        assert not best.trim(perturbation, given).any()
        size = perturbation.size(given.x, p)
        best = best.after(p, size, torch.tensor([True, False]), torch.tensor([False, False]))
        assert best.trimmed.tolist() == [False, True]
        half = best.trim(perturbation, given)
        torch.testing.assert_close(half[0], torch.tensor([0.2, 0, 0, 0]))
        size = perturbation.size(given.x, half)
        best = best.after(half, size, torch.tensor([False, False]), torch.tensor([True, True]))
        torch.testing.assert_close(best.trim(perturbation, given)[:1], torch.tensor(cut))
        assert best._replace(asked=torch.tensor([HALVINGS, 0])).trimmed.all()


def test_a_trim_to_a_maximum_clips() -> None:
    given, p = problem(1), torch.tensor([[0.4, -0.1, 0, 0]])
    best = Smallest.none(given, p).after(
        p, torch.tensor([0.4]), torch.tensor([True]), torch.tensor([False])
    )
    torch.testing.assert_close(best.trim(Linf(), given), torch.tensor([[0.2, -0.1, 0, 0]]))


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_numbers_above_zero(value: float) -> None:
    with pytest.raises(ValueError, match="EAD: weight must be a number above 0; got"):
        above_zero("EAD", "weight", value)
