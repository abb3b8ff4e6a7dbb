"""A defence that advbench knows nothing of until this package is installed."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.defenses.defense import Defense
from advbench.defenses.fit import Batch, Fit


@final
@dataclass(frozen=True, kw_only=True)
class ToyClipping(Defense):
    """Keep every weight within a limit, by clipping it after each step."""

    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    limit: float = 0.1

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise ValueError(f"toy_clipping: limit must be positive; got {self.limit}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(limit=0.05)

    def after_step(self, batch: Batch, fit: Fit) -> None:
        """Clip the weights."""
        with torch.no_grad():
            for weight in fit.model.parameters():
                weight.clamp_(-self.limit, self.limit)
