"""An exponential moving average of the weights."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit, set_weights, weights_of


@final
@dataclass(frozen=True, kw_only=True)
class EMA(Defense):
    """Deploy an exponential moving average of the weights over the steps of training.

    Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM Journal
    on Control and Optimization 30(4), 1992; with the default decay Gowal et al., Uncovering the
    Limits of Adversarial Training against Norm-Bounded Adversarial Examples, arXiv:2010.03593,
    2020. Statistics of batch normalisations are averaged as weights are. Added to it: the average
    begins with the weights after the first step, and with t steps in it the decay is at most (1 +
    t) / (10 + t), so that short trainings do not stay near their beginning.

    Fields:
        decay: the share of the average that stays in a step.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"kept weights"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    decay: float = 0.995

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"ema: decay must lie in [0, 1); got {self.decay}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(decay=0.5)

    def after_step(self, batch: Batch, fit: Fit) -> None:
        """Move the average towards the weights."""
        kept = fit.kept(self)
        if not kept:
            kept |= {"average": weights_of(fit.model), "count": 1}
            return
        count = kept["count"]
        average: list[Tensor] = []
        current: list[Tensor] = []
        for key, value in fit.model.state_dict().items():
            if value.is_floating_point():
                average.append(kept["average"][key])
                current.append(value)
            else:
                kept["average"][key].copy_(value)
        get_ema_multi_avg_fn(min(self.decay, (1 + count) / (10 + count)))(average, current, count)
        kept["count"] += 1

    def finish(self, fit: Fit) -> None:
        """Give the network the average."""
        set_weights(fit.model, fit.kept(self)["average"])
        fit.kept_epoch = None
