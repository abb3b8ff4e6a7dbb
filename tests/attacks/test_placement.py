"""The placement: uniform over what is allowed, kept out of the rest, differentiable."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from advbench.attacks import Circle, Mask, Patch, Picture, Placement, Square
from advbench.attacks.randomness import Draws
from advbench.testing.victims import inputs, numbers
from tests.attacks.test_randomness import distance_from_uniform

TILTED = Placement(rotation=40, perspective=0.2, brightness=0.05, contrast=0.1)


def draws(count: int) -> Draws:
    zero = torch.zeros(count, dtype=torch.int64)
    return Draws(zero + 2, torch.arange(count), zero, zero)


def drawn(patch: Patch, x: Tensor, eps: float) -> Tensor:
    return patch.draw(x, torch.full((len(x),), eps).to(x), draws(len(x)))


def touched(patch: Patch, count: int, height: int, width: int, share: float) -> Tensor:
    """Pixels (H, W) that some of many draws change, at a share of the largest eps."""
    x = torch.zeros(count, 1, height, width)
    side = patch.side(x)
    white = replace(patch, picture=Picture.of(torch.ones(1, side, side)))
    p = drawn(white, x, share * white.largest(x))
    return (white.apply(x, p) > 0).any(0)[0]


@pytest.mark.parametrize("resolution", [3, 6, 15])
@pytest.mark.parametrize(
    "placement", [Placement(), Placement(rotation=40), TILTED, replace(TILTED, blur=0.8)], ids=repr
)
@pytest.mark.parametrize("mask", [Circle(), Square()], ids=repr)
def test_the_gradient_is_that_of_differences(
    mask: Mask, placement: Placement, resolution: int
) -> None:
    """Pixels and places, whatever the patch does to keep to its area; off the kinks of the warp."""
    patch = Patch(mask=mask, placement=placement, resolution=resolution)
    x = inputs(3, 3, (2, 17, 15), torch.float64)
    p, placed = drawn(patch, x, 0.15), len(placement.names)
    p[:, placed + 1 :] = 0.3 + 0.4 * p[:, placed + 1 :]  # no colour is clipped
    toward, h = numbers(5, 8, *p.shape), 1e-7
    toward[:, :, placed] = 0  # nobody steers the share
    weight = numbers(6, *x.shape)
    at = p.clone().requires_grad_()
    (g,) = torch.autograd.grad((patch.apply(x, at) * weight).sum(), at)
    for direction in toward:
        ends = [(patch.apply(x, p + s * h * direction) * weight).sum() for s in (1, -1)]
        along = (ends[0] - ends[1]) / (2 * h)
        torch.testing.assert_close((g * direction).sum(), along, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("resolution", [None, 3, 24])
@pytest.mark.parametrize("rotation", [0.0, 30.0])
@pytest.mark.parametrize(
    "region",
    [
        {"allowed": (0.25, 0.125, 0.75, 0.875)},
        {"forbidden": (0.25, 0.25, 0.75, 0.75)},
        {"allowed": (0.0, 0.25, 1.0, 1.0), "forbidden": (0.25, 0.0, 1.0, 0.5)},
        {"allowed": (0.0, 0.0, 1.0, 0.5), "forbidden": (0.0, 0.75, 1.0, 1.0)},
    ],
    ids=str,
)
def test_not_even_the_largest_patch_leaves_its_region(
    region: dict[str, tuple[float, float, float, float]],
    rotation: float,
    resolution: int | None,
    share: float,
) -> None:
    def box(name: str, none: tuple[float, float, float, float]) -> Tensor:
        top, left, bottom, right = (round(24 * edge) for edge in region.get(name, none))
        inside = torch.zeros(24, 24, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        return inside

    may = box("allowed", (0, 0, 1, 1)) & ~box("forbidden", (0, 0, 0, 0))
    placement = Placement(rotation=rotation, **region)
    patch = Patch(mask=Square(), placement=placement, resolution=resolution)
    assert not (touched(patch, 200, 24, 24, share) & ~may).any()
    if resolution != 24:  # texels finer than half a pixel lose more
        x = torch.zeros(200, 1, 24, 24)
        eps = share * patch.largest(x)
        assert (patch.size(x, drawn(patch, x, eps)) >= 0.9 * eps).all()


def test_an_edge_within_a_pixel_lets_it_be_touched() -> None:
    half = Placement(allowed=(0.0, 0.0, 1.0, 0.35))  # the edge is at 3.5 of 10 pixels
    seen = touched(Patch(mask=Square(), placement=half), 500, 10, 10, 0.3)
    assert seen[:, :4].all()
    assert not seen[:, 4:].any()


def test_places_are_uniform_in_what_is_left() -> None:
    """A forbidden middle leaves a left part three times as wide as the right one."""
    split = Placement(forbidden=(0.0, 0.5, 1.0, 0.7))
    patch = Patch(mask=Square(), placement=split, resolution=4)
    x = torch.zeros(4000, 1, 40, 40)
    facts = patch.facts(x, drawn(patch, x, 0.01))  # four pixels wide
    left = facts["patch_x"] < 0.6
    away = facts["patch_x"][left].amin()
    wide, narrow = 0.5 - 2 * away, 0.3 - 2 * away
    assert float(left.float().mean()) == pytest.approx(float(wide / (wide + narrow)), abs=0.03)
    for part in (left, ~left):
        for name in ("patch_x", "patch_y"):
            values = facts[name][part].double()
            low, high = values.amin(), values.amax()
            assert distance_from_uniform((values - low) / (high - low)) < 1.6


def test_every_parameter_is_uniform_and_independent() -> None:
    placement = replace(TILTED, blur=1.0)
    patch = Patch(placement=placement, resolution=2)
    x = torch.zeros(3000, 1, 32, 32)
    u = drawn(patch, x, 0.1)[:, : len(placement.names)].double()
    assert len(placement.names) == 8
    assert all(distance_from_uniform(column) < 1.8 for column in u.T)
    assert (torch.corrcoef(u.T) - torch.eye(8)).abs().amax() < 0.08


def test_what_expectation_draws_is_the_place_alone() -> None:
    patch = Patch(placement=TILTED, resolution=3)
    x = torch.zeros(4, 1, 16, 16)
    p = drawn(patch, x, 0.1)
    varied = patch.vary(x, p, draws(4).fork(3))
    placed = len(TILTED.names)
    assert (varied[:, :placed] != p[:, :placed]).all()
    assert torch.equal(varied[:, placed:], p[:, placed:])
    nowhere_else = Patch(placement=Placement(location=(0.5, 0.5)))
    assert not nowhere_else.varies
    assert patch.varies


def test_whole_numbers_are_numbers_too() -> None:
    x = torch.zeros(1, 1, 16, 16)
    whole = Placement(rotation=30, perspective=0, brightness=0, contrast=0, blur=0)
    assert Patch(placement=whole).largest(x) == Patch(placement=Placement(rotation=30.0)).largest(x)


def test_a_region_without_room_takes_no_patch() -> None:
    x = torch.zeros(1, 1, 16, 16)
    full = Placement(allowed=(0.25, 0.25, 0.5, 0.5), forbidden=(0.0, 0.0, 1.0, 1.0))
    assert Patch(placement=full).largest(x) == 0
    apart = Placement(allowed=(0.0, 0.0, 0.5, 1.0), forbidden=(0.75, 0.0, 1.0, 1.0))
    alone = Placement(allowed=(0.0, 0.0, 0.5, 1.0))
    assert Patch(placement=apart).largest(x) == Patch(placement=alone).largest(x)
