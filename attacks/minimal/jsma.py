"""JSMA: the saliency map of the Jacobian names the next two pixels."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion, others
from advbench.attacks.losses import Loss
from advbench.attacks.perturbations import L0, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.search import Rule

_CELLS = 1 << 22
"""Most pairs, of all rows together, that are held in memory at once."""


@dataclass(frozen=True)
class _Others(Loss):
    """The sum of all logits but that of the class that is headed for, negated."""

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""
        return _of(logits, _class(logits, criterion)) - logits.sum(1)


def _class(logits: Tensor, criterion: Criterion) -> Tensor:
    """Return the class that is headed for, (B,); without one the best wrong class."""
    if criterion.targets is not None:
        return criterion.targets
    return others(logits.detach(), criterion.y).argmax(1)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes.unsqueeze(1)).squeeze(1)


class Pairs(NamedTuple):
    """The changes so far and the class that is headed for, -1 before it is chosen; (B, ...)."""

    p: Tensor
    towards: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class JSMA(Rule[Pairs]):
    """Push two pixels at a time that raise the target and lower the other classes most.

    Source: Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, "The limitations of deep learning in
    adversarial settings", EuroS&P 2016, arXiv:1511.07528, algorithms 2 and 3. Of all pairs of
    coordinates that have room left the one is chosen with the largest product of what the target's
    logit gains and what the sum of the others loses, both positive. Without targets the likeliest
    wrong class of the input is headed for, or with ``target_classes`` as many of them in turn; any
    wrong class is then a success. The gradient of the sum stands for those of all other classes.

    Fields:
        steps: most pairs of a run.
        step_size: how far a coordinate is pushed, in pixel units; 1 is to the end.
        direction: where coordinates are pushed, up or down as in the paper, or either way.
        share: most coordinates that may be pushed, as a share of all.
        target_classes: how many of the likeliest wrong classes are headed for; 0 for the first.

    Cost of a pair: 2 forward and 2 backward passes, and time as the square of the coordinates.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    queries_per_step: ClassVar[int] = 2
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = _Others()
    perturbation: ClassVar[Perturbation] = L0()

    steps: int = 1000
    step_size: float = 1.0
    direction: Literal["up", "down", "both"] = "up"
    share: float = 0.1
    target_classes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in ("up", "down", "both"):
            raise ValueError(f"JSMA: direction must be up, down or both; got {self.direction!r}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(steps=12, share=1.0, direction="both"),
            cls(steps=20, share=1.0, step_size=0.6, direction="down", target_classes=2),
        )

    def init(self, problem: Problem) -> Pairs:
        """Start at the input."""
        aim = problem.criterion.aim
        towards = torch.full_like(problem.t, -1) if aim is None else aim
        zero = self.perturbation.zero(problem.x)
        return Pairs(zero, towards, torch.zeros_like(problem.t, dtype=torch.bool))

    def step(self, state: Pairs, query: Query, problem: Problem) -> Pairs:
        """Ask, and push the two coordinates of largest saliency."""
        x, p, criterion = problem.x, state.p, problem.criterion
        aims = None if criterion.targets is not None else state.towards
        probe = query(p, grad=True, aim=aims)
        chosen = _class(probe.logits, criterion)
        towards = torch.where(state.towards < 0, chosen, state.towards)
        most = math.ceil(self.share * x[0].numel() / 2)
        done = probe.success | (problem.t >= most)
        found = query.jacobian(p, towards.unsqueeze(1), rows=~done)
        target, others = found.grads[:, 0].flatten(1), probe.grad.flatten(1)

        rises, falls = ((1 - x) - p).flatten(1), (x + p).flatten(1)
        up, down = self.direction != "down", self.direction != "up"
        gain, loss = torch.cat([target, -target], 1), torch.cat([others, -others], 1)
        free = torch.cat([(rises > 0) & up, (falls > 0) & down], 1)
        pair, salient = best_pair(gain, loss, free)
        pushed = torch.zeros_like(gain).scatter(1, pair, self.step_size)
        upward, downward = (pushed * (salient & ~done).unsqueeze(1)).chunk(2, 1)
        moved = (p + (upward - downward).view_as(p)).clamp(-x, 1 - x)
        # A gradient of zero may be another one the next time.
        stuck = ~salient & (target != 0).any(1) & (others != 0).any(1)
        return Pairs(moved, towards, done | stuck)


def best_pair(gain: Tensor, loss: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pair (B, 2) of coordinates of largest saliency, and whether there is one, (B,).

    The saliency of two ``free`` ones is the product of the sums of their ``gain`` and of their
    ``loss`` (B, d), where both sums are positive.
    """
    index = _contenders(gain, loss, free)
    gain, loss = gain.gather(1, index), loss.gather(1, index)
    free = free.gather(1, index)
    rows, wide = index.shape
    best = gain.new_zeros(rows)
    pair = torch.zeros_like(index[:, :2])
    places = torch.arange(wide, device=index.device)
    for first in places.split(max(1, _CELLS // max(1, rows * wide))):
        gains = gain[:, first].unsqueeze(2) + gain.unsqueeze(1)
        losses = loss[:, first].unsqueeze(2) + loss.unsqueeze(1)
        legal = free[:, first].unsqueeze(2) & free.unsqueeze(1) & (first.unsqueeze(1) < places)
        legal = legal & (gains > 0) & (losses > 0)
        value, place = torch.where(legal, gains * losses, 0).flatten(1).max(1)
        new = torch.stack([first[place // wide], place % wide], 1)
        pair = torch.where((value > best).unsqueeze(1), new, pair)
        best = best.maximum(value)
    return index.gather(1, pair), best > 0


def _contenders(gain: Tensor, loss: Tensor, free: Tensor) -> Tensor:
    """Return the free coordinates (B, k) that can be in the best pair, filled up with others.

    What two others beat in both numbers cannot: what nothing beats is kept, and what nothing else
    does once that is gone.
    """
    order = torch.where(free, gain, -torch.inf).argsort(dim=1, descending=True, stable=True)
    left = torch.where(free, loss, -torch.inf).gather(1, order)
    kept = torch.zeros_like(free)
    for _ in range(2):
        before = torch.full_like(left, -torch.inf)
        before[:, 1:] = left.cummax(1).values[:, :-1]
        front = left > before
        kept, left = kept | front, torch.where(front, -torch.inf, left)
    count = max(2, int(kept.sum(1).amax())) if len(kept) else 2
    first = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    return order.gather(1, first)
