"""What attacks share that weigh success against size: a search over the weight, a trim at the end.

The weight search is that of Carlini and Wagner, "Towards evaluating the robustness of neural
networks", IEEE S&P 2017, arXiv:1608.04644, section V.A and their code. All of it is per row: each
has its own weight, leaves a search by itself and begins the next one.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from advbench.attacks.perturbations import Perturbation
from advbench.attacks.query import Problem
from advbench.attacks.rows import lift

HALVINGS = 10
"""How often what is left to trim is halved."""

_GROWTH = 10.0
_CHECKS = 10  # per search
_PROGRESS = 0.9999


class Weight(NamedTuple):
    """The weight ``c`` of the lead and the search that it is in; each tensor is (B,).

    ``low`` and ``high`` are the largest weight that failed and the smallest that succeeded,
    ``found`` tells of a success since the last check and ``checked`` is the objective there,
    ``age`` counts the iterations of this search, ``number`` the searches that are over.
    """

    c: Tensor
    low: Tensor
    high: Tensor
    found: Tensor
    checked: Tensor
    age: Tensor
    number: Tensor

    @classmethod
    def first(cls, problem: Problem, c: float) -> Self:
        """Return the weight of fresh rows."""
        zero, none = torch.zeros_like(problem.eps), torch.zeros_like(problem.t)
        endless = zero + torch.inf
        return cls(zero + c, zero, endless, none.bool(), endless, none, none)

    def after(self, success: Tensor, objective: Tensor, steps: int) -> tuple[Self, Tensor]:
        """Count an iteration; return also which rows begin a new search, with another weight.

        They do after ``steps`` iterations, or when a tenth of them brought no success and gained no
        more than 0.01 %. The weight was large enough if the last tenth held a success: an earlier
        one may have been a step too far, from which the size has led back.
        """
        age, found = self.age + 1, self.found | success
        check = age % max(steps // _CHECKS, 1) == 0
        stuck = check & ~found & (objective > _PROGRESS * self.checked)
        over = stuck | (age >= steps)
        high = torch.where(over & found, self.c, self.high)
        low = torch.where(over & ~found, self.c, self.low)
        new = torch.where(high.isinf(), self.c * _GROWTH, (low + high) / 2)
        weight = self._replace(
            c=torch.where(over, new, self.c),
            low=low,
            high=high,
            found=found & ~check & ~over,
            checked=torch.where(over, torch.inf, torch.where(check, objective, self.checked)),
            age=torch.where(over, 0, age),
            number=self.number + over.long(),
        )
        return weight, over


class Smallest(NamedTuple):
    """The smallest success (B, ...), its size, the largest size at which a trim of it failed.

    ``asked`` counts the trims. Without a success the size is infinite.
    """

    p: Tensor
    size: Tensor
    low: Tensor
    asked: Tensor

    @classmethod
    def none(cls, problem: Problem, p: Tensor) -> Self:
        """Return that of rows without a success; ``p`` changes nothing."""
        zero = torch.zeros_like(problem.eps)
        return cls(p, zero + torch.inf, zero, torch.zeros_like(problem.t))

    def after(self, p: Tensor, size: Tensor, success: Tensor, trimming: Tensor) -> Self:
        """Take in that ``p`` of ``size`` was asked about, in some rows to trim."""
        better = success & (size < self.size)
        return self._replace(
            p=torch.where(lift(better, p), p, self.p),
            size=torch.where(better, size, self.size),
            low=torch.where(trimming & ~success, size, self.low),
            asked=self.asked + trimming.long(),
        )

    def trim(self, perturbation: Perturbation, problem: Problem) -> Tensor:
        """Return it projected to a size half-way down to the largest that failed."""
        size = torch.where(self.size.isfinite(), (self.low + self.size) / 2, 0)
        return perturbation.project(problem.x, self.p, size)

    @property
    def trimmed(self) -> Tensor:
        """Which rows have nothing left to trim, (B,)."""
        return (self.asked >= HALVINGS) | self.size.isinf()
