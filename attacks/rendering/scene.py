"""A scene: an object, how it is posed before the camera, and the light on it.

The camera stands at the origin and looks along -z; x is to the right, y is up. Lengths are in the
unit of the meshes. Scenes are rows of numbers, so that attacks index, mask, join and move them like
images.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WIDTH = 17
"""Numbers of one scene."""


class Scene(NamedTuple):
    """The parts of a batch of scenes.

    ``mesh`` and ``background`` (B,) int64 are numbers in the lists of the renderer; ``rotation``
    (B, 3, 3) turns the object, ``position`` (B, 3) is where its origin lies, ``light`` (B, 3) is
    the unit vector towards the light, both as the camera sees it.
    """

    mesh: Tensor
    background: Tensor
    rotation: Tensor
    position: Tensor
    light: Tensor

    def rows(self) -> Tensor:
        """Return the scenes as rows (B, 17)."""
        numbers = torch.stack([self.mesh, self.background], 1).to(self.position)
        return torch.cat([numbers, self.rotation.flatten(1), self.position, self.light], 1)


def unpack(rows: Tensor) -> Scene:
    """Return the parts of scenes (B, 17); numbers of lists are rounded."""
    mesh, background = rows[:, :2].round().long().unbind(1)
    return Scene(mesh, background, rows[:, 2:11].unflatten(1, (3, 3)), rows[:, 11:14], rows[:, 14:])
