"""Step lengths that depend on how far a row is: each (B,), from ``problem.t``."""

import math

import torch
from torch import Tensor

from advbench.attacks.query import Problem


def progress(problem: Problem, steps: int) -> Tensor:
    """Return the share of ``steps`` that each row has done, (B,), at most 1."""
    return (problem.t.to(problem.eps.dtype) / steps).clamp_max(1)


def cosine(problem: Problem, steps: int, first: float, last: float) -> Tensor:
    """Go from ``first`` to ``last`` along half a cosine, flat at both ends."""
    return last + (first - last) * (1 + torch.cos(math.pi * progress(problem, steps))) / 2


def exponential(problem: Problem, steps: int, first: float, last: float) -> Tensor:
    """Go from ``first`` to ``last`` by the same factor at every step; both are above 0."""
    return first * (last / first) ** progress(problem, steps)


def linear(problem: Problem, steps: int, first: float, last: float) -> Tensor:
    """Go from ``first`` to ``last`` by the same difference at every step."""
    return first + (last - first) * progress(problem, steps)
