"""Fewer bits per pixel."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor, nn

from advbench.attacks.masking import Masking
from advbench.attacks.victim import BPDA
from advbench.defenses.defense import Claim, Defense


@final
@dataclass(frozen=True, kw_only=True)
class BitDepth(Defense):
    """A known-broken control: give the finished network pixels of a few levels only.

    Rounding has a gradient of zero, which an attack by gradients cannot follow, and the changes
    that it could have made are still there. Source: Xu, Evans, Qi, Feature Squeezing: Detecting
    Adversarial Examples in Deep Neural Networks, NDSS 2018, arXiv:1704.01155, section III-A; there
    the answers with and without it are compared to detect attacks, here it is in front of the
    network and nothing is detected.

    Fields:
        levels: that a pixel may have, 0 and 1 among them; 4 are two bits.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"input"})
    adaptive: ClassVar[str] = "BPDA: the gradient passes the rounding as if it were the identity."
    broken: ClassVar[str] = (
        "Athalye, Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, "
        "arXiv:1802.00420"
    )

    levels: int = 4

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"bit_depth: levels must be at least 2; got {self.levels}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(levels=2)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the network with the rounding in front."""
        return nn.Sequential(Quantiser(self.levels), model)


class Quantiser(Masking):
    """Rounds pixels in [0, 1], of any shape, to so many equidistant levels; gradient 0."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded pixels."""
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def stand_in(self) -> nn.Module:
        """Return the same with the gradient of the identity."""
        return BPDA(self.forward)

    def extra_repr(self) -> str:
        """Return the levels."""
        return f"levels={self.levels}"
