"""Blur, up to one plain tone."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.blackbox import ramp
from advbench.attacks.blackbox.ramp import Ramp
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query
from advbench.attacks.search import Rule


@final
@dataclass(frozen=True, kw_only=True)
class Blur(Rule[Ramp]):
    """Blur the image with a Gaussian, wider and wider, until it fools.

    The last two axes are blurred, of a flat input its only one; channels do not mix. The standard
    deviation grows in equal parts to ``width`` times the longer of these axes; once one fools, ten
    halvings narrow it down. Near the edge the weights of the Gaussian that fall outside go to those
    inside. Source: Rauber, Brendel, Bethge, "Foolbox: a Python toolbox to benchmark the robustness
    of machine learning models", 2017, arXiv:1707.04131. The set only measures. Cost: at most
    points + 10 forward passes.
    """

    access: ClassVar[Access] = "labels"
    finds: ClassVar[Finds] = "smallest"
    scores_last: ClassVar[bool] = False
    stops_itself: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    loss: ClassVar[Loss] = Margin()

    perturbation: Perturbation = Linf()
    points: int = 100
    width: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ramp.check("Blur", self.perturbation)
        checks.above_zero("Blur", "width", self.width)

    @property
    def steps(self) -> int:
        """All widths and halvings."""
        return self.points + ramp.HALVINGS

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(points=10), cls(perturbation=L2(), points=5, width=0.3)

    def init(self, problem: Problem) -> Ramp:
        """Start with the image itself."""
        return ramp.bottom(self.perturbation.zero(problem.x), problem)

    def step(self, state: Ramp, query: Query, problem: Problem) -> Ramp:
        """Try the next width."""
        longest = max(problem.x.shape[1:][-2:])
        deviation = ramp.strength(state, self.points) * self.width * longest
        p = blurred(problem.x, deviation) - problem.x
        return ramp.climb(state, p, self.points, self.perturbation, query, problem, False)


def blurred(x: Tensor, deviation: Tensor) -> Tensor:
    """Blur images (B, ..., H, W), or (B, W), by a Gaussian of ``deviation`` (B,) in pixels."""
    rows = x.unsqueeze(1) if x.dim() == 2 else x
    width = deviation.view(-1, *[1] * (rows.dim() - 1))
    image = rows @ _weights(width, x.shape[-1]).mT
    if x.dim() > 2:
        image = _weights(width, x.shape[-2]) @ image
    return image.view_as(x).clamp(0, 1)


def _weights(deviation: Tensor, size: int) -> Tensor:
    """Return for each pixel of an axis the weights of all of them, (B, ..., size, size)."""
    place = torch.arange(size, device=deviation.device).to(deviation)
    square = (place.unsqueeze(1) - place).square()
    return (-square / (2 * deviation.square())).softmax(-1)
