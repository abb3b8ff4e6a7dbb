"""Short ascents towards one class after the other, and long ones where these came near."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.criterion import others
from advbench.attacks.gradient.apgd import glide
from advbench.attacks.losses import Loss, TemperedMargin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_FIRST_STEP = 2.0
_MOMENTUM_WEIGHT = 0.75
_SAME = 0.02
"""The share of the best loss by which two rounds that agree may lie apart."""
_TOUCHING = 0.02
"""The distance to success within which long rounds are run in any case."""


class Ascents(NamedTuple):
    """Where a row is: the iterate and the one before, its round and the step within, what is best.

    ``best`` is the largest loss of all rounds, ``peak`` that of this one, ``first`` that of the
    first one and ``agree`` whether the second one came to the same; ``logits`` (B, K) are those of
    the best point of these two; ``done`` says that no round is worth its price.
    """

    p: Tensor
    before: Tensor
    round: Tensor
    step: Tensor
    best: Tensor
    peak: Tensor
    first: Tensor
    agree: Tensor
    logits: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Rounds(Rule[Ascents]):
    """Short ascents towards one class after the other, and long ones where these came near.

    Each round starts at another random point. The first two head for any wrong class, the other
    short ones each for one, the nearest at the best point first, the long ones for any. Steps are
    steepest, with momentum, and shrink along half a cosine. A sample whose best point is further
    than ``far`` from success leaves after half of the short rounds, one that is further than
    ``near`` after all of them; and so does one that is not quite at the boundary and on which the
    first two rounds ended at the same loss: ascents that agree from independent starts have mostly
    found what there is to find, while a loss on which they do not is rugged.

    Our own, of known parts: one class at a time from Gao et al., "Fast and reliable evaluation of
    adversarial robustness with minimum-margin attack", ICML 2022, arXiv:2206.07314; steps along a
    cosine and effort where it may pay from Liu et al., "Practical evaluation of adversarial
    robustness via adaptive auto attack", CVPR 2022, arXiv:2203.05154; momentum from APGD.

    Fields:
        rounds: short rounds after the first one, at least 1.
        round_steps: steps of a short round.
        long_rounds: long rounds.
        long_steps: steps of a long round.
        near: between 0 and 1, the distance to success up to which long rounds are run, in the
            tempered margin of the best point.
        far: between 0 and 1, the distance beyond which half of the short rounds are left out.

    Cost: one forward pass for the clean logits, and a forward and a backward pass for each step.
    """

    access: ClassVar[Access] = "gradient"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = TemperedMargin()

    perturbation: Perturbation = Linf()
    rounds: int = 5
    round_steps: int = 20
    long_rounds: int = 1
    long_steps: int = 100
    near: float = 0.3
    far: float = 0.7

    @property
    def steps(self) -> int:
        """All steps of all rounds."""
        return sum(self._lengths)

    @property
    def short_steps(self) -> int:
        """The steps of all short rounds: a sample that has done more is near and rugged."""
        return self.round_steps * (1 + self.rounds)

    @property
    def _lengths(self) -> list[int]:
        short = [self.round_steps] * (1 + self.rounds)
        return short + [self.long_steps] * self.long_rounds

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        few = cls(rounds=2, round_steps=6, long_rounds=1, long_steps=8)
        return few, cls(perturbation=L2(), rounds=1, round_steps=8, long_rounds=1, near=1.0)

    def init(self, problem: Problem) -> Ascents:
        """Start at a random point."""
        start = self._start(problem)
        zero = torch.zeros_like(problem.t)
        worst = torch.full_like(problem.eps, -torch.inf)
        no = zero.bool()
        assert problem.criterion.clean is not None
        logits = problem.criterion.clean.clone()
        return Ascents(start, start, zero, zero, worst, worst, worst, no, logits, no)

    def step(self, state: Ascents, query: Query, problem: Problem) -> Ascents:
        """Take one step of the round; after the last one, begin the next round or leave."""
        probe = query(state.p, grad=True, aim=self._aim(state, problem))
        best = torch.maximum(state.best, probe.loss)
        peak = torch.maximum(state.peak, probe.loss)
        nearer = (state.round < 2) & (probe.loss > state.best)
        logits = torch.where(nearer.unsqueeze(1), probe.logits, state.logits)
        lengths = torch.tensor([*self._lengths, 1], device=problem.t.device)
        length = lengths[state.round]
        size = _FIRST_STEP * (1 + torch.cos(math.pi * state.step / length)).to(problem.eps) / 2
        weight = torch.where(state.step == 0, 1, _MOMENTUM_WEIGHT).to(size)
        p = glide(self.perturbation, state.p, state.before, probe.grad, problem, size, weight)
        over = state.step + 1 >= length
        p = torch.where(lift(over, p), self._start(problem), p) if over.any() else p
        before = torch.where(lift(over, p), p, state.p)
        number = state.round + over
        first = torch.where(over & (number == 1), peak, state.first)
        same = (peak - first).abs() <= _SAME * best.abs()
        agree = torch.where(over & (number == 2), same, state.agree)
        hopeless = (number > self.rounds // 2) & (best < -self.far)
        least = torch.where(agree, min(self.near, _TOUCHING), self.near)
        hopeless |= (number > self.rounds) & (best < -least)
        done = over & (hopeless | (number >= len(self._lengths)))
        step = torch.where(over, 0, state.step + 1)
        peak = torch.where(over, -torch.inf, peak)
        return Ascents(p, before, number, step, best, peak, first, agree, logits, done)

    def _start(self, problem: Problem) -> Tensor:
        drawn = self.perturbation.draw(problem.x, problem.eps, problem.draws)
        return self.perturbation.project(problem.x, drawn, problem.eps)

    def _aim(self, state: Ascents, problem: Problem) -> Tensor:
        """Return the class each row heads for: any at first, then the nearest ones, then any."""
        wrong = others(state.logits, problem.criterion.y)
        order = wrong.argsort(dim=1, descending=True, stable=True)
        place = (state.round - 2) % (order.shape[1] - 1)
        aim = order.gather(1, place.unsqueeze(1)).squeeze(1)
        return torch.where((state.round < 2) | (state.round > self.rounds), -1, aim)
