"""Dropout."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor, nn
from torch.nn import functional

from advbench.defenses.defense import Claim, Defense, Make


@final
@dataclass(frozen=True, kw_only=True)
class Dropout(Defense):
    """Silence hidden units at random in training, so that none can rely on particular others.

    Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting,
    JMLR 15, 2014. There a share of inputs is dropped too, and weights are scaled down after
    training; here inputs stay, and what is kept is scaled up while training. In convolutional maps
    whole channels are dropped, because neighbouring places tell almost the same: Tompson et al.,
    Efficient Object Localization Using Convolutional Networks, CVPR 2015, arXiv:1411.4280.

    Fields:
        share: of the units of a fully connected layer that are dropped, drawn anew in each step.
        conv_share: of the channels of convolutional maps.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"dropout"})
    adaptive: ClassVar[str] = (
        "Nothing is dropped after training, so gradients are exact: the strongest attacks in eval "
        "mode."
    )

    share: float = 0.5
    conv_share: float = 0.1

    def __post_init__(self) -> None:
        check_shares("dropout", self.share, self.conv_share)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(share=0.1, conv_share=0.0)

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network with dropout after its hidden activations; see ``add_drops``."""
        return add_drops(make(shape, classes), "dropout", self.share, self.conv_share)


class Drop(nn.Module):
    """Dropout of units (B, F), or of the channels of maps (B, C, H, W).

    It acts in training mode, and in eval mode too once ``always`` is set. It has no parameters.
    """

    def __init__(self, share: float, conv_share: float) -> None:
        super().__init__()
        self.share, self.conv_share = share, conv_share
        self.always = False

    def forward(self, x: Tensor) -> Tensor:
        """Return x with a share of it set to 0, and the rest scaled up to make up for it."""
        acts = self.training or self.always
        if x.dim() == 4:
            return functional.dropout2d(x, self.conv_share, acts)
        return functional.dropout(x, self.share, acts)


def add_drops(model: nn.Module, owner: str, share: float, conv_share: float) -> nn.Module:
    """Put a ``Drop`` after every hidden activation, in place; the names of weights stay.

    Hidden activations are the children of an ``nn.Sequential`` that have weights before and after
    them there and are modules of ``torch.nn.modules.activation``, or modules of other libraries
    without parameters, buffers and children. Raises ValueError where there are none.
    """
    count = 0
    for sequence in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        weighted = [
            i for i, child in enumerate(sequence) if next(child.parameters(), None) is not None
        ]
        for place, child in enumerate(sequence):
            if weighted and weighted[0] < place < weighted[-1] and _is_activation(child):
                sequence[place] = nn.Sequential(child, Drop(share, conv_share))
                count += 1
    if not count:
        raise ValueError(
            f"{owner}: found no hidden activation to drop after; expected an nn.Sequential of "
            f"layers with activations between them, got {type(model).__name__}"
        )
    return model


def check_shares(owner: str, share: float, conv_share: float) -> None:
    """Raise ValueError unless both shares of what is dropped lie in [0, 1)."""
    if not (0 <= share < 1 and 0 <= conv_share < 1):
        raise ValueError(
            f"{owner}: share and conv_share must lie in [0, 1); got {share} and {conv_share}"
        )


def _is_activation(module: nn.Module) -> bool:
    home = type(module).__module__
    if home.startswith("torch."):
        return home == nn.ReLU.__module__ and next(module.parameters(), None) is None
    held = (module.parameters(), module.buffers(), module.children())
    return all(next(iter(group), None) is None for group in held)
