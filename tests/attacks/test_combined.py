"""Two sets, one after the other, under one eps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks import (
    L2,
    PGD,
    Circle,
    Grid,
    Linf,
    Patch,
    Perturbation,
    Placement,
    RandomSearch,
    TotalVariation,
)
from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.combined import Combined
from advbench.attacks.perturbations.flow import Flow
from advbench.attacks.perturbations.pose import Pose
from advbench.testing.victims import balanced, numbers
from tests.attacks.test_randomness import draws

MOVED = Affine(rotation=30, shift=2, padding="border")
PATCH = Patch(mask=Circle(), placement=Placement(rotation=20), penalties=(TotalVariation(0.1),))
SETS = (
    Combined(MOVED, Linf(), 1.0, 0.1),
    Combined(MOVED, L2(), 0.5, 1.5),
    Combined(Flow(), Linf(), 1.5, 0.1),
    Combined(MOVED, PATCH, 1.0, 0.2),
    Combined(L2(), Flow(0.0), 1.0, 2.0),
    Combined(MOVED, Affine(rotation=10, shift=0), 1.0, 0.5),
)


def images(count: int, *shape: int) -> Tensor:
    return torch.sigmoid(numbers(3, count, *shape))


def full(count: int, value: float) -> Tensor:
    return torch.full((count,), value, dtype=torch.float64)


def parts(one: Combined, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The parameters of either set, by hand."""
    first = one.first.zero(x)
    count = first[0].numel()
    second = one.second.zero(x)
    return p[:, :count].view_as(first), p[:, count:].reshape(second.shape)


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_it_is_one_after_the_other(one: Combined) -> None:
    x = images(4, 2, 8, 11)
    p = one.project(x, one.draw(x, full(4, 1.0), draws(4)), full(4, 1.0))
    first, second = parts(one, x, p)
    moved = one.first.apply(x, first)
    assert torch.equal(one.apply(x, p), one.second.apply(moved, second))
    assert not torch.equal(one.apply(x, p), moved)
    sizes = one.first.size(x, first) / one.first_eps, one.second.size(moved, second)
    assert torch.equal(one.size(x, p), torch.maximum(sizes[0], sizes[1] / one.second_eps))
    assert (one.size(x, p) <= one.limit(full(4, 1.0))).all()
    assert one.largest(x) == 1


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_the_gradient_reaches_both(one: Combined) -> None:
    x = images(2, 1, 6, 7) * 0.6 + 0.2
    p = one.project(x, one.draw(x, full(2, 0.5), draws(2)), full(2, 0.5)).requires_grad_()
    weights = numbers(9, *x.shape)
    (g,) = torch.autograd.grad((one.apply(x, p) * weights).sum(), p)
    first, second = parts(one, x, g)
    assert (first != 0).flatten(1).any(1).all()
    assert (second != 0).flatten(1).any(1).all()
    if one.second != PATCH:  # by design no gradient reaches the share that a patch covers
        assert torch.autograd.gradcheck(lambda p: one.apply(x, p), p, eps=1e-7)


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_projection_is_legal_idempotent_and_leaves_what_is_inside(one: Combined) -> None:
    x = images(6, 2, 8, 11)
    eps = torch.linspace(0, 1, 6, dtype=torch.float64)
    far = 3 * one.draw(x, full(6, 1.0), draws(6))
    inside = one.project(x, far, eps)
    assert (one.size(x, inside) <= one.limit(eps)).all()
    torch.testing.assert_close(one.project(x, inside, eps), inside)
    if one.second != PATCH:  # a patch always covers all of its eps
        torch.testing.assert_close(one.project(x, inside, full(6, 1.0)), inside)
    assert torch.equal(one.apply(x[:1], inside[:1]), x[:1])


