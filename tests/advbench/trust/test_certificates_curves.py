"""Relaxed activations, point by point."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from advbench.trust.certificates.curves import (
    Activation,
    Rectifier,
    Sigmoid,
    Smooth,
    Softplus,
    Tanh,
)
from advbench.trust.certificates.pooling import MaxPool
from advbench.trust.certificates.rows import Elementwise, Interval, Lines, Rows
from advbench.trust.certificates.windows import Windows

CURVES = (Rectifier(), Rectifier(0.2), Rectifier(1.0), Softplus(), Softplus(5.0), Tanh(), Sigmoid())


def intervals(dtype: torch.dtype, count: int = 400) -> Interval:
    """Intervals of all widths, from none to huge, around centres of all sizes."""
    generator = torch.Generator().manual_seed(0)

    def sizes(least: float, most: float) -> Tensor:
        powers = torch.rand(count, generator=generator, dtype=torch.float64)
        return 10 ** (powers * (most - least) + least)

    sign = torch.rand(count, generator=generator).round() * 2 - 1
    centre, half = sign * sizes(-4, 2), sizes(-9, 3)
    low, high = centre - half, centre + half
    special = torch.tensor(
        [[0, 0], [0, 1], [-1, 0], [-1, 1], [3, 3], [-20, 20], [-1e30, 1e30], [9, 9.01], [-50, -40]],
        dtype=torch.float64,
    )
    ends = torch.cat([torch.stack([low, high], 1), special]).to(dtype)
    return Interval(ends[:, :1].contiguous().T, ends[:, 1:].contiguous().T)


def lines_of(curve: Activation, given: Interval) -> Lines:
    step = curve.relax(given)
    assert isinstance(step, Elementwise)
    return step.lines


def excess(curve: Activation, lines: Lines, given: Interval) -> float:
    """How far the curve gets beyond its lines on a dense grid, as a share of the numbers in them.

    The curve and the grid are in 64 bits, whatever the lines are.
    """
    low, high = given.low.double(), given.high.double()
    share = torch.linspace(0, 1, 1001, dtype=torch.float64).unsqueeze(1)
    points = (low * (1 - share) + high * share).clamp(low, high)
    values = curve(points)
    a, b, c, d = (part.double() for part in lines)
    size = 1 + values.abs() + torch.maximum((a * points).abs(), (c * points).abs())
    under, over = a * points + b - values, values - (c * points + d)
    return float((torch.maximum(under, over) / size).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_lines_hold_everywhere(curve: Activation, dtype: torch.dtype) -> None:
    given = intervals(dtype)
    lines = lines_of(curve, given)
    assert all(part.isfinite().all() for part in lines)
    # PyTorch's softplus is the straight line where it differs from it by less than 3e-9.
    fine = 1e-8 if isinstance(curve, Softplus) else 1e-12
    assert excess(curve, lines, given) <= (1e-6 if dtype == torch.float32 else fine)


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_planted_faults_are_seen(curve: Activation) -> None:
    given = intervals(torch.float64)
    lines = lines_of(curve, given)
    for part in ("low_slope", "high_slope"):
        value = getattr(lines, part)
        assert excess(curve, lines._replace(**{part: value * 1.01}), given) > 1e-4
    assert excess(curve, lines._replace(low_constant=lines.low_constant + 1e-4), given) > 1e-6
    assert excess(curve, lines._replace(high_constant=lines.high_constant - 1e-4), given) > 1e-6


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_lines_are_tight(curve: Activation) -> None:
    """They touch the curve, and close in on it at least as the square of the width."""
    ends = torch.linspace(-4, 4, 33, dtype=torch.float64)
    for width in (2.0, 0.2, 0.02):
        given = Interval(ends.unsqueeze(0), ends.unsqueeze(0) + width)
        lines = lines_of(curve, given)
        share = torch.linspace(0, 1, 2001, dtype=torch.float64).unsqueeze(1)
        points = given.low * (1 - share) + given.high * share
        values = curve(points)
        under = (values - lines.low_slope * points - lines.low_constant).amin(0)
        over = (lines.high_slope * points + lines.high_constant - values).amin(0)
        assert torch.maximum(under, over).max() <= 1e-6
    narrow = lines.high_slope * ends + lines.high_constant - lines.low_slope * ends
    gap = narrow - lines.low_constant
    bend = 5 / 4 if isinstance(curve, Softplus) else 1.0
    if isinstance(curve, Smooth):
        assert gap.max() <= bend * 0.02**2


def test_relu_takes_the_slope_of_the_longer_part() -> None:
    given = Interval(torch.tensor([[-1.0, -3.0, 1.0, -2.0]]), torch.tensor([[3.0, 1.0, 2.0, -1.0]]))
    lines = lines_of(Rectifier(), given)
    assert lines.low_slope.tolist() == [[1, 0, 1, 0]]
    assert lines.high_slope.tolist() == [[0.75, 0.25, 1, 0]]
    assert lines.high_constant.tolist() == [[0.75, 0.75, 0, 0]]


def test_tangents_reach_the_other_end() -> None:
    """On an interval much longer below zero the best line below tanh is a tangent through the top.

    The point is the solution of tanh(d) + (1 - tanh(d)^2) (1 - d) = tanh(1).
    """
    ends = torch.tensor([[[-4.0]], [[1.0]]], dtype=torch.float64)
    lines = lines_of(Tanh(), Interval(*ends))
    slope, constant = lines.low_slope.item(), lines.low_constant.item()
    d = -torch.tensor(1 - slope, dtype=torch.float64).sqrt().atanh()
    assert d < -1.49  # left of the middle, or of where the tangent meets the end
    assert constant == pytest.approx(float(d.tanh() - slope * d))


def pooled(kernel: int, stride: int, padding: int) -> MaxPool:
    side = (5 + 2 * padding - kernel) // stride + 1
    place = torch.device("cpu")
    pairs = ((kernel, kernel), (stride, stride), (padding, padding), (1, 1))
    return MaxPool(Windows((2, 5, 5), (side, side), *pairs, place))


def pool_excess(pool: MaxPool) -> float:
    """How far maxima get beyond the bounds of random linear functions of them."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    worst = -torch.inf
    for width in (0.01, 0.3, 2.0):
        low = draw(3, 50)
        high = low + width * draw(3, 50)
        step = pool.relax(Interval(low, high))
        outputs = pool(low).shape[1]
        matrix = draw(3, 7, outputs) - 0.5
        rows = step.back(Rows.of(matrix, measured=True))
        for _ in range(200):
            corner = draw(3, 50) > 0.5
            share = torch.where(corner, 1.0, 0.0).double() if draw(1) > 0.5 else draw(3, 50)
            values = low + (high - low) * share
            truth = (matrix @ pool(values).unsqueeze(2)).squeeze(2)
            bound = (rows.matrix @ values.unsqueeze(2)).squeeze(2) + rows.constant
            worst = max(worst, float((bound - truth).max()))
    return worst


