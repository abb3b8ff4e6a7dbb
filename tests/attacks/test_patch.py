"""The patch: pasted exactly, where it may lie, as large as it says."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks import (
    PGD,
    Circle,
    CrossEntropy,
    Cutout,
    Disguise,
    Mask,
    NonPrintability,
    Patch,
    Picture,
    Placement,
    Square,
    TotalVariation,
)
from advbench.attacks.criterion import Criterion
from advbench.attacks.perturbations.placement import reach
from advbench.attacks.query import Problem, Query, Record, Rules
from advbench.attacks.randomness import Draws
from advbench.attacks.victim import Victim
from advbench.testing.victims import numbers, smooth

CORNERS = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])


def draws(count: int) -> Draws:
    zero = torch.zeros(count, dtype=torch.int64)
    return Draws(zero + 1, torch.arange(count), zero, zero)


def images(count: int, *shape: int) -> Tensor:
    return torch.sigmoid(numbers(3, count, *shape, dtype=torch.float32))


def full(count: int, value: float) -> Tensor:
    return torch.full((count,), value)


def spread(patch: Patch, x: Tensor, eps: float) -> Tensor:
    return patch.draw(x, full(len(x), eps), draws(len(x)))


@pytest.mark.parametrize("side", [2, 4, 5, 8])
@pytest.mark.parametrize("shape", [(1, 10, 14), (3, 12, 9)], ids=str)
def test_at_a_whole_pixel_it_equals_slicing(shape: tuple[int, ...], side: int) -> None:
    _, height, width = shape
    top, left = 1, 0
    centre = ((top + side / 2) / height, (left + side / 2) / width)
    patch = Patch(mask=Square(), placement=Placement(location=centre), resolution=side)
    x = images(3, *shape)
    p = spread(patch, x, side**2 / (height * width))
    expected = x.clone()
    expected[:, :, top : top + side, left : left + side] = patch.pictures(x, p)
    torch.testing.assert_close(patch.apply(x, p), expected, rtol=0, atol=1e-6)
    if side in (2, 4, 8):  # what is divided by them is divided exactly
        assert torch.equal(patch.apply(x, p), expected)
    outside = torch.ones_like(x, dtype=torch.bool)
    outside[:, :, top : top + side, left : left + side] = False
    assert torch.equal(patch.apply(x, p)[outside], x[outside])


DISC = Cutout(Picture.of(Circle().alpha(9).square()[None]))


@pytest.mark.parametrize("mask", [Circle(), Square(), DISC], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    "placement",
    [
        Placement(),
        Placement(rotation=180),
        Placement(rotation=20, perspective=0.2, brightness=0.1, contrast=0.3),
        Placement(blur=1.0),
        Placement(allowed=(0.0, 0.2, 1.0, 0.9)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("size", [28, 32])
def test_the_mean_opacity_is_the_area(mask: Mask, placement: Placement, size: int) -> None:
    patch = Patch(mask=mask, placement=placement)
    x = images(200, 1, size, size)
    for eps in (0.05, 0.1, 0.2):
        p = spread(patch, x, eps)
        share = patch.size(x, p) / eps
        assert (share <= 1 + 1e-5).all()
        assert (share >= 0.98).all(), (eps, float(share.min()))
        pasted = patch.apply(x, p)
        assert pasted.amin() >= 0
        assert pasted.amax() <= 1 + 1e-6


def test_the_steepest_tilt_of_a_small_patch_keeps_the_area() -> None:
    patch = Patch(mask=Square(), placement=Placement(perspective=0.4))
    x = images(200, 1, 28, 28)
    assert (patch.size(x, spread(patch, x, 0.03)) >= 0.98 * 0.03).all()


def touched(patch: Patch, shape: tuple[int, ...], eps: float) -> Tensor:
    """Pixels (H, W) that some of many draws change: a white patch on black."""
    x = torch.zeros(3000, *shape)
    white = Picture.of(torch.ones(shape[0], patch.side(x), patch.side(x)))
    p = spread(replace(patch, picture=white), x, eps)
    return (replace(patch, picture=white).apply(x, p) > 0).any(0).any(0)


@pytest.mark.parametrize("mask", [Circle(), Square()], ids=repr)
@pytest.mark.parametrize("rotation", [0.0, 45.0])
@pytest.mark.parametrize("resolution", [4, 7, 20])
def test_every_allowed_pixel_is_reached_and_no_other(
    mask: Mask, rotation: float, resolution: int
) -> None:
    region = Placement(
        rotation=rotation, allowed=(0.0, 0.25, 0.75, 1.0), forbidden=(0.5, 0.5, 0.75, 0.75)
    )
    allowed = torch.zeros(32, 32, dtype=torch.bool)
    allowed[0:24, 8:32] = True
    allowed[16:24, 16:24] = False
    seen = touched(Patch(mask=mask, placement=region, resolution=resolution), (1, 32, 32), 0.03)
    assert not (seen & ~allowed).any()
    inner = allowed.clone()
    if mask == Circle() or rotation:  # round or turned, it does not get into corners
        for y, x in itertools.product((0, 23, 15, 24), (8, 31, 15, 24)):
            inner[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = False
    assert (inner & ~seen).sum() == 0


def test_a_fixed_place_is_the_only_one() -> None:
    patch = Patch(mask=Square(), placement=Placement(location=(0.25, 0.5)))
    assert touched(patch, (1, 16, 16), 1 / 16).nonzero().T.tolist() == [
        [row for row in range(2, 6) for _ in range(4)],
        [6, 7, 8, 9] * 4,
    ]
    facts = patch.facts(images(2, 1, 16, 16), spread(patch, images(2, 1, 16, 16), 1 / 16))
    assert torch.equal(facts["patch_y"], full(2, 0.25))
    assert torch.equal(facts["patch_x"], full(2, 0.5))


def test_the_largest_patch_finds_the_only_place_left() -> None:
    patch = Patch(mask=Square(), placement=Placement(forbidden=(0.5, 0.0, 1.0, 1.0)))
    x = torch.ones(100, 1, 16, 16)
    assert patch.largest(x) == 0.25
    p = spread(patch, x, 0.25)
    assert (patch.size(x, p) > 0.98 * 0.25).all()
    assert torch.equal(patch.apply(x, p)[:, :, 8:], x[:, :, 8:])


def test_what_a_blur_spreads_stays_on_the_image() -> None:
    """Two pixels more from the edge than a sharp patch with half a side of four pixels."""
    x = torch.zeros(1, 1, 32, 32)
    for blur, distance in ((0.0, 4), (1.0, 6)):
        patch = Patch(mask=Square(), placement=Placement(blur=blur))
        corner = patch.project(x, 0 * patch.zero(x), full(1, 64 / 1024))
        assert float(patch.facts(x, corner)["patch_y"]) * 32 == pytest.approx(distance, abs=0.1)


def test_pixels_that_are_not_covered_stay_bit_for_bit() -> None:
    looks = Placement(rotation=45, perspective=0.2, brightness=0.2, contrast=0.3, blur=0.7)
    for patch in (Patch(placement=looks), Patch(mask=Square(), placement=Placement(rotation=90))):
        x = images(200, 3, 28, 30)
        p = spread(patch, x, 0.1)
        black, white = (patch.apply(0 * x + shade, p) for shade in (0.0, 1.0))
        bare = black.eq(0) & white.eq(1)  # where either ground shows as it was
        assert 0.7 < bare.float().mean() < 0.9
        assert torch.equal(patch.apply(x, p)[bare], x[bare])
        covered = 1 - (white - black).mean((1, 2, 3))
        torch.testing.assert_close(covered, patch.size(x, p), rtol=0, atol=1e-6)


def test_without_limits_the_whole_image_is_reached() -> None:
    assert touched(Patch(mask=Square()), (1, 16, 12), 0.1).all()


def test_each_parameter_covers_its_range_alone() -> None:
    placement = Placement(rotation=30, perspective=0.3, brightness=0.2, contrast=0.5, blur=1)
    patch = Patch(placement=placement)
    x = torch.zeros(2000, 1, 32, 32)
    u = spread(patch, x, 0.1)[:, : len(placement.names)]
    assert placement.names[:3] == ("y", "x", "rotation")
    assert (u.amin(0) < 0.02).all()
    assert (u.amax(0) > 0.98).all()
    assert (torch.corrcoef(u.T) - torch.eye(u.shape[1])).abs().amax() < 0.1
    angle = patch.facts(x, spread(patch, x, 0.1))["patch_angle"]
    assert (float(angle.min()), float(angle.max())) == pytest.approx((-30, 30), abs=0.5)


def test_a_quarter_turn_turns_the_picture() -> None:
    x = torch.zeros(1, 1, 8, 8)
    picture = Picture.of(images(1, 1, 4, 4)[0])
    turned = Placement(location=(0.5, 0.5), rotation=90)
    patch = Patch(mask=Square(), placement=turned, picture=picture)
    p = torch.tensor([[0.5, 0.25], [1.0, 0.25]])  # straight, and at the end of the range
    straight, quarter = patch.apply(x.repeat(2, 1, 1, 1), p)
    torch.testing.assert_close(quarter, straight.rot90(-1, (1, 2)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("mask", [Circle(), Square()], ids=repr)
def test_a_patch_of_the_colour_of_the_image_is_not_seen(mask: Mask) -> None:
    """Warped apart, picture and mask would leave a dark or a bright rim."""
    x = torch.full((100, 3, 32, 32), 0.6)
    same = Picture.of(torch.full((3, 9, 9), 0.6))
    patch = Patch(mask=mask, placement=Placement(rotation=45, perspective=0.2), picture=same)
    gap = (patch.apply(x, spread(patch, x, 0.2)) - x).abs().amax()
    assert gap < 1e-6


def test_gradients_are_those_of_differences() -> None:
    placement = Placement(rotation=20, perspective=0.2, brightness=0.1, contrast=0.2)
    patch = Patch(placement=placement, resolution=3)
    x = images(2, 1, 9, 11).double()
    p = patch.draw(x, full(2, 0.2).double(), draws(2)) * 0.6 + 0.2
    p = patch.project(x, p, full(2, 0.2).double())
    fixed, pixels = p[:, : len(placement.names) + 1], p[:, len(placement.names) + 1 :]

    def of_pixels(values: Tensor) -> Tensor:
        return patch.apply(x, torch.cat([fixed, values], 1))

    assert torch.autograd.gradcheck(of_pixels, pixels.clone().requires_grad_())
    placed, rest = p[:, : len(placement.names)], p[:, len(placement.names) :]

    def of_the_place(values: Tensor) -> Tensor:
        return patch.apply(x, torch.cat([values, rest], 1))

    assert torch.autograd.gradcheck(of_the_place, placed.clone().requires_grad_(), eps=1e-7)


def test_the_gradient_of_the_place_moves_the_patch_towards_what_it_hides() -> None:
    x = torch.zeros(1, 1, 32, 32)
    white = Picture.of(torch.ones(1, 8, 8))
    patch = Patch(picture=white)
    p = torch.tensor([[0.4, 0.5, 0.1]], requires_grad=True)
    ramp = torch.linspace(0, 1, 32)
    (g,) = torch.autograd.grad((patch.apply(x, p)[0, 0] * ramp).sum(), p)
    assert g[0, 1] > 0
    assert abs(g[0, 0]) < 0.05 * g[0, 1]


def test_masks() -> None:
    assert float(Circle().alpha(64).mean()) == pytest.approx(math.pi / 4, rel=1e-3)
    assert Square().alpha(5).eq(1).all()
    half = Picture.of(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    assert torch.equal(Cutout(half).alpha(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    x = images(50, 1, 32, 32)
    patch = Patch(mask=Cutout(half), placement=Placement(rotation=20))
    torch.testing.assert_close(
        patch.size(x, spread(patch, x, 0.1)), full(50, 0.1), rtol=0.02, atol=0
    )
    with pytest.raises(ValueError, match="opaque somewhere"):
        Cutout(Picture.of(torch.zeros(1, 2, 2)))


def test_the_largest_patch_is_told_and_a_larger_one_refused() -> None:
    model, x, y, _ = smooth(shape=(1, 4, 5))
    largest = Patch(mask=Square()).largest(x)
    assert largest == pytest.approx(16 / 20)
    with pytest.raises(ValueError, match=r"at most 0\.8, the largest that Patch has room for"):
        PGD(perturbation=Patch(mask=Square())).run(model, x, y, eps=0.9)
    turned = Patch(mask=Square(), placement=Placement(rotation=45))
    assert turned.largest(x) == pytest.approx(0.4, rel=1e-3)
    assert float(reach(CORNERS, full(1, math.pi / 4), torch.zeros(1, 2))) == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"allowed": (0.5, 0, 0.5, 1)}, "allowed"),
        ({"forbidden": (0, 0, 1, 1.5)}, "forbidden"),
        ({"location": (0, 0.5)}, "location"),
        ({"location": (0.5, 0.5), "forbidden": (0, 0, 1, 1)}, "location"),
        ({"rotation": 200}, "rotation"),
        ({"perspective": 0.5}, "perspective"),
        ({"brightness": -0.1}, "brightness"),
        ({"contrast": 1.5}, "contrast"),
        ({"blur": math.inf}, "blur"),
    ],
    ids=str,
)
def test_placements_that_cannot_be_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Placement(**settings)


def test_inputs_that_cannot_be_pasted_on_are_refused() -> None:
    model, x, y, _ = smooth(shape=(12,))
    with pytest.raises(ValueError, match=r"PGD: a patch needs images \(C, H, W\); got \(12,\)"):
        PGD(perturbation=Patch()).run(model, x, y, eps=0.1)
    model, x, y, _ = smooth()
    grey = Patch(picture=Picture.of(torch.zeros(3, 2, 2)))
    with pytest.raises(ValueError, match="the patch has 3 channels, the images have 1"):
        PGD(perturbation=grey).run(model, x, y, eps=0.1)
    with pytest.raises(ValueError, match=r"Use picture.resized\(4\)"):
        Patch(picture=Picture.of(torch.zeros(3, 2, 2)), resolution=4)


def test_a_picture_is_a_value() -> None:
    values = torch.arange(256).view(1, 16, 16) / 255
    picture = Picture.of(values)
    assert torch.equal(picture.tensor(), values)
    assert eval(repr(picture)) == picture
    assert hash(Picture.of(picture.tensor())) == hash(picture)
    rounded = Picture.of(images(1, 3, 5, 7)[0]).tensor() - images(1, 3, 5, 7)[0]
    assert 1e-4 < rounded.abs().max() <= 0.5 / 255 + 1e-7
    assert picture.resized(16) is picture
    assert picture.resized(4).shape == (1, 4, 4)
    for bad in ("zz", "0"):
        with pytest.raises(ValueError, match="hexadecimal"):
            Picture((1, 1, 1), bad)


def test_penalties_charge_what_they_say() -> None:
    board = (torch.arange(4).view(-1, 1) + torch.arange(4)).remainder(2).float()
    pictures = torch.stack([board, torch.full((4, 4), 0.5)]).unsqueeze(1)
    torch.testing.assert_close(TotalVariation(2)(pictures), torch.tensor([2 * 24 / 16, 0.0]))
    printable = NonPrintability(3)(pictures)
    torch.testing.assert_close(printable, torch.tensor([0.3, 0.0]), rtol=0, atol=1e-5)
    own = NonPrintability(1, palette=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))(pictures)
    torch.testing.assert_close(own, torch.tensor([0.0, 0.5]), rtol=0, atol=1e-5)
    near = Disguise(1, Picture.of(board[None]), distance=0.25)(pictures)
    torch.testing.assert_close(near, torch.tensor([0.0, 0.25]), rtol=0, atol=1e-5)


def test_penalties_are_taken_off_the_loss() -> None:
    model, x, y, _ = smooth(count=3, dtype=torch.float32)
    plain, charged = Patch(), Patch(penalties=(TotalVariation(0.5), NonPrintability(0.1)))
    p = spread(plain, x, 0.3)
    zero = torch.zeros(3, dtype=torch.int64)
    problem = Problem(x, full(3, 0.3), Criterion(y), draws(3), zero)
    losses = []
    for patch in (plain, charged):
        victim = Victim(model, x)
        rules = Rules(victim, patch, CrossEntropy(), "gradient", "inside")
        losses.append(Query(rules, problem, Record.blank(p))(p, grad=True).loss)
    pictures = plain.pictures(x, p)
    price = TotalVariation(0.5)(pictures) + NonPrintability(0.1)(pictures)
    torch.testing.assert_close(losses[0] - losses[1], price)
    given = replace(charged, picture=Picture.of(pictures[0]))
    assert given.price(x, spread(given, x, 0.3)) is None, "nothing is left to pay for"
