"""Monte Carlo dropout."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import nn

from advbench.defenses.bayesian.predictive import Predictive, check_samples
from advbench.defenses.defense import Claim, Defense, Make
from advbench.defenses.regularization.dropout import Drop, add_drops, check_shares


@final
@dataclass(frozen=True, kw_only=True)
class MCDropout(Defense):
    """Train with dropout and keep it when answering: the mean over many thinned networks.

    Source: Gal and Ghahramani, Dropout as a Bayesian Approximation: Representing Model Uncertainty
    in Deep Learning, ICML 2016, arXiv:1506.02142. There weights decay by a strength that follows
    from the prior; here that is left to weight decay as a defence of its own. While training goes
    on, validation is answered without dropout.

    Fields:
        share: of the units of a fully connected layer that are dropped, drawn anew for each answer.
        conv_share: of the channels of convolutional maps.
        samples: how many thinned networks each answer is the mean of.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"dropout", "answer"})
    adaptive: ClassVar[str] = (
        "Answers are random: follow the gradient of the mean answer over fresh draws (EOT), and "
        "transfer from the same network without dropout."
    )
    random: ClassVar[bool] = True

    share: float = 0.5
    conv_share: float = 0.1
    samples: int = 30

    def __post_init__(self) -> None:
        check_shares("mc_dropout", self.share, self.conv_share)
        check_samples("mc_dropout", self.samples)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(samples=3), cls(share=0.2, conv_share=0.0, samples=2)

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network with dropout after its hidden activations; see ``add_drops``."""
        return add_drops(make(shape, classes), "mc_dropout", self.share, self.conv_share)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the mean over thinned networks, with dropout also in eval mode."""
        for module in model.modules():
            if isinstance(module, Drop):
                module.always = True
        return Predictive(model, self.samples)
