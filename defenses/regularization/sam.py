"""Sharpness-aware minimisation."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit, Objective

Steps = Callable[[list[Tensor], list[Tensor]], list[Tensor]]
"""From weights and the gradients at them to what is added to each weight."""

_TINY = 1e-12  # where all of a gradient is 0, so that nothing moves


@final
@dataclass(frozen=True, kw_only=True)
class SAM(Defense):
    """Take the gradient where the loss is nearly the largest within a small ball of weights.

    The weights are moved by rho along their gradient, all together, and back again. Source: Foret,
    Kleiner, Mobahi, Neyshabur, Sharpness-Aware Minimization for Efficiently Improving
    Generalization, ICLR 2021, arXiv:2010.01412, algorithm 1 and equation 2. A step costs two
    gradients, with the same dropout masks.

    Fields:
        rho: the length of the move in the weights.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"step"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    rho: float = 0.05

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise ValueError(f"sam: rho must not be negative; got {self.rho}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(rho=0.5)

    def moved(self, objective: Objective, fit: Fit) -> AbstractContextManager[None]:
        """Hold the weights where the loss is larger."""
        return moved(fit.model, objective, self._steps)

    def _steps(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        return [g * (self.rho / (length + _TINY)) for g in gradients]


@contextmanager
def moved(model: nn.Module, objective: Objective, steps: Steps) -> Iterator[None]:
    """Hold a model's weights moved by ``steps``, as the gradient of the objective has it.

    Weights shared by layers are moved once. Afterwards, and after an exception, all are to the bit
    what they were. Finding the gradient leaves ``grad``, the buffers and the random state alone.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[]):
        found = torch.autograd.grad(objective(), weights, allow_unused=True)
    pairs = [(w, g) for w, g in zip(weights, found, strict=True) if g is not None]
    before = [weight.detach().clone() for weight, _ in pairs]
    changes = steps(before, [g for _, g in pairs])
    try:
        with torch.no_grad():
            for buffer, content in buffers:
                buffer.copy_(content)
            for (weight, _), change in zip(pairs, changes, strict=True):
                weight.add_(change)
        yield
    finally:
        with torch.no_grad():
            for (weight, _), content in zip(pairs, before, strict=True):
                weight.copy_(content)
