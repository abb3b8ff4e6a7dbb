"""Short ascents towards one class after the other, and long ones where these came near."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.criterion import others, rivals
from advbench.attacks.flags import Flag
from advbench.attacks.gradient.apgd import glide
from advbench.attacks.losses import Loss, RelativeMargin
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_FIRST_STEP = 2.0
_MOMENTUM_WEIGHT = 0.75
_SAME = 0.05
"""The share of the best loss by which two rounds that agree may lie apart."""
_TOUCHING = 0.01
"""The distance to success within which no agreement ends the search."""
_NARROW, _WIDE = 1.5, 6.0
"""The balls, in units of eps, in which short rounds towards one class begin."""
_MASKED = 0.7
"""The share of the distance to success that a wide round leaves at most, where others mislead."""


class Ascents(NamedTuple):
    """Where a row is: the iterate and the one before, its round and the step within, what is best.

    ``best`` is the largest loss within eps, ``earlier`` that of the rounds before this one,
    ``peak`` that of this one and ``last`` that of the last one. ``logits`` (B, K) are those of the
    best point of the first two, ``rival`` is the nearest class at the best of all. ``masked`` says
    that a wide round went much further than all before, ``done`` that no round is worth its price.
    """

    p: Tensor
    before: Tensor
    round: Tensor
    step: Tensor
    best: Tensor
    earlier: Tensor
    peak: Tensor
    last: Tensor
    logits: Tensor
    rival: Tensor
    masked: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Rounds(Rule[Ascents]):
    """Short ascents towards one class after the other, and long ones where these came near.

    Each round starts at another random point. The first two head for any wrong class, the other
    short ones each for one, the nearest at the best point first, the long ones for the nearest of
    all. Steps are steepest, with momentum, and shrink along half a cosine.

    The ball shrinks too: in every other short round towards one class from 6 eps, in the others
    from 1.5 eps, down to eps in the first half of the steps. A ball that starts wide loses nothing
    on an honest model. Where gradients within eps mislead, it goes much further than all rounds
    before it: that marks a row as masked, and all its later rounds are wide. Only norms have such
    balls; in other sets all are of size eps. A row that is masked, or that a wide ball broke after
    the others had not, gets the flag MASKED_GRADIENT.

    A row whose best point is further than ``near`` from success leaves after the short rounds, and
    one on which two long rounds in a row ended at the same loss after these: ascents that agree
    from independent starts have mostly found what there is to find. A row that is masked is let go
    for neither, nor is one for agreement that is quite at the boundary.

    Our own, of known parts: one class at a time from Gao et al., "Fast and reliable evaluation of
    adversarial robustness with minimum-margin attack", ICML 2022, arXiv:2206.07314; steps along a
    cosine and effort where it may pay from Liu et al., "Practical evaluation of adversarial
    robustness via adaptive auto attack", CVPR 2022, arXiv:2203.05154; momentum from APGD; a ball
    that shrinks from Croce and Hein, "Mind the box", ICML 2021, arXiv:2103.01208, who do so in L1.

    Fields:
        rounds: short rounds after the first one, at least 1.
        round_steps: steps of a short round.
        long_rounds: the most long rounds.
        long_steps: steps of a long round.
        near: the distance to success up to which long rounds are run, in the relative margin of
            the best point.

    Cost: one forward pass for the clean logits, and a forward and a backward pass for each step.
    """

    access: ClassVar[Access] = "gradient"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    strays: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = RelativeMargin()

    perturbation: Perturbation = Linf()
    rounds: int = 9
    round_steps: int = 10
    long_rounds: int = 9
    long_steps: int = 40
    near: float = 0.06

    @property
    def steps(self) -> int:
        """All steps of all rounds."""
        return sum(self._lengths)

    @property
    def _lengths(self) -> list[int]:
        short = [self.round_steps] * (1 + self.rounds)
        return short + [self.long_steps] * self.long_rounds

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        few = cls(rounds=2, round_steps=6, long_rounds=2, long_steps=8)
        l2 = cls(perturbation=L2(), rounds=1, round_steps=4, long_rounds=2, long_steps=5, near=1.0)
        return few, l2

    def init(self, problem: Problem) -> Ascents:
        """Start at a random point."""
        start = self._start(problem)
        zero = torch.zeros_like(problem.t)
        worst = torch.full_like(problem.eps, -torch.inf)
        no = zero.bool()
        assert problem.criterion.clean is not None
        return Ascents(
            p=start,
            before=start,
            round=zero,
            step=zero,
            best=worst,
            earlier=worst,
            peak=worst,
            last=worst,
            logits=problem.criterion.clean.clone(),
            rival=zero,
            masked=no,
            done=no,
        )

    def step(self, state: Ascents, query: Query, problem: Problem) -> Ascents:
        """Take one step of the round; after the last one, begin the next round or leave."""
        probe = query(state.p, grad=True, aim=self._aim(state, problem))
        length = self._length(state.round)
        share = state.step / length
        inside = self._ball(state.round, share, state.masked) == 1
        loss = torch.where(inside, probe.loss, -torch.inf)
        better = loss > state.best
        rival = others(probe.logits, problem.criterion.y).argmax(1)
        state = state._replace(
            best=torch.where(better, loss, state.best),
            peak=torch.maximum(state.peak, loss),
            logits=torch.where(
                lift(better & (state.round < 2), probe.logits), probe.logits, state.logits
            ),
            rival=torch.where(better, rival, state.rival),
        )
        over = state.step + 1 >= length
        number = state.round + over
        leapt = self._leapt(state)
        masked = state.masked | (over & leapt)
        query.warn(leapt & (over | (state.peak > 0)) & (state.earlier < 0), Flag.MASKED_GRADIENT)
        after = torch.where(over, 0, (state.step + 1) / length)
        there = problem._replace(eps=problem.eps * self._ball(number, after, masked))
        size = _FIRST_STEP * (1 + torch.cos(math.pi * share)).to(problem.eps) / 2
        weight = torch.where(state.step == 0, 1, _MOMENTUM_WEIGHT).to(size)
        p = glide(self.perturbation, state.p, state.before, probe.grad, there, size, weight)
        p = torch.where(lift(over, p), self._start(there), p) if over.any() else p
        ended = state._replace(round=number, masked=masked)
        return ended._replace(
            p=p,
            before=torch.where(lift(over, p), p, state.p),
            step=torch.where(over, 0, state.step + 1),
            earlier=torch.where(over, state.best, state.earlier),
            peak=torch.where(over, -torch.inf, state.peak),
            last=torch.where(over, state.peak, state.last),
            done=over & self._enough(ended),
        )

    def _length(self, number: Tensor) -> Tensor:
        return torch.tensor([*self._lengths, 1], device=number.device)[number]

    def _ball(self, number: Tensor, share: Tensor, masked: Tensor) -> Tensor:
        """Return the size of the ball in units of eps, after a share of the steps of a round."""
        if not self._shrinks:
            return torch.ones_like(share)
        first = torch.where(self._wide(number), _WIDE, _NARROW)
        first = torch.where((number < 2) | (number > self.rounds), 1, first)
        first = torch.where(masked, _WIDE, first)
        return 1 + (first - 1) * (1 - 2 * share).clamp_min(0)

    @property
    def _shrinks(self) -> bool:
        return isinstance(self.perturbation, Linf | L2 | L1)

    def _wide(self, number: Tensor) -> Tensor:
        return (number >= 2) & (number <= self.rounds) & (number % 2 == 0) & self._shrinks

    def _leapt(self, state: Ascents) -> Tensor:
        """Tell whether a wide round has covered much of the distance that all before had left."""
        return self._wide(state.round) & (state.peak > _MASKED * state.earlier)

    def _enough(self, state: Ascents) -> Tensor:
        """Tell whether no further round is worth its price, (B,) bool."""
        far = state.best < -self.near
        same = (state.peak - state.last).abs() <= _SAME * state.best.abs()
        settled = same & (state.round > self.rounds + 2) & (state.best < -_TOUCHING)
        leaves = (state.round > self.rounds) & (far | settled) & ~state.masked
        return leaves | (state.round >= len(self._lengths))

    def _start(self, problem: Problem) -> Tensor:
        drawn = self.perturbation.draw(problem.x, problem.eps, problem.draws)
        return self.perturbation.project(problem.x, drawn, problem.eps)

    def _aim(self, state: Ascents, problem: Problem) -> Tensor:
        """Return the class each row heads for: any, then the nearest ones, then the nearest."""
        order = rivals(state.logits, problem.criterion.y)
        place = (state.round - 2) % order.shape[1]
        aim = order.gather(1, place.unsqueeze(1)).squeeze(1)
        aim = torch.where(state.round > self.rounds, state.rival, aim)
        return torch.where(state.round < 2, -1, aim)
