"""What an architecture is: hyper-parameters that can build a network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from advbench.defenses.defense import Defense, built
from advbench.models.normalized import Normalized


@dataclass(frozen=True)
class Architecture(ABC):
    """The hyper-parameters of a network; its fields are its schema in a configuration."""

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A freshly initialised network from images (N, *shape) in [0, 1] to logits (N, classes).

        Weights are drawn from torch's global generator.
        """


def image_channels(architecture: Architecture, shape: tuple[int, ...]) -> int:
    """The channels of an image shape (C, H, W); an error for any other shape."""
    if len(shape) != 3:
        raise ValueError(
            f"{type(architecture).__name__}: expected images of shape (C, H, W), got {shape}"
        )
    return shape[0]


def make_model(
    architecture: Architecture,
    normalize: tuple[Sequence[float], Sequence[float]] | None,
    defenses: Sequence[Defense],
    shape: tuple[int, ...],
    classes: int,
) -> nn.Module:
    """A freshly initialised network as defences have it built, normalisation inside.

    `shape` is that of one image, (C, H, W); `normalize` is a mean and a std per channel. Raises
    ValueError where the normalisation has not as many as the images have channels.
    """

    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        model = architecture.build(shape, classes)
        if normalize is None:
            return model
        mean, std = normalize
        if len(mean) not in (1, shape[0]):
            raise ValueError(
                f"normalize: {len(mean)} means for an input of {shape[0]} channels; leave it out"
            )
        return Normalized(model, mean, std)

    return built(defenses, make, shape, classes)
