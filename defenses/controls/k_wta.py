"""The k winners take all."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from advbench.attacks.masking import Masking
from advbench.attacks.victim import BPDA
from advbench.defenses.defense import Defense, Make
from advbench.defenses.replacing import replace_layers

_SOFTNESS = 0.1  # of the stand-in's choice, in standard deviations of a sample's features
_ANSWERS = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)  # activations that are not hidden


@final
@dataclass(frozen=True, kw_only=True)
class KWTA(Defense):
    """A known-broken control: every hidden layer keeps its largest activations and no others.

    Which those are changes from place to place, so that the gradient at an image says little of the
    images around it, the less the more features and layers there are. Source: Xiao, Zhong, Zheng,
    Enhancing Adversarial Defense by k-Winners-Take-All, ICLR 2020, arXiv:1905.10510, section 2;
    there the share falls to its value while the network trains, here it is the same throughout. It
    takes the place of the parameter-free activations that are layers of the network (``nn.ReLU``,
    ``nn.Tanh``, …).

    Fields:
        share: of a layer's features, all channels and places of a sample together, that is kept.
    """

    adaptive: ClassVar[str] = (
        "BPDA: the gradient is that of a soft choice around the smallest winner, which knows what "
        "a feature gains by winning."
    )
    broken: ClassVar[str] = (
        "Tramèr, Carlini, Brendel, Mądry, On Adaptive Attacks to Adversarial Example Defenses, "
        "NeurIPS 2020, arXiv:2002.08347"
    )

    share: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"k_wta: share must lie in (0, 1]; got {self.share}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(share=0.5)

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network with its activations replaced.

        Raises ValueError where it has none that is a layer.
        """
        model = make(shape, classes)
        if not replace_layers(model, self._winners):
            raise ValueError(
                f"k_wta: {type(model).__name__} has no layer that is an activation without "
                "parameters, such as nn.ReLU; there is nothing to replace"
            )
        return model

    def _winners(self, layer: nn.Module) -> nn.Module | None:
        return Winners(self.share) if _is_activation(layer) else None


class Winners(Masking):
    """Keeps the largest share of the features (B, *shape) of each sample and zeroes the rest."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return the winners, in their places; all of those that are as large as the last."""
        return x * (x >= self._last(x))

    def stand_in(self) -> nn.Module:
        """Return the same with the gradient of a soft choice.

        A feature x counts as x sigmoid((x - t) / s) there: t is the smallest winner, a constant,
        and s a tenth of the standard deviation of the sample's features. The gradient at a feature
        near t is large, for it is about to jump between 0 and t, of which the true one says
        nothing.
        """
        return BPDA(self.forward, self._soft)

    def extra_repr(self) -> str:
        """Return the share."""
        return f"share={self.share}"

    def _soft(self, x: Tensor) -> Tensor:
        """The features, each by how surely it wins."""
        spread = x.detach().flatten(1).std(1, correction=0).view(-1, *[1] * (x.dim() - 1))
        softness = (_SOFTNESS * spread).clamp_min(torch.finfo(x.dtype).eps)
        return x * torch.sigmoid((x - self._last(x)) / softness)

    def _last(self, x: Tensor) -> Tensor:
        """The smallest winner of each sample, (B, 1, …)."""
        features = x.detach().flatten(1)
        count = math.ceil(self.share * features.shape[1])
        return features.topk(count).values[:, -1].view(-1, *[1] * (x.dim() - 1))


def _is_activation(layer: nn.Module) -> bool:
    mine = type(layer).__module__ == nn.ReLU.__module__ and not isinstance(layer, _ANSWERS)
    return mine and next(layer.parameters(), None) is None
