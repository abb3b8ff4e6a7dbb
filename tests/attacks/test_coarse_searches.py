"""Searches in a few named coordinates, on landscapes whose shape is known.

The victims read where an object stands or how it is turned and never see a picture. The first
tests of the stratified search and of finite differences are the faults of the released code of
Alcorn et al. (airalcorn2/strike-with-a-pose, optimizer_example.py).
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import (
    Affine,
    Attack,
    Ball,
    Euler,
    Evolution,
    FiniteDifferences,
    Grid,
    Linf,
    Margin,
    Pose,
    RandomNoise,
    Rule,
    StratifiedSearch,
    Sweep,
)
from advbench.attacks.criterion import Criterion
from advbench.attacks.query import Problem, Query, Record, Rules
from advbench.attacks.randomness import Draws
from advbench.attacks.rendering.scene import Scene, unpack
from advbench.attacks.victim import Victim
from advbench.testing.victims import Watched

STILL = Euler(0, 0, 0)
PLACE = Pose(STILL, x=2, y=3, z=5)
YAW = Pose(Euler(180, 0, 0))
REACH = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)


class Landscape(nn.Module):
    """Two classes; the second one leads by ``lead`` of the scenes, (B, 17) -> (B,)."""

    def __init__(self, lead: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lead = lead

    def forward(self, scenes: Tensor) -> Tensor:
        lead = self.lead(scenes)
        return torch.stack([torch.zeros_like(lead), lead], 1)


def stage(count: int = 1) -> Tensor:
    """Objects at the origin, not turned."""
    number = torch.zeros(count, dtype=torch.int64)
    place = torch.zeros(count, 3, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64).expand(count, 3, 3)
    return Scene(number, number, turn, place, place + place.new_tensor([0, 1, 0])).rows()


def shares(scenes: Tensor) -> Tensor:
    """Where they stand, as shares of the ranges of ``PLACE``: (..., 17) -> (..., 3)."""
    return scenes[..., 11:14] / REACH


def yaw(scenes: Tensor) -> Tensor:
    """How they are turned about the vertical axis, (B,), in degrees."""
    turn = unpack(scenes).rotation
    return torch.atan2(turn[:, 0, 2], turn[:, 0, 0]).rad2deg()


def bowl(peak: list[float], weights: list[float], top: float = -1.0) -> Landscape:
    """A quadratic in the shares, ``top`` at its peak."""
    middle, steep = (torch.tensor(values, dtype=torch.float64) for values in (peak, weights))
    return Landscape(lambda scenes: top - (steep * (shares(scenes) - middle).square()).sum(1))


def towards(degrees: float) -> Landscape:
    """The nearer the yaw to ``degrees``, across the seam as well, the larger the lead."""
    return Landscape(lambda scenes: (yaw(scenes) - degrees).deg2rad().cos() - 2)


def asked(
    attack: Attack, model: nn.Module, x: Tensor, eps: float = 1.0, **terms: Any
) -> tuple[Tensor, Any]:
    """All scenes asked about, (queries, rows, 17), and the outcome."""
    watched = Watched(model)
    y = torch.zeros(len(x), dtype=torch.int64)
    found = attack.run(watched, x, y, eps=eps, **{"stop": "never", **terms})
    return torch.stack([scenes for scenes, _ in watched.seen]), found


def by_hand(
    rule: Rule[Any], model: nn.Module, u: list[float], steps: int, keep: str, eps: float = 1.0
) -> Any:
    """Run a rule from the point ``u``, the value of the field ``keep`` of its state."""
    x, zero = stage(), torch.zeros(1, dtype=torch.int64)
    criterion = Criterion(zero)
    rules = Rules(
        Victim(model, x, criterion), rule.perturbation, rule.loss, rule.access, rule.finds
    )
    problem = Problem(x, x.new_full((1,), eps), criterion, Draws(zero, zero, zero, zero), zero)
    state = rule.init(problem)._replace(**{keep: x.new_tensor([u])})
    for t in range(steps):
        number = zero + t
        now = problem._replace(t=number, draws=problem.draws._replace(number=number + 1))
        query = Query(rules, now, Record.blank(rule.perturbation.zero(x)))
        state = rule.step(state, query, now)
    return state


# --- Stratified search ---


@pytest.mark.parametrize("top", [-1.0, 3.0], ids=["never fooled", "always fooled"])
@pytest.mark.parametrize("depth", [-0.93, -0.31, 0.5, 0.99])
def test_the_search_narrows_to_the_right_depth(depth: float, top: float) -> None:
    attack = StratifiedSearch(perturbation=PLACE, axis="z", strata=10, samples=4, refinements=60)
    scenes, _ = asked(attack, bowl([0, 0, depth], [0, 0, 1], top), stage(3))
    first, then = shares(scenes).split([40, 60])
    strata = ((first[..., 2] + 1) / 2 * 10).long()
    assert (strata.sort(dim=0).values == torch.arange(40).unsqueeze(1) // 4).all()
    # The stratum of the peak and the next one, in which the best draws must lie.
    assert ((then[..., 2] - depth).abs() <= 0.4).all()
    assert (then[..., 2].amax(0) - then[..., 2].amin(0) > 0.2).all()
    assert (then[..., :2].amax(0) > 0.8).all()
    assert (then[..., :2].amin(0) < -0.8).all()


def test_each_row_narrows_to_its_own_depth() -> None:
    depths = torch.tensor([-0.8, 0.0, 0.7], dtype=torch.float64)
    x = stage(3)
    x[:, 11] = torch.arange(3) * 100  # x says which row it is

    def lead(scenes: Tensor) -> Tensor:
        own = depths[(scenes[:, 11] / 100).round().long()]
        return -(scenes[:, 13] / 5 - own).abs()

    attack = StratifiedSearch(perturbation=Pose(STILL, z=5), strata=8, samples=4, refinements=40)
    scenes, _ = asked(attack, Landscape(lead), x)
    assert ((scenes[32:, :, 13] / 5 - depths).abs() <= 0.5).all()


def test_an_axis_that_the_set_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Pose has no axis 'yaw'; expected one of x, y, z"):
        StratifiedSearch(perturbation=PLACE, axis="yaw")
    with pytest.raises(ValueError, match="leave it out"):
        StratifiedSearch(perturbation=Linf(), axis="z")


# --- Finite differences ---


def test_one_coordinate_at_a_time_about_an_unchanged_middle() -> None:
    attack = FiniteDifferences(perturbation=PLACE, rounds=4, difference=0.1, step_size=0.2)
    scenes, _ = asked(attack, bowl([0.9, -0.8, 0.1], [1, 5, 30]), stage(2))
    rounds = shares(scenes).unflatten(0, (4, 3, 2))
    middles = rounds.mean(2)
    torch.testing.assert_close(middles, middles[:, :1].expand_as(middles))
    torch.testing.assert_close(middles[0], torch.zeros_like(middles[0]))
    sides = torch.diag(torch.full((3,), 0.1, dtype=torch.float64)).view(1, 3, 1, 3)
    expected = sides.expand(4, 3, 2, 3)
    torch.testing.assert_close(rounds[:, :, 0] - middles, expected)
    torch.testing.assert_close(middles - rounds[:, :, 1], expected)


@pytest.mark.parametrize(
    "u", [[0.2, -0.3, 0.4], [-0.7, 0.0, 0.1], [1.0, -1.0, 0.5], [0.96, 0.0, -0.99]], ids=str
)
def test_slopes_are_those_of_the_quadratic(u: list[float]) -> None:
    """To the end of a range a difference is one-sided: its slope is that of the half way."""
    peak, weights = [0.5, -0.25, -0.75], [1.0, 4.0, 0.5]
    rule = FiniteDifferences(perturbation=PLACE, difference=0.05, decay=0.6)
    state = by_hand(rule, bowl(peak, weights), u, 6, "u")
    at, middle, steep = (torch.tensor(v, dtype=torch.float64) for v in (u, peak, weights))
    centre = ((at + 0.05).clamp_max(1) + (at - 0.05).clamp_min(-1)) / 2
    gradient = -2 * steep * (centre - middle)
    slope = gradient / gradient.abs().sum()
    torch.testing.assert_close(state.momentum[0], slope)
    torch.testing.assert_close(state.u[0], (at + 0.35 * slope.sign()).clamp(-1, 1))


def test_momentum_is_a_decaying_sum_of_slopes() -> None:
    rule = FiniteDifferences(perturbation=Pose(STILL, x=1, y=1), decay=0.5)
    plane = Landscape(lambda scenes: scenes[:, 11] - 3 * scenes[:, 12] - 9)
    state = by_hand(rule, plane, [0.0, 0.0], 12, "u")
    assert state.momentum[0].tolist() == pytest.approx([0.4375, -1.3125])


def test_a_coordinate_that_changes_nothing_but_rounding_stays() -> None:
    rule = FiniteDifferences(perturbation=PLACE)
    noisy = Landscape(lambda scenes: scenes[:, 11] + 1e-14 * scenes[:, 12])
    state = by_hand(rule, noisy, [0.0, 0.0, 0.0], 6, "u")
    assert state.u[0].tolist() == [0.35, 0.0, 0.0]


# --- Evolution ---

PEAK, STEEP = [0.6, -0.7, 0.3], [1.0, 30.0, 1000.0]


@pytest.mark.parametrize("seed", range(2))
def test_evolution_finds_the_peak_of_an_ill_scaled_quadratic(seed: int) -> None:
    """Within 540 queries, where the best of as many uniform draws is 1000 times as far below it."""
    quadratic, x = bowl(PEAK, STEEP, top=0.0), stage(10)
    scenes, found = asked(Evolution(perturbation=PLACE, rounds=30), quadratic, x, seed=seed)
    assert len(scenes) == 540
    assert (found.loss > -1e-3).all()
    drawn, _ = asked(RandomNoise(perturbation=PLACE, steps=540), quadratic, x, seed=seed)
    best = quadratic.lead(drawn.flatten(0, 1)).view(540, 10).amax(0)
    assert (best < found.loss).all()
    assert best.median() < 1000 * found.loss.median()


def test_evolution_stretches_along_the_flat_coordinate() -> None:
    rule = Evolution(perturbation=PLACE, population=12)
    state = by_hand(rule, bowl(PEAK, [1, 1, 400]), [0.0, 0.0, 0.0], 12 * 12, "mean")
    variance = state.variance[0]
    assert variance[0] > 8 * variance[2]
    assert variance[1] > 8 * variance[2]


def test_evolution_makes_longer_strides_along_a_slope_and_shorter_ones_at_a_peak() -> None:
    """Along the slope itself more than beside it: steps that agree add up."""
    rule = Evolution(perturbation=PLACE, spread=0.001, population=12)
    slope = Landscape(lambda scenes: scenes[:, 11] - 9)
    away = by_hand(rule, slope, [0.0, 0.0, 0.0], 12 * 10, "mean")
    assert away.sigma > 0.004
    assert away.variance[0, 0] > 15 * away.variance[0, 1:].amax()
    there = by_hand(rule, bowl([0.0] * 3, [1.0] * 3), [0.0, 0.0, 0.0], 12 * 10, "mean")
    assert there.sigma < 0.0002


def test_a_population_of_one_has_no_better_half() -> None:
    with pytest.raises(ValueError, match="Evolution: population must be at least 2"):
        Evolution(population=1)


@pytest.mark.parametrize(
    ("rule", "keep"),
    [
        (Evolution(perturbation=YAW, population=8, spread=0.03), "mean"),
        (FiniteDifferences(perturbation=YAW, difference=0.01, step_size=0.002, decay=0.0), "u"),
    ],
    ids=["evolution", "finite differences"],
)
def test_a_peak_across_the_seam_of_a_circle_is_near(rule: Any, keep: str) -> None:
    """From -170 degrees, 179 is 11 degrees away, on the other side of 180."""
    state = by_hand(rule, towards(179.0), [-170 / 180], 160, keep)
    assert float(getattr(state, keep)[0, 0]) * 180 == pytest.approx(-181, abs=0.5)
    part = by_hand(rule, towards(179.0), [-170 / 180], 160, keep, eps=0.99)
    assert float(getattr(part, keep)[0, 0]) == pytest.approx(-1, abs=0.02)


# --- Grid ---


@pytest.mark.parametrize("points", [1, 2, 4, 5, 8])
def test_a_grid_over_a_circle_tries_every_point_once(points: int) -> None:
    scenes, found = asked(Grid(perturbation=YAW, points=points), towards(0.0), stage())
    angles = yaw(scenes[:, 0]).remainder(360).round(decimals=6).remainder(360).sort().values
    assert found.forwards.tolist() == [points]
    start = 0 if points == 1 else -180
    every = [(start + 360 * k / points) % 360 for k in range(points)]
    assert angles.tolist() == pytest.approx(sorted(every))


def test_a_part_of_a_circle_has_two_ends() -> None:
    scenes, _ = asked(Grid(perturbation=YAW, points=4), towards(0.0), stage(), eps=0.5)
    torch.testing.assert_close(yaw(scenes[:, 0]), torch.tensor([-90.0, -30.0, 30.0, 90.0]).double())


def test_a_grid_has_its_own_points_along_each_axis() -> None:
    """The middle for one point, and for the axes that are not named."""
    scenes, found = asked(Grid(perturbation=PLACE, points=(1, 5)), bowl([0] * 3, [1] * 3), stage())
    assert found.forwards.tolist() == [5]
    expected = [[0, share, 0] for share in (-1, -0.5, 0, 0.5, 1)]
    torch.testing.assert_close(shares(scenes[:, 0]), torch.tensor(expected).double())
    scenes, _ = asked(Grid(perturbation=PLACE, points=(2, 1, 3)), bowl([0] * 3, [1] * 3), stage())
    tried = {tuple(place) for place in shares(scenes[:, 0]).tolist()}
    assert tried == set(itertools.product((-1, 1), (0,), (-1, 0, 1)))


def test_a_grid_on_a_circle_and_a_range_repeats_nothing() -> None:
    both = Pose(Euler(180, 30, 0), z=1)
    scenes, _ = asked(Grid(perturbation=both, points=(6, 3, 2)), towards(0.0), stage())
    assert len(scenes[:, 0].round(decimals=6).unique(dim=0)) == len(scenes) == 36


def test_a_grid_of_more_points_than_coordinates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"points has 4 numbers, but .* angle, shift_y, shift_x"):
        Grid(perturbation=Affine(), points=(3, 3, 3, 3))


# --- Sweep ---


def windows(scenes: Tensor) -> Tensor:
    """Fooled between 40 and 52 degrees, between -34 and -32.5, and far off from x = 0."""
    angle, x = yaw(scenes), scenes[:, 11]
    fooled = ((angle > 40) & (angle < 52)) | ((angle > -34) & (angle < -32.5)) | (x < -0.7)
    return fooled.to(scenes.dtype) - 0.5


@pytest.mark.parametrize(
    ("pose", "points", "smallest"),
    [
        (YAW, 180, 33 / 180),
        (YAW, 45, 44 / 180),  # 4 degrees apart: the narrow window is passed over
        (Pose(Euler(180, 0, 0), x=10), 20, 0.1),
        (Pose(STILL, x=0.5), 10, torch.inf),
    ],
    ids=["fine", "coarse", "two axes", "none"],
)
def test_a_sweep_finds_the_smallest_change_of_all(pose: Pose, points: int, smallest: float) -> None:
    x, y = stage(), torch.zeros(1, dtype=torch.int64)
    count = len(pose.names)
    parts = itertools.product(range(1, points + 1), range(count), (1, -1))
    u = torch.zeros(2 * points * count, count, dtype=torch.float64)
    for row, (part, axis, side) in enumerate(parts):
        u[row, axis] = side * part / points
    with torch.no_grad():
        fooled = windows(pose.apply(x.expand(len(u), -1), u)) > 0
    brute = u[fooled].abs().amax(1).amin() if fooled.any() else torch.tensor(torch.inf)
    assert float(brute) == pytest.approx(smallest)
    queries = int(fooled.int().argmax()) + 1 if fooled.any() else len(u)
    for stop, cost in (("success", queries), ("never", len(u))):
        found = Sweep(perturbation=pose, points=points).run(
            Landscape(windows),
            x,
            y,
            stop=stop,  # type: ignore[arg-type]
        )
        assert float(found.size) == pytest.approx(smallest)
        assert found.forwards.tolist() == [1 + cost]


def test_a_sweep_of_a_ball_turns_about_one_axis_at_a_time() -> None:
    scenes, _ = asked(Sweep(perturbation=Pose(Ball(90)), points=1), towards(0.0), stage())
    turned = unpack(scenes[1:, 0]).rotation
    fixed = turned.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(
        fixed, torch.eye(3).double().repeat_interleave(2, 0), rtol=0, atol=1e-9
    )


def test_losses_are_margins() -> None:
    """What the tests above take for granted: the loss is the lead of the landscape."""
    attacks = (Evolution(), FiniteDifferences(), StratifiedSearch())
    assert all(attack.loss == Margin() for attack in attacks)
