"""Auto-PGD: the step is halved, and the search goes back to its best point, when gains are few."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.gradient.steepest import move
from advbench.attacks.losses import DLR, CrossEntropy, Loss
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Probe, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_FIRST_STEP = 2.0
_MOMENTUM_WEIGHT = 0.75


class Watch(NamedTuple):
    """How a run is going, per row.

    The best point with its gradient and loss, the loss of the point before, how often the loss rose
    since the last checkpoint, the best loss there and whether the step was halved there, and the
    step, a fraction of eps.
    """

    best_p: Tensor
    best_g: Tensor
    best: Tensor
    last: Tensor
    rises: Tensor
    checked: Tensor
    halved: Tensor
    step_size: Tensor


class Ascent(NamedTuple):
    """The iterate, the one before it, and how the run is going."""

    p: Tensor
    before: Tensor
    watch: Watch


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return the iterations of a run at which its step is judged.

    The windows between them shrink from 22 % of the steps by 3 % each, down to 6 %.
    """
    window, shrink, least = (max(share * steps // 100, 1) for share in (22, 3, 6))
    places = []
    place = window
    while place < steps:
        places.append(place)
        window = max(window - shrink, least)
        place += window
    return tuple(places)


def windows(steps: int, t: Tensor) -> Tensor:
    """Return, per row, the length of the window that ends at iteration ``t``, 0 where none does."""
    places = (0, *checkpoints(steps))
    lengths = [0] * steps
    for earlier, place in pairwise(places):
        lengths[place] = place - earlier
    return torch.tensor(lengths, device=t.device)[t]


def rises(new: Tensor, old: Tensor) -> Tensor:
    """Tell where a loss is larger than another by more than its rounding, (B,) bool."""
    return new - old > 8 * torch.finfo(new.dtype).eps * new.abs()


def first_watch(p: Tensor, problem: Problem) -> Watch:
    """Return the account of a run that has asked nothing yet and is to start at ``p``."""
    worst = torch.full_like(problem.eps, -torch.inf)
    return Watch(
        best_p=p,
        best_g=torch.zeros_like(p),
        best=worst,
        last=-worst,
        rises=torch.zeros_like(problem.t),
        checked=worst,
        halved=torch.ones_like(problem.t, dtype=torch.bool),
        step_size=torch.full_like(problem.eps, _FIRST_STEP),
    )


def observe(old: Watch, p: Tensor, probe: Probe, window: Tensor, rho: float) -> Watch:
    """Enter the answer to a query about ``p``, and judge the step where a window ends.

    It is halved when the loss rose in no more than ``rho`` of the window, or when it was kept at
    the last checkpoint and the best loss has not risen since. Where ``halved`` is newly set, the
    search is to go on from the best point, whose loss then counts as the last one.
    """
    better = rises(probe.loss, old.best)
    best = torch.where(better, probe.loss, old.best)
    count = old.rises + rises(probe.loss, old.last)
    ends = window > 0
    halve = ends & ((count <= rho * window) | (~old.halved & (old.checked >= best)))
    return Watch(
        best_p=torch.where(lift(better, p), p, old.best_p),
        best_g=torch.where(lift(better, p), probe.grad, old.best_g),
        best=best,
        last=torch.where(halve, best, probe.loss),
        rises=torch.where(ends, 0, count),
        checked=torch.where(ends, best, old.checked),
        halved=torch.where(ends, halve, old.halved),
        step_size=torch.where(halve, old.step_size / 2, old.step_size),
    )


def start(perturbation: Perturbation, problem: Problem) -> Tensor:
    """Draw a point of the ball, stretch it to the size eps and clip it to the box."""
    p = perturbation.draw(problem.x, problem.eps, problem.draws)
    size = perturbation.size(problem.x, p).clamp_min(torch.finfo(p.dtype).tiny)
    return perturbation.project(problem.x, p * lift(problem.eps / size, p), problem.eps)


def glide(
    perturbation: Perturbation,
    p: Tensor,
    before: Tensor,
    g: Tensor,
    problem: Problem,
    step_size: Tensor,
    weight: Tensor,
) -> Tensor:
    """Take a projected steepest step, mixed with the last displacement.

    ``weight`` (B,) is the share of the step; with 1 this is a step of projected gradient descent.
    """
    there = move(perturbation, p, g, problem, step_size)
    weight = lift(weight, p)
    mixed = p + weight * (there - p) + (1 - weight) * (p - before)
    return perturbation.project(problem.x, mixed, problem.eps)


def accept(owner: str, perturbation: Perturbation) -> None:
    """Refuse all sets but Linf and L2."""
    if isinstance(perturbation, Linf | L2):
        return
    other = "; for L1 there is APGDL1()" if isinstance(perturbation, L1) else ""
    raise ValueError(f"{owner}: perturbation must be Linf() or L2(){other}; got {perturbation!r}")


@final
@dataclass(frozen=True, kw_only=True)
class APGD(Rule[Ascent]):
    """Auto-PGD: steepest steps with momentum that are halved at checkpoints if the loss stalls.

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, arXiv:2003.01690, algorithm 1. With ``loss=DLR()`` and
    ``target_classes=9`` it is APGD-T of section 4.

    Where the paper leaves it open, or the authors' program differs, this is what is done: the start
    is random and as far away as eps allows; a loss that rose in exactly ``rho`` of a window counts
    as stalled; checkpoints of other than 100 steps are rounded down. Deviations: a rise within
    rounding is none, and the last iterate is scored without its gradient.

    Fields:
        rho: share of the steps between two checkpoints in which the loss has to rise.
        target_classes: how many of the likeliest wrong classes are headed for one after the other.

    Cost of a run, one for each of the target classes: steps + 1 forward and steps backward passes.
    """

    access: ClassVar[Access] = "gradient"

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    target_classes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        accept("APGD", self.perturbation)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(steps=12),
            cls(perturbation=L2(), loss=DLR(), steps=12, target_classes=2, restarts=2),
        )

    def init(self, problem: Problem) -> Ascent:
        """Start at random, at distance eps."""
        p = start(self.perturbation, problem)
        return Ascent(p, p, first_watch(p, problem))

    def step(self, state: Ascent, query: Query, problem: Problem) -> Ascent:
        """Ask, judge the step at a checkpoint, and move on from there or from the best point."""
        probe = query(state.p, grad=True)
        window = windows(self.steps, problem.t)
        watch = observe(state.watch, state.p, probe, window, self.rho)
        back = lift((window > 0) & watch.halved, state.p)
        p = torch.where(back, watch.best_p, state.p)
        g = torch.where(back, watch.best_g, probe.grad)
        weight = torch.where(problem.t == 0, 1, _MOMENTUM_WEIGHT).to(problem.eps)
        there = glide(self.perturbation, p, state.before, g, problem, watch.step_size, weight)
        return Ascent(there, p, watch)
