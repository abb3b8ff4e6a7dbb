"""Rotations as matrices."""

import torch
from torch import Tensor


def about_axis(degrees: Tensor, axis: int) -> Tensor:
    """Return the rotations (B, 3, 3) by ``degrees`` (B,) about the x, y or z axis (0, 1 or 2)."""
    angle = degrees.deg2rad()
    cos, sin = angle.cos(), angle.sin()
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turned = torch.zeros(len(angle), 3, 3, dtype=angle.dtype, device=angle.device)
    turned[:, axis, axis] = 1
    turned[:, i, i], turned[:, j, j] = cos, cos
    turned[:, i, j], turned[:, j, i] = -sin, sin
    return turned


def rotation_angle(rotation: Tensor) -> Tensor:
    """Return the angles, (B,), in radians, by which the rotations (B, 3, 3) turn.

    From the skew part and the trace together: the arc cosine of the trace alone has no slope at 0.
    """
    skew = rotation - rotation.transpose(1, 2)
    sine = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1).norm(dim=1)
    return torch.atan2(sine, rotation.diagonal(dim1=1, dim2=2).sum(1) - 1)
