"""Additive noise: more and more of it."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.blackbox import ramp
from advbench.attacks.blackbox.ramp import Ramp
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.search import Rule


class Grain(NamedTuple):
    """The strengths so far and the noise (B, ...) of full strength."""

    p: Tensor
    ramp: Ramp
    full: Tensor
    done: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class AdditiveNoise(Rule[Grain]):
    """Add uniform or Gaussian noise, stronger and stronger, until it fools.

    A run draws the noise once; its standard deviation grows in ``points`` equal parts to
    ``largest``, clipped to the box; once one fools, ten halvings narrow it down. Runs differ in
    their draws. Source: Rauber, Brendel, Bethge, "Foolbox: a Python toolbox to benchmark the
    robustness of machine learning models", 2017, arXiv:1707.04131. The set only measures. Cost: at
    most restarts * (points + 10) forward passes.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = L2()
    kind: Literal["gaussian", "uniform"] = "gaussian"
    points: int = 100
    largest: float = 1.0
    restarts: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        ramp.check("AdditiveNoise", self.perturbation)
        if self.kind not in ("gaussian", "uniform"):
            raise ValueError(
                f"AdditiveNoise: kind must be 'gaussian' or 'uniform'; got {self.kind!r}"
            )
        checks.above_zero("AdditiveNoise", "largest", self.largest)

    @property
    def steps(self) -> int:
        """All strengths and halvings."""
        return self.points + ramp.HALVINGS

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        first = cls(points=10, restarts=2)
        return first, cls(perturbation=Linf(), kind="uniform", points=5, restarts=1)

    def init(self, problem: Problem) -> Grain:
        """Draw the noise, of standard deviation ``largest``."""
        x = problem.x
        if self.kind == "gaussian":
            full = problem.draws.normal(x.shape[1:], x.dtype)
        else:
            full = (problem.draws.uniform(x.shape[1:], x.dtype) * 2 - 1) * 3**0.5
        zero = self.perturbation.zero(x)
        start = ramp.bottom(zero, problem)
        return Grain(zero, start, self.largest * full, start.done)

    def step(self, state: Grain, query: Query, problem: Problem) -> Grain:
        """Try the next strength."""
        full = ramp.scaled(state.full, ramp.strength(state.ramp, self.points))
        p = torch.clamp(full, -problem.x, 1 - problem.x)
        new = ramp.climb(state.ramp, p, self.points, self.perturbation, query, problem)
        return Grain(p, new, state.full, new.done)
