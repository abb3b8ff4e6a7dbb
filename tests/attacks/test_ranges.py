"""Numbers within ranges, circles that come round, rotations that are drawn uniformly; poses."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks import PGD
from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.perspective import Perspective
from advbench.attacks.perturbations.pose import Ball, Euler, Pose, Rotation
from advbench.attacks.perturbations.ranges import Axis, Ranges
from advbench.attacks.rendering.rotation import about_axis, rotation_angle
from advbench.attacks.rendering.scene import Scene, unpack
from advbench.testing.victims import numbers
from tests.attacks.test_randomness import distance_from_uniform, draws

CIRCLE = Affine(rotation=180, shift=2)
EULER = Pose(Euler(180, 40, 0), x=0.3, azimuth=180)
BALL = Pose(Ball(30), x=0.3, z=0.5, elevation=20)
WHOLE = Pose(Ball(180), y=0.1)
UNEVEN = Pose(Euler(40, 0, 0), y=(-0.1, 0.4), z=(-20.0, 0.5))
SETS: tuple[Ranges, ...] = (Affine(), CIRCLE, Perspective(), EULER, BALL, WHOLE, UNEVEN)


def full(count: int, value: float) -> Tensor:
    return torch.full((count,), value, dtype=torch.float64)


def scenes(count: int) -> Tensor:
    """Objects that stand turned, away from the origin, under a slanting light."""
    light = numbers(31, count, 3)
    return Scene(
        mesh=torch.arange(count) % 3,
        background=torch.arange(count) % 2,
        rotation=Ball(180).matrix(60 * numbers(32, count, 3)),
        position=numbers(33, count, 3),
        light=light / light.norm(dim=1, keepdim=True),
    ).rows()


def inputs(one: Ranges, count: int) -> Tensor:
    if isinstance(one, Pose):
        return scenes(count)
    return torch.sigmoid(numbers(3, count, 1, 14, 14))


def radius(p: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(p[:, :3], dim=1)
    return length


# --- Shares of ranges ---


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_no_share_changes_nothing(one: Ranges) -> None:
    x = inputs(one, 4)
    assert torch.equal(one.apply(x, one.zero(x)), x)
    assert one.zero(x).shape == (4, len(one.names))
    assert torch.equal(
        one.apply(x, one.project(x, one.draw(x, full(4, 1), draws(4)), full(4, 0))), x
    )
    assert one.largest(x) == 1


def test_numbers_are_shares_of_their_ranges() -> None:
    assert Pose(Euler(10, 0, 30), y=2).names == ("yaw", "roll", "y")
    shares = torch.tensor([[0.5, -1.0, 0.25]])
    assert Pose(Euler(10, 0, 30), y=2).numbers(shares).tolist() == [[5, -30, 0.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("one", SETS, ids=repr)
def test_projection_is_legal_and_idempotent(one: Ranges, dtype: torch.dtype) -> None:
    x = inputs(one, 200).to(dtype)
    eps = torch.linspace(0, 1, 200, dtype=dtype)
    far = 2 * numbers(5, 200, len(one.names), dtype=dtype)
    inside = one.project(x, far, eps)
    assert inside.dtype == dtype
    assert (one.size(x, inside) <= one.limit(eps)).all()
    torch.testing.assert_close(one.project(x, inside, eps), inside)
    assert torch.equal(one.project(x, 0 * far, eps), 0 * far)


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_what_is_inside_stays(one: Ranges) -> None:
    x = inputs(one, 100)
    p = one.draw(x, full(100, 0.7), draws(100))
    torch.testing.assert_close(one.project(x, p, full(100, 0.7)), p, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.project(x, p, full(100, 1.0)), p, rtol=1e-12, atol=0)


def test_a_whole_circle_comes_round_and_a_part_of_it_ends() -> None:
    x = torch.zeros(5, 1, 4, 4)
    p = torch.tensor([[1.1, 1.1, -1.1], [-1.25, 0, 0], [1, 0, 0], [-1, 0, 0], [3.1, 0, 0]])
    round_ = CIRCLE.project(x, p, torch.ones(5))
    torch.testing.assert_close(round_[:, 0], torch.tensor([-0.9, 0.75, 1, -1, -0.9]))
    assert round_[0, 1:].tolist() == [1, -1]
    ended = CIRCLE.project(x, p, torch.full((5,), 0.5))
    assert ended[:, 0].tolist() == [0.5, -0.5, 0.5, -0.5, 0.5]
    part = Affine(rotation=179.9).project(x, p, torch.ones(5))
    assert part[:, 0].tolist() == [1, -1, 1, -1, 1]


def test_coming_round_turns_the_picture_the_same_way() -> None:
    x = torch.sigmoid(numbers(3, 9, 1, 8, 11))
    p = torch.zeros(9, 3, dtype=torch.float64)
    p[:, 0] = torch.linspace(0.8, 1.4, 9)
    round_ = CIRCLE.project(x, p, full(9, 1))
    assert (round_[4:, 0] < 0).all()
    torch.testing.assert_close(CIRCLE.apply(x, round_), CIRCLE.apply(x, p), rtol=0, atol=1e-9)


def test_each_eps_of_a_batch_counts_for_its_row() -> None:
    p = torch.full((3, 3), 1.5)
    eps = torch.tensor([0.25, 1.0, 0.999])
    got = CIRCLE.project(torch.zeros(3, 1, 4, 4), p, eps)
    torch.testing.assert_close(got[:, 0], torch.tensor([0.25, -0.5, 0.999]))
    assert torch.equal(got[:, 1], eps)
    assert CIRCLE.closed(eps, 5).tolist() == [[False] * 5, [True] + [False] * 4, [False] * 5]
    assert CIRCLE.closed(eps, 1).tolist() == [[False], [True], [False]]


def test_size_is_the_largest_share_and_of_a_ball_the_length() -> None:
    p = torch.tensor([[0.3, -0.4, 0.0, 0.1, 0.0, -0.2]])
    assert float(BALL.size(scenes(1).float(), p)) == pytest.approx(0.5)
    p[0, 4] = -0.7
    assert float(BALL.size(scenes(1).float(), p)) == pytest.approx(0.7)
    assert float(Affine().size(torch.zeros(1, 1, 4, 4), p[:, :3])) == pytest.approx(0.4)


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_steps_have_their_length_and_follow_the_gradient(one: Ranges) -> None:
    x, g = inputs(one, 20), numbers(7, 20, len(one.names))
    g[0] = 0
    g[1, 1:] = 0
    length = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    for scale in (1, 1e-200, 1e200):
        step = one.steepest(x, 0 * g, g * scale, length)
        torch.testing.assert_close(one.size(x, step)[1:], length[1:])
        assert (step[0] == 0).all()
        assert (step[1, 1:] == 0).all()
        assert (step * g >= 0).all()
        if one.ball:
            along = torch.linalg.cross(step[:, :3], g[:, :3])
            assert along.abs().amax() < 1e-12
    noise = one.steepest(x, 0 * g, torch.where(g == g[:, :1], g, 1e-17 * g), length)
    assert one.ball or (noise[:, 1:] == 0).all()


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_draws_stay_inside_and_belong_to_the_row(one: Ranges) -> None:
    x = inputs(one, 300)
    eps = torch.linspace(0.01, 1, 300, dtype=torch.float64)
    for how in (one.draw, one.extreme):
        p = how(x, eps, draws(300))
        assert (one.size(x, p) <= eps * (1 + 1e-12)).all()
        assert torch.equal(how(x[:4], eps[:4], draws(4)), p[:4])
        columns = zip(one.axes, one.numbers(p / eps.unsqueeze(1)).T, strict=True)
        for axis, column in list(columns)[3 * one.ball :]:
            low, high = axis.ends
            assert distance_from_uniform((column - low) / (high - low)) < 1.8
        apart = torch.corrcoef((p / eps.unsqueeze(1)).T) - torch.eye(p.shape[1])
        assert apart.abs().amax() < 0.25


@pytest.mark.parametrize("one", SETS, ids=repr)
def test_the_lattice_reaches_the_ends(one: Ranges) -> None:
    count = len(one.names)
    u = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=min(count, 4)))).double()
    x, eps = inputs(one, len(u)), full(len(u), 0.5)
    p = one.lattice(x, eps, u)
    largest = u.abs().amax(1)
    torch.testing.assert_close(one.size(x, p), largest * 0.5)
    assert torch.equal(p.sign()[:, : u.shape[1]], u.sign())
    assert (p[:, u.shape[1] :] == 0).all()
    wide = torch.cat([u, torch.ones(len(u), 9)], 1)
    assert one.lattice(x, eps, wide).shape == p.shape


class Ends(Ranges):
    """Planted: a circle that ends."""

    axes = (Axis("angle", 180.0),)
    ball = False

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        return CIRCLE.apply(x, torch.cat([p, 0 * p, 0 * p], 1))

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        return {}

    def refusal(self, shape: torch.Size) -> str | None:
        return None


def test_a_circle_that_ends_is_seen() -> None:
    x, p = torch.sigmoid(numbers(3, 1, 1, 8, 11)), torch.tensor([[1.2]]).double()
    ended = Ends().project(x, p, full(1, 1))
    assert (Ends().apply(x, ended) - Ends().apply(x, p)).abs().amax() > 0.1


# --- Rotations ---


@pytest.mark.parametrize("angle", [180.0, 90.0, 5.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rotations_are_drawn_uniformly_from_the_ball(angle: float, dtype: torch.dtype) -> None:
    """A share of ``(t - sin t)`` of the rotations are by less than ``t``, about any axis alike."""
    one = Pose(Ball(angle))
    x = scenes(1).to(dtype).expand(4000, -1)
    p = one.draw(x, torch.ones(4000, dtype=dtype), draws(4000)).double()
    most = math.radians(angle)
    turned = radius(p) * most
    # For small angles the difference is lost in rounding, and is the cube over six.
    grown = [
        t - t.sin() if most > 0.01 else t**3 / 6 for t in (turned, torch.tensor(most).double())
    ]
    assert distance_from_uniform(grown[0] / grown[1]) < 1.6
    assert distance_from_uniform(radius(p)) > 1.6
    for part in (p[:, :3] / radius(p).unsqueeze(1)).T:
        assert distance_from_uniform((part + 1) / 2) < 1.8


def test_all_rotations_alike_are_those_of_uniform_quaternions() -> None:
    """The matrices have the traces, and the entries, of normalised four-vectors of normals."""
    matrix = Ball(180).matrix(
        180 * Pose(Ball(180)).draw(scenes(1).expand(4000, -1), full(4000, 1), draws(4000))
    )
    angle = rotation_angle(matrix)
    assert distance_from_uniform((angle - angle.sin()) / math.pi) < 1.6
    for i, j in itertools.product(range(3), repeat=2):
        assert distance_from_uniform((matrix[:, i, j] + 1) / 2) < 1.8
    box = Euler(180, 180, 180).matrix(360 * draws(4000).uniform((3,), torch.float64) - 180)
    assert distance_from_uniform((box[:, 1, 2] + 1) / 2) > 1.6  # uniform angles are another thing


def test_past_half_a_turn_a_rotation_comes_round_to_itself() -> None:
    x = scenes(50)
    p = numbers(8, 50, 4)
    p[:, :3] *= (torch.linspace(0.9, 1.9, 50) / radius(p)).unsqueeze(1)
    p[:, 3] = 0
    round_ = WHOLE.project(x, p, full(50, 1))
    assert (WHOLE.size(x, round_) <= 1 + 1e-12).all()
    assert ((round_[:, :3] * p[:, :3]).sum(1) < 0).sum() > 40
    torch.testing.assert_close(WHOLE.apply(x, round_), WHOLE.apply(x, p))
    short = WHOLE.project(x, p, full(50, 0.5))
    torch.testing.assert_close(radius(short), full(50, 0.5))
    assert torch.linalg.cross(short[:, :3], p[:, :3]).abs().amax() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rotation", [Euler(180, 180, 180), Ball(180)], ids=repr)
def test_matrices_are_rotations(rotation: Rotation, dtype: torch.dtype) -> None:
    sizes = torch.logspace(-12, 0, 200, dtype=torch.float64).unsqueeze(1)
    degrees = (180 * sizes * numbers(9, 200, 3).tanh()).to(dtype)
    matrix = rotation.matrix(degrees)
    slack = 2e-6 if dtype == torch.float32 else 1e-12
    identity = torch.eye(3, dtype=dtype).expand(200, 3, 3)
    torch.testing.assert_close(matrix @ matrix.transpose(1, 2), identity, rtol=0, atol=slack)
    torch.testing.assert_close(torch.det(matrix), torch.ones(200, dtype=dtype), rtol=0, atol=slack)
    assert torch.equal(rotation.matrix(0 * degrees), identity)


def test_a_rotation_vector_turns_about_itself_by_its_length() -> None:
    vector = 60 * numbers(10, 50, 3)
    matrix = Ball(180).matrix(vector)
    torch.testing.assert_close((matrix @ vector.unsqueeze(2)).squeeze(2), vector)
    wrapped = (radius(vector) + 180).remainder(360) - 180
    torch.testing.assert_close(rotation_angle(matrix).rad2deg(), wrapped.abs())
    expected = torch.linalg.matrix_exp(torch.stack([cross(one) for one in vector.deg2rad()]))
    torch.testing.assert_close(matrix, expected)


def cross(v: Tensor) -> Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=v.dtype)


def test_axes_are_right_handed() -> None:
    """A quarter turn about x takes y to z, about y takes z to x, about z takes x to y."""
    axes = torch.eye(3)
    for axis in range(3):
        quarter = about_axis(torch.tensor([90.0]), axis)[0]
        torch.testing.assert_close(quarter @ axes[axis], axes[axis])
        before, after = axes[(axis + 1) % 3], axes[(axis + 2) % 3]
        torch.testing.assert_close(quarter @ before, after, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("angles", "front", "top"),
    [
        ((90.0, 0.0, 0.0), (1, 0, 0), (0, 1, 0)),  # yaw: what looked at the camera looks right
        ((0.0, 90.0, 0.0), (0, -1, 0), (0, 0, 1)),  # pitch: down, and the top at the camera
        ((0.0, 0.0, 90.0), (0, 0, 1), (-1, 0, 0)),  # roll: counter-clockwise, as it is seen
        ((90.0, 90.0, 0.0), (0, -1, 0), (1, 0, 0)),  # pitch first, then yaw
        ((90.0, 0.0, 90.0), (1, 0, 0), (0, 0, 1)),  # roll first, then yaw
        ((0.0, 90.0, 90.0), (0, -1, 0), (-1, 0, 0)),  # roll first, then pitch
    ],
    ids=str,
)
def test_yaw_pitch_and_roll(
    angles: tuple[float, ...], front: tuple[int, ...], top: tuple[int, ...]
) -> None:
    matrix = Euler(180, 180, 180).matrix(torch.tensor([angles]))[0]
    for before, after in (((0.0, 0.0, 1.0), front), ((0.0, 1.0, 0.0), top)):
        got = matrix @ torch.tensor(before)
        torch.testing.assert_close(got, torch.tensor(after).float(), rtol=0, atol=1e-6)


def test_a_fixed_angle_is_none() -> None:
    three = torch.tensor([[20.0, 0.0, -50.0]])
    two = Euler(180, 0, 180).matrix(three[:, [0, 2]])
    torch.testing.assert_close(two, Euler(180, 180, 180).matrix(three))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_angle_of_a_rotation(dtype: torch.dtype) -> None:
    degrees = torch.tensor([0, 1e-4, 1, 45, 90, 135, 179, 179.99, 180], dtype=dtype)
    for axis in range(3):
        for sign in (1, -1):
            got = rotation_angle(about_axis(sign * degrees, axis)).rad2deg()
            torch.testing.assert_close(got, degrees, rtol=1e-5, atol=1e-6)


def test_the_angle_of_a_rotation_has_a_slope_everywhere() -> None:
    degrees = torch.tensor([0.0, 1e-5, 1.0, 90, 179, 180], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(rotation_angle(about_axis(degrees, 1)).rad2deg().sum(), degrees)
    torch.testing.assert_close(g[1:5], torch.ones(4, dtype=torch.float64))
    assert g.isfinite().all()


# --- Poses ---


@pytest.mark.parametrize("one", [EULER, BALL, WHOLE, Pose(Ball(0), x=1)], ids=repr)
def test_the_pose_turns_in_front_of_what_was_there(one: Pose) -> None:
    """From the left, in the camera's axes: ``R = E(p) R_0``; the object turns where it stands."""
    x = scenes(20)
    p = one.draw(x, full(20, 1), draws(20))
    before, after, shares = (
        unpack(x),
        unpack(one.apply(x, p)),
        dict(zip(one.names, p.T, strict=True)),
    )
    turn = after.rotation @ before.rotation.transpose(1, 2)
    expected = torch.eye(3).double().expand(20, 3, 3)
    if one.rotation.axes:
        expected = one.rotation.matrix(one.numbers(p))
    torch.testing.assert_close(turn, expected)
    still = torch.zeros(20).double()
    moves = [shares.get(name, still) * getattr(one, name) for name in "xyz"]
    torch.testing.assert_close(after.position - before.position, torch.stack(moves, 1))
    assert torch.equal(after.mesh, before.mesh)
    assert torch.equal(after.background, before.background)
    torch.testing.assert_close(after.light.norm(dim=1), torch.ones(20).double())
    facts = one.facts(x, p)
    assert tuple(facts) == (*one.names, "turned")
    torch.testing.assert_close(facts["turned"], rotation_angle(expected).rad2deg())


