"""SuperDeepFool: DeepFool, brought back to where the boundary is nearest to the input."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.losses import Loss
from advbench.attacks.minimal.deepfool import Way, check, no_way, stride
from advbench.attacks.minimal.hyperplane import Lead, accept, nearest
from advbench.attacks.perturbations import L2, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule


class Projecting(NamedTuple):
    """The iterate, where its round began, and the way to the answer; rows (B, ...).

    ``total`` is the sum of the projections of all rounds and ``rounds`` how many they are.
    ``moving`` rows do steps of DeepFool, ``over`` ones have just crossed the boundary, and the
    others take back what is not needed.
    """

    p: Tensor
    start: Tensor
    total: Tensor
    rounds: Tensor
    way: Way
    moving: Tensor
    over: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class SuperDeepFool(Rule[Projecting]):
    """Cross the boundary with DeepFool, then go to where its tangent there is nearest to the input.

    Source: Abdolahpourrostam, Abroshan, Moosavi-Dezfooli, "SuperDeepFool: a new fast and accurate
    minimal adversarial attack", NeurIPS 2024, arXiv:2303.12481, with DeepFool to its end and one
    projection a round. As in the authors' code the projections are added up, so that the second
    round ends far beyond the boundary at the latest, from where the line to the input is followed
    back. Deviations: a projection stays inside the box; of later rounds twice the mean is tried;
    the way back takes fewer queries than a bisection, by the slope of the
    lead; a target is the only class that is headed for, where the paper has no targets.

    Fields:
        steps: most steps of all rounds together, projections and those that take back included.
        overshoot: what is added to the change of a round for the verdict, as a share of it.
        candidates: the label and the likeliest others, whose boundaries are considered.
        refinements: queries, after a success, that take back what is not needed.

    Cost of a step: that of DeepFool; of a projection 2 forward passes and 1 backward pass.
    """

    access: ClassVar[Access] = "gradient"
    version: ClassVar[int] = 2
    finds: ClassVar[Finds] = "smallest"
    queries_per_step: ClassVar[int] = 2
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Lead()

    perturbation: Perturbation = L2()
    steps: int = 100
    overshoot: float = 0.02
    candidates: int = 10
    refinements: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        accept("SuperDeepFool", self.perturbation, L2())
        check("SuperDeepFool", self.overshoot, self.candidates)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=20), cls(steps=15, candidates=3, refinements=1)

    def init(self, problem: Problem) -> Projecting:
        """Start at the input."""
        zero, moving = self.perturbation.zero(problem.x), problem.t >= 0
        way = no_way(zero, problem, self.refinements)
        return Projecting(zero, zero, zero, problem.t * 0, way, moving, ~moving, ~moving)

    def step(self, state: Projecting, query: Query, problem: Problem) -> Projecting:
        """Do a step of DeepFool, or project; rows that have their answer ask for less."""
        x, p, way, moving, over = problem.x, state.p, state.way, state.moving, state.over
        found = stride(self, p, state.start, query, problem, moving)
        w = query(p, grad=True, rows=over).grad
        tangent = nearest(self.perturbation, x, w, (w * p).flatten(1).sum(1))
        total = torch.where(lift(over, p), state.total + tangent, state.total)
        rounds = state.rounds + over
        mean = total / lift(rounds.clamp_min(1), p)
        share = rounds.clamp_max(2).to(p)  # the sum of two is far enough
        far = (lift(share, p) * mean).clamp(-x, 1 - x)
        back = ~moving & ~over & (way.left > 0)
        asked = torch.where(lift(moving, p), found.beyond, way.point(x))
        asked = torch.where(lift(over, p), far, asked)
        probe = query(asked, rows=found.worth | over | back)
        way = way.learn(back, probe)
        reached = over & probe.success
        way = way.begin(reached, mean, probe.loss, w, share)

        here, there = moving & found.success, found.worth & probe.success
        p = torch.where(lift(moving & ~here, p), found.following, p)
        p = torch.where(lift(there | over, p), asked, p)
        start = torch.where(lift(over, p), asked, state.start)
        moving = (moving & ~(here | there)) | (over & ~probe.success)
        over = here | there
        return Projecting(
            p, start, total, rounds, way, moving, over, ~moving & ~over & (way.left == 0)
        )
