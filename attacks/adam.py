"""Adam with a state per row: what attacks that descend along running means of gradients share."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from advbench.attacks.rows import lift

_FIRST_DECAY, _SECOND_DECAY, _TINY = 0.9, 0.999, 1e-8  # the usual values


class Moments(NamedTuple):
    """Running means of the gradient and of its square, each shaped like the parameters."""

    m: Tensor
    v: Tensor

    @classmethod
    def zero(cls, like: Tensor) -> Self:
        """Return those of rows that have seen no gradient."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))


def adam(
    moments: Moments, g: Tensor, count: Tensor, step_size: float | Tensor
) -> tuple[Tensor, Moments]:
    """Return the displacement along ``g``, to be added to ascend, and the moments with ``g`` in.

    Source: Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980,
    algorithm 1, with the usual decays 0.9 and 0.999.

    Args:
        moments: the state before this gradient.
        g: the gradient (B, ...).
        count: how many gradients a row has seen, this one among them, (B,).
        step_size: the length of a step, one number or whatever broadcasts over ``g``.

    """
    m = _FIRST_DECAY * moments.m + (1 - _FIRST_DECAY) * g
    v = _SECOND_DECAY * moments.v + (1 - _SECOND_DECAY) * g.square()
    count = count.to(g)
    m_hat = m / lift(1 - _FIRST_DECAY**count, m)
    moments = Moments(m, v)
    return step_size * m_hat / metric(moments, count), moments


def metric(moments: Moments, count: Tensor) -> Tensor:
    """Return what a step is divided by, (B, ...), after ``count`` (B,) gradients."""
    v_hat = moments.v / lift(1 - _SECOND_DECAY ** count.to(moments.v), moments.v)
    return v_hat.sqrt() + _TINY
