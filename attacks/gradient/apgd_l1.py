"""Auto-PGD in the sum norm: sparse steps whose sparsity follows the best point found."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.gradient.apgd import rises
from advbench.attacks.losses import DLR, CrossEntropy, Loss
from advbench.attacks.perturbations import L1, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_SHRINKS = 1.5
_LEAST_STEP = 0.1
_SPARSER = 0.95
_STAGES = ((3, 3), (2, 3), (1, 4))
"""Multiples of eps, each with its tenths of the steps."""


class SparseAscent(NamedTuple):
    """The iterate, the best point of the stage, and how it goes on from here.

    ``kept`` counts the coordinates that a step moves, ``support`` those that the best point had
    changed when it was last looked at; ``step_size`` is a fraction of the ball of the stage.
    """

    p: Tensor
    best_p: Tensor
    best_g: Tensor
    best: Tensor
    kept: Tensor
    support: Tensor
    step_size: Tensor


def schedule(steps: int, large_eps: bool) -> tuple[tuple[int, int, bool], ...]:
    """Return, per iteration, the ball in multiples of eps, the next ball, and whether to check.

    The sparsity is looked at after each 4 % of the steps of a stage.
    """
    balls: list[int] = []
    checks: list[bool] = []
    for ball, tenths in _STAGES if large_eps else ((1, 10),):
        rest = steps - len(balls)
        length = rest if ball == 1 else min(-(-steps * tenths // 10), rest)
        window = max(length * 4 // 100, 1)
        balls += [ball] * length
        checks += [step > 0 and step % window == 0 for step in range(length)]
    return tuple(zip(balls, [*balls[1:], 1], checks, strict=True))


def sparse_step(g: Tensor, kept: Tensor, length: Tensor) -> Tensor:
    """Share ``length`` (B,) among the ``kept`` (B,) coordinates of largest gradient, by sign."""
    size = g.flatten(1).abs()
    place = (size.shape[1] - kept).unsqueeze(1)
    least = size.sort(dim=1).values.gather(1, place)
    direction = torch.where(size >= least, g.flatten(1).sign(), 0)
    count = direction.abs().sum(1).clamp_min(1)
    return (direction * (length / count).unsqueeze(1)).view_as(g)


def support(p: Tensor) -> Tensor:
    """Count the changed coordinates, (B,); what a projection leaves by rounding is no change."""
    size = p.flatten(1).abs()
    rounding = 1e3 * torch.finfo(p.dtype).eps * size.amax(1, keepdim=True)
    return (size > rounding).sum(1)


def movable(x: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Return ``g`` without the coordinates that lie at the bound of the box where it leads."""
    at, rounding = x + p, 8 * torch.finfo(p.dtype).eps
    return torch.where(torch.where(g > 0, at < 1 - rounding, at > rounding), g, 0)


def _two_thirds(count: Tensor) -> Tensor:
    return (count * 2 // 3).clamp_min(1)


@final
@dataclass(frozen=True, kw_only=True)
class APGDL1(Rule[SparseAscent]):
    """Auto-PGD for L1: exact projections, and steps as sparse as the best point found so far.

    Source: Croce, Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
    classifiers", ICML 2021, arXiv:2103.01208, algorithms 1 and 2. Deviations: coordinates without
    room in the box are passed over, and two thirds of the changed ones are rounded down, without
    which the search ends short of the best point where this changes few coordinates; the best
    point of a larger ball, once projected, is asked about once and not twice, so that the stages
    have as many queries as steps; a rise within rounding is none; the last iterate is scored
    without its gradient.

    Fields:
        large_eps: search three tenths of the steps in a ball of 3 eps, as many in one of 2 eps, the
            rest in that of eps, each from the best point of the one before. Nothing larger than
            eps is an answer.
        target_classes: how many of the likeliest wrong classes are headed for one after the other.

    Cost of a run, one for each of the target classes: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"
    strays: ClassVar[bool] = True
    perturbation: ClassVar[Perturbation] = L1()

    loss: Loss = CrossEntropy()
    steps: int = 100
    restarts: int = 1
    large_eps: bool = True
    target_classes: int = 0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(steps=20, large_eps=False),
            cls(loss=DLR(), steps=20, target_classes=2),
        )

    def init(self, problem: Problem) -> SparseAscent:
        """Start at a Gaussian draw, projected."""
        x, (ball, _, _) = problem.x, self._stage(problem.t)
        start = problem.draws.normal(x.shape[1:], x.dtype)
        p = self.perturbation.project(x, start, problem.eps * ball)
        count = support(p)
        # Without a larger ball, as if all coordinates had been changed, and a fifth of them moves.
        whole = torch.full_like(count, x[0].numel())
        return SparseAscent(
            p=p,
            best_p=p,
            best_g=torch.zeros_like(p),
            best=torch.full_like(problem.eps, -torch.inf),
            kept=_two_thirds(count) if self.large_eps else (whole + 4) // 5,
            support=count if self.large_eps else whole,
            step_size=torch.ones_like(problem.eps),
        )

    def step(self, state: SparseAscent, query: Query, problem: Problem) -> SparseAscent:
        """Ask, look at the sparsity when it is time, and move on, or into the next ball."""
        ball, after, check = self._stage(problem.t)
        checks, ends = check > 0, ball != after
        probe = query(state.p, grad=True)
        better = rises(probe.loss, state.best)
        best = torch.where(better, probe.loss, state.best)
        best_p = torch.where(lift(better, state.p), state.p, state.best_p)
        best_g = torch.where(lift(better, state.p), probe.grad, state.best_g)
        count = support(best_p)
        sparser = checks & (count < _SPARSER * state.support)
        shorter = (state.step_size / _SHRINKS).clamp_min(_LEAST_STEP)
        step_size = torch.where(checks, torch.where(sparser, 1, shorter), state.step_size)
        kept = torch.where(checks, _two_thirds(count), state.kept)
        p = torch.where(lift(sparser, best_p), best_p, state.p)
        g = torch.where(lift(sparser, best_p), best_g, probe.grad)
        g = movable(problem.x, p, g)
        there = p + sparse_step(g, kept, problem.eps * ball * step_size)
        there = torch.where(lift(ends, p), best_p, there)
        there = self.perturbation.project(problem.x, there, problem.eps * after)
        anew = support(there)
        return SparseAscent(
            p=there,
            best_p=best_p,
            best_g=best_g,
            best=torch.where(ends, -torch.inf, best),
            kept=torch.where(ends, _two_thirds(anew), kept),
            support=torch.where(ends, anew, torch.where(checks, count, state.support)),
            step_size=torch.where(ends, 1, step_size),
        )

    def _stage(self, t: Tensor) -> tuple[Tensor, ...]:
        """Return what ``schedule`` says for each row, three integers (B,)."""
        table = torch.tensor(schedule(self.steps, self.large_eps), dtype=t.dtype, device=t.device)
        return table[t].unbind(1)
