"""A displacement of its own for every pixel."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations import limits
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.perturbations.resampling import Padding, check_padding, resample
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift


@final
@dataclass(frozen=True)
class Flow(Perturbation):
    """A flow field: each pixel shows what lies somewhere else in the picture.

    The parameters (B, 2, H, W) say how far down and how far to the right of a pixel its new value
    is read, bilinearly. ``eps`` is the largest displacement along either axis, in pixels; the
    longer side less one is no bound at all.

    After Xiao, Zhu, Li, He, Liu, Song, "Spatially transformed adversarial examples", ICLR 2018,
    arXiv:1801.02612, who set no bound and pay for roughness alone.

    Fields:
        smoothness: what the loss pays for differences between neighbours, the paper's tau.
        padding: what lies beyond the picture: border, zeros or reflection.
    """

    smoothness: float = 0.05
    padding: Padding = "border"

    def __post_init__(self) -> None:
        limits.number("flow", "smoothness", self.smoothness)
        check_padding("flow", self.padding)

    def zero(self, x: Tensor) -> Tensor:
        """Return fields (B, 2, H, W) of zeros."""
        return x.new_zeros(len(x), 2, *x.shape[-2:])

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the changed images (B, C, H, W); differentiable with respect to ``p``."""
        height, width = x.shape[-2:]
        row = torch.arange(height, dtype=p.dtype, device=p.device).unsqueeze(1)
        column = torch.arange(width, dtype=p.dtype, device=p.device)
        return resample(x, row + p[:, 0], column + p[:, 1], self.padding)

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Clip every displacement to ``eps``."""
        eps = lift(eps, p)
        return torch.minimum(torch.maximum(p, -eps), eps)

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the largest displacement along an axis, (B,), in pixels."""
        return p.flatten(1).abs().amax(1)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Return ``length * sign(g)``."""
        return g.sign() * lift(length, g)

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw every displacement uniformly from [-eps, eps]."""
        shape = (2, *x.shape[-2:])
        return (draws.uniform(shape, x.dtype) * 2 - 1) * eps.view(-1, 1, 1, 1)

    def extreme(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw a corner: every displacement is -eps or eps."""
        return draws.signs((2, *x.shape[-2:]), x.dtype) * eps.view(-1, 1, 1, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Nothing: a pixel has no name."""
        return ()

    def closed(self, eps: Tensor, count: int) -> Tensor:
        """Nothing is a circle."""
        return eps.new_zeros(len(eps), count, dtype=torch.bool)

    def lattice(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """Cut the field into contiguous blocks, the k-th of which moves by ``u_k eps``.

        The first half of them moves up and down, the second left and right.
        """
        p = self.zero(x)
        count = p[0].numel()
        block = torch.arange(count, device=u.device) * u.shape[1] // count
        return self.project(x, (u[:, block] * eps.unsqueeze(1)).view_as(p), eps)

    def largest(self, x: Tensor) -> float:
        """Return the way from one end of the longer side to the other, in pixels."""
        return float(max(x.shape[-2:]) - 1)

    def limit(self, eps: Tensor) -> Tensor:
        """Return ``eps`` with the rounding of 32 bits."""
        return eps * (1 + 1e-6)

    @property
    def varies(self) -> bool:
        """Nothing is left to chance."""
        return False

    def vary(self, x: Tensor, p: Tensor, draws: Draws) -> Tensor:
        """Return ``p``."""
        return p

    def price(self, x: Tensor, p: Tensor) -> Tensor | None:
        """Return ``smoothness`` times the roughness of the field, as in the paper, (B,).

        This is the sum, over all pixels and the up to four neighbours of each, of the distances
        between their displacements. None where ``smoothness`` is 0.
        """
        if not self.smoothness:
            return None
        pairs = _lengths(p.diff(dim=2)).flatten(1).sum(1) + _lengths(p.diff(dim=3)).flatten(1).sum(
            1
        )
        return 2 * self.smoothness * pairs

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return how far the pixels move, in pixels: the mean and the largest distance."""
        lengths = _lengths(p).flatten(1)
        return {"flow_mean": lengths.mean(1), "flow_largest": lengths.amax(1)}

    def refusal(self, shape: torch.Size) -> str | None:
        """Refuse what is no image."""
        if len(shape) != 3:
            return f"a flow needs images (C, H, W); got {tuple(shape)}"
        return None


def _lengths(vectors: Tensor) -> Tensor:
    """Return the lengths (B, H, W) of vectors (B, 2, H, W); their slope at 0 is 0."""
    square = vectors.square().sum(1)
    moved = square > 0
    return torch.where(moved, torch.where(moved, square, 1).sqrt(), 0)