def test_a_ball_says_how_far_it_turned() -> None:
    x = scenes(30)
    p = BALL.draw(x, full(30, 1), draws(30))
    torch.testing.assert_close(BALL.facts(x, p)["turned"], radius(p) * 30)
    assert torch.equal(BALL.facts(x, BALL.zero(x))["turned"].round(decimals=5), full(30, 0))


@pytest.mark.parametrize(
    ("changes", "light"),
    [
        ({"azimuth": 1.0}, (1, 0, 0)),  # from behind the camera to the right
        ({"elevation": -1.0}, (0, 1, 0)),  # and to above
        ({"azimuth": 1.0, "elevation": -1.0}, (0, 1, 0)),  # up first, then about the vertical
    ],
    ids=str,
)
def test_the_light_turns(changes: dict[str, float], light: tuple[int, ...]) -> None:
    one = Pose(Euler(0, 0, 0), azimuth=90, elevation=90)
    x = scenes(1).float()
    x[:, 14:] = torch.tensor([0.0, 0.0, 1.0])
    p = torch.tensor([[changes.get(name, 0.0) for name in one.names]])
    after = unpack(one.apply(x, p))
    torch.testing.assert_close(after.light[0], torch.tensor(light).float(), rtol=0, atol=1e-6)
    assert torch.equal(after.rotation, unpack(x).rotation)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.5, 1.0])
