"""The last queries of a minimum-norm attack: they make its smallest success smaller.

The first of them asks about the nearest point of the boundary as the gradient at that success has
it. For a norm the others look for the boundary on the line from the input to the smallest success;
for a count of coordinates, for how many of those that matter most are needed. Shared by the attacks
whose path ends near the boundary, but not on it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.attack import Attack
from advbench.attacks.losses import Margin
from advbench.attacks.minimal.hyperplane import nearest
from advbench.attacks.perturbations import L0, Perturbation
from advbench.attacks.query import Probe, Problem, Query
from advbench.attacks.rows import lift

_MARGIN = Margin()
_OVERSHOOT = 1e-3
_EDGE = 0.02
"""Least share of the open interval by which a query shortens it."""
_BEYOND = 1e-3
"""Share of the open interval by which a query aims beyond the root, where rounding decides."""


class Smallest(NamedTuple):
    """The smallest success ``p`` (B, ...) that each row has seen, zero where there is none.

    ``loss`` and ``g`` are the loss and its gradient there, ``size`` its size, infinite where there
    is none. The shares ``low`` and ``high`` of the way to it failed and succeeded, with the leads
    ``under`` and ``over`` of the class to reach; for a count they are numbers of coordinates.
    """

    p: Tensor
    g: Tensor
    loss: Tensor
    size: Tensor
    low: Tensor
    high: Tensor
    under: Tensor
    over: Tensor


def check(owner: Attack, steps: int, bisections: int) -> None:
    """Check that steps are left beside the bisections; ValueError where none is."""
    name = type(owner).__name__
    if type(bisections) is not int or not 0 <= bisections < steps:
        raise ValueError(
            f"{name}: bisections must be a whole number of at least 0 and below steps, which is "
            f"{steps}; got {bisections!r}"
        )


def nothing(problem: Problem, p: Tensor) -> Smallest:
    """Return that of rows which have seen no success; ``p`` changes nothing."""
    never = torch.full_like(problem.eps, torch.inf)
    zero = torch.zeros_like(never)
    return Smallest(p, torch.zeros_like(p), zero, never, zero, zero, -never, zero)


def ask(
    perturbation: Perturbation,
    p: Tensor,
    best: Smallest,
    query: Query,
    problem: Problem,
    moves: int,
) -> tuple[Probe, Smallest]:
    """Ask about ``p`` with its gradient; from step ``moves`` on, make the smallest success smaller.

    There the gradient is zero, since it costs a forward pass alone, and the next ``p`` matters only
    to a row that has no success: about that it is asked.
    """
    early = problem.t < moves
    moving = early | (best.size == torch.inf)
    linear = (problem.t == moves) & ~moving
    share = _middle(perturbation, best)
    between = _between(perturbation, best, share)
    asked = torch.where(lift(moving, p), p, between)
    if linear.any():
        asked = torch.where(lift(linear, p), _touching(perturbation, problem.x, best), asked)
    # Rows that started together are at the same step, so that none pays for another's gradient.
    wants = bool(early.any())
    probe = query(asked, grad=wants)
    if not wants:
        probe = probe._replace(grad=torch.zeros_like(p))
    lead = _MARGIN(probe.logits, problem.criterion)
    size = perturbation.size(problem.x, asked)
    known = probe if wants else probe._replace(grad=best.g)
    found = _keep(perturbation, best, asked, size, lead, known)
    narrowed = _narrow(best, share, lead, probe.success)
    return probe, Smallest(
        *(
            torch.where(lift(moving | linear, new), new, old)
            for new, old in zip(found, narrowed, strict=True)
        )
    )


def _keep(
    perturbation: Perturbation,
    best: Smallest,
    p: Tensor,
    size: Tensor,
    lead: Tensor,
    probe: Probe,
) -> Smallest:
    """Put a smaller success in the place of the one before; remember the lead at the input."""
    better = probe.success & (size < best.size)
    whole = size if isinstance(perturbation, L0) else torch.ones_like(size)
    return best._replace(
        p=torch.where(lift(better, p), p, best.p),
        g=torch.where(lift(better, p), probe.grad, best.g),
        loss=torch.where(better, probe.loss, best.loss),
        size=torch.where(better, size, best.size),
        high=torch.where(better, whole, best.high),
        under=torch.where(size == 0, lead, best.under),
        over=torch.where(better, lead, best.over),
    )


def _middle(perturbation: Perturbation, best: Smallest) -> Tensor:
    """Return the share to ask about next, (B,), between the two that are known.

    It is the root of the line through both leads, which the boundary of a smooth model is near;
    where that tells nothing, and for a count, the middle.
    """
    if isinstance(perturbation, L0):
        return ((best.low + best.high) / 2).floor()
    root = best.under / (best.under - best.over)
    root = torch.where((root > 0) & (root < 1), root + _BEYOND, 0.5).clamp(_EDGE, 1 - _EDGE)
    return best.low + (best.high - best.low) * root


def _touching(perturbation: Perturbation, x: Tensor, best: Smallest) -> Tensor:
    """Return the smallest change that makes the loss at the smallest success zero, or just more."""
    rise = ((best.p * best.g).flatten(1).sum(1) - best.loss) * (1 + _OVERSHOOT)
    if not isinstance(perturbation, L0):
        return nearest(perturbation, x, best.g, rise)
    # The fewest coordinates, each as far as the box goes.
    room = torch.where(best.g > 0, 1 - x, x).flatten(1)
    gains, order = (best.g.flatten(1).abs() * room).sort(dim=1, descending=True, stable=True)
    wanted = (gains.cumsum(1) - gains < rise.unsqueeze(1)) & (gains > 0)
    chosen = torch.zeros_like(wanted).scatter(1, order, wanted)
    return torch.where(chosen, room * best.g.flatten(1).sign(), 0).view_as(x)


def _between(perturbation: Perturbation, best: Smallest, share: Tensor) -> Tensor:
    """Return the change at a share of the way to the smallest success."""
    if not isinstance(perturbation, L0):
        return best.p * lift(share, best.p)
    gains = (best.p * best.g).flatten(1)
    rank = gains.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = (rank < share.unsqueeze(1)).view_as(best.p)
    return torch.where(kept, best.p, 0)


def _narrow(best: Smallest, share: Tensor, lead: Tensor, success: Tensor) -> Smallest:
    """Shorten the interval; the lead of an end that stays is halved, so that it moves as well.

    Source: the Illinois form of the rule of false position.
    """
    return best._replace(
        low=torch.where(success, best.low, share),
        high=torch.where(success, share, best.high),
        under=torch.where(success, best.under / 2, lead),
        over=torch.where(success, lead, best.over / 2),
    )
