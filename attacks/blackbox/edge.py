"""From labels alone to the boundary: a first success, then halvings towards the sample."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.perturbations import Linf, Perturbation
from advbench.attacks.query import Problem
from advbench.attacks.rows import lift

GUESS, HALVE, READY = range(3)
"""Phases of a row. An attack numbers its own phases from ``READY`` on."""

_CELLS = 4


class Edge(NamedTuple):
    """Where a row stands, (B,) each; ``far`` (B, ...) is a success, once there is one.

    ``turn`` counts the queries of the phase; the boundary lies between the shares ``low`` and
    ``high`` of the way from the sample to ``far``.
    """

    phase: Tensor
    turn: Tensor
    far: Tensor
    low: Tensor
    high: Tensor


def nowhere(zero: Tensor, problem: Problem) -> Edge:
    """Return the edge of rows that have no success yet; ``zero`` changes nothing."""
    blank = torch.zeros_like(problem.eps)
    return Edge(torch.zeros_like(problem.t), torch.zeros_like(problem.t), zero, blank, blank + 1)


def guess(problem: Problem, turn: Tensor) -> Tensor:
    """Return the change to the next image that may be a first success.

    In turn an image of uniform noise, a chequer of black and white cells, and the sample blended
    with uniform noise, as much of it as comes.
    """
    x = problem.x
    noise = problem.draws.fork(1).uniform(x.shape[1:], x.dtype)
    share = problem.draws.fork(2).uniform((), x.dtype)
    chequer = noise
    for axis in range(max(1, x.dim() - 2), x.dim()):
        size = x.shape[axis]
        place = torch.arange(size, device=x.device) * _CELLS // size * size // _CELLS
        chequer = chequer.index_select(axis, place)
    kind = turn % 3
    image = torch.where(lift(kind == 1, x), (chequer > 0.5).to(x), noise)
    return (image - x) * lift(torch.where(kind == 2, share, 1), x)


def halvings(perturbation: Perturbation, x: Tensor, looseness: float = 1.0) -> int:
    """Return how often the way to a success is halved: to d^-3/2 of it, in Linf to d^-2.

    ``looseness`` multiplies this; past the precision of ``x`` there is nothing to halve.
    """
    power = 2.0 if isinstance(perturbation, Linf) else 1.5
    wanted = math.ceil(power * math.log2(x[0].numel()) - math.log2(looseness))
    return min(max(wanted, 1), round(-math.log2(torch.finfo(x.dtype).eps)))


def between(perturbation: Perturbation, far: Tensor, share: Tensor) -> Tensor:
    """Return the point at a ``share`` (B,) of the way to ``far``; in Linf, clip to that share."""
    if not isinstance(perturbation, Linf):
        return far * lift(share, far)
    reach = lift(share * far.flatten(1).abs().amax(1), far)
    return far.maximum(-reach).minimum(reach)


def ask(
    edge: Edge,
    perturbation: Perturbation,
    problem: Problem,
    further: dict[int, Callable[[], Tensor]],
) -> Tensor:
    """Return what each row asks about next, inside the box; ``further`` are phases of the attack.

    What no row needs is not computed.
    """
    options: dict[int, Callable[[], Tensor]] = {
        GUESS: lambda: guess(problem, edge.turn),
        HALVE: lambda: between(perturbation, edge.far, (edge.low + edge.high) / 2),
        **further,
    }
    p = torch.zeros_like(edge.far)
    for phase, option in options.items():
        here = edge.phase == phase
        if here.any():
            p = torch.where(lift(here, p), option(), p)
    return p.clamp_(-problem.x, 1 - problem.x)


def approach(
    edge: Edge, perturbation: Perturbation, p: Tensor, success: Tensor, halvings: int
) -> Edge:
    """Learn from the answer about ``p``: rows that guess go on to halve, then they are ready.

    Rows in later phases only count their turn.
    """
    turn = edge.turn + 1
    halving = edge.phase == HALVE
    share = (edge.low + edge.high) / 2
    high = torch.where(halving & success, share, edge.high)
    low = torch.where(halving & ~success, share, edge.low)
    settled = halving & (turn >= halvings)
    far = edge.far
    if settled.any():
        far = torch.where(lift(settled, far), between(perturbation, far, high), far)
    moved = Edge(
        torch.where(settled, READY, edge.phase), torch.where(settled, 0, turn), far, low, high
    )
    return halve_from(moved, (edge.phase == GUESS) & success, p)


def halve_from(edge: Edge, rows: Tensor, p: Tensor) -> Edge:
    """Return the edge with ``rows`` (B,) beginning to halve the way to their success ``p``."""
    return Edge(
        torch.where(rows, HALVE, edge.phase),
        torch.where(rows, 0, edge.turn),
        torch.where(lift(rows, p), p, edge.far),
        torch.where(rows, 0, edge.low),
        torch.where(rows, 1, edge.high),
    )


def jump_to(edge: Edge, rows: Tensor, phase: int) -> Edge:
    """Return the edge with ``rows`` (B,) at the first turn of ``phase``."""
    return edge._replace(
        phase=torch.where(rows, phase, edge.phase), turn=torch.where(rows, 0, edge.turn)
    )


def lost(edge: Edge, tries: int) -> Tensor:
    """Tell which rows (B,) have found no first success in ``tries`` guesses."""
    return (edge.phase == GUESS) & (edge.turn >= tries)


def check(owner: str, perturbation: Perturbation, known: tuple[type[Perturbation], ...]) -> None:
    """Check that ``perturbation`` is of one of the ``known`` kinds.

    Raises:
        ValueError: it is not.

    """
    if not isinstance(perturbation, known):
        names = ", ".join(f"{kind.__name__}()" for kind in known)
        raise ValueError(f"{owner}: perturbation must be one of {names}; got {perturbation!r}")
