"""GeoDA: the boundary taken for a plane, whose normal is estimated from labels."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.blackbox import edge
from advbench.attacks.blackbox.edge import READY, Edge
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

_PROBE, _REACH = READY, READY + 1
_OTHERS = 25
_GROWTH = 1.25
_HALVINGS = 18
_DECAY = 0.6


class Plane(NamedTuple):
    """The edge, the sum (B, ...) that becomes the normal of the plane, and the rounds done."""

    p: Tensor
    edge: Edge
    normal: Tensor
    rounds: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class GeoDA(Rule[Plane]):
    """Take the boundary for a plane, estimate its normal from labels, go straight along it.

    Source: Rahmati, Moosavi-Dezfooli, Frossard, Dai, "GeoDA: a geometric framework for black-box
    adversarial attacks", CVPR 2020, arXiv:2003.06468, algorithms 1 and 2. Each round asks about
    Gaussian neighbours of the last boundary point, sums them with the sign of the answers and goes
    from the sample itself along the best direction of the set for that normal. The queries of
    rounds grow by 0.6^-2/3, from at most ``first`` of them, so that all fit into ``steps``.
    Deviations: the length of the last change is tried first, then ever longer ones by a quarter;
    where 25 fail, the old boundary point is kept, and the way back is halved 18 times; the first
    success is searched among noise, chequers and blends, and a row without one in ``tries`` is
    given up. L2, Linf and L1. Cost: at most ``steps`` forward passes, one a step.

    Fields:
        deviation: standard deviation of a neighbour in each coordinate.
        frequencies: along each of the last two axes neighbours are made of so many of the lowest
            cosines; of all where the axis is shorter or for None.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L2()
    steps: int = 10_000
    first: int = 80
    deviation: float = 0.0002
    frequencies: int | None = 75
    tries: int = 1000
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        edge.check("GeoDA", self.perturbation, (L2, Linf, L1))
        checks.above_zero("GeoDA", "first", self.first)
        checks.above_zero("GeoDA", "deviation", self.deviation)
        checks.above_zero("GeoDA", "tries", self.tries)
        if self.frequencies is not None:
            checks.above_zero("GeoDA", "frequencies", self.frequencies)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        first = cls(steps=60, first=8)
        return first, cls(perturbation=Linf(), steps=40, first=5, frequencies=2, restarts=2)

    @property
    def probes(self) -> tuple[int, ...]:
        """The probes of each round; the last number holds for all further rounds."""
        rounds = 0
        while True:
            rounds += 1
            weights = [_DECAY ** (-2 / 3 * k) for k in range(rounds)]
            left = max(self.steps - _OTHERS * rounds, rounds)
            shares = [left * weight / sum(weights) for weight in weights]
            if shares[0] <= self.first:
                return tuple(max(1, round(share)) for share in shares)

    def init(self, problem: Problem) -> Plane:
        """Start with nothing."""
        zero = self.perturbation.zero(problem.x)
        rounds = torch.zeros_like(problem.t)
        return Plane(zero, edge.nowhere(zero, problem), zero, rounds, rounds > 0)

    def step(self, state: Plane, query: Query, problem: Problem) -> Plane:
        """Ask the next question of each row's phase."""
        phase, far = state.edge.phase, state.edge.far
        x, probing, reaching = problem.x, phase == _PROBE, phase == _REACH
        p = edge.ask(
            state.edge,
            self.perturbation,
            problem,
            {
                _PROBE: lambda: far + self._neighbour(problem),
                _REACH: lambda: self._straight(state, problem),
            },
        )
        success = query(p).success
        new = edge.approach(state.edge, self.perturbation, p, success, _HALVINGS)

        sign = torch.where(success, 1, -1).to(x) * probing
        normal = state.normal + lift(sign, x) * (p - far)
        table = torch.tensor(self.probes, device=x.device)
        enough = probing & (new.turn >= table[state.rounds.clamp_max(len(table) - 1)])
        landed = reaching & success
        over = landed | (reaching & (new.turn >= _OTHERS))
        new = edge.jump_to(edge.jump_to(new, enough, _REACH), over, _PROBE)
        return Plane(
            p,
            edge.halve_from(new, landed, p),
            torch.where(lift(over, x), 0, normal),
            state.rounds + over,
            edge.lost(new, self.tries),
        )

    def _straight(self, state: Plane, problem: Problem) -> Tensor:
        """Go from the sample as far as the last success lay, further at each turn."""
        zero = torch.zeros_like(state.p)
        length = self.perturbation.size(problem.x, state.edge.far) * _GROWTH**state.edge.turn
        return self.perturbation.steepest(problem.x, zero, state.normal, length)

    def _neighbour(self, problem: Problem) -> Tensor:
        """Draw Gaussian noise of low frequencies."""
        x = problem.x
        axes = range(max(1, x.dim() - 2), x.dim())
        most = self.frequencies or max(x.shape[1:])
        shape = [min(most, size) if axis in axes else size for axis, size in enumerate(x.shape)]
        draw: Tensor = problem.draws.normal(tuple(shape[1:]), x.dtype)
        for axis in axes:
            if shape[axis] < x.shape[axis]:
                waves = cosines(x.shape[axis], shape[axis]).to(x)
                draw = torch.tensordot(draw, waves, ([axis], [1])).movedim(-1, axis)
        return draw * self.deviation


def cosines(size: int, count: int) -> Tensor:
    """Return the ``count`` lowest cosines of an axis as orthonormal columns, (size, count)."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5).unsqueeze(1)
    waves = torch.cos(math.pi / size * place * torch.arange(count))
    columns: Tensor = waves / torch.linalg.vector_norm(waves, dim=0)
    return columns
