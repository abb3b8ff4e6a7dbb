"""Where a minimum-norm attack goes, and how far it can."""

from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.perturbations import Perturbation
from advbench.attacks.perturbations.l2 import unit
from advbench.attacks.query import Problem
from advbench.attacks.rows import lift


class Slope(NamedTuple):
    """The direction of the last gradient that told something, and the largest entry of any.

    ``g`` (B, ...) is of Euclidean length 1, zero where there was none; ``peak`` is (B,).
    """

    g: Tensor
    peak: Tensor


def level(problem: Problem) -> Slope:
    """Return the slope of rows that have seen no gradient."""
    return Slope(torch.zeros_like(problem.x), torch.zeros_like(problem.eps))


def follow(last: Slope, gradient: Tensor, problem: Problem) -> Slope:
    """Return the slope at a new gradient.

    Where a loss has saturated, its gradient is rounding: one that is zero, or next to nothing
    beside the largest that the row has seen, leaves the direction as it was. A row that has none
    yet gets a random one.
    """
    bounds = torch.finfo(gradient.dtype)
    peak = gradient.flatten(1).abs().amax(1)
    most = torch.maximum(peak, last.peak)
    lost = peak <= (most * bounds.eps**0.5).clamp_min(bounds.tiny / bounds.eps)
    if lost.any():
        chance = problem.draws.normal(gradient.shape[1:], gradient.dtype)
        known = (last.g != 0).flatten(1).any(1)
        instead = torch.where(lift(known, gradient), last.g, chance)
        gradient = torch.where(lift(lost, gradient), instead, gradient)
    return Slope(unit(gradient), most)


def farthest(perturbation: Perturbation, problem: Problem) -> Tensor:
    """Return the size, (B,), that no answer exceeds: eps, or that of the far corner of the box."""
    x = problem.x
    return torch.minimum(perturbation.size(x, torch.maximum(x, 1 - x)), problem.eps)
