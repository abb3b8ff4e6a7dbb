"""Scale invariance: SI-FGSM."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift
from advbench.attacks.transfer.view import View


@final
@dataclass(frozen=True, kw_only=True)
class ScaledCopies(View):
    """Copies of an image that are ever darker: of all values a half, a quarter and so on.

    Source: Lin, Song, He, Wang, Hopcroft, "Nesterov accelerated gradient and scale invariance for
    adversarial attacks", ICLR 2020, arXiv:1908.06281, section 3.2: copy ``i`` is ``x / 2^i``.

    Fields:
        copies: how many, with the image itself; each costs a forward and a backward pass.
    """

    keeps_first: ClassVar[bool] = True

    copies: int = 5

    def __post_init__(self) -> None:
        checks.positive("ScaledCopies: copies", self.copies)

    def __call__(self, images: Tensor, copy: Tensor, draws: Draws) -> Tensor:
        """Return the images (B, *shape) divided by 2 to the number of their copy."""
        return images / lift(2.0 ** copy.to(images), images)
