"""Square: random search with squares that shrink."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift, map_rows
from advbench.attacks.search import Rule

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the share halves
_LENGTH = 10_000  # of the search for which these are meant
_AHEAD = 32  # steps whose random numbers are drawn together
_TILES = 5  # along each side, where a search of L2 or L1 starts


class Squares(NamedTuple):
    """The best parameters so far, their loss, and random words for the steps to come.

    ``words`` (B, 32, n) are those of the step at which they were drawn and of the next ones;
    ``used`` (B,) counts the steps since.
    """

    p: Tensor
    loss: Tensor
    words: Tensor
    used: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class SquareAttack(Rule[Squares]):
    """Change the colour of a random square to the limit and keep what raises the loss.

    Source: Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box
    adversarial attack via random search", ECCV 2020, arXiv:1912.00049, algorithms 1 to 3; for L1
    the form of Croce and Hein, "Mind the box: l1-APGD", ICML 2021, arXiv:2103.01208. Needs scores.
    The search starts from vertical stripes (Linf) or from 5 x 5 tiles (L2, L1). Under Linf a square
    gets -eps or +eps in each channel; under L2 and L1 the change is taken out of one window and
    put, with what eps has left, as a bump of two signs into another.
    Deviations: a square may lie at every place, also in the last row and column. Where it is too
    large for an oblong image, one side is cut and the other made longer by as much; a flat input is
    a strip of height 1. Where a square would change nothing, one channel gets the other sign
    instead, and the image is asked about once; the authors draw until something changes. Under L1
    a channel keeps what its two windows held, as under L2. Cost: steps forward passes.

    Fields:
        steps: queries; the first is about the start.
        share: of the image that a square covers at first. It halves after 10, 50, 200, 500, 1000,
            2000, 4000, 6000 and 8000 queries.
        rescale: whether these numbers are meant for 10000 queries and shrink or grow with steps.
        restarts: runs from other starts.
    """

    access: ClassVar[Access] = "scores"
    scores_last: ClassVar[bool] = False

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    steps: int = 5000
    share: float = 0.8
    rescale: bool = False
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.perturbation, Linf | L2 | L1):
            raise TypeError(
                "SquareAttack: perturbation must be Linf(), L2() or L1(); got "
                f"{self.perturbation!r}. RandomSearch() takes any set"
            )
        if not isinstance(self.rescale, bool):
            raise TypeError(f"SquareAttack: rescale must be True or False; got {self.rescale!r}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(steps=60),
            cls(perturbation=L2(), steps=40, rescale=True),
            cls(perturbation=L1(), steps=30, share=0.3, restarts=2),
        )

    def init(self, problem: Problem) -> Squares:
        """Start from the stripes or the tiles, about which the first step asks."""
        x = as_images(problem.x)
        if isinstance(self.perturbation, Linf):
            signs = problem.draws.signs((x.shape[1], 1, x.shape[3]), x.dtype)
            p = (signs * lift(problem.eps, x)).clamp(-x, 1 - x)
        else:
            p = self._legal(_tiles(problem.draws, x, self._power), x, problem.eps)
        words = torch.zeros(len(x), _AHEAD, 5 + -(-x.shape[1] // 32), dtype=torch.int64)
        return Squares(
            p.reshape(problem.x.shape),
            torch.full_like(problem.eps, -torch.inf),
            words.to(x.device),
            torch.full_like(problem.t, _AHEAD),
        )

    def step(self, state: Squares, query: Query, problem: Problem) -> Squares:
        """Ask about the start, then about one square more."""
        state, words = _next_words(state, problem.draws)
        x, p = as_images(problem.x), as_images(state.p)
        height, width = x.shape[2:]
        plan = _plan(height, width, self._starts, self.share, self._power, x.dtype, x.device)
        stage = torch.bucketize(problem.t, plan.starts, right=True)
        signs = _signs(words[:, 5:], x)
        if isinstance(self.perturbation, Linf):
            window, _ = plan.window(stage, words[:, :2])
            p = _recoloured(p, window, signs, words[:, 2], x, problem.eps)
        else:
            p = self._moved(p, stage, words, signs, plan, x, problem.eps)
        p = p.reshape(state.p.shape)
        loss = query(p).loss
        better = loss > state.loss
        return state._replace(
            p=torch.where(lift(better, p), p, state.p), loss=torch.where(better, loss, state.loss)
        )

    @property
    def _power(self) -> int:
        """What a norm sums: absolute values to this power, or 0 for the maximum."""
        return 2 if isinstance(self.perturbation, L2) else int(isinstance(self.perturbation, L1))

    @property
    def _starts(self) -> tuple[int, ...]:
        """The steps from which the first share holds, then half of it, and so on."""
        if not self.rescale:
            return (1, *(number + 1 for number in _HALVINGS))
        scaled = (-(-(number + 1) * self.steps // _LENGTH) for number in _HALVINGS)
        return (1, *(max(1, number) for number in scaled))

    def _moved(
        self,
        p: Tensor,
        stage: Tensor,
        words: Tensor,
        signs: Tensor,
        plan: "_Plan",
        x: Tensor,
        eps: Tensor,
    ) -> Tensor:
        """Empty one window and put what it held, and what eps has left, into another as a bump."""
        into, local = plan.window(stage, words[:, :2])
        out, _ = plan.window(stage, words[:, 2:4])
        held = p.abs() ** self._power
        left = (eps**self._power - held.sum((1, 2, 3))).clamp_min(0) / x.shape[1]
        budget = (held * (into | out)).sum((2, 3)) + left.unsqueeze(1)
        shape = self._unit(p * into) + lift2(signs) * plan.bump(stage, words[:, 4] & 1, local)
        bump = self._unit(shape) * lift2(budget ** (1 / self._power))
        return self._legal(torch.where(into, bump, p * ~out), x, eps)

    def _unit(self, windows: Tensor) -> Tensor:
        """Scale each channel to length 1; zero stays zero."""
        sums = (windows.abs() ** self._power).sum((2, 3), keepdim=True)
        return windows / (sums ** (1 / self._power)).clamp_min(torch.finfo(sums.dtype).tiny)

    def _legal(self, changes: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Scale the changes to the size of eps, then clip them to the box."""
        size = self.perturbation.size(x, changes).clamp_min(torch.finfo(x.dtype).tiny)
        return (changes * lift(eps / size, x)).clamp(-x, 1 - x)


