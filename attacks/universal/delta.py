"""One difference for all images: as a value, as the attack that adds it, and as random noise."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.gradient.steepest import Iterate
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.randomness import Draws
from advbench.attacks.search import Rule
from advbench.attacks.universal.fitting import Models, gather

_BYTES = 4


@final
@dataclass(frozen=True)
class Delta:
    """A difference of images: its ``shape`` and its 32-bit values, as text in base 64.

    >>> Delta.of(torch.tensor([0.5, -0.25]))
    Delta(shape=(2,), values='AAAAPwAAgL4=')
    """

    shape: tuple[int, ...]
    values: str

    def __post_init__(self) -> None:
        count = torch.Size(self.shape).numel()
        if len(base64.b64decode(self.values, validate=True)) != _BYTES * count:
            raise ValueError(
                f"Delta: values must be the {_BYTES * count} bytes of {count} numbers of 32 bits, "
                "in base 64, as Delta.of makes them"
            )
        if not self.tensor().isfinite().all():
            raise ValueError("Delta: values must be finite")

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Round values (*shape) to 32 bits."""
        content = values.detach().cpu().float().flatten().view(torch.uint8)
        return cls(tuple(values.shape), base64.b64encode(bytes(content.tolist())).decode())

    def tensor(self) -> Tensor:
        """Return the values (*shape)."""
        content = bytearray(base64.b64decode(self.values))
        return torch.frombuffer(content, dtype=torch.float32).view(self.shape).clone()


class Everywhere(Pixels):
    """Differences that are added to all images: of a size in a set of pixels, in any box.

    The box of one image is no bound for the others. Values lie in [-1, 1], the width of the box:
    a grey image with twice its room.
    """

    def __init__(self, inside: Pixels) -> None:
        self.inside = inside

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Return the nearest difference of size at most ``eps``."""
        return 2 * self.inside.project(_grey(x), p / 2, eps / 2)

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Measure the difference, (B,)."""
        return self.inside.size(x, p)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Return the displacement of size ``length`` (B,) that gains most along ``g``."""
        return 2 * self.inside.steepest(_grey(x), p / 2, g, length / 2)

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw a difference uniformly."""
        return 2 * self.inside.draw(_grey(x), eps / 2, draws)

    def largest(self, x: Tensor) -> float:
        """Return the size that covers the whole box."""
        return self.inside.largest(x)

    def limit(self, eps: Tensor) -> Tensor:
        """Return the size that passes as ``eps``."""
        return self.inside.limit(eps)


def _grey(x: Tensor) -> Tensor:
    return torch.full_like(x, 0.5)


def check_set(owner: str, perturbation: Perturbation) -> None:
    """Refuse a set whose changes are not differences that images can share."""
    if not isinstance(perturbation, Linf | L2):
        raise ValueError(f"{owner}: perturbation must be Linf() or L2(); got {perturbation!r:.200}")


@final
@dataclass(frozen=True, kw_only=True)
class AddedDelta(Rule[Iterate]):
    """One fixed difference, added to every image: what the fit of a universal attack returns.

    It is projected for each image: an eps below its size shrinks it, one above changes nothing.
    Cost: one forward pass.

    Fields:
        delta: the difference, of the shape of an image or of one that broadcasts to it.
    """

    access: ClassVar[Access] = "none"
    scores_last: ClassVar[bool] = False
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = CrossEntropy()

    delta: Delta
    perturbation: Perturbation = Linf()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_set(type(self).__name__, self.perturbation)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances, which make images of any shape brighter or darker."""
        brighter, darker = (Delta.of(torch.tensor(value)) for value in (0.2, -0.1))
        return cls(delta=brighter), cls(delta=darker, perturbation=L2())

    def init(self, problem: Problem) -> Iterate:
        """Start with nothing."""
        return Iterate(self.perturbation.zero(problem.x))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        """Add the difference."""
        shape, given = problem.x.shape[1:], self.delta.tensor().to(problem.x)
        try:
            delta = given.broadcast_to(shape)
        except RuntimeError as error:
            raise ValueError(
                f"AddedDelta: delta of shape {self.delta.shape} is not for images {tuple(shape)}"
            ) from error
        p = self.perturbation.project(problem.x, delta.expand_as(problem.x), problem.eps)
        query(p)
        return Iterate(p)


@final
@dataclass(frozen=True, kw_only=True)
class SignNoise(Fittable):
    """Control: random signs as large as eps allows, the same on all images.

    What it achieves, a universal change achieves without any adversary. Nothing is learnt but the
    shape of the images.
    """

    access: ClassVar[Access] = "none"

    perturbation: Perturbation = Linf()
    images: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_set(type(self).__name__, self.perturbation)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=L2())

    def fit(
        self,
        models: Models,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Return the attack that adds the noise of this seed."""
        checks.seed(seed)
        x = gather(batches, None)[0][:1].float()
        checks.accepted(type(self).__name__, self.perturbation, x)
        zero = torch.zeros(1, dtype=torch.int64)
        signs = Draws(zero + seed, zero, zero, zero).signs(tuple(x.shape[1:])).to(x)
        length = checks.radius(eps, x, self.perturbation, self.finds).to(x)
        noise = self.perturbation.steepest(_grey(x), torch.zeros_like(x), signs, length)[0]
        return AddedDelta(delta=Delta.of(noise), perturbation=self.perturbation)

    def controls(self) -> tuple[Fittable, ...]:
        """Return nothing: this is one."""
        return ()
