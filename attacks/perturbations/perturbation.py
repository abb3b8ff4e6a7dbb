"""The contract of a perturbation set: what the adversary may change, and how much of it."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from advbench.attacks.randomness import Draws


class Perturbation(ABC):
    """A set of changes with parameters ``p`` per sample; subclasses are frozen dataclasses.

    ``x`` is (B, *shape), an image in [0, 1] or a scene, ``p`` a tensor (B, ...), ``eps`` (B,) in
    the set's own unit. Every answer is per row: no row may depend on another.
    """

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """The range of the numbers of ``x``, before and after the change."""

    @abstractmethod
    def zero(self, x: Tensor) -> Tensor:
        """Return the parameters that change nothing."""

    @abstractmethod
    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the changed inputs within ``bounds``, differentiable with respect to ``p``."""

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
    def extreme(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw from where the set is largest: the worst case of a smooth model lies there."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The coarse coordinates by name; empty where there are as many as one likes."""

    @abstractmethod
    def lattice(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """Return the point of the set at the coarse coordinates ``u`` (B, k) in [-1, 1]."""

    @abstractmethod
    def closed(self, eps: Tensor, count: int) -> Tensor:
        """Tell which of the first ``count`` coarse coordinates are circles, (B, count).

        Of a circle the ends -1 and 1 are one point.
        """

    @abstractmethod
    def largest(self, x: Tensor) -> float:
        """Return the size that covers the whole box for inputs shaped like ``x``."""

    @abstractmethod
    def limit(self, eps: Tensor) -> Tensor:
        """Return the size, (B,), up to which a 32-bit result of size ``eps`` passes as legal."""

    @property
    @abstractmethod
    def varies(self) -> bool:
        """Whether some parameters can be left to chance: see ``vary``."""

    @abstractmethod
    def vary(self, x: Tensor, p: Tensor, draws: Draws) -> Tensor:
        """Return ``p`` with the parameters that expectation leaves to chance drawn anew."""

    @abstractmethod
    def price(self, x: Tensor, p: Tensor) -> Tensor | None:
        """Return what the loss pays for ``p``, (B,), differentiable; None where all is free."""

    @abstractmethod
    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return what a table should know of ``p``, each (B,), by name; empty for none."""

    @abstractmethod
    def refusal(self, shape: torch.Size) -> str | None:
        """Say why inputs of this shape, without the batch, cannot be changed; None if they can."""


class _Clip(torch.autograd.Function):
    """Clip to [0, 1] and pass the gradient, also on the bounds and past them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def clip(values: Tensor) -> Tensor:
    """Clip to [0, 1]; the gradient passes unchanged."""
    clipped: Tensor = _Clip.apply(values)
    return clipped


class _Add(torch.autograd.Function):
    """Add ``p`` to ``x``, clip to [0, 1] and pass the gradient to both.

    The derivative of ``clamp`` is zero on the bounds themselves: a black or white pixel would
    never move.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Tensor:
        return (x + p).clamp_(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        return gradients[0] if ctx.needs_input_grad[0] else None, gradients[0]


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

    @final
    def extreme(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Go as far as ``eps`` allows along a random direction; in Linf, to a corner."""
        zero = self.zero(x)
        direction = draws.normal(zero.shape[1:], zero.dtype)
        return self.steepest(x, zero, direction, eps)

    @final
    @property
    def names(self) -> tuple[str, ...]:
        """Nothing: a pixel has no name."""
        return ()

    @final
    def closed(self, eps: Tensor, count: int) -> Tensor:
        """Nothing is a circle."""
        return eps.new_zeros(len(eps), count, dtype=torch.bool)

    @final
    def lattice(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """Cut the coordinates into contiguous blocks, the k-th of which changes by ``u_k eps``."""
        count = x[0].numel()
        block = torch.arange(count, device=u.device) * u.shape[1] // count
        changes = (u[:, block] * eps.unsqueeze(1)).view_as(x)
        return self.project(x, changes, eps)

    @final
    @property
    def varies(self) -> bool:
        """Nothing is left to chance."""
        return False

    @final
    def vary(self, x: Tensor, p: Tensor, draws: Draws) -> Tensor:
        """Return ``p``."""
        return p

    @final
    def price(self, x: Tensor, p: Tensor) -> None:
        """Charge nothing: the size is all that counts."""

    @final
    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return nothing: a pixel has no name."""
        return {}

    @final
    def refusal(self, shape: torch.Size) -> None:
        """Take inputs of any shape."""
