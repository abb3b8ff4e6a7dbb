"""What a renderer is."""

from typing import Protocol

from torch import Tensor


class Renderer(Protocol):
    """Turns scenes (B, 17) into images (B, C, H, W) in [0, 1].

    One that leaves torch, such as a game engine, serves every search that needs no gradient.
    """

    def __call__(self, scenes: Tensor) -> Tensor:
        """Return the images."""