def test_the_second_is_projected_where_the_first_has_led() -> None:
    """At the picture as it was, the box would leave less room, or more, than there is."""
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[..., 0] = 1
    one = Combined(Affine(rotation=0, shift=1), Linf(), 1.0, 0.5)
    p = torch.cat([torch.tensor([[0.0, 1.0]]).double(), torch.full((1, 16), -0.5).double()], 1)
    change = parts(one, x, one.project(x, p, full(1, 1.0)))[1]
    assert change[0, 0, 0].tolist() == [0, -0.5, 0, 0]


def test_steps_are_each_its_own() -> None:
    one = Combined(Affine(rotation=30, shift=2), Linf(), 0.5, 0.1)
    x = images(2, 1, 4, 4)
    g = numbers(5, 2, 3 + 16)
    step = one.steepest(x, 0 * g, g, torch.tensor([1.0, 0.5], dtype=torch.float64))
    expected = g.sign() * torch.tensor([[0.5] * 3 + [0.1] * 16, [0.25] * 3 + [0.05] * 16])
    torch.testing.assert_close(step, expected.double())


@pytest.mark.parametrize("how", ["draw", "extreme"])
def test_draws_are_independent_of_each_other_and_of_the_batch(how: str) -> None:
    one = Combined(Affine(rotation=0, shift=2), Affine(rotation=0, shift=2), 1.0, 1.0)
    x = images(400, 1, 4, 4)
    p = getattr(one, how)(x, full(400, 1.0), draws(400))
    apart = torch.corrcoef(p.T) - torch.eye(4)
    assert apart.abs().amax() < 0.2
    alone = getattr(one, how)(x[:3], full(3, 1.0), draws(3))
    assert torch.equal(alone, p[:3])


def test_coarse_coordinates_are_those_with_names() -> None:
    x, eps = images(2, 1, 4, 4), full(2, 0.5)
    u = torch.tensor([[1.0, -1, 0], [0.5, 0, 1]]).double()
    one = Combined(MOVED, Linf(), 0.5, 0.1)
    assert one.names == MOVED.names
    first, second = parts(one, x, one.lattice(x, eps, u))
    assert torch.equal(first, u * 0.25)
    assert (second == 0).all()
    swapped = Combined(Linf(), MOVED, 0.1, 0.5)
    assert swapped.names == MOVED.names
    first, second = parts(swapped, x, swapped.lattice(x, eps, u))
    assert (first == 0).all()
    assert torch.equal(second, u * 0.25)
    blocks = Combined(Flow(), Linf(), 1.0, 0.01)
    assert blocks.names == ()
    first, second = parts(blocks, x, blocks.lattice(x, eps, u))
    assert (first == 0).all()
    assert torch.equal(second, Linf().lattice(x, eps * 0.01, u))


def test_a_circle_is_one_at_its_own_eps() -> None:
    round_ = Affine(rotation=180)
    eps = torch.tensor([0.5, 1.0])
    for one in (Combined(round_), Combined(Linf(), round_, 0.1, 1.0)):
        assert one.closed(eps, 2).tolist() == [[False, False], [True, False]]
    assert not Combined(round_, first_eps=0.5).closed(eps, 3).any()


def test_what_is_left_to_chance_varies() -> None:
    assert not Combined().varies
    one = Combined(MOVED, PATCH, 1.0, 0.2)
    assert one.varies
    x = images(3, 1, 8, 8)
    p = one.draw(x, full(3, 1.0), draws(3))
    first, second = parts(one, x, p)
    other_first, other_second = parts(one, x, one.vary(x, p, draws(3, seed=9)))
    assert torch.equal(first, other_first)
    placed = len(PATCH.placement.names)
    assert (second[:, :placed] != other_second[:, :placed]).all()
    assert torch.equal(second[:, placed:], other_second[:, placed:])