@pytest.mark.parametrize("shape", [(2, 2, 0), (3, 2, 1), (2, 1, 0), (1, 1, 0)], ids=str)
def test_bounds_of_maxima_hold(shape: tuple[int, int, int]) -> None:
    assert pool_excess(pooled(*shape)) <= 1e-12


def test_planted_fault_in_maxima_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: Windows, values: Tensor, padding: float) -> Tensor:
        entries = GATHER(self, values, padding)
        return torch.cat([entries[..., :-1], torch.full_like(entries[..., :1], -10.0)], 2)

    pool = pooled(2, 2, 0)
    relax = MaxPool.relax

    def faulty(self: MaxPool, given: Interval) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(Windows, "gather", forget)
            return relax(self, given)

    monkeypatch.setattr(MaxPool, "relax", faulty)
    assert pool_excess(pool) > 1e-3


GATHER = Windows.gather


def test_a_sure_maximum_stands_for_itself() -> None:
    pool = pooled(2, 3, 0)  # four windows a channel
    low = torch.zeros(1, 50, dtype=torch.float64)
    high = low + 1
    low[0, 0], high[0, 0] = 1.5, 3.0
    rows = pool.relax(Interval(low, high)).back(Rows.of(torch.eye(8).double().unsqueeze(0), False))
    negative = pool.relax(Interval(low, high)).back(
        Rows.of(-torch.eye(8).double().unsqueeze(0), False)
    )
    expected = torch.zeros(50, dtype=torch.float64)
    expected[0] = 1
    for found, sign in ((rows, 1), (negative, -1)):
        assert torch.equal(found.matrix[0, 0], sign * expected)
        assert found.constant[0, 0] == 0


def test_only_what_matters_is_asked_for() -> None:
    pool = pooled(2, 3, 0)
    low, high = torch.full((1, 50), -2.0), torch.full((1, 50), -1.0)
    low[0, [0, 1]], high[0, [0, 1]] = 1.0, 2.0  # two candidates in the first window
    nothing = torch.zeros(1, 8, dtype=torch.bool)
    wanted, idle = pool.needs(Interval(low, high), nothing, nothing)
    assert wanted[0, [0, 1]].all()
    assert not wanted[0, [5, 6]].any()
    assert idle[0, 5]
    assert not idle[0, [0, 1]].any()
    off = nothing.clone()
    off[0, 0] = True
    assert not pool.needs(Interval(low, high), nothing, off)[0][0, :2].any()
    ends = Interval(torch.tensor([[-1.0, -2.0, 1.0]]), torch.tensor([[1.0, -1.0, 2.0]]))
    none = ends.low > 5
    wanted, idle = Rectifier().needs(ends, none, none)
    assert wanted.tolist() == [[True, False, False]]
    assert idle.tolist() == [[False, True, False]]
    assert Rectifier().needs(ends, ~none, none)[0].tolist() == [[True, False, True]]
    assert Tanh().needs(ends, none, ends.low > 0)[0].tolist() == [[True, True, False]]


def test_intervals_are_those_of_the_ends() -> None:
    given = intervals(torch.float64)
    for curve in CURVES:
        found = curve.interval(given)
        for end, value in zip(given, found, strict=True):
            assert torch.equal(curve(end), value)
        assert (found.low <= found.high).all()
    assert all(a != b for a, b in pairwise(CURVES))
