"""Thermometer code for pixels."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from advbench.attacks.masking import Masking
from advbench.attacks.victim import BPDA
from advbench.defenses.defense import Claim, Defense, Make


@final
@dataclass(frozen=True, kw_only=True)
class Thermometer(Defense):
    """A known-broken control: train on a code of ones and zeros instead of pixels.

    A pixel becomes as many channels as there are levels, and as many of them are 1 as it is bright.
    Source: Buckman, Roy, Raffel, Goodfellow, Thermometer Encoding: One Hot Way To Resist
    Adversarial Examples, ICLR 2018, section 3; there it comes with adversarial training, here
    alone.

    Fields:
        levels: of a pixel; level i is 1 where the pixel exceeds i / levels.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"input"})
    adaptive: ClassVar[str] = (
        "BPDA: the gradient passes the code as if each level were a sigmoid of the pixel."
    )
    broken: ClassVar[str] = (
        "Athalye, Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, "
        "arXiv:1802.00420"
    )

    levels: int = 16

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"thermometer: levels must be at least 2; got {self.levels}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(levels=4), cls(levels=2)

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a network of codes with the coding in front."""
        channels, *side = shape
        return nn.Sequential(Code(self.levels), make((channels * self.levels, *side), classes))


class Code(Masking):
    """Turns pixels (B, C, *side) in [0, 1] into their code (B, C * levels, *side); gradient 0.

    The levels of a channel follow each other.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Return the code, 0 or 1."""
        above = self._above(x)
        return ((above > 0).to(x) + 0 * above).flatten(1, 2)

    def stand_in(self) -> nn.Module:
        """Return the same with the gradient of a code whose levels are sigmoids of the pixel."""
        return BPDA(self.forward, self._soft)

    def extra_repr(self) -> str:
        """Return the levels."""
        return f"levels={self.levels}"

    def _above(self, x: Tensor) -> Tensor:
        """By how many levels each pixel exceeds each level, (B, C, levels, *side)."""
        level = torch.arange(self.levels, device=x.device, dtype=x.dtype)
        return x.unsqueeze(2) * self.levels - level.view(-1, *[1] * (x.dim() - 2))

    def _soft(self, x: Tensor) -> Tensor:
        return self._above(x).sigmoid().flatten(1, 2)
