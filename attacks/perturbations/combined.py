"""Two changes, one after the other."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from advbench.attacks.perturbations import limits
from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.linf import Linf
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.randomness import Draws

_FIRST, _SECOND = 1, 2  # purposes of forks


@final
@dataclass(frozen=True)
class Combined(Perturbation):
    """A picture changed by one set and then by another: moved and then disturbed, for example.

    ``eps`` in [0, 1] scales both: at 1 each may go as far as its own eps. The size of a change is
    the larger of the two shares. The parameters of a sample are those of both, in one row (B, k).
    Coarse coordinates are those of the first set that has names for them, while the other set
    changes nothing; where neither has, they are the blocks of the second.

    After Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness",
    ICML 2019, arXiv:1712.02779, who add an Linf ball to rotations and shifts.

    Fields:
        first: what changes the images.
        second: what changes the result.
        first_eps, second_eps: the size of either set, in its own unit, where ``eps`` is 1.
    """

    first: Perturbation = Affine()
    second: Perturbation = Linf()
    first_eps: float = 1.0
    second_eps: float = 8 / 255

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            part, eps = getattr(self, name), getattr(self, f"{name}_eps")
            if not isinstance(part, Perturbation):
                raise TypeError(
                    f"combined: {name} must be a perturbation set such as Linf(); got {part!r}"
                )
            if part.bounds != (0, 1):
                raise ValueError(f"combined: {name} must change images in [0, 1]; got {part!r}")
            limits.number("combined", f"{name}_eps", eps)
            if not eps:
                raise ValueError(f"combined: {name}_eps is 0, so that {part!r} changes nothing")

    def zero(self, x: Tensor) -> Tensor:
        """Return the parameters that change nothing, (B, k)."""
        return _joined(self.first.zero(x), self.second.zero(x))

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the images (B, C, H, W) changed twice; differentiable with respect to ``p``."""
        first, second = self._split(x, p)
        return self.second.apply(self.first.apply(x, first), second)

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Project the first change, and then the second at the images that the first one makes."""
        first, second = self._split(x, p)
        first = self.first.project(x, first, eps * self.first_eps)
        changed = self._changed(x, first)
        return _joined(first, self.second.project(changed, second, eps * self.second_eps))

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the larger of the shares that the changes use of their own sizes, (B,)."""
        first, second = self._split(x, p)
        size = self.first.size(x, first) / self.first_eps
        return size.maximum(self.second.size(self._changed(x, first), second) / self.second_eps)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Return the steepest displacement of either, each of size ``length`` times its own."""
        (first, second), (g_first, g_second) = self._split(x, p), self._split(x, g)
        changed = self._changed(x, first)
        return _joined(
            self.first.steepest(x, first, g_first, length * self.first_eps),
            self.second.steepest(changed, second, g_second, length * self.second_eps),
        )

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw either change from its own set, independently."""
        first = self.first.draw(x, eps * self.first_eps, draws.fork(_FIRST))
        changed = self._changed(x, first)
        return _joined(first, self.second.draw(changed, eps * self.second_eps, draws.fork(_SECOND)))

    def extreme(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw either change from where its own set is largest, independently."""
        first = self.first.extreme(x, eps * self.first_eps, draws.fork(_FIRST))
        changed = self._changed(x, first)
        return _joined(
            first, self.second.extreme(changed, eps * self.second_eps, draws.fork(_SECOND))
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the set that the coarse coordinates belong to."""
        return self.first.names or self.second.names

    def closed(self, eps: Tensor, count: int) -> Tensor:
        """Ask the set that the coarse coordinates belong to."""
        if self.first.names:
            return self.first.closed(eps * self.first_eps, count)
        return self.second.closed(eps * self.second_eps, count)

    def lattice(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """Return the point at ``u`` of the set that the coarse coordinates belong to."""
        if self.first.names:
            first = self.first.lattice(x, eps * self.first_eps, u)
            second = self.second.zero(x)
        else:
            first = self.first.project(x, self.first.zero(x), eps * self.first_eps)
            second = self.second.lattice(self._changed(x, first), eps * self.second_eps, u)
        return self.project(x, _joined(first, second), eps)

    def largest(self, x: Tensor) -> float:
        """Return 1: both sets at their full size."""
        return 1.0

    def limit(self, eps: Tensor) -> Tensor:
        """Return the larger of the limits of both, as shares of their sizes."""
        first = self.first.limit(eps * self.first_eps) / self.first_eps
        return first.maximum(self.second.limit(eps * self.second_eps) / self.second_eps)

    @property
    def varies(self) -> bool:
        """Whether either leaves something to chance."""
        return self.first.varies or self.second.varies

    def vary(self, x: Tensor, p: Tensor, draws: Draws) -> Tensor:
        """Return ``p`` with what either leaves to chance drawn anew."""
        first, second = self._split(x, p)
        first = self.first.vary(x, first, draws.fork(_FIRST))
        changed = self._changed(x, first)
        return _joined(first, self.second.vary(changed, second, draws.fork(_SECOND)))

    def price(self, x: Tensor, p: Tensor) -> Tensor | None:
        """Return the sum of what both cost, (B,); None where both are free.

        The images that the second one changes count as given: no gradient passes through them.
        """
        first, second = self._split(x, p)
        one = self.first.price(x, first)
        other = self.second.price(self._changed(x, first), second)
        return one if other is None else other if one is None else one + other

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return the facts of both; a name that both use is the first one's, or ``second_name``."""
        first, second = self._split(x, p)
        found = self.first.facts(x, first)
        more = self.second.facts(self._changed(x, first), second)
        return found | {f"second_{name}" if name in found else name: more[name] for name in more}

    def refusal(self, shape: torch.Size) -> str | None:
        """Refuse what either refuses, and images for which one has less room than its eps."""
        for part, eps in ((self.first, self.first_eps), (self.second, self.second_eps)):
            refusal = part.refusal(shape)
            if refusal is not None:
                return refusal
            largest = part.largest(torch.zeros(1, *shape))
            if eps > largest * (1 + 1e-6):
                return (
                    f"a combined change has an eps of {eps:g} for {part!r}, which has room for "
                    f"{largest:g}"
                )
        return None

    def _split(self, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters of either set, in its own shape, from those of both (B, k)."""
        shape, other = (part.zero(x[:1]).shape[1:] for part in (self.first, self.second))
        count = shape.numel()
        return p[:, :count].reshape(-1, *shape), p[:, count:].reshape(-1, *other)

    def _changed(self, x: Tensor, first: Tensor) -> Tensor:
        """Return what the first set makes of the images, without a graph."""
        with torch.no_grad():
            return self.first.apply(x, first)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first.flatten(1), second.flatten(1)], 1)
