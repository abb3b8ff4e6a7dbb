"""Deep ensembles."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from advbench.defenses.defense import Claim, Defense, Make
from advbench.defenses.fit import Batch, Fit, Objective


@final
@dataclass(frozen=True, kw_only=True)
class Ensemble(Defense):
    """Train several networks from different starts and answer with their mean probability.

    Source: Lakshminarayanan, Pritzel, Blundell, Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles, NeurIPS 2017, arXiv:1612.01474. There each network has its own
    order of the samples and its own adversarial examples; here all train on the same minibatches,
    and where those are attacked, it is the mean of all that is. The loss of each is its own, so
    each learns as if it were alone. A defence that adds a term of the weights to the loss is listed
    after this one: before it, the term would count once for each network.

    Fields:
        members: how many networks; one is plain training.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"objective"})
    adaptive: ClassVar[str] = (
        "Gradients are exact: the strongest attacks on the mean probability, through all members "
        "at once."
    )

    members: int = 5

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"ensemble: members must be at least 1; got {self.members}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(members=2), cls(members=3)

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return all networks as one, each drawn anew."""
        return MeanProbability([make(shape, classes) for _ in range(self.members)])

    def objective(self, inner: Objective, batch: Batch, fit: Fit) -> Tensor:
        """Return the sum of the members' losses."""
        ensemble = next(m for m in fit.model.modules() if isinstance(m, MeanProbability))
        return torch.stack([inner() for _ in ensemble.each()]).sum()


class MeanProbability(nn.Module):
    """Networks as one that answers with the log of their mean probability."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._speaker: int | None = None

    def each(self) -> Iterator[None]:
        """Answer as each member in turn, with its own logits, for a step of the iteration."""
        try:
            for place in range(len(self.members)):
                self._speaker = place
                yield
        finally:
            self._speaker = None

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities (B, K) for images (B, C, H, W)."""
        if self._speaker is not None:
            logits: Tensor = self.members[self._speaker](x)
            return logits
        answers = torch.stack([member(x).log_softmax(1) for member in self.members])
        return answers.logsumexp(0) - math.log(len(self.members))
