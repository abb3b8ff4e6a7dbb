"""Auto conjugate gradient: the direction, its limits, the start and the way back."""

import pytest
import torch

from advbench.attacks import ACG, L1, L2, Linf, Margin, Perturbation
from advbench.attacks.gradient.acg import conjugate
from advbench.attacks.rows import lift
from advbench.testing.victims import Watched, numbers, scale, smooth

from .closed_form import assert_sharp


def test_published_defaults() -> None:
    attack = ACG()
    assert attack.perturbation == Linf()
    assert attack.loss == Margin()
    assert (attack.steps, attack.restarts, attack.rho) == (100, 1, 0.75)


def test_the_direction_by_hand() -> None:
    g, before_g = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]])
    # y = (2, -2), s . y = 4, g . y = -2: a half of the last direction is added.
    s = conjugate(g, before_g, torch.tensor([[2.0, 0.0]]))
    assert s.tolist() == [[2.0, 2.0]]
    # Here s . y = -4: a half is taken away.
    s = conjugate(g, before_g, torch.tensor([[0.0, 2.0]]))
    assert s.tolist() == [[1.0, 1.0]]


def test_the_direction_is_conjugate_to_the_last_one() -> None:
    g, before_g, before_s = (numbers(key, 5, 3, 4) for key in (1, 2, 3))
    s = conjugate(g, before_g, before_s)
    product = (s * (before_g - g)).flatten(1).sum(1)
    torch.testing.assert_close(product, torch.zeros_like(product), rtol=0, atol=1e-9)


def test_without_a_last_direction_or_a_change_it_is_the_gradient() -> None:
    g, none = numbers(1, 5, 3, 4), torch.zeros(5, 3, 4, dtype=torch.float64)
    assert torch.equal(conjugate(g, none, none), g)
    assert torch.equal(conjugate(g, g, g), g)
    assert torch.equal(conjugate(g, g * (1 + 1e-12), numbers(2, 5, 3, 4)), g)
    assert torch.equal(conjugate(none, none, g), none)


def test_rows_do_not_share_a_multiple() -> None:
    g, before_g, before_s = (numbers(key, 5, 3, 4) for key in (1, 2, 3))
    sizes = lift(torch.tensor([1e-9, 1.0, 1e9, 1.0, 1.0], dtype=torch.float64), g)
    scaled = conjugate(g * sizes, before_g * sizes, before_s * sizes)
    torch.testing.assert_close(scaled / sizes, conjugate(g, before_g, before_s))


def test_the_first_run_starts_in_the_middle_and_others_at_random() -> None:
    model, x, y, _ = smooth(count=4)
    x = torch.where(x < 0.4, 0.0, x)
    watched = Watched(model)
    ACG(steps=3, restarts=2).run(watched, x, y, eps=0.2, stop="never")
    low, high = (x - 0.2).clamp_min(0), (x + 0.2).clamp_max(1)
    first, second = watched.seen[0][0].chunk(2)
    torch.testing.assert_close(first, (low + high) / 2)
    assert (first - x).abs().amax() > 0.09
    assert ((second - x).abs().flatten(1).amax(1) > 0.15).all()
    assert ((second - x).abs().flatten(1).amin(1) < 0.05).all(), "the start is no corner"
    watched = Watched(model)
    ACG(perturbation=L2(), steps=3).run(watched, x, y, eps=0.2, stop="never")
    assert torch.equal(watched.seen[0][0], x)


def test_no_last_gradient_is_wasted() -> None:
    model, x, y, _ = smooth(count=3)
    attack = ACG(steps=9)
    found = attack.run(model, x, y, eps=scale(attack, x, 0.1), stop="never")
    assert found.forwards.tolist() == [10] * 3
    assert found.backwards.tolist() == [9] * 3


@pytest.mark.parametrize("perturbation", [Linf(), L2()], ids=repr)
def test_it_is_sharp_on_linear_models(perturbation: Perturbation) -> None:
    assert_sharp(ACG(perturbation=perturbation, steps=30), classes=2, beyond=1.002)
    # Among many classes the one that leads in the middle need not be the nearest.
    assert_sharp(ACG(perturbation=perturbation, steps=30), classes=10, beyond=1.1)


def test_what_it_cannot_do_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"ACG: perturbation must be Linf\(\) or L2\(\)"):
        ACG(perturbation=L1())
    with pytest.raises(ValueError, match="ACG: rho must lie in"):
        ACG(rho=-0.1)
