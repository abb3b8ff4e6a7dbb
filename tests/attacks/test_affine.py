"""Turned and moved pictures: exactly where slicing is, in pixels, each sample on its own.

The shared checks take any function that turns and moves pictures, so that each also meets the
errors of other implementations.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks import PGD, Grid, RandomNoise, RandomSearch
from advbench.attacks.attack import Stop
from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.resampling import Padding, resample
from advbench.testing.victims import After, balanced, numbers, smooth
from tests.attacks.test_randomness import draws

PADDINGS: tuple[Padding, ...] = ("zeros", "border", "reflection")
PAD_MODES = {"zeros": "constant", "border": "replicate", "reflection": "reflect"}
SHAPES = [(1, 9, 9), (3, 9, 9), (1, 8, 13), (3, 8, 13), (2, 1, 6), (1, 6, 1), (1, 1, 1)]
EVERY = Affine(rotation=180, shift=4, scale=0.5, shear=30)

Move = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Images (B, C, H, W), angles in degrees and shifts down and right in pixels, (B,) each."""


def images(count: int, *shape: int) -> Tensor:
    return torch.sigmoid(numbers(3, count, *shape))


def affine_move(x: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
    return Affine(rotation=180, shift=8).apply(
        x, torch.stack([angle / 180, down / 8, right / 8], 1)
    )


def rows(count: int, value: float) -> Tensor:
    return torch.full((count,), value, dtype=torch.float64)


def sliced(x: Tensor, down: int, right: int, padding: Padding = "zeros") -> Tensor:
    """The same move by slicing a padded picture."""
    wide = functional.pad(x, (abs(right),) * 2 + (abs(down),) * 2, mode=PAD_MODES[padding])
    top, left = abs(down) - down, abs(right) - right
    return wide[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def moves_whole_pixels(move: Move) -> bool:
    for shape, down, right in itertools.product(SHAPES[:4], (-3, 0, 2), (-1, 0, 3)):
        x = images(2, *shape)
        got = move(x, rows(2, 0), rows(2, down), rows(2, right))
        if (got - sliced(x, down, right)).abs().amax() > 1e-6:
            return False
    return True


def makes_quarter_turns(move: Move) -> bool:
    for side, turns in itertools.product((4, 5, 12), (-1, 0, 1, 2)):
        x = images(2, 2, side, side)
        got = move(x, rows(2, 90.0 * turns), rows(2, 0), rows(2, 0))
        if (got - x.rot90(turns, (2, 3))).abs().amax() > 1e-6:
            return False
    return True


def keeps_angles(move: Move) -> bool:
    """An oblong picture turns as it does in the middle of a large black square."""
    x, angle = images(3, 1, 8, 14), torch.tensor([37.0, -90.0, 160.0], dtype=torch.float64)
    wide = functional.pad(x, (5, 5, 8, 8))
    got, whole = (move(each, angle, rows(3, 0), rows(3, 0)) for each in (x, wide))
    return bool((got - whole[:, :, 8:-8, 5:-5]).abs().amax() < 1e-6)


def treats_each_sample_alone(move: Move) -> bool:
    x = images(3, 1, 9, 9)
    angle, down, right = torch.tensor([[0.0, 40, 0], [0, 0, 2], [0, 0, -1]], dtype=torch.float64)
    got = move(x, angle, down, right)
    alone = [move(*(part[i : i + 1] for part in (x, angle, down, right))) for i in range(3)]
    return bool(torch.equal(got[0], x[0]) and torch.equal(got, torch.cat(alone)))


def resamples_once(move: Move) -> bool:
    """A turn and a whole-pixel move together are the turn, sliced: no second blur."""
    x = functional.pad(images(2, 1, 6, 6), (6, 6, 6, 6))
    turned = move(x, rows(2, 30), rows(2, 0), rows(2, 0))
    both = move(x, rows(2, 30), rows(2, 2), rows(2, -1))
    return bool((both - sliced(turned, 2, -1)).abs().amax() < 1e-6)


CHECKS = (
    moves_whole_pixels,
    makes_quarter_turns,
    keeps_angles,
    treats_each_sample_alone,
    resamples_once,
)


def grid_move(
    x: Tensor, angle: Tensor, down: Tensor, right: Tensor, *, unit: tuple[float, float]
) -> Tensor:
    """Turn and move in the normalised coordinates of grid_sample; ``unit`` is that of a pixel."""
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    shift_x, shift_y = -right * unit[1], -down * unit[0]
    theta = torch.stack(
        [
            torch.stack([cos, -sin, cos * shift_x - sin * shift_y], 1),
            torch.stack([sin, cos, sin * shift_x + cos * shift_y], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def in_normalised_coordinates(x: Tensor, *how: Tensor) -> Tensor:
    return grid_move(x, *how, unit=(2 / x.shape[2], 2 / x.shape[3]))


def shifts_scaled_to_the_other_convention(x: Tensor, *how: Tensor) -> Tensor:
    """A pixel is 2 / (n - 1) there, as where corners are aligned: 3 pixels move 3.4 here."""
    return grid_move(x, *how, unit=(2 / (x.shape[2] - 1), 2 / (x.shape[3] - 1)))


def shift_budget_from_the_channels(x: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
    most = 3.0 * x.shape[1] / x.shape[2]
    return affine_move(x, angle, down.clamp(-most, most), right)


def one_transform_for_all(x: Tensor, *how: Tensor) -> Tensor:
    return affine_move(x, *(part[-1:].expand(len(x)) for part in how))


def one_resampling_after_the_other(x: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
    half = affine_move(x, angle / 2, 0 * down, 0 * right)
    return affine_move(half, angle / 2, down, right)


def clockwise(x: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
    return affine_move(x, -angle, down, right)


@pytest.mark.parametrize("check", CHECKS, ids=lambda one: one.__name__)
def test_promises(check: Callable[[Move], bool]) -> None:
    assert check(affine_move)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (in_normalised_coordinates, keeps_angles),
        (shifts_scaled_to_the_other_convention, moves_whole_pixels),
        (shift_budget_from_the_channels, moves_whole_pixels),
        (one_transform_for_all, treats_each_sample_alone),
        (clockwise, makes_quarter_turns),
    ],
    ids=lambda one: one.__name__,
)
def test_errors_of_others_are_seen(fault: Move, check: Callable[[Move], bool]) -> None:
    assert not check(fault)


def test_a_second_blur_is_seen() -> None:
    def shifted_again(x: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
        first = affine_move(x, angle, down / 4, right / 4)
        return affine_move(first, 0 * angle, down * 3 / 4, right * 3 / 4)

    assert moves_whole_pixels(affine_move)
    assert not resamples_once(shifted_again)
    turned = affine_move(images(2, 1, 9, 9), rows(2, 30), rows(2, 0), rows(2, 0))
    twice = one_resampling_after_the_other(images(2, 1, 9, 9), rows(2, 30), rows(2, 0), rows(2, 0))
    assert twice.std() < 0.95 * turned.std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_change_is_the_identity_bit_for_bit(
    shape: tuple[int, ...], padding: Padding, dtype: torch.dtype
) -> None:
    x = images(2, *shape).to(dtype)
    every = Affine(rotation=180, shift=4, scale=0.5, shear=30, padding=padding)
    assert torch.equal(every.apply(x, every.zero(x)), x)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_whole_pixels_equal_slicing_bit_for_bit(shape: tuple[int, ...], padding: Padding) -> None:
    x = images(2, *shape).float()
    moved = Affine(rotation=0, shift=4, padding=padding)
    for down, right in itertools.product((-4, -1, 0, 2), (-3, 0, 1, 4)):
        p = torch.tensor([[down / 4, right / 4]]).expand(2, 2)
        assert torch.equal(moved.apply(x, p), sliced(x, down, right, padding))


def test_three_pixels_are_three_pixels() -> None:
    """On either axis, for one channel and three, whatever the size (a budget ART gets wrong)."""
    for channels, (height, width) in itertools.product((1, 3), ((28, 28), (32, 20), (9, 40))):
        x = images(1, channels, height, width).float()
        got = Affine(rotation=0).apply(x, torch.tensor([[1.0, -1.0]]))
        assert torch.equal(got[:, :, 3:, :-3], x[:, :, :-3, 3:])


@pytest.mark.parametrize("side", [1, 2, 5, 8, 28, 33])
def test_quarter_turns_are_exact(side: int) -> None:
    x = images(2, 2, side, side).float()
    for turns in (-2, -1, 1, 2):
        got = Affine(rotation=180, shift=0).apply(x, torch.full((2, 1), turns / 2))
        assert torch.equal(got, x.rot90(turns, (2, 3)))


def test_a_whole_turn_is_the_identity() -> None:
    x = images(2, 1, 8, 11).float()
    turned = Affine(rotation=180, shift=0)
    assert torch.equal(turned.apply(x, torch.full((2, 1), 2.0)), x)
    ends = [turned.apply(x, torch.full((2, 1), end)) for end in (-1.0, 1.0)]
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, (-4, 2)),
        ({"shift_y": 1.0}, (-1, 2)),
        ({"shift_x": -1.0}, (-4, -1)),
        ({"angle": 0.5}, (-2, -4)),  # counter-clockwise: from the top to the left
        ({"scale": -1.0}, (-2, 1)),
        ({"shear": 1.0}, (-4, 6)),  # the upper half goes to the right
        ({"shear": 1.0, "shift_x": -1.0}, (-4, 3)),
        ({"angle": 0.5, "shift_y": -1.0}, (-5, -4)),  # turned first, then moved
        ({"scale": -1.0, "shift_y": 1.0}, (1, 1)),  # scaled first, then moved
        ({"shear": 1.0, "angle": 0.5}, (-6, -4)),  # sheared first, then turned
    ],
    ids=str,
)
def test_directions_and_order(changes: dict[str, float], place: tuple[int, int]) -> None:
    """Where a bright pixel goes that lies four above the middle and two to the right."""
    x = torch.zeros(1, 1, 13, 21)
    x[0, 0, 6 - 4, 10 + 2] = 1
    every = Affine(rotation=180, shift=3, scale=1.0, shear=45)
    p = torch.tensor([[changes.get(name, 0.0) for name in every.names]])
    row, column = divmod(int(every.apply(x, p).argmax()), 21)
    assert (row - 6, column - 10) == place


def by_matrices(x: Tensor, one: Affine, p: Tensor) -> Tensor:
    """The same by matrices, an inverse and grid_sample."""
    angle, down, right, share, shear = (p * p.new_tensor([180, 4, 4, 1, 30])).unbind(1)
    size = (1 + one.scale) ** share
    height, width = x.shape[2:]

    def matrices(*entries: Tensor | float) -> Tensor:
        made = [torch.as_tensor(entry, dtype=p.dtype).expand(len(p)) for entry in entries]
        return torch.stack(made, 1).view(-1, 3, 3)

    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    sheared = matrices(1, -shear.deg2rad().tan(), 0, 0, 1, 0, 0, 0, 1)
    scaled = matrices(size, 0, 0, 0, size, 0, 0, 0, 1)
    turned = matrices(cos, sin, 0, -sin, cos, 0, 0, 0, 1)
    moved = matrices(1, 0, right, 0, 1, down, 0, 0, 1)
    back = torch.linalg.inv(moved @ turned @ scaled @ sheared)
    y, x_ = torch.meshgrid(
        torch.arange(height, dtype=p.dtype) - (height - 1) / 2,
        torch.arange(width, dtype=p.dtype) - (width - 1) / 2,
        indexing="ij",
    )
    places = torch.stack([x_, y, torch.ones_like(x_)]).flatten(1)
    read = (back @ places)[:, :2].view(-1, 2, height, width)
    grid = read / read.new_tensor([(width - 1) / 2, (height - 1) / 2]).view(1, 2, 1, 1)
    return functional.grid_sample(
        x, grid.permute(0, 2, 3, 1), padding_mode=one.padding, align_corners=True
    )


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_all_together_agree_with_matrices(shape: tuple[int, ...], padding: Padding) -> None:
    every = Affine(rotation=180, shift=4, scale=0.5, shear=30, padding=padding)
    x = images(20, *shape)
    p = every.draw(x, rows(20, 1), draws(20))
    assert p.abs().amax() > 0.9
    torch.testing.assert_close(every.apply(x, p), by_matrices(x, every, p), rtol=0, atol=1e-9)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_are_those_of_differences(padding: Padding) -> None:
    every = Affine(rotation=40, shift=2, scale=0.3, shear=20, padding=padding)
    x = images(3, 2, 5, 7)
    p = every.draw(x, rows(3, 0.8), draws(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: every.apply(x, p), p, eps=1e-7)


def test_the_slope_at_whole_pixels_is_that_towards_the_next() -> None:
    ramp = torch.linspace(0, 0.9, 10).square().expand(1, 1, 10, 10)
    p = torch.zeros(1, 2, requires_grad=True)
    moved = Affine(rotation=0, shift=1, padding="border")
    (g,) = torch.autograd.grad(moved.apply(ramp, p)[0, 0, 5, 5], p)
    expected = -(ramp[0, 0, 5, 6] - ramp[0, 0, 5, 5])
    torch.testing.assert_close(g[0], torch.stack([torch.zeros(()), expected]))


@pytest.mark.parametrize("padding", PADDINGS)
def test_nothing_is_ever_not_a_number(padding: Padding) -> None:
    wild = Affine(rotation=180, shift=1e6, scale=1e6, shear=80, padding=padding)
    for shape in SHAPES:
        x = images(50, *shape).float()
        p = wild.draw(x, torch.ones(50), draws(50)).requires_grad_()
        got = wild.apply(x, p)
        assert got.amin() >= 0
        assert got.amax() <= 1
        (g,) = torch.autograd.grad(got.sum(), p)
        assert g.isfinite().all()


def test_black_fades_in_and_a_mirror_repeats_no_edge() -> None:
    x = torch.tensor([[[[0.2, 0.4, 0.8]]]])
    row = torch.zeros(1, 1, 5)
    column = torch.tensor([[[-1.5, -1.0, -0.5, 2.5, 3.0]]])
    seen = {padding: resample(x, row, column, padding)[0, 0, 0] for padding in PADDINGS}
    torch.testing.assert_close(seen["zeros"], torch.tensor([0.0, 0.0, 0.1, 0.4, 0.0]))
    torch.testing.assert_close(seen["border"], torch.tensor([0.2, 0.2, 0.2, 0.8, 0.8]))
    torch.testing.assert_close(seen["reflection"], torch.tensor([0.6, 0.4, 0.3, 0.6, 0.4]))


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 32, 20)], ids=str)
def test_a_batch_is_its_rows(size: tuple[int, ...]) -> None:
    x = images(6, *size).float()
    p = EVERY.draw(x, torch.ones(6), draws(6))
    alone = [EVERY.apply(x[i : i + 1], p[i : i + 1]) for i in range(6)]
    assert torch.equal(EVERY.apply(x, p), torch.cat(alone))


def test_every_sample_draws_its_own() -> None:
    x = images(50, 1, 6, 6)
    p = EVERY.draw(x, rows(50, 1), draws(50))
    assert len(p.unique(dim=0)) == 50
    assert (p.amin(0) < -0.85).all()
    assert (p.amax(0) > 0.85).all()


def test_only_numbers_with_a_range_are_free() -> None:
    assert Affine().names == ("angle", "shift_y", "shift_x")
    assert EVERY.names == ("angle", "shift_y", "shift_x", "scale", "shear")
    assert Affine(rotation=0).names == ("shift_y", "shift_x")
    assert Affine(shift=0, shear=1).names == ("angle", "shear")
    assert Affine(rotation=0, shift=0, scale=0.1).names == ("scale",)


def test_facts_are_in_their_own_units() -> None:
    p = torch.tensor([[0.5, -0.25, 1.0, -1.0, 0.5]])
    facts = EVERY.facts(images(1, 1, 4, 4), p)
    expected = {"angle": 90, "shift_y": -1, "shift_x": 4, "scale": 1 / 1.5, "shear": 15}
    assert {name: float(value) for name, value in facts.items()} == pytest.approx(expected)


def test_what_is_no_image_is_refused() -> None:
    assert Affine().refusal(torch.Size((1, 4, 4))) is None
    assert "(12,)" in str(Affine().refusal(torch.Size((12,))))
    x, y = torch.rand(2, 12), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"affine change needs images \(C, H, W\); got \(12,\)"):
        PGD(perturbation=Affine())(torch.nn.Linear(12, 2), x, y, eps=1.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rotation": 181}, "affine: rotation must be a number from 0 to 180; got 181"),
        ({"rotation": -1}, "rotation"),
        ({"shift": math.inf}, "affine: shift must be a number of at least 0; got inf"),
        ({"shift": True}, "shift"),
        ({"scale": -0.1}, "scale"),
        ({"shear": 85}, "shear must be a number from 0 to 80"),
        ({"shear": "1"}, "shear"),
        ({"padding": "reflect"}, "one of zeros, border, reflection.*Did you mean 'reflection'"),
        ({"rotation": 0, "shift": 0}, "every range is 0"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Affine(**fields)


def test_no_eps_is_the_clean_picture() -> None:
    model, x, y, _ = smooth(shape=(1, 6, 7), count=4)
    assert torch.equal(PGD(perturbation=Affine(), steps=3)(model, x, y, eps=0.0), x)


def lattice_points(count: int, axes: int) -> Tensor:
    """All points (count^axes, axes) of the grid, in the order in which it tries them."""
    line = [2 * i / (count - 1) - 1 for i in range(count)]
    return torch.tensor(list(itertools.product(line, repeat=axes)), dtype=torch.float64).flip(1)


def test_the_grid_is_the_worst_of_all_that_is_drawn_from_it() -> None:
    """Exactly, per sample: first draw, worst of ten, worst of all."""
    model, x, y, _ = balanced(shape=(1, 9, 9), count=40)
    one = Affine(rotation=30, shift=2)
    found = Grid(perturbation=one, points=(5, 5, 5)).run(model, x, y, eps=1.0, stop="never")
    points = lattice_points(5, 3)
    chosen = draws(40).bits((10,)) % len(points)
    fooled = torch.stack(
        [model(one.apply(x, points[chosen[:, k]])).argmax(1) != y for k in range(10)], 1
    )
    first, worst_of_ten = fooled[:, 0], fooled.any(1)
    assert (found.success | ~worst_of_ten).all()
    assert 0 < first.sum() < worst_of_ten.sum() < found.success.sum()
    every = torch.stack([model(one.apply(x, p.expand(40, 3))).argmax(1) != y for p in points], 1)
    assert torch.equal(found.success, every.any(1))


def test_more_random_draws_find_more_and_each_sample_keeps_its_own_worst() -> None:
    model, x, y, _ = balanced(shape=(1, 9, 9), count=40)
    one, eps = Affine(rotation=30, shift=2), 1.0
    single, ten = (
        RandomNoise(perturbation=one, steps=k).run(model, x, y, eps=eps, stop="never")
        for k in (1, 10)
    )
    assert (ten.success | ~single.success).all()
    assert single.success.sum() < ten.success.sum()
    assert len(ten.p[ten.success].unique(dim=0)) == ten.success.sum()
    # By score, the worst is kept and not the first that fools.
    short, long = (
        RandomSearch(perturbation=one, steps=k, share=1.0).run(model, x, y, eps=eps, stop="never")
        for k in (1, 20)
    )
    assert (long.loss >= short.loss).all()
    assert (long.loss > short.loss + 0.01).float().mean() > 0.5


def test_a_failure_is_no_black_picture_that_counts_as_a_success() -> None:
    model, x, y, _ = smooth(shape=(1, 9, 9), count=6)
    sure = After(model, lambda _, z: 0 * z + torch.nn.functional.one_hot(y[: len(z)], 3))
    stops: tuple[Stop, ...] = get_args(Stop)
    for stop in stops:
        found = PGD(perturbation=Affine(), steps=3).run(sure, x, y, eps=0.5, stop=stop)
        assert not found.success.any()
        assert (found.x_adv.flatten(1).mean(1) > 0.2).all()


def test_a_search_does_not_remember_the_last_one() -> None:
    model, x, y, _ = smooth(shape=(1, 9, 9), count=8)
    attack = Grid(perturbation=Affine(), points=3)
    ids = torch.arange(4)
    attack.run(model, x[:4], y[:4], eps=1.0)
    second = attack.run(model, x[4:], y[4:], eps=1.0, ids=ids)
    alone = Grid(perturbation=Affine(), points=3).run(model, x[4:], y[4:], eps=1.0, ids=ids)
    assert torch.equal(second.p, alone.p)
    assert second.forwards.sum() > 4


def test_gradients_beat_as_many_random_draws_where_the_model_is_smooth() -> None:
    model, x, y, _ = balanced(shape=(1, 9, 9), count=40)
    one = Affine(rotation=10, shift=1)
    steps = PGD(perturbation=one, steps=20).run(model, x, y, eps=1.0, stop="never")
    noise = RandomNoise(perturbation=one, steps=1).run(model, x, y, eps=1.0, stop="never")
    assert steps.success.sum() > noise.success.sum()
