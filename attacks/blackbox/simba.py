"""SimBA: one direction of a basis after the other, to either side."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, Self, final, get_args

import torch
from torch import Tensor

from advbench.attacks.blackbox.square import as_images, lift2
from advbench.attacks.gradient.steepest import origin
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.search import Rule

Basis = Literal["pixels", "dct"]


class Walk(NamedTuple):
    """The best parameters, their loss, the order of the directions (B, n), and how far it got.

    ``number`` (B,) counts the directions that are settled; ``back`` (B,) tells where one side of
    the next has been asked about in vain.
    """

    p: Tensor
    loss: Tensor
    order: Tensor
    number: Tensor
    back: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class SimBA(Rule[Walk]):
    """Add or subtract one pixel or wave at a time, and keep what raises the loss.

    Simple black-box attack. Source: Guo, Gardner, You, Wilson, Weinberger, "Simple black-box
    adversarial attacks", ICML 2019, arXiv:1905.07121, algorithm 1 and section 3.3. Needs scores.
    The directions come in a random order of their own for each sample; after the last one it
    begins anew. Where adding one lowers the loss, or leaves it, it is subtracted. Deviations: the
    change is projected onto the set, so that its size never exceeds eps; the loss is the margin of
    the logits, since probabilities saturate, and ``CrossEntropy()`` decides as the paper does. The
    first query is about the sample as it is. Cost: steps forward passes.

    Fields:
        steps: queries, one or two for each direction.
        step_size: length of a direction in L2, in pixel units.
        basis: "pixels", or "dct" for the waves of the cosine transform of each channel.
        share: of the frequencies along each side that are waves of "dct", the lowest ones.
        restarts: runs in other orders.
    """

    access: ClassVar[Access] = "scores"
    scores_last: ClassVar[bool] = False

    perturbation: Perturbation = L2()
    loss: Loss = Margin()
    steps: int = 10_000
    step_size: float = 0.2
    basis: Basis = "pixels"
    share: float = 0.125
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.perturbation, Linf | L2 | L1):
            raise TypeError(
                f"SimBA: perturbation must be Linf(), L2() or L1(); got {self.perturbation!r}"
            )
        if self.basis not in get_args(Basis):
            raise ValueError(f"SimBA: basis must be 'pixels' or 'dct'; got {self.basis!r}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(steps=40),
            cls(perturbation=Linf(), steps=30, basis="dct", share=0.5),
            cls(perturbation=L1(), steps=20, step_size=1.0, restarts=2),
        )

    def init(self, problem: Problem) -> Walk:
        """Start at the input with an order of the directions."""
        down, across = self._waves(as_images(problem.x))
        count = as_images(problem.x).shape[1] * len(down) * len(across)
        nothing = torch.zeros_like(problem.t)
        return Walk(
            origin(self.perturbation, problem),
            torch.full_like(problem.eps, -torch.inf),
            problem.draws.bits((count,)).argsort(dim=1, stable=True),
            nothing,
            nothing.bool(),
        )

    def step(self, state: Walk, query: Query, problem: Problem) -> Walk:
        """Ask about the sample, then about one side of a direction more."""
        turn = (state.number % state.order.shape[1]).unsqueeze(1)
        start = problem.t == 0
        length = self.step_size * (1 - 2 * state.back.to(problem.eps)) * ~start
        direction = self._direction(state.order.gather(1, turn).squeeze(1), problem.x)
        p = state.p + lift(length, direction) * direction
        p = self.perturbation.project(problem.x, p, problem.eps)
        loss = query(p).loss
        better = loss > state.loss
        settled = (better | state.back) & ~start
        return state._replace(
            p=torch.where(lift(better, p), p, state.p),
            loss=torch.where(better, loss, state.loss),
            number=state.number + settled,
            back=~settled & ~start,
        )

    def _direction(self, index: Tensor, x: Tensor) -> Tensor:
        """Return the directions (B, ...) with these numbers (B,), each of L2 length 1."""
        images = as_images(x)
        down, across = self._waves(images)
        channel, row = index // (len(down) * len(across)), index // len(across) % len(down)
        wave = down[row].unsqueeze(2) * across[index % len(across)].unsqueeze(1)
        own = torch.arange(images.shape[1], device=x.device) == channel.unsqueeze(1)
        return (lift2(own) * wave.unsqueeze(1)).reshape(x.shape)

    def _waves(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what directions are along the height (n, height) and the width (m, width)."""
        share = self.share if self.basis == "dct" else None
        height, width = images.shape[2:]
        device = images.device
        return waves(height, share).to(device, images.dtype), waves(width, share).to(
            device, images.dtype
        )


@lru_cache(maxsize=16)
def waves(length: int, share: float | None) -> Tensor:
    """Return orthonormal directions (n, length): the lowest cosines, or single places for None."""
    if share is None:
        return torch.eye(length, dtype=torch.float64)
    count = max(1, round(share * length))
    places = torch.arange(length, dtype=torch.float64) + 0.5
    numbers = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    cosines: Tensor = torch.cos(math.pi / length * numbers * places) * math.sqrt(2 / length)
    cosines[0] *= math.sqrt(0.5)
    return cosines
