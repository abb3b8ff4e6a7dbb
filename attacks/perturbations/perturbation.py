"""The contract of a perturbation set: what the adversary may change, and how much of it."""

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from advbench.attacks.randomness import Draws


class Perturbation(ABC):
    """A set of changes with parameters ``p`` per sample; subclasses are frozen dataclasses.

    ``x`` is (B, *shape) in [0, 1], ``p`` a tensor (B, ...), ``eps`` (B,) in the set's own unit.
    Every answer is per row: no row may depend on another.
    """

    @abstractmethod
    def zero(self, x: Tensor) -> Tensor:
        """Return the parameters that change nothing."""

    @abstractmethod
    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the changed inputs in [0, 1], differentiable with respect to ``p``."""

    @abstractmethod
    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Return (nearly) the nearest parameters of size at most ``eps`` inside the box."""

    @abstractmethod
    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Measure the change, (B,), in the unit of ``eps``."""

    @abstractmethod
    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Return the displacement of size ``length`` (B,) that gains most along the gradient ``g``.

        It is zero where ``g`` is zero. ``p`` is where the gradient was taken: a coordinate that
        has no room left in the box can be passed over.
        """

    @abstractmethod
    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw parameters uniformly from the set of size ``eps``."""

    @abstractmethod
    def largest(self, x: Tensor) -> float:
        """Return the size that covers the whole box for inputs shaped like ``x``."""

    @abstractmethod
    def limit(self, eps: Tensor) -> Tensor:
        """Return the size, (B,), up to which a 32-bit result of size ``eps`` passes as legal."""


class _Add(torch.autograd.Function):
    """Add ``p`` to ``x``, clip to [0, 1] and pass the gradient to ``p``.

    The derivative of ``clamp`` is zero on the bounds themselves: a black or white pixel would
    never move.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Tensor:
        return (x + p).clamp_(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


class Pixels(Perturbation):
    """Sets whose parameters are the difference between the changed input and ``x``."""

    @final
    def zero(self, x: Tensor) -> Tensor:
        """Return the parameters that change nothing."""
        return torch.zeros_like(x)

    @final
    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return ``x + p`` clipped to [0, 1]; the clip passes gradients unchanged."""
        images: Tensor = _Add.apply(x, p)
        return images
