"""Weight sharing."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import nn

from advbench.defenses.defense import Defense, Make
from advbench.defenses.locally_connected import LocallyConnected2d
from advbench.defenses.replacing import replace_layers


@final
@dataclass(frozen=True, kw_only=True)
class WeightSharing(Defense):
    """Give places of an image, and layers in a row, the same weights: fewer to fit to the samples.

    Locally connected layers become convolutions, which start with the first place's kernel. Linear
    layers of the same shape that follow each other, with no other weights between them, get the
    weights of the first. Source: LeCun et al., Backpropagation Applied to Handwritten Zip Code
    Recognition, Neural Computation 1(4), 1989, for places; its biases stay each place's own, which
    here are shared too. Tied layers are the same thought applied to depth.

    Fields:
        places: whether locally connected layers become convolutions.
        layers: whether linear layers in a row are tied.
    """

    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    places: bool = True
    layers: bool = True

    def __post_init__(self) -> None:
        if not (self.places or self.layers):
            raise ValueError("weight_sharing: places and layers are both false; nothing is shared")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(places=False)

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network with shared weights; ValueError where there is nothing to share."""
        model = make(shape, classes)
        shared = replace_layers(model, _convolution) if self.places else 0
        if self.layers:
            shared += sum(_tie(m) for m in model.modules() if isinstance(m, nn.Sequential))
        if not shared:
            wanted = ["locally connected layers"] * self.places
            wanted += ["two linear layers of the same shape in a row"] * self.layers
            raise ValueError(
                f"weight_sharing: expected a network with {' or '.join(wanted)}; "
                f"{type(model).__name__} has nothing to share"
            )
        return model


def _convolution(layer: nn.Module) -> nn.Module | None:
    return layer.shared() if isinstance(layer, LocallyConnected2d) else None


def _tie(sequence: nn.Sequential) -> int:
    """Tie linear layers in a row; returns how many got the weights of another."""
    count = 0
    first: nn.Module | None = None
    for layer in sequence:
        if isinstance(layer, nn.Linear) and isinstance(first, nn.Linear) and _alike(first, layer):
            layer.weight, layer.bias = first.weight, first.bias
            count += 1
        elif next(layer.parameters(), None) is not None:
            first = layer
    return count


def _alike(one: nn.Linear, other: nn.Linear) -> bool:
    return one.weight.shape == other.weight.shape and (one.bias is None) == (other.bias is None)