def test_prices_add_up() -> None:
    x = images(2, 1, 8, 8)
    assert Combined().price(x, Combined().zero(x)) is None
    one = Combined(Flow(0.1), PATCH, 2.0, 0.2)
    p = one.draw(x, full(2, 1.0), draws(2)).requires_grad_()
    first, second = parts(one, x, p)
    price, of_flow, of_patch = one.price(x, p), Flow(0.1).price(x, first), PATCH.price(x, second)
    assert price is not None
    assert of_flow is not None
    assert of_patch is not None
    torch.testing.assert_close(price, of_flow + of_patch)
    (g,) = torch.autograd.grad(price.sum(), p)
    assert g.isfinite().all()
    for single, expected in ((Combined(Flow(0.1)), of_flow), (Combined(L2(), Flow(0.1)), of_flow)):
        p = torch.cat([first.flatten(1), 0 * x.flatten(1)], 1)
        if single.first == L2():
            p = torch.cat([0 * x.flatten(1), first.flatten(1)], 1)
        torch.testing.assert_close(single.price(x, p), expected)


def test_facts_are_those_of_both() -> None:
    x = images(1, 1, 8, 8)
    one = Combined(MOVED, PATCH, 1.0, 0.2)
    p = one.draw(x, full(1, 1.0), draws(1))
    assert {"angle", "shift_y", "shift_x", "patch_y", "patch_angle"} <= set(one.facts(x, p))
    twice = Combined(MOVED, MOVED, 1.0, 1.0)
    facts = twice.facts(x, torch.tensor([[0.1, 0, 0, 0.5, 0, 0]]).double())
    assert float(facts["angle"]) == pytest.approx(3)
    assert float(facts["second_angle"]) == pytest.approx(15)


def test_what_either_cannot_change_is_refused() -> None:
    assert Combined().refusal(torch.Size((1, 4, 4))) is None
    assert "affine" in str(Combined().refusal(torch.Size((12,))))
    assert "affine" in str(Combined(Linf(), MOVED, 0.1, 1.0).refusal(torch.Size((12,))))
    refusal = Combined(Linf(), Flow(), 0.1, 9.0).refusal(torch.Size((1, 4, 7)))
    assert "an eps of 9 for Flow" in str(refusal)
    assert "room for 6" in str(refusal)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"first": "affine"}, TypeError, "combined: first must be a perturbation set"),
        ({"first": Pose()}, ValueError, r"first must change images in \[0, 1\]; got Pose"),
        ({"second": Pose()}, ValueError, r"second must change images"),
        ({"first_eps": 0}, ValueError, "first_eps is 0, so that Affine.* changes nothing"),
        ({"second_eps": -0.1}, ValueError, "combined: second_eps must be a number"),
        ({"second_eps": "8/255"}, ValueError, "second_eps"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Combined(**fields)


def test_together_they_fool_more_than_either() -> None:
    model, x, y, _ = balanced(shape=(1, 9, 9), count=60)
    both = Combined(Affine(rotation=10, shift=0.5), Linf(), 1.0, 0.01)

    def fooled(perturbation: Perturbation, eps: float) -> int:
        attack = PGD(perturbation=perturbation, steps=20)
        return int(attack.run(model, x, y, eps=eps, stop="never").success.sum())

    together = fooled(both, 1.0)
    assert fooled(both.first, 1.0) < together
    assert fooled(both.second, 0.01) < together
    assert 0 < fooled(both, 0.5) < together


@pytest.mark.parametrize("one", SETS[:4], ids=repr)
def test_searches_take_it(one: Combined) -> None:
    model, x, y, _ = balanced(shape=(1, 9, 9), count=12)
    for attack in (
        PGD(perturbation=one, steps=5),
        RandomSearch(perturbation=one, steps=10),
        Grid(perturbation=one, points=2),
    ):
        assert torch.equal(attack(model, x, y, eps=0.0), x)
        found = attack.run(model, x, y, eps=1.0, stop="never")
        assert (found.size <= one.limit(full(12, 1.0))).all()
        assert torch.equal(one.apply(x, found.p), found.x_adv)
        assert found.success.any()