def _recoloured(
    p: Tensor, window: Tensor, signs: Tensor, word: Tensor, x: Tensor, eps: Tensor
) -> Tensor:
    """Change a window to the limit; in one channel to the other one, if that is all the same."""
    limit, low, high = lift2(signs) * lift(eps, x), -x, 1 - x
    new = torch.where(window, limit, p).clamp(low, high)
    same = (new == p).flatten(1).all(1, keepdim=True)
    channel = torch.arange(x.shape[1], device=x.device) == (word * x.shape[1] >> 32).unsqueeze(1)
    turned = torch.where(window & lift2(same & channel), -limit, new)
    return turned.clamp(low, high)


def _tiles(draws: Draws, x: Tensor, power: int) -> Tensor:
    """Return bumps of length 1 on a grid of 5 x 5 tiles in the middle of the image."""
    count, channels, height, width = x.shape
    tall, wide = max(1, height // _TILES), max(1, width // _TILES)
    down, across = height // tall, width // wide
    signs = draws.signs((channels, down, across), x.dtype)
    way = draws.fork(1).bits((down, across)) & 1
    bumps = torch.stack([_bump(tall, wide, way, power) for way in (0, 1)]).to(x)
    tiles = lift2(signs) * bumps[way].unsqueeze(1)
    grid = tiles.transpose(3, 4).reshape(count, channels, down * tall, across * wide)
    top, left = (height - down * tall) // 2, (width - across * wide) // 2
    bottom, right = height - down * tall - top, width - across * wide - left
    return functional.pad(grid, (left, right, top, bottom))


@dataclass(frozen=True, eq=False)
class _Plan:
    """What the windows of a search are like, stage by stage; stage 0 has none.

    ``starts`` are the steps from which each stage holds and ``sides`` (stages, 2) the height and
    width of its windows. ``size`` (2,) is that of the image; ``axis``, ``place`` and ``outside``
    (height + width,) belong to its rows and columns: which of the two, where, and the index of
    zero in ``bumps`` (2 * stages, ., .), those cut across and along of each stage.
    """

    height: int
    starts: Tensor
    sides: Tensor
    size: Tensor
    axis: Tensor
    place: Tensor
    outside: Tensor
    bumps: Tensor

    def window(self, stage: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Place a window by two words (B, 2); return its mask, and rows and columns within it."""
        sides = self.sides[stage]
        corner = words * (self.size - sides + 1) >> 32
        local = self.place - corner[:, self.axis]
        inside = (local >= 0) & (local < sides[:, self.axis])
        rows, columns = self._split(inside)
        return (rows & columns).unsqueeze(1), torch.where(inside, local, self.outside)

    def bump(self, stage: Tensor, way: Tensor, local: Tensor) -> Tensor:
        """Return the bump (B, 1, height, width) in the window with these rows and columns."""
        rows, columns = self._split(local)
        return self.bumps[(2 * stage + way).view(-1, 1, 1), rows, columns].unsqueeze(1)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[:, : self.height].unsqueeze(2), values[:, self.height :].unsqueeze(1)


@lru_cache(maxsize=16)
def _plan(
    height: int,
    width: int,
    starts: tuple[int, ...],
    share: float,
    power: int,
    dtype: torch.dtype,
    device: torch.device,
) -> _Plan:
    sides = [(0, 0)]
    sides += [_sides(height, width, share / 2**stage, power) for stage in range(len(starts))]
    tallest, widest = max(tall for tall, _ in sides), max(wide for _, wide in sides)
    bumps = torch.zeros(2 * len(sides), tallest + 1, widest + 1, dtype=dtype)
    for stage, (tall, wide) in enumerate(sides[1:], 1):
        for way in (0, 1):
            bumps[2 * stage + way, :tall, :wide] = _bump(tall, wide, way, max(power, 1))
    return _Plan(
        height,
        torch.tensor(starts, device=device),
        torch.tensor(sides, device=device),
        torch.tensor((height, width), device=device),
        torch.tensor([0] * height + [1] * width, device=device),
        torch.tensor([*range(height), *range(width)], device=device),
        torch.tensor([tallest] * height + [widest] * width, device=device),
        bumps.to(device),
    )


def _sides(height: int, width: int, share: float, power: int) -> tuple[int, int]:
    """Return height and width of a window that covers a share of the image; in L2 and L1 odd."""
    area, least = share * height * width, 3 if power else 1
    side = max(least, round(math.sqrt(area)))
    if power:
        side |= 1
    if side <= min(height, width):
        return side, side
    tall, wide = min(side, height), min(side, width)
    if tall < wide:
        return tall, min(width, max(least, round(area / tall)))
    return min(height, max(least, round(area / wide))), wide


def _bump(height: int, width: int, way: int, power: int) -> Tensor:
    """Return two peaks of opposite sign, one above the other or side by side, of length 1."""
    if width > 1 and (way == 1 or height == 1):
        return _bump(width, height, 0, power).T
    upper = height // 2
    peaks = (_peak(upper, width, power), -_peak(height - upper, width, power))
    bump = torch.cat([peak for peak in peaks if len(peak)])
    return _scaled(bump, power)


def _peak(height: int, width: int, power: int) -> Tensor:
    """Return a peak (height, width) of length 1 with square contours."""
    down = (torch.arange(height) - height // 2).abs().unsqueeze(1)
    across = (torch.arange(width) - width // 2).abs().unsqueeze(0)
    most = max(height, width) // 2 + 1
    heights = (1 / torch.arange(1, most + 1, dtype=torch.float64).square()).flip(0).cumsum(0)
    return _scaled(heights.flip(0)[torch.maximum(down, across)], power)


def _scaled(values: Tensor, power: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, power)
    return values / length


def _next_words(state: Squares, draws: Draws) -> tuple[Squares, Tensor]:
    """Return the random words (B, n) of this step; once in a while, draw those of many steps."""
    if bool((state.used == _AHEAD).any()):
        # What a step gets depends on its number alone, not on when it was drawn.
        many = map_rows(lambda part: part.repeat_interleave(_AHEAD), draws)
        ahead = torch.arange(_AHEAD, device=draws.number.device).repeat(len(state.used))
        words = many._replace(number=many.number + ahead).bits(state.words.shape[2:])
        state = state._replace(words=words.view_as(state.words), used=state.used * 0)
    rows = torch.arange(len(state.used), device=state.used.device)
    return state._replace(used=state.used + 1), state.words[rows, state.used]


def _signs(words: Tensor, x: Tensor) -> Tensor:
    """Return a sign for each channel, (B, channels)."""
    bits = words.unsqueeze(2) >> torch.arange(32, device=words.device) & 1
    return bits.flatten(1)[:, : x.shape[1]].to(x.dtype) * 2 - 1


def lift2(values: Tensor) -> Tensor:
    """View values so that they broadcast over the height and width of images."""
    return values.unsqueeze(-1).unsqueeze(-1)


def as_images(x: Tensor) -> Tensor:
    """View inputs as (B, channels, height, width): flat ones as strips."""
    if x.dim() > 4:
        return x.flatten(3)
    return x.reshape(len(x), *[1] * (4 - x.dim()), *x.shape[1:])
