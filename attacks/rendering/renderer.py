"""What a renderer is, and a model of images seen through one."""

from typing import Protocol

from torch import Tensor, nn

from advbench.attacks.victim import Model


class Renderer(Protocol):
    """Turns scenes (B, 17) into images (B, C, H, W) in [0, 1].

    One that leaves torch, such as a game engine, serves every search that needs no gradient.
    """

    def __call__(self, scenes: Tensor) -> Tensor:
        """Return the images."""


class SceneModel(nn.Module):
    """A model of images as a model of scenes: what an attack on poses has for a victim."""

    def __init__(self, renderer: Renderer, model: Model) -> None:
        super().__init__()
        self.renderer = renderer
        self.model = model

    def forward(self, scenes: Tensor) -> Tensor:
        """Return the logits (B, K) for what the scenes (B, 17) look like."""
        return self.model(self.renderer(scenes))