@pytest.mark.parametrize(
    "rotation", [Euler(40, 50, 60), Euler(180, 0, 30), Ball(25), Ball(180)], ids=repr
)
def test_gradients_are_those_of_differences(rotation: Rotation, share: float) -> None:
    one = Pose(rotation, x=0.2, y=0.3, z=0.4, azimuth=50, elevation=20)
    x = scenes(3)
    p = one.draw(x, full(3, share), draws(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: one.apply(x, p), p)


@pytest.mark.parametrize("one", [EULER, BALL, WHOLE], ids=repr)
def test_a_batch_is_its_rows(one: Pose) -> None:
    x = scenes(6).float()
    p = one.draw(x, torch.ones(6), draws(6))
    alone = [one.apply(x[i : i + 1], p[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(one.apply(x, p), torch.cat(alone), rtol=0, atol=1e-6)


def test_images_are_refused() -> None:
    assert Pose().refusal(torch.Size((17,))) is None
    assert "turned and moved by 'affine'" in str(Pose().refusal(torch.Size((1, 4, 5))))
    images, y = torch.rand(2, 1, 4, 5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="a pose changes scenes"):
        PGD(perturbation=Pose())(torch.nn.Flatten(), images, y, eps=1.0)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (Euler, {"yaw": 181}, "euler: yaw must be a number from 0 to 180; got 181"),
        (Euler, {"pitch": -1}, "pitch"),
        (Euler, {"roll": math.nan}, "roll"),
        (Ball, {"angle": 200}, "ball: angle must be a number from 0 to 180; got 200"),
        (Ball, {"angle": True}, "angle"),
        (Pose, {"x": -1}, "pose: x must be a number of at least 0; got -1"),
        (Pose, {"z": math.inf}, "z"),
        (Pose, {"azimuth": 181}, "azimuth must be a number from 0 to 180"),
        (Pose, {"elevation": "1"}, "elevation"),
        (Pose, {"rotation": Ball(0)}, "every range is 0"),
        (Pose, {"rotation": Euler(0, 0, 0)}, "every range is 0"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(kind: type, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**fields)


def test_a_range_may_reach_farther_to_one_side() -> None:
    deep = Pose(rotation=Euler(0, 0, 0), x=(-1.0, 3.0), z=(-20.0, 0.0))
    x = scenes(4000)
    start, eps = unpack(x).position, full(4000, 1)
    moved = unpack(deep.apply(x, deep.draw(x, eps, draws(4000)))).position - start
    assert distance_from_uniform((moved[:, 0].double() + 1) / 4) < 1.6
    assert distance_from_uniform(moved[:, 2].double() / 20 + 1) < 1.6
    # Half of the ranges, each side by itself, and no way ahead where there is none.
    p = deep.project(
        x[:3], full(6, 9).view(3, 2) * torch.tensor([[-1], [1 / 45], [1]]), eps[:3] / 2
    )
    assert p.tolist() == [[-0.5, -0.5], [pytest.approx(0.2), 0.0], [0.5, 0.0]]
    assert deep.numbers(p).tolist() == [[-0.5, -10], [pytest.approx(0.6), 0], [1.5, 0]]
    assert deep.numbers(torch.ones(1, 2)).tolist() == [[3, 0]]  # whoever does not project
    zero = torch.zeros(1, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(deep.numbers(zero).sum(), zero)
    assert slope.tolist() == [[3, 20]]


def test_an_even_range_draws_what_a_pair_of_equal_ends_draws() -> None:
    x, eps = scenes(50), torch.linspace(0, 1, 50, dtype=torch.float64)
    one, pair = (Pose(rotation=Euler(0, 0, 0), z=z) for z in (0.3, (-0.3, 0.3)))
    assert torch.equal(one.draw(x, eps, draws(50)), pair.draw(x, eps, draws(50)))
    u = draws(50).uniform((1,), x.dtype)
    assert torch.equal(one.draw(x, eps, draws(50)), (2 * u - 1) * eps.unsqueeze(1))


@pytest.mark.parametrize("z", [(1.0, 2.0), (-2.0, -1.0), (0.0,), (-1.0, float("nan")), (-1, True)])
def test_a_pair_without_zero_between_is_refused(z: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="pose: z must go from at most 0 to at least 0"):
        Pose(z=z)  # type: ignore[arg-type]
