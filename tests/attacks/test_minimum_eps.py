"""The smallest eps per sample: bisection around an attack inside a set."""

import pytest
import torch

from advbench.attacks import BIM, FGSM, L2, PGD, Linf, MinimumEps, RandomNoise
from advbench.testing.victims import Watched, smooth


@pytest.mark.parametrize("perturbation", [Linf(), L2()], ids=repr)
def test_each_round_halves_the_bracket(perturbation: Linf | L2) -> None:
    """What is found shrinks towards the smallest eps at which the attack itself succeeds."""
    model, x, y, _ = smooth(count=6)
    inner = BIM(perturbation=perturbation, steps=20)
    largest = perturbation.largest(x)
    fine = MinimumEps(attack=inner, rounds=24).run(model, x, y)
    assert fine.success.all()
    before = torch.full_like(fine.size, torch.inf)
    for rounds in (1, 3, 6, 9):
        size = MinimumEps(attack=inner, rounds=rounds).run(model, x, y).size
        assert (size <= before).all()
        assert (size - fine.size <= largest * 2.0 ** (1 - rounds) + 1e-9).all()
        before = size


def test_the_answer_is_legal_and_a_success() -> None:
    model, x, y, _ = smooth(count=6)
    found = MinimumEps(attack=PGD(steps=5)).run(model, x, y)
    assert (model(found.x_adv).argmax(1) != y).all()
    torch.testing.assert_close((found.x_adv - x).flatten(1).abs().amax(1), found.size)


def test_an_upper_bound_is_kept() -> None:
    model, x, y, _ = smooth(count=6)
    free = MinimumEps(attack=BIM(steps=20)).run(model, x, y)
    assert free.success.all()
    bound = free.size * torch.tensor([0.5, 2.0] * 3)
    found = MinimumEps(attack=BIM(steps=20)).run(model, x, y, eps=bound)
    assert found.success.tolist() == [False, True] * 3
    assert (found.size[1::2] <= bound[1::2]).all()
    assert (found.size[::2] == torch.inf).all()


def test_rows_that_are_wrong_already_have_size_zero() -> None:
    model, x, y, targets = smooth(count=4)
    wrong = torch.tensor([False, True, False, True])
    found = MinimumEps(attack=FGSM()).run(model, x, torch.where(wrong, targets, y))
    assert (found.size[wrong] == 0).all()
    assert (found.size[~wrong] > 0).all()
    assert (found.forwards[wrong] == 1).all()


def test_all_passes_of_all_rounds_are_counted() -> None:
    model, x, y, _ = smooth(count=4)
    for attack in (PGD(steps=3, restarts=2), RandomNoise(steps=4)):
        watched = Watched(model)
        found = MinimumEps(attack=attack, rounds=5).run(watched, x, y)
        assert int(found.forwards.sum()) == watched.forwards
        assert int(found.backwards.sum()) == watched.backwards


def test_a_failure_at_the_whole_box_is_not_the_end() -> None:
    """A single step of the whole box overshoots where a short one succeeds."""
    model, x, y, _ = smooth(count=20)
    within = FGSM().run(model, x, y, eps=0.2).success
    assert within.float().mean() > 0.8
    found = MinimumEps(attack=FGSM()).run(model, x, y)
    assert (found.size[within] <= 0.2).all()


def test_rounds_are_checked() -> None:
    with pytest.raises(ValueError, match="rounds"):
        MinimumEps(rounds=0)


def test_what_finds_the_smallest_change_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="inside a set"):
        MinimumEps(attack=MinimumEps())
