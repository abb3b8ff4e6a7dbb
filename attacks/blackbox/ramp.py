"""A change that is made stronger until it fools, then as weak as still fools."""

from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.perturbations.perturbation import Perturbation, Pixels
from advbench.attacks.query import Problem, Query
from advbench.attacks.rows import lift

HALVINGS = 10
"""The queries between the last strength that failed and the first that fooled."""


class Ramp(NamedTuple):
    """The last change asked about, and the strengths (B,) that fail and fool; 2 for none yet."""

    p: Tensor
    low: Tensor
    high: Tensor
    done: Tensor


def bottom(zero: Tensor, problem: Problem) -> Ramp:
    """Return the state of rows that have asked nothing; ``zero`` changes nothing."""
    blank = torch.zeros_like(problem.eps)
    return Ramp(zero, blank, blank + 2, blank > 0)


def strength(state: Ramp, points: int) -> Tensor:
    """Return the next strength, (B,): a ``points``-th more, or the middle once one fooled."""
    further = ((state.low * points).round() + 1) / points
    return torch.where(state.high > 1, further, (state.low + state.high) / 2)


def climb(
    state: Ramp,
    p: Tensor,
    points: int,
    perturbation: Perturbation,
    query: Query,
    problem: Problem,
    growing: bool = True,
) -> Ramp:
    """Ask about ``p``, the change of the next strength.

    A row is done where both ends are close enough, where nothing fooled and, if the size of the
    change is always ``growing``, where it has outgrown eps.
    """
    now = strength(state, points)
    success = query(p).success
    outgrown = growing & (perturbation.size(problem.x, p) > perturbation.limit(problem.eps))
    low = torch.where(success, state.low, now)
    high = torch.where(success, now, state.high)
    failed = (high > 1) & ((low >= 1) | outgrown)
    # The two ends are powers of two apart, in shares of a point, up to rounding.
    close = high - low < 1.5 / (points * 2**HALVINGS)
    return Ramp(p, low, high, failed | close)


def scaled(p: Tensor, share: Tensor) -> Tensor:
    """Return ``p`` times a number per row (B,)."""
    return p * lift(share, p)


def check(owner: str, perturbation: Perturbation) -> None:
    """Check that the parameters of ``perturbation`` are changes of pixels.

    Raises:
        ValueError: they are not.

    """
    if not isinstance(perturbation, Pixels):
        raise ValueError(
            f"{owner}: perturbation must be one of Linf(), L2(), L1(), L0(), which measure changes "
            f"of pixels; got {perturbation!r}"
        )
