"""Square against its paper: the start, the schedule, the places, the bumps, the queries."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L0, L1, L2, Linf, Margin, Perturbation, SquareAttack
from advbench.attacks.blackbox.square import _AHEAD, Squares, _bump, _next_words
from advbench.attacks.randomness import Draws
from advbench.testing.victims import Watched
from tests.attacks.closed_form import linear_cases

EPS = 0.1


class Stubborn(nn.Module):
    """Two classes with scores that nothing changes, so that only the start is ever kept."""

    def __init__(self, lead: float = 1.0) -> None:
        super().__init__()
        self.lead = nn.Parameter(torch.tensor(lead, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1).sum(1) * 0
        return torch.stack([score + self.lead, score], 1)


def grey(*shape: int, count: int = 1) -> Tensor:
    return torch.full((count, *shape), 0.5, dtype=torch.float64)


def asked(attack: SquareAttack, x: Tensor, eps: float = EPS, lead: float = 1.0) -> Tensor:
    """Return the changes (steps, N, ...) that a model of constant scores is asked about."""
    model = Watched(Stubborn(lead))
    y = torch.zeros(len(x), dtype=torch.int64)
    found = attack.run(model, x, y, eps=eps, stop="never")
    assert (found.forwards == attack.steps).all()
    assert model.forwards == attack.steps * len(x)
    return torch.stack([images for images, _ in model.seen]) - x


def test_the_defaults_are_those_of_the_paper() -> None:
    assert SquareAttack() == SquareAttack(
        perturbation=Linf(), loss=Margin(), steps=5000, share=0.8, rescale=False, restarts=1
    )
    assert SquareAttack().queries == 5000


def test_the_first_query_is_about_vertical_stripes() -> None:
    (first,) = asked(SquareAttack(steps=1), grey(3, 4, 40, count=2))
    torch.testing.assert_close(first.abs(), torch.full_like(first, EPS))
    assert (first == first[:, :, :1]).all(), "a column has one sign"
    signs = first[:, :, 0].sign()
    assert not (signs == signs[:, :1]).all(), "channels have signs of their own"
    assert not (signs[0] == signs[1]).all(), "rows have signs of their own"
    assert 0.3 < (signs > 0).double().mean() < 0.7


def sides(attack: SquareAttack, size: int) -> list[int]:
    """Return the height of the square of each query but the first."""
    start, *others = asked(attack, grey(1, size, size))[:, 0, 0]
    return [int(((other - start).abs() > EPS).any(1).sum()) for other in others]


def test_the_share_halves_after_the_published_queries() -> None:
    size = 40
    expected = [round(math.sqrt(0.8 / 2**k) * size) for k in range(5)]
    got = sides(SquareAttack(steps=530), size)
    ends = (0, 10, 50, 200, 500, 529)
    for side, (first, last) in zip(expected, pairwise(ends), strict=True):
        assert got[first:last] == [side] * (last - first)


def test_the_schedule_shrinks_only_where_that_is_asked_for() -> None:
    got = sides(SquareAttack(steps=100, rescale=True), 40)  # one of 100 stands for 100 of 10000
    halvings = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    shares = [0.8 / 2 ** sum(100 * t > number for number in halvings) for t in range(1, 100)]
    assert got == [max(1, round(math.sqrt(share) * 40)) for share in shares]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (2, 3, 7), (11,), (4, 6), (2, 2, 3, 2)])
@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1()])
def test_every_pixel_of_every_shape_is_reached(
    shape: tuple[int, ...], perturbation: Perturbation
) -> None:
    changes = asked(SquareAttack(perturbation=perturbation, steps=300, share=0.05), grey(*shape))
    moved = (changes[1:] - changes[0]).abs() > 1e-9
    assert moved.flatten(2).any(0).all() or (len(shape) == 3 and math.prod(shape) == 1)


def test_no_query_is_wasted_on_what_is_known() -> None:
    changes = asked(SquareAttack(steps=300, share=0.01), grey(1, 9, 9, count=3))
    assert ((changes[1:] - changes[0]).flatten(2).abs().amax(2) > EPS).all()


def test_a_square_as_large_as_the_image_is_the_whole_of_it() -> None:
    changes = asked(SquareAttack(steps=10, share=1.0), grey(1, 6, 6))
    assert (changes[1:].flatten(1) == changes[1:, 0, 0, :1, 0]).all()


def test_a_flat_input_is_a_strip_of_runs() -> None:
    start, *others = asked(SquareAttack(steps=11, share=0.25), grey(40))[:, 0]
    for other in others:
        places = ((other - start).abs() > EPS).nonzero().flatten()
        assert 0 <= int(places[-1] - places[0]) < 10
        run = other[places[0] : places[-1] + 1]
        assert (run == run[0]).all()


def test_an_oblong_image_gets_windows_of_the_same_area() -> None:
    start, *others = asked(SquareAttack(steps=11, share=0.5), grey(1, 4, 36))[:, 0, 0]
    for other in others:
        changed = (other - start).abs() > EPS
        assert changed.any(1).all(), "all 4 rows"
        columns = changed.any(0).nonzero().flatten()
        assert 9 <= int(columns[-1] - columns[0]) + 1 <= 18


@pytest.mark.parametrize("power", [1, 2])
def test_a_bump_has_two_peaks_of_opposite_sign(power: int) -> None:
    upper = torch.tensor([0.25, 1.25, 0.25], dtype=torch.float64)
    lower = -torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]], dtype=torch.float64)
    bump = torch.cat([upper[None] / upper.norm(power), lower / lower.norm(power)])
    bump = bump / bump.norm(power)
    torch.testing.assert_close(_bump(3, 3, 0, power), bump)
    torch.testing.assert_close(_bump(3, 3, 1, power), bump.T)
    assert _bump(1, 1, 0, power).tolist() == [[-1.0]]
    strip = _bump(1, 4, 0, power).flatten()
    assert (strip[:2] > 0).all()
    assert (strip[2:] < 0).all()


@pytest.mark.parametrize(("perturbation", "power"), [(L2(), 2), (L1(), 1)])
def test_the_budget_moves_between_windows(perturbation: Perturbation, power: int) -> None:
    attack = SquareAttack(perturbation=perturbation, steps=60, share=0.02)
    x = grey(2, 20, 20, count=2)
    start, *others = asked(attack, x)
    size = start.flatten(1).abs().pow(power).sum(1).pow(1 / power)
    torch.testing.assert_close(size, torch.full_like(size, EPS))
    for other in others:
        size = other.flatten(1).abs().pow(power).sum(1).pow(1 / power)
        torch.testing.assert_close(size, torch.full_like(size, EPS))
        for before, after in zip(start, other, strict=True):
            changed = (after - before).abs().amax(0) > 1e-12
            assert 9 <= changed.sum() <= 18, "two windows of 3 x 3, which may overlap"
            # What the windows held in a channel stays in it.
            held = [part[:, changed].abs().pow(power).sum(1) for part in (before, after)]
            torch.testing.assert_close(*held)


def test_what_the_box_takes_is_given_back_by_scaling() -> None:
    attack = SquareAttack(perturbation=L2(), steps=40, share=0.1)
    x = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    sizes = asked(attack, x, eps=0.5).flatten(1).norm(dim=1)
    assert (sizes <= 0.5 + 1e-9).all()
    assert sizes[0] == pytest.approx(0.5), "though half of the tiles lie below 0"
    assert (sizes > 0.45).all()


def test_a_tie_is_no_success_and_the_search_goes_on() -> None:
    attack = SquareAttack(steps=20)
    model, x = Stubborn(lead=0.0), grey(1, 4, 4)
    found = attack.run(model, x, torch.zeros(1, dtype=torch.int64), eps=EPS, stop="success")
    assert not found.success
    assert found.forwards == 21  # with the one that looks at the image as it is


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_numbers_drawn_ahead_are_those_of_their_step(channels: int) -> None:
    ids = torch.tensor([3, 2**40])
    zero = torch.zeros_like(ids)
    draws = Draws(zero + 5, ids, zero + 1, zero)
    count = 5 + -(-channels // 32)
    words = torch.zeros(2, _AHEAD, count, dtype=torch.int64)
    state = Squares(zero, zero, words, torch.tensor([_AHEAD, _AHEAD]))
    for t in range(1, 2 * _AHEAD + 3):
        now = draws._replace(number=torch.tensor([t, t + 70]))
        state, got = _next_words(state, now)
        assert torch.equal(got, now.bits((count,)))
        if t == 7:  # another row boards: all are drawn again, and none changes
            state = state._replace(used=torch.tensor([int(state.used[0]), _AHEAD]))


def test_a_channel_beyond_the_thirty_second_has_a_sign_of_its_own() -> None:
    changes = asked(SquareAttack(steps=11, share=1.0), grey(70, 3, 3))[1:, 0, :, 0, 0]
    assert not (changes[:, 64:] == changes[:, :6]).all()
    assert not (changes[:, 32:64] == changes[:, :32]).all()


@pytest.mark.parametrize(
    ("perturbation", "classes", "beyond"),
    [(Linf(), 2, 1.05), (Linf(), 10, 1.05), (L2(), 2, 1.6), (L1(), 2, 2.5)],
)
def test_it_comes_near_the_best_on_linear_models(
    perturbation: Perturbation, classes: int, beyond: float
) -> None:
    for factor, steps, succeeds in ((beyond, 1000, True), (0.98, 50, False)):
        attack = SquareAttack(perturbation=perturbation, steps=steps, rescale=True)
        given, exact = linear_cases(attack, classes)
        found = attack.run(given.model, given.x, given.y, eps=exact * factor)
        assert (found.success == succeeds).all(), (factor, found.success.tolist())


def test_it_refuses_what_it_cannot_search() -> None:
    with pytest.raises(TypeError, match=r"Linf\(\), L2\(\) or L1\(\); got L0"):
        SquareAttack(perturbation=L0())
    with pytest.raises(ValueError, match="share"):
        SquareAttack(share=0.0)
    with pytest.raises(TypeError, match="rescale"):
        SquareAttack(rescale=1)  # type: ignore[arg-type]
