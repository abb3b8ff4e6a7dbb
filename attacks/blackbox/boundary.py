"""The boundary attack: a random walk along the boundary, drawn towards the sample."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.blackbox import edge
from advbench.attacks.blackbox.edge import READY, Edge
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Perturbation
from advbench.attacks.perturbations.l2 import unit
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_HALVINGS = 10
_CYCLE = 11
_SIDEWAYS, _INWARDS = 100, 30


class Walk(NamedTuple):
    """The edge, the lengths of steps (B,), and the latest successes of tests.

    ``around`` (B, 100) and ``nearer`` (B, 30) hold 1 for a success, 0 for a failure and NaN for
    what has not been tested since the last change of the lengths.
    """

    p: Tensor
    edge: Edge
    sideways: Tensor
    inwards: Tensor
    around: Tensor
    nearer: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Boundary(Rule[Walk]):
    """Walk at random along the boundary: a step on the sphere around the sample, one inwards.

    Source: Brendel, Rauber, Bethge, "Decision-based adversarial attacks: reliable attacks against
    black-box machine learning models", ICLR 2018, arXiv:1712.04248, algorithm 1. Of ten candidates
    one has its point on the sphere asked about as well; of the last 100 such points more than half
    should succeed, or both steps shrink by ``adaptation`` (below a fifth) or grow, and of the last
    30 candidates that belong to them between a tenth and a quarter, or the step inwards does. A
    row ends where that step is below 1e-7. Deviations: the walk starts ten halvings of the way from
    the first success, which is searched among noise, chequers and blends; a row without one in
    ``tries`` is given up. L2. Cost: at most ``steps`` forward passes, one a step.

    Fields:
        sideways: first step on the sphere, a share of its radius.
        inwards: first step towards the sample, a share of the distance.
        adaptation: factor by which the lengths of steps change.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L2()
    steps: int = 25_000
    sideways: float = 0.01
    inwards: float = 0.01
    adaptation: float = 1.5
    tries: int = 1000
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        edge.check("Boundary", self.perturbation, (L2,))
        checks.above_zero("Boundary", "sideways", self.sideways)
        checks.above_zero("Boundary", "inwards", self.inwards)
        checks.above_zero("Boundary", "tries", self.tries)
        if not (isinstance(self.adaptation, int | float) and 1 < self.adaptation < float("inf")):
            raise ValueError(
                f"Boundary: adaptation must be a number above 1; got {self.adaptation!r}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        first = cls(steps=60, sideways=0.1, inwards=0.1)
        return first, cls(steps=40, sideways=0.3, inwards=0.2, tries=9, restarts=2)

    def init(self, problem: Problem) -> Walk:
        """Start with nothing."""
        zero, number = self.perturbation.zero(problem.x), torch.ones_like(problem.eps)
        blank = number.unsqueeze(1) * torch.nan
        return Walk(
            zero,
            edge.nowhere(zero, problem),
            number * self.sideways,
            number * self.inwards,
            blank.expand(-1, _SIDEWAYS).clone(),
            blank.expand(-1, _INWARDS).clone(),
            problem.t < 0,
        )

    def step(self, state: Walk, query: Query, problem: Problem) -> Walk:
        """Ask about a point on the sphere, or about a candidate."""
        place = state.edge.turn % _CYCLE
        walking = state.edge.phase == READY
        on_sphere, tested = walking & (place == 0), walking & (place == 1)
        p = edge.ask(
            state.edge,
            self.perturbation,
            problem,
            {READY: lambda: self._propose(state, problem, place)},
        )
        success = query(p).success
        new = edge.approach(state.edge, self.perturbation, p, success, _HALVINGS)
        size = self.perturbation.size
        nearer = size(problem.x, p) < size(problem.x, state.edge.far)
        accepted = walking & ~on_sphere & success & nearer
        new = new._replace(far=torch.where(lift(accepted, p), p, new.far))
        around, grow, shrink = _adapt(state.around, on_sphere, success, 0.2, 0.5)
        both = torch.where(grow, self.adaptation, torch.where(shrink, 1 / self.adaptation, 1))
        series, grow, shrink = _adapt(state.nearer, tested, success, 0.1, 0.25)
        inner = torch.where(grow, self.adaptation, torch.where(shrink, 1 / self.adaptation, 1))
        inwards = state.inwards * both.to(p) * inner.to(p)
        return Walk(
            p,
            new,
            state.sideways * both.to(p),
            inwards,
            around,
            series,
            edge.lost(new, self.tries) | (walking & (inwards < 1e-7)),
        )

    def _propose(self, state: Walk, problem: Problem, place: Tensor) -> Tensor:
        """Return the point on the sphere, or the candidate that lies inwards of such a point."""
        x, far = problem.x, state.edge.far
        radius = self.perturbation.size(x, far)
        draw = problem.draws.normal(x.shape[1:], x.dtype)
        outwards = unit(far)
        along = (draw * outwards).flatten(1).sum(1)
        tangent = unit(draw - lift(along, x) * outwards)
        point = far + lift(state.sideways * radius, x) * tangent
        point = point / lift((state.sideways.square() + 1).sqrt(), x)
        point = point.clamp(-x, 1 - x)
        # The candidate after a test starts from the point that was tested.
        point = torch.where(lift(place == 1, x), state.p, point)
        length = self.perturbation.size(x, point)
        tiny = torch.finfo(x.dtype).tiny
        # Clipping may have changed the distance, and that is made up for.
        rest = ((1 - state.inwards) * radius).minimum(length)
        candidate = point * lift(rest / length.clamp_min(tiny), x)
        return torch.where(lift(place == 0, x), point, candidate)


def _adapt(
    series: Tensor, tested: Tensor, success: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Add to the series (B, n) of ``tested`` rows; tell which, once full, grow and shrink.

    Those begin a new series.
    """
    longer = torch.cat([series[:, 1:], success.to(series).unsqueeze(1)], 1)
    series = torch.where(tested.unsqueeze(1), longer, series)
    rate = series.mean(1)
    grow, shrink = tested & (rate > high), tested & (rate < low)
    return series.where(~(grow | shrink).unsqueeze(1), torch.nan), grow, shrink
