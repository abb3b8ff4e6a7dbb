"""What an architecture is: hyper-parameters that can build a network."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn


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
