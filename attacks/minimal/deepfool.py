"""DeepFool: step after step onto the nearest boundary as it looks from here."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, Self, final

import torch
from torch import Tensor

from advbench.attacks.losses import Loss
from advbench.attacks.minimal.hyperplane import Lead, accept, boundary, distance, dual
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Probe, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_BEYOND = 1e-4
"""Added to the length of each step, as in the authors' code, so that it does not end at a tie."""
_CAUTION = 0.9
"""Share of the way back to the boundary that is gone at once."""


class Linearising(Protocol):
    """The fields that a step depends on."""

    @property
    def perturbation(self) -> Perturbation:
        """The norm."""

    @property
    def candidates(self) -> int:
        """The label and the likeliest others, whose boundaries are considered."""

    @property
    def overshoot(self) -> float:
        """What is added to the change for the verdict, as a share of it."""


def check(owner: str, overshoot: float, candidates: int) -> None:
    """Check the fields.

    Raises ValueError for what is out of range.
    """
    if not 0 <= overshoot < float("inf"):
        raise ValueError(f"{owner}: overshoot must be at least 0; got {overshoot!r}")
    if type(candidates) is not int or candidates < 2:
        raise ValueError(
            f"{owner}: candidates must be a whole number of at least 2, the label among them; got "
            f"{candidates!r}"
        )


class Stride(NamedTuple):
    """What a step found, per row (B, ...), of those that asked.

    ``following`` is the next iterate and ``beyond`` the point past the boundary to ask about, where
    it is ``worth`` it; ``success``, ``lead`` and ``g`` are those of the iterate before.
    """

    following: Tensor
    beyond: Tensor
    worth: Tensor
    success: Tensor
    lead: Tensor
    g: Tensor


def stride(
    attack: Linearising, p: Tensor, start: Tensor, query: Query, problem: Problem, rows: Tensor
) -> Stride:
    """Step from ``p`` onto the nearest boundary, as part of the way that began at ``start``."""
    x, perturbation = problem.x, attack.perturbation
    lead, g, success = boundary(perturbation, p, query, problem, attack.candidates, rows)
    length = distance(lead, dual(perturbation, g)) + _BEYOND
    step = perturbation.steepest(x, p, g, length.nan_to_num(0, 0, 0))
    following = (p + step).clamp(-x, 1 - x)
    beyond = following + attack.overshoot * (following - start)
    beyond = beyond.clamp(-x, 1 - x)
    expected = lead + (g * (beyond - p)).flatten(1).sum(1)
    return Stride(following, beyond, rows & ~success & (expected > 0), success, lead, g)


class Way(NamedTuple):
    """What is known of the line from the input to the success ``end``, per row (B, ...).

    ``share`` of it is the least that is known to succeed, with the lead ``lead``, which grows by
    about ``slope`` over the whole; ``low`` is known to fail. ``left`` queries are left.
    """

    end: Tensor
    share: Tensor
    low: Tensor
    lead: Tensor
    slope: Tensor
    left: Tensor

    @property
    def next(self) -> Tensor:
        """The share to ask about, (B,): not quite that where the lead is zero."""
        back = _CAUTION * self.lead / self.slope
        known = (back > 0) & (back < self.share - self.low)
        return torch.where(known, self.share - back, (self.low + self.share) / 2)

    def point(self, x: Tensor) -> Tensor:
        """Return the change to ask about."""
        return (self.end * lift(self.next, self.end)).clamp(-x, 1 - x)

    def learn(self, asked: Tensor, probe: Probe) -> "Way":
        """Return what is known after the answer to ``next``, for the rows that asked."""
        share = self.next
        enough, short = asked & probe.success, asked & ~probe.success
        slope = (self.lead - probe.loss) / (self.share - share)
        return Way(
            self.end,
            torch.where(enough, share, self.share),
            torch.where(short, share, self.low),
            torch.where(enough, probe.loss, self.lead),
            torch.where(asked & (slope > 0), slope, self.slope),
            torch.where(asked, self.left - 1, self.left),
        )

    def begin(
        self, rows: Tensor, end: Tensor, lead: Tensor, g: Tensor, share: float | Tensor = 1
    ) -> "Way":
        """Return the way for the ``rows`` that succeed at a share of ``end``, with gradient."""
        return Way(
            torch.where(lift(rows, end), end, self.end),
            torch.where(rows, share, self.share),
            torch.where(rows, 0, self.low),
            torch.where(rows, lead, self.lead),
            torch.where(rows, (g * end).flatten(1).sum(1), self.slope),
            self.left,
        )


def no_way(p: Tensor, problem: Problem, refinements: int) -> Way:
    """Return the way of rows without a success."""
    zero = torch.zeros_like(problem.eps)
    return Way(torch.zeros_like(p), zero, zero, zero, zero, problem.t * 0 + refinements)


class Fooling(NamedTuple):
    """The sum of the steps, the way to the first success, and who has none yet; rows (B, ...)."""

    p: Tensor
    way: Way
    moving: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class DeepFool(Rule[Fooling]):
    """Step onto the nearest boundary, linearised anew at each step, until a class is crossed.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep
    neural networks", CVPR 2016, arXiv:1511.04599, algorithm 2. The box is ignored but for a clip
    after each step. Deviations: the point beyond the boundary is asked about only where the
    linearised lead says that it succeeds; of a success as much is taken back as is not needed,
    along the line to the input; with a target, or a class to head for, that boundary is the
    nearest.

    Fields:
        steps: most steps, those that take back included.
        overshoot: what is added to the change for the verdict, as a share of it.
        candidates: the label and the likeliest others, whose boundaries are considered.
        refinements: queries, after a success, that take back what is not needed.

    Cost of a step: 1 forward and ``candidates`` backward passes, or 1 of these with a target; 1
    forward pass for a verdict.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"
    queries_per_step: ClassVar[int] = 2
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Lead()

    perturbation: Perturbation = L2()
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10
    refinements: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        accept("DeepFool", self.perturbation, L2(), Linf())
        check("DeepFool", self.overshoot, self.candidates)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=20), cls(perturbation=Linf(), steps=15, candidates=3, refinements=1)

    def init(self, problem: Problem) -> Fooling:
        """Start at the input."""
        zero, moving = self.perturbation.zero(problem.x), problem.t >= 0
        return Fooling(zero, no_way(zero, problem, self.refinements), moving, ~moving)

    def step(self, state: Fooling, query: Query, problem: Problem) -> Fooling:
        """Linearise, step, ask; rows that have succeeded ask for less."""
        p, way, moving = state.p, state.way, state.moving
        found = stride(self, p, torch.zeros_like(p), query, problem, moving)
        asked = torch.where(lift(moving, p), found.beyond, way.point(problem.x))
        back = ~moving & (way.left > 0)
        probe = query(asked, rows=found.worth | back)
        here, there = moving & found.success, found.worth & probe.success
        way = way.learn(back, probe)
        way = way.begin(here, p, found.lead, found.g)
        way = way.begin(there, found.beyond, probe.loss, found.g)
        p = torch.where(lift(moving, p), found.following, p)
        moving = moving & ~(here | there)
        return Fooling(p, way, moving, ~moving & (way.left == 0))
