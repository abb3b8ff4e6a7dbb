"""Weight decay."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit


@final
@dataclass(frozen=True, kw_only=True)
class WeightDecay(Defense):
    """Shrink the weights a little at every step, so that only what pays stays large.

    Under SGD it is the gradient of ``strength / 2`` times the squared norm; under Adam it is apart
    from the gradient and its scale. Source: Krogh and Hertz, A Simple Weight Decay Can Improve
    Generalization, NeurIPS 1991; decoupled: Loshchilov and Hutter, Decoupled Weight Decay
    Regularization, ICLR 2019, arXiv:1711.05101.

    Fields:
        strength: the share of a weight, times the learning rate, that is taken off in a step.
        biases: whether biases and the scales of normalisations shrink too.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"decay"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    strength: float = 5e-4
    biases: bool = False

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"weight_decay: strength must not be negative; got {self.strength}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(strength=0.1, biases=True)

    def optimizer(self, fit: Fit) -> None:
        """Part every parameter group into what decays and what does not."""
        groups = []
        for group in fit.optimizer.param_groups:
            facts = {key: value for key, value in group.items() if key != "params"}
            if "decoupled_weight_decay" in facts:
                facts["decoupled_weight_decay"] = True
            weights = [p for p in group["params"] if self.biases or p.dim() > 1]
            others = [p for p in group["params"] if not self.biases and p.dim() <= 1]
            groups.append({**facts, "params": weights, "weight_decay": self.strength})
            groups.append({**facts, "params": others, "weight_decay": 0.0})
        fit.optimizer.param_groups[:] = [group for group in groups if group["params"]]
