"""Gradients out of scores: the loss at pairs of points to both sides of an iterate."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Problem, Query
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift


class Pairs(NamedTuple):
    """The direction ``v`` of the current pair, the loss (B,) on its far side, the sum ``g``."""

    v: Tensor
    ahead: Tensor
    g: Tensor


def no_pairs(problem: Problem) -> Pairs:
    """Return what is known before the first query."""
    nothing = torch.zeros_like(problem.x)
    return Pairs(nothing, torch.zeros_like(problem.eps), nothing)


def ask_one(
    perturbation: Perturbation,
    p: Tensor,
    pairs: Pairs,
    query: Query,
    problem: Problem,
    samples: int,
    difference: float,
    draw: Callable[[Draws], Tensor],
) -> tuple[Pairs, Tensor, Tensor]:
    """Ask about one point of a pair around ``p``, which is brought back into the set.

    Returns what is known now, the estimate so far, and the rows (B,) where ``samples`` pairs are
    complete, so that the estimate is the gradient.
    """
    turn = problem.t % (2 * samples)
    first = turn % 2 == 0
    v = pairs.v
    if bool(first.any()):
        v = torch.where(lift(first, v), draw(problem.draws), v)
    side = difference * (1 - 2 * (turn % 2)).to(v)
    loss = query(perturbation.project(problem.x, p + lift(side, v) * v, problem.eps)).loss
    slope = torch.where(first, 0, (pairs.ahead - loss) / (2 * difference)).nan_to_num(0, 0, 0)
    g = pairs.g + lift(slope / samples, v) * v
    over = turn == 2 * samples - 1
    ahead = torch.where(first, loss, pairs.ahead)
    return Pairs(v, ahead, torch.where(lift(over, g), 0, g)), g, over


def check_set(owner: str, perturbation: Perturbation) -> None:
    """Refuse sets whose projection undoes a small change of every pixel.

    Raises:
        TypeError: it is neither Linf() nor L2().

    """
    if not isinstance(perturbation, Linf | L2):
        raise TypeError(f"{owner}: perturbation must be Linf() or L2(); got {perturbation!r}")
