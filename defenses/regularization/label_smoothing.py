"""Label smoothing."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor
from torch.nn import functional

from advbench.defenses.defense import Defense
from advbench.defenses.fit import Batch, Fit


@final
@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Defense):
    """Want a little of every class, so that the network does not become ever more certain.

    Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, Rethinking the Inception Architecture for
    Computer Vision, CVPR 2016, arXiv:1512.00567, section 7.

    Fields:
        share: of what is wanted that is spread evenly over all classes.
    """

    adaptive: ClassVar[str] = (
        "Losses free of the logits' scale (margin, DLR): it shrinks their gaps, so that weak "
        "attacks look weaker."
    )

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"label_smoothing: share must lie in [0, 1]; got {self.share}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(share=0.5)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the samples with smoothed probabilities."""
        wanted = probabilities(batch, fit.classes)
        return batch._replace(soft=(1 - self.share) * wanted + self.share / fit.classes)


def probabilities(batch: Batch, classes: int) -> Tensor:
    """Return what is wanted of a minibatch as probabilities (B, K), one-hot for classes alone."""
    if batch.soft is not None:
        return batch.soft
    return functional.one_hot(batch.y, classes).to(batch.x.dtype)
