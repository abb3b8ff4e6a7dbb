"""The boundary as it looks from a point, and the nearest point of it: what linearising shares."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion, likeliest
from advbench.attacks.losses import Difference, Loss, Margin
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Problem, Query

_TINY = 1e-9
"""The share of the largest weight up to which a weight is taken for rounding."""


@dataclass(frozen=True)
class Lead(Loss):
    """Lead over the label of the class that is headed for; of a target over the best other."""

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""
        loss = Margin() if criterion.aim is None else Difference()
        return loss(logits, criterion)


class Boundary(NamedTuple):
    """The lead (B,) of the class to head for, with its gradient (B, ...), and the success."""

    lead: Tensor
    g: Tensor
    success: Tensor


def boundary(
    perturbation: Perturbation,
    p: Tensor,
    query: Query,
    problem: Problem,
    candidates: int | None = None,
    rows: Tensor | None = None,
) -> Boundary:
    """Ask where the nearest boundary is as it looks from ``p``; the box is ignored.

    The attack's loss has to be ``Lead()``. Where a class is headed for it is the one, at 1 backward
    pass; else the nearest is that of the smallest lead per steepness among the ``candidates``, the
    label and the likeliest others, all by default, at 1 backward pass for each. ``rows`` (B,) are
    those that ask, all by default; the others get zeros.
    """
    criterion = problem.criterion
    if criterion.targets is not None or criterion.aim is not None:
        probe = query(p, grad=True, rows=rows)
        return Boundary(probe.loss, probe.grad, probe.success)
    found = query.jacobian(p, candidates, rows=rows)
    y = criterion.y.unsqueeze(1)
    leads = found.logits - found.logits.gather(1, y)
    index, label = torch.arange(len(p), device=p.device), criterion.y
    if candidates is None:
        itself = y
    else:
        leads = leads.gather(1, likeliest(found.logits, criterion.y, candidates))
        label, itself = torch.zeros_like(label), torch.zeros_like(y)
    g = found.grads - found.grads[index, label].unsqueeze(1)
    steepness = dual(perturbation, g.flatten(0, 1)).view_as(leads)
    k = distance(leads, steepness).scatter(1, itself, torch.inf).argmin(1)
    return Boundary(leads[index, k], g[index, k], found.success)


def distance(lead: Tensor, steepness: Tensor) -> Tensor:
    """Return how far away a lead of zero is, for a lead that changes evenly."""
    return lead.abs() / steepness.clamp_min(1e-12)


def accept(owner: str, perturbation: Perturbation, *known: Perturbation) -> None:
    """Check that ``owner`` has a form for this norm.

    Raises ValueError where it has none.
    """
    if perturbation not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"{owner}: perturbation must be one of {names}; got {perturbation!r}")


def dual(perturbation: Perturbation, g: Tensor) -> Tensor:
    """Return the most that ``g . d`` (N,) can be for a change ``d`` of size 1, without the box."""
    flat = g.flatten(1).abs()
    if isinstance(perturbation, Linf):
        return flat.sum(1)
    if isinstance(perturbation, L2):
        length: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return length
    return flat.amax(1)


def nearest(perturbation: Perturbation, image: Tensor, g: Tensor, rise: Tensor) -> Tensor:
    """Return the smallest change ``d`` of images (N, *shape) in the box for which ``g . d = rise``.

    ``rise`` is (N,). Where the box has no such point, as far as it goes; nothing where ``g`` is
    zero or ``rise`` is not finite. Norms: Linf, L2 and L1, exactly.
    """
    rise = rise.nan_to_num(0, 0, 0).unsqueeze(1)
    toward = g.flatten(1) * rise.sign()
    room = torch.where(toward > 0, 1 - image.flatten(1), image.flatten(1)).clamp_min(0)
    weight = toward.abs()
    # In units of the largest one, so that squares of tiny weights do not underflow.
    peak = weight.amax(1, keepdim=True)
    peak = torch.where(peak > 0, peak, 1)
    weight, need = weight / peak, rise.abs() / peak
    weight = torch.where(weight > _TINY, weight, 0)
    if isinstance(perturbation, L1):
        change = _greedy(weight, room, need)
    else:
        pace = weight if isinstance(perturbation, L2) else (weight > 0).to(weight)
        change = _level(weight, pace, room, need)
    return (change * toward.sign()).view_as(image)


def _greedy(weight: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Use up the room of one coordinate after the other, largest weight first."""
    order = weight.argsort(dim=1, descending=True, stable=True)
    weight, room = weight.gather(1, order), room.gather(1, order)
    gains = weight * room
    left = (need - (gains.cumsum(1) - gains)).clamp_min(0)
    spent = torch.where(weight > 0, torch.minimum(left / weight, room), 0)
    return torch.zeros_like(spent).scatter(1, order, spent)


def _level(weight: Tensor, pace: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Return ``min(level * pace, room)`` at the level where the weighted sum is ``need``.

    The sum is concave and piecewise linear in the level, with a kink where a room is used up.
    """
    kinks = torch.where(pace > 0, room / pace, torch.inf)
    ordered, order = kinks.sort(dim=1)
    filled = (weight * room).gather(1, order).cumsum(1)
    slope = weight * pace
    # Added up from the far end: a difference of large sums would be lost where kinks are far.
    beyond = slope.gather(1, order).flip(1).cumsum(1).flip(1)
    rest = torch.cat([beyond[:, 1:], torch.zeros_like(beyond[:, :1])], 1)
    gains = torch.where(ordered < torch.inf, filled + ordered * rest, torch.inf).cummax(1).values
    passed = (gains < need).sum(1, keepdim=True)
    last = ordered.gather(1, (passed - 1).clamp_min(0))
    full = (passed > 0) & (kinks <= last)
    free = torch.where(full, 0, slope).sum(1, keepdim=True)
    left = need - torch.where(full, weight * room, 0).sum(1, keepdim=True)
    level = torch.where(free > 0, left.clamp_min(0) / free, torch.inf)
    return torch.where(pace > 0, torch.minimum(level * pace, room), 0)
