"""Exact answers on a half-space: how far a linear lead can be moved inside a ball and the box.

The lead of the label is ``m(x) = w . x + b``. ``gain`` is the most that it can fall, so the
distance to the boundary is the smallest eps whose gain reaches ``m``. Solved in 64 bits without
any code of the attacks.
"""

import torch
from torch import Tensor

from advbench.attacks.perturbations import L0, L1, L2, Linf, Perturbation

_HALVINGS = 60


def knows(perturbation: Perturbation) -> bool:
    """Tell whether the exact answer for this set is known."""
    return isinstance(perturbation, Linf | L2 | L1 | L0)


def gain(perturbation: Perturbation, w: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Return the most that ``w . x`` (d,) can fall, (N,), for flat ``x`` (N, d), ``eps`` (N,)."""
    w, x, eps = w.double().abs(), torch.where(w > 0, x, 1 - x).double(), eps.double()
    eps = eps.unsqueeze(1)
    if isinstance(perturbation, Linf):
        change = torch.minimum(x, eps)
    elif isinstance(perturbation, L2):
        change = _l2(w, x, eps)
    elif isinstance(perturbation, L1):
        # Greedily, the largest weights first, each as far as its room goes.
        order = w.argsort(descending=True)
        room = x[:, order]
        spent = (room.cumsum(1) - room).minimum(eps)
        change = torch.zeros_like(x).index_copy(1, order, room.minimum(eps - spent))
    elif isinstance(perturbation, L0):
        best = (w * x).sort(dim=1, descending=True).values
        counted = torch.arange(x.shape[1], device=x.device) < eps.floor()
        return torch.where(counted, best, 0).sum(1)
    else:
        raise ValueError(f"no exact answer is known for {perturbation!r}")
    return (w * change).sum(1)


def _l2(w: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Clip a multiple of ``w`` to the room; the multiple that spends ``eps`` by bisection."""
    low, high = torch.zeros_like(eps), room.amax(1, keepdim=True) / w.min()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = (middle * w).minimum(room).norm(dim=1, keepdim=True) <= eps
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return (low * w).minimum(room)


def _l2_distance(w: Tensor, x: Tensor, lead: Tensor) -> Tensor:
    """Return the length of the smallest clipped multiple of ``w`` that gains ``lead``."""
    w, room = w.double().abs(), torch.where(w > 0, x, 1 - x).double()
    low = torch.zeros(len(x), 1, dtype=torch.float64)
    high = room.amax(1, keepdim=True) / w.min()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = ((middle * w).minimum(room) * w).sum(1, keepdim=True) < lead.unsqueeze(1)
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    length: Tensor = (high * w).minimum(room).norm(dim=1)
    return length


def distance(perturbation: Perturbation, w: Tensor, x: Tensor, lead: Tensor) -> Tensor:
    """Return the smallest eps, (N,), at which the ``lead`` (N,) can be brought to zero."""
    low = torch.zeros_like(lead, dtype=torch.float64)
    high = torch.full_like(low, perturbation.largest(x))
    if isinstance(perturbation, L0):
        counts = torch.arange(x.shape[1] + 1, device=x.device)
        gains = [gain(perturbation, w, x, low + k) for k in counts]
        short = torch.stack(gains) < lead
        return short.sum(0).double()
    if isinstance(perturbation, L2):
        return _l2_distance(w, x, lead)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reaches = gain(perturbation, w, x, middle) >= lead
        low, high = torch.where(reaches, low, middle), torch.where(reaches, middle, high)
    return high
