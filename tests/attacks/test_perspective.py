"""Pictures at a slant: the corners go where they are told to, and nothing folds over."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks import BIM, Grid, RandomNoise
from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.perspective import Perspective
from advbench.attacks.perturbations.resampling import Padding
from advbench.testing.victims import balanced, numbers, smooth
from tests.attacks.test_randomness import draws

PADDINGS: tuple[Padding, ...] = ("zeros", "border", "reflection")
SHAPES = [(1, 16, 16), (3, 16, 16), (1, 15, 24), (3, 15, 24), (2, 1, 6), (1, 1, 1)]
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


def images(count: int, *shape: int) -> Tensor:
    return torch.sigmoid(numbers(3, count, *shape))


def spread(one: Perspective, x: Tensor, eps: float = 1.0) -> Tensor:
    return one.draw(x, torch.full((len(x),), eps, dtype=x.dtype), draws(len(x)))


def corners(height: float, width: float) -> Tensor:
    """The outer corners (y, x), in the order of the axes."""
    return torch.tensor([[0, 0], [0, width], [height, 0], [height, width]], dtype=torch.float64)


def by_equations(x: Tensor, moves: Tensor, padding: Padding) -> Tensor:
    """The same with the homography of eight linear equations, solved, and grid_sample."""
    height, width = x.shape[2:]
    goals, places = corners(height, width), corners(height, width) + moves.view(-1, 4, 2)
    rows, values = [], []
    for corner, axis in itertools.product(range(4), range(2)):
        y, x_ = places[:, corner].unbind(1)
        goal = goals[corner, axis]
        own = torch.stack([y, x_, torch.ones_like(y)], 1)
        other = torch.zeros_like(own)
        tilt = -goal * torch.stack([y, x_], 1)
        rows.append(torch.cat([own, other, tilt] if axis == 0 else [other, own, tilt], 1))
        values.append(goal.expand(len(x)))
    solved = torch.linalg.solve(torch.stack(rows, 1), torch.stack(values, 1))
    back = functional.pad(solved, (0, 1), value=1.0).view(-1, 3, 3)
    y, x_ = torch.meshgrid(
        torch.arange(height, dtype=x.dtype) + 0.5,
        torch.arange(width, dtype=x.dtype) + 0.5,
        indexing="ij",
    )
    read = back @ torch.stack([y, x_, torch.ones_like(y)]).flatten(1)
    row, column = (read[:, :2] / read[:, 2:]).view(-1, 2, height, width).unbind(1)
    grid = torch.stack(
        [2 * (column - 0.5) / (width - 1) - 1, 2 * (row - 0.5) / (height - 1) - 1], 3
    )
    return functional.grid_sample(x, grid, padding_mode=padding, align_corners=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_change_is_the_identity_bit_for_bit(
    shape: tuple[int, ...], padding: Padding, dtype: torch.dtype
) -> None:
    x = images(2, *shape).to(dtype)
    one = Perspective(padding=padding)
    assert torch.equal(one.apply(x, one.zero(x)), x)


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_corners_that_move_together_are_a_shift_bit_for_bit(shape: tuple[int, ...]) -> None:
    x = images(2, *shape).float()
    p = torch.tensor([1.0, -2 / 3]).repeat(4).expand(2, 8)  # 3 down, 2 to the left
    expected = torch.zeros_like(x)
    expected[:, :, 3:, :-2] = x[:, :, :-3, 2:]
    torch.testing.assert_close(Perspective().apply(x, p), expected, rtol=0, atol=1e-6)
    p = torch.tensor([1.0, -1.0]).repeat(4).expand(2, 8)
    expected = torch.zeros_like(x)
    expected[:, :, 3:, :-3] = x[:, :, :-3, 3:]
    assert torch.equal(Perspective().apply(x, p), expected)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_it_is_the_homography_of_the_corners(shape: tuple[int, ...], padding: Padding) -> None:
    x = images(30, *shape)
    one = Perspective(padding=padding)
    p = spread(one, x)
    expected = by_equations(x, one.numbers(p), padding)
    torch.testing.assert_close(one.apply(x, p), expected, rtol=0, atol=1e-9)


def test_the_two_halves_of_the_names_are_down_and_right() -> None:
    """The corner that is named goes where its two numbers say, and takes its pixel along."""
    names = Perspective().names
    assert names == tuple(f"{corner}_{way}" for corner in CORNERS for way in ("y", "x"))
    for corner, (row, column) in zip(CORNERS, itertools.product((0, 15), (0, 23)), strict=True):
        x = torch.zeros(1, 1, 16, 24)
        x[0, 0, row, column] = 1
        inwards = {f"{corner}_y": 1.0 if row == 0 else -1.0}
        inwards[f"{corner}_x"] = 1.0 if column == 0 else -1.0
        p = torch.tensor([[inwards.get(name, 0.0) for name in names]])
        place = divmod(int(Perspective(shift=3).apply(x, p).argmax()), 24)
        assert place == (abs(row - 3), abs(column - 3))


def test_corners_that_turn_turn_the_picture() -> None:
    x = images(3, 2, 15, 24)
    angle = torch.tensor([5.0, -3.0, 8.0], dtype=torch.float64)
    turned = Affine(rotation=10, shift=0).apply(x, angle.unsqueeze(1) / 10)
    cos, sin = angle.deg2rad().cos().unsqueeze(1), angle.deg2rad().sin().unsqueeze(1)
    v, u = (corners(15, 24) - torch.tensor([7.5, 12.0])).T
    moves = torch.stack([cos * v - sin * u - v, cos * u + sin * v - u], 2)
    got = Perspective(shift=3).apply(x, moves.flatten(1) / 3)
    torch.testing.assert_close(got, turned, rtol=0, atol=1e-9)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_are_those_of_differences(padding: Padding) -> None:
    one = Perspective(shift=1.5, padding=padding)
    x = images(3, 2, 7, 9)
    p = spread(one, x).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: one.apply(x, p), p, eps=1e-7)


def test_a_batch_is_its_rows() -> None:
    x = images(6, 3, 20, 28).float()
    p = spread(Perspective(), x)
    alone = [Perspective().apply(x[i : i + 1], p[i : i + 1]) for i in range(6)]
    assert torch.equal(Perspective().apply(x, p), torch.cat(alone))
    assert len(p.unique(dim=0)) == 6


ENDS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=8)))


def signed_areas(places: Tensor) -> Tensor:
    """Twice the areas (B, 4) of the triangles at the corners; one below 0 is folded over."""
    around = places[:, [0, 1, 3, 2]]
    before, after = around.roll(1, 1) - around, around.roll(-1, 1) - around
    return after[..., 1] * before[..., 0] - after[..., 0] * before[..., 1]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (9, 30)])
def test_the_room_for_the_shift_is_where_a_picture_folds_over(height: int, width: int) -> None:
    shape = torch.Size((1, height, width))
    room = height * width / (2 * (height + width))
    below, above = room * 0.999, room * 1.001
    assert Perspective(shift=below).refusal(shape) is None
    assert f"{height} x {width}" in str(Perspective(shift=above).refusal(shape))
    flat = corners(height, width)
    moves = ENDS.view(-1, 4, 2).double()
    assert (signed_areas(flat + below * moves) > 0).all()
    assert (signed_areas(flat + above * moves) < 0).any()


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_hair_short_of_folding_over_the_equations_still_hold(padding: Padding) -> None:
    """Inside the picture, every corner at an end of its range; beyond its horizon is nothing."""
    x, p = images(256, 1, 16, 16), ENDS.double()
    one = Perspective(shift=3.9, padding=padding)
    inside = Perspective(shift=3.9).apply(torch.ones_like(x), p) == 1
    assert inside.double().mean() > 0.5
    expected = by_equations(x, one.numbers(p), padding)
    torch.testing.assert_close(one.apply(x, p)[inside], expected[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
def test_nothing_is_ever_not_a_number(padding: Padding) -> None:
    """Also where a caller goes on beyond what is refused."""
    for shape, shift in itertools.product(SHAPES, (3.0, 100.0)):
        one = Perspective(shift=shift, padding=padding)
        x = images(256, *shape).float()
        p = ENDS.clone().requires_grad_()
        got = one.apply(x, p)
        assert got.amin() >= 0
        assert got.amax() <= 1
        (g,) = torch.autograd.grad(got.sum(), p)
        assert g.isfinite().all()


def test_facts_are_pixels() -> None:
    p = torch.linspace(-1, 1, 8).unsqueeze(0)
    facts = Perspective(shift=2).facts(images(1, 1, 16, 16), p)
    assert tuple(facts) == Perspective().names
    assert float(facts["top_left_y"]) == -2
    assert float(facts["bottom_right_x"]) == 2


def test_what_cannot_be_changed_is_refused() -> None:
    assert "(C, H, W)" in str(Perspective().refusal(torch.Size((12,))))
    model, x, y, _ = smooth()
    with pytest.raises(ValueError, match=r"3 pixels can fold images of 4 x 5 over.*below 1\.111"):
        BIM(perturbation=Perspective())(model, x, y, eps=1.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shift": -1}, "perspective: shift must be a number of at least 0; got -1"),
        ({"shift": None}, "shift"),
        ({"shift": 0}, "nothing is left to change"),
        ({"padding": "edge"}, "one of zeros, border, reflection; got 'edge'"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Perspective(**fields)


def test_searches() -> None:
    model, x, y, _ = balanced(shape=(1, 9, 9), count=40)
    one = Perspective(shift=2)
    assert torch.equal(BIM(perturbation=one)(model, x, y, eps=0.0), x)
    best = BIM(perturbation=one, steps=20).run(model, x, y, eps=1.0)
    noise = RandomNoise(perturbation=one, steps=1).run(model, x, y, eps=1.0)
    grid = Grid(perturbation=one, points=2).run(model, x, y, eps=1.0, stop="never")
    assert noise.success.sum() < best.success.sum()
    assert noise.success.sum() < grid.success.sum()
    ends = torch.stack([model(one.apply(x, p.expand(40, 8))).argmax(1) != y for p in ENDS.double()])
    assert torch.equal(grid.success, ends.any(0))
