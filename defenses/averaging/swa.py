"""Stochastic weight averaging."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch.optim.swa_utils import get_swa_multi_avg_fn, update_bn

from advbench.attacks.victim import SceneModel
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit

_AT_ONCE = 250  # samples, where the statistics of batch normalisations are taken


@final
@dataclass(frozen=True, kw_only=True)
class SWA(Defense):
    """Average the weights of the last epochs, which wander at a constant learning rate (SWA).

    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI
    2018, arXiv:1803.05407, algorithm 1 with a cycle of one epoch. Here the average begins with the
    first epoch of the phase, and not with the weights before it. Statistics of batch normalisations
    are taken anew, on the training samples as they are, without attacks.

    Fields:
        after: the share of training after which the phase begins: weights count at the end of every
            epoch that ends later.
        learning_rate: in the phase, as a fraction of the recipe's.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"kept weights"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    after: float = 0.75
    learning_rate: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.after < 1:
            raise ValueError(f"swa: after must lie in [0, 1); got {self.after}")
        if self.learning_rate <= 0:
            raise ValueError(f"swa: learning_rate must be positive; got {self.learning_rate}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(after=0.3), cls(after=0.0, learning_rate=1.0)

    def rate(self, rate: float, fit: Fit) -> float:
        """Return the constant rate in the phase."""
        return self.learning_rate if fit.done >= self.after else rate

    def after_epoch(self, fit: Fit) -> None:
        """Put the weights into the average."""
        if fit.done <= self.after:
            return
        weights = [weight.detach() for weight in fit.model.parameters()]
        kept = fit.kept(self)
        if not kept:
            kept |= {"average": [weight.clone() for weight in weights], "count": 1}
        else:
            get_swa_multi_avg_fn()(kept["average"], weights, kept["count"])
            kept["count"] += 1

    def finish(self, fit: Fit) -> None:
        """Give the network the average, if training came as far as the phase."""
        kept = fit.kept(self)
        if not kept:
            return
        with torch.no_grad():
            for weight, average in zip(fit.model.parameters(), kept["average"], strict=True):
                weight.copy_(average)
        # Parts of about one size, because each counts as much as another.
        parts = fit.train.x.tensor_split(max(1, len(fit.train.y) // _AT_ONCE))
        update_bn(parts, fit.seen if isinstance(fit.seen, SceneModel) else fit.model)
        fit.kept_epoch = None
