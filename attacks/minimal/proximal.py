"""Proximal operators of the norms: the trade of being near against being small."""

import torch
from torch import Tensor

from advbench.attacks.perturbations import L0, L1, L2, Perturbation
from advbench.attacks.rows import lift

_NEWTON_STEPS = 8


def proximal(perturbation: Perturbation, v: Tensor, weight: Tensor) -> Tensor:
    """Return the ``z`` that minimises ``|z - v|^2 / 2 + weight * norm(z)``; ``weight`` is (B,).

    The count of changed coordinates gives way to the sum of their absolute values to the 2/3.
    """
    if isinstance(perturbation, L0):
        return _two_thirds(v, weight)
    if isinstance(perturbation, L1):
        return v.sign() * (v.abs() - lift(weight, v)).clamp_min(0)
    if isinstance(perturbation, L2):
        length = v.flatten(1).norm(dim=1)
        left = 1 - weight / length.clamp_min(torch.finfo(v.dtype).tiny)
        return v * lift(left.clamp_min(0), v)
    return _cut(v, weight)


def _cut(v: Tensor, weight: Tensor) -> Tensor:
    """Clip at the height above which ``weight`` in all is cut off."""
    sums = v.flatten(1).abs().sort(dim=1, descending=True).values.cumsum(1)
    counts = torch.arange(1, sums.shape[1] + 1, device=v.device)
    height = ((sums - weight.unsqueeze(1)) / counts).amax(1).clamp_min(0)
    return torch.minimum(v.abs(), lift(height, v)) * v.sign()


def _two_thirds(v: Tensor, weight: Tensor) -> Tensor:
    """Minimise ``(z - v)^2 / 2 + weight * |z|^(2/3)`` for each coordinate.

    With ``z = s^3`` a minimum other than 0 is the larger root of ``s^4 - |v| s + 2 weight / 3``; 0
    is the better one where ``|v|`` is at most ``2 (2 weight / 3)^(3/4)``. Newton's steps fall
    towards the root from ``|v|^(1/3)``.
    """
    weight = lift(2 * weight / 3, v)
    size = v.abs()
    kept = size > 2 * weight**0.75
    size = torch.where(kept, size, 1)
    weight = torch.where(kept, weight, 0)
    s = size ** (1 / 3)
    for _ in range(_NEWTON_STEPS):
        s = s - (s**4 - size * s + weight) / (4 * s**3 - size)
    return torch.where(kept, s**3, 0) * v.sign()
