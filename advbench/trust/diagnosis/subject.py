"""What is diagnosed: a model, the samples that it gets right, and how attacks on it are judged."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from advbench.attacks import EOT, Attack, Outcome, Perturbation
from advbench.attacks.attack import Stop
from advbench.attacks.victim import Model
from advbench.trust.answers import draw_seeds, tally

_DRAWS = 5
"""Of a model that answers at random, that a query of an attack averages."""
VOTES = 20
"""Fresh draws by which an example is judged on such a model."""


class Found(NamedTuple):
    """What an attack did to some rows: `broken` (B,) bool is judged afresh, not believed."""

    broken: Tensor
    outcome: Outcome


class Logs(nn.Module):
    """A model that returns probabilities, as one that returns their logarithms."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K), finite also where a probability is 0."""
        probabilities = self.model(x)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with samples that it gets right; tensors are (N, ...), on the model's device.

    Fields:
        model: what answers, from images (B, *shape) in [0, 1] to (B, K).
        asked: the same as attacks ask it: with logarithms where it returns probabilities.
        random: whether it answers at random.
        differentiable: whether a gradient reaches the input.
    """

    model: Model
    asked: Model
    x: Tensor
    y: Tensor
    ids: Tensor
    perturbation: Perturbation
    eps: float
    seed: int
    random: bool
    differentiable: bool
    batch_size: int

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, index: Tensor) -> Self:
        """Return the same with some of the samples."""
        return replace(self, x=self.x[index], y=self.y[index], ids=self.ids[index])

    def where(self, mask: Tensor) -> Self:
        """Return the same with the samples of a mask (N,) bool."""
        return self.rows(mask.nonzero().squeeze(1))

    def first(self, count: int) -> Self:
        """Return the same with at most so many samples."""
        return self.rows(torch.arange(min(count, len(self)), device=self.y.device))

    def at(self, eps: float) -> Self:
        """Return the same at another size."""
        return replace(self, eps=eps)

    def attacked(self, attack: Attack, *, on: Model | None = None, stop: Stop = "success") -> Found:
        """Attack all rows, maybe on another model in its place, and judge the answers on this one.

        Without a gradient that reaches the input, an attack that follows it finds nothing.
        """
        blind = on is None and attack.access == "gradient" and not self.differentiable
        outcome = attack.run(
            self.asked if on is None else on,
            self.x,
            self.y,
            eps=0.0 if blind else self.eps,
            seed=self.seed,
            ids=self.ids,
            stop="never" if self.random else stop,  # a success there may be luck
            correct=torch.ones_like(self.y, dtype=torch.bool) if on is None else None,
            batch_size=self.batch_size,
            eot=EOT(_DRAWS) if self.random and on is None else None,
        )
        return Found(self.broken(outcome.x_adv), outcome)

    def broken(self, x: Tensor) -> Tensor:
        """Tell which of the changed rows (N, *shape) are misclassified, in most draws, (N,) bool.

        An answer that is not finite is none.
        """
        if not len(x):
            return torch.zeros_like(self.y, dtype=torch.bool)
        seeds = draw_seeds("diagnosis", self.seed, VOTES) if self.random else (self.seed,)
        told = tally(self.model, x, self.y, self.batch_size, seeds=seeds)
        return told.finite & (told.right < 0.5)
