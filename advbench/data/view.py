"""How objects are looked at: the camera, the light, and the pose in which they are recognised."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.randomness import Draws
from advbench.attacks.rendering.mesh import Mesh
from advbench.attacks.rendering.rasterizer import Rasterizer
from advbench.attacks.rendering.rotation import about_axis
from advbench.attacks.rendering.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far canonical poses differ from each other, to either side; degrees and lengths."""

    yaw: float = 35.0
    elevation: float = 10.0
    roll: float = 5.0
    shift: float = 0.12
    distance: float = 0.5


@dataclass(frozen=True, kw_only=True)
class View:
    """The canonical view of an object whose bounding box has a diagonal of about 2.

    Fields:
        size: height and width of the picture in pixels.
        fov: vertical field of view, in degrees.
        distance: from the camera to the middle of the object.
        yaw: by what angle the object is turned about its vertical axis.
        elevation: of the camera above it.
        spread: how much these and the place differ from sample to sample.
        background: a grey, or red, green and blue, in [0, 1].
        light: where the light comes from: to the right, above and behind the camera.
        ambient, diffuse: brightness away from the light, and what facing it adds.
        two_sided: whether faces are seen from behind, as open meshes need.
    """

    size: tuple[int, int] = (64, 64)
    fov: float = 35.5
    distance: float = 4.2
    yaw: float = 25.0
    elevation: float = 20.0
    spread: Spread = Spread()
    background: tuple[float, ...] = (0.5,)
    light: tuple[float, float, float] = (0.3, 0.8, 0.6)
    ambient: float = 0.35
    diffuse: float = 0.65
    two_sided: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be a height and a width in pixels; got {self.size}")
        if not 0 < self.fov < 180:
            raise ValueError(f"fov must lie in (0, 180); got {self.fov}")
        if self.distance <= 0:
            raise ValueError(f"distance must be above 0; got {self.distance}")
        if not all(0 <= value <= 1 for value in self.background) or not self.background:
            raise ValueError(f"background must be numbers in [0, 1]; got {self.background}")
        if not math.hypot(*self.light):
            raise ValueError("light must not be 0, 0, 0: it says where the light comes from")

    def renderer(self, meshes: Sequence[Mesh], backgrounds: Tensor) -> Rasterizer:
        """Return what renders ``meshes`` before ``backgrounds`` (K, C) in this view."""
        return Rasterizer(
            meshes,
            self.size,
            backgrounds=backgrounds,
            fov=self.fov,
            ambient=self.ambient,
            diffuse=self.diffuse,
            two_sided=self.two_sided,
        )

    def scenes(self, mesh: Tensor, background: Tensor, draws: Draws, exact: Tensor) -> Tensor:
        """Return scenes (B, 17): each object in a canonical pose.

        Args:
            mesh: numbers (B,) in the renderer's list.
            background: numbers (B,) in the renderer's list.
            draws: what the spread is drawn from.
            exact: (B,) bool, the samples without any spread.

        """
        spread = (draws.uniform((6,)) * 2 - 1) * ~exact.unsqueeze(1)
        around = self.spread
        turned = (
            about_axis(around.roll * spread[:, 2], 2)
            @ about_axis(self.elevation + around.elevation * spread[:, 1], 0)
            @ about_axis(self.yaw + around.yaw * spread[:, 0], 1)
        )
        distance = self.distance + around.distance * spread[:, 5]
        position = torch.stack([*(around.shift * spread[:, 3:5]).unbind(1), -distance], 1)
        light = functional.normalize(torch.tensor(self.light), dim=0).expand(len(mesh), 3)
        return Scene(mesh, background, turned, position, light).rows()
