"""Adversarial weight perturbation."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit, Objective
from advbench.defenses.regularization.sam import moved

_TINY = 1e-20  # where all of a gradient is 0, so that nothing moves


@final
@dataclass(frozen=True, kw_only=True)
class AWP(Defense):
    """Take the gradient at weights that were moved against it, each layer by a share of its size.

    A layer's weights w move by ``gamma |w| g / |g|`` along their gradient g, and back again; biases
    and the scales of normalisations stay. The loss is that of the training, so it goes with
    adversarial training of any kind. Source: Wu, Xia, Wang, Adversarial Weight Perturbation Helps
    Robust Generalization, NeurIPS 2020, arXiv:2004.05884, with one step of ascent. A step of
    training costs two gradients, with the same dropout masks.

    Fields:
        gamma: the share of a layer's norm that its weights move by.
        warmup: epochs before it begins.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"step"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    gamma: float = 5e-3
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.gamma < 0 or self.warmup < 0:
            raise ValueError(
                f"awp: gamma and warmup must not be negative; got {self.gamma} and {self.warmup}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(gamma=0.1, warmup=1.0)

    def moved(self, objective: Objective, fit: Fit) -> AbstractContextManager[None]:
        """Hold the weights where the loss is larger."""
        if fit.epoch < self.warmup:
            return nullcontext()
        return moved(fit.model, objective, self._steps)

    def _steps(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        pairs = zip(weights, gradients, strict=True)
        return [self._step(w, g) if w.dim() > 1 else torch.zeros_like(g) for w, g in pairs]

    def _step(self, w: Tensor, g: Tensor) -> Tensor:
        share = w.square().sum().sqrt() / (g.square().sum().sqrt() + _TINY)
        return g * (self.gamma * share)
