"""The pose of an object before the camera, and the light on it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from advbench.attacks.perturbations import limits
from advbench.attacks.perturbations.ranges import Axis, Ranges
from advbench.attacks.rendering.rotation import about_axis, rotation_angle
from advbench.attacks.rendering.scene import WIDTH, unpack


@dataclass(frozen=True)
class Rotation(ABC):
    """How an object may be turned; angles in degrees."""

    @property
    @abstractmethod
    def axes(self) -> tuple[Axis, ...]:
        """The numbers that are free."""

    @property
    @abstractmethod
    def ball(self) -> bool:
        """Whether they are a rotation vector."""

    @abstractmethod
    def matrix(self, numbers: Tensor) -> Tensor:
        """Return the rotations (B, 3, 3), in the camera's frame, for ``numbers`` (B, k)."""


@final
@dataclass(frozen=True)
class Euler(Rotation):
    """Three angles, each with a range of its own; 180 is a full circle, 0 leaves it fixed.

    The object is rolled about the line of sight, then pitched about the camera's horizontal axis,
    then turned about its vertical one (yaw). Draws are uniform in each angle: at full range the
    poses with a pitch near 90 degrees come up more often than among all rotations. The corners of
    the box lie farther from the middle than any of its ranges says.
    """

    yaw: float = 15.0
    pitch: float = 15.0
    roll: float = 15.0

    def __post_init__(self) -> None:
        for name in ("yaw", "pitch", "roll"):
            limits.number("euler", name, getattr(self, name), 180)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The angles that are not fixed."""
        named = (("yaw", self.yaw), ("pitch", self.pitch), ("roll", self.roll))
        return tuple(Axis(name, reach, 180.0) for name, reach in named if reach)

    @property
    def ball(self) -> bool:
        """Three numbers, not one vector."""
        return False

    def matrix(self, numbers: Tensor) -> Tensor:
        """Return ``R_yaw R_pitch R_roll``."""
        place = {axis.name: row for row, axis in enumerate(self.axes)}
        turned = torch.eye(3, dtype=numbers.dtype, device=numbers.device).expand(len(numbers), 3, 3)
        for name, about in (("yaw", 1), ("pitch", 0), ("roll", 2)):
            if name in place:
                turned = turned @ about_axis(numbers[:, place[name]], about)
        return turned


@final
@dataclass(frozen=True)
class Ball(Rotation):
    """All rotations by at most ``angle``, about any axis; 180 is every rotation there is.

    The parameters are a rotation vector. Draws are uniform: among all rotations at 180 degrees.
    """

    angle: float = 30.0

    def __post_init__(self) -> None:
        limits.number("ball", "angle", self.angle, 180)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The three parts of the rotation vector."""
        if not self.angle:
            return ()
        return tuple(Axis(f"turn_{name}", self.angle, 180.0) for name in "xyz")

    @property
    def ball(self) -> bool:
        """One vector."""
        return bool(self.angle)

    def matrix(self, numbers: Tensor) -> Tensor:
        """Return the rotations about the vectors by their lengths."""
        vector = numbers[:, :3].deg2rad()
        square = vector.square().sum(1).view(-1, 1, 1)
        cross = torch.zeros(len(vector), 3, 3, dtype=vector.dtype, device=vector.device)
        x, y, z = vector.unbind(1)
        rows = [(0, 1, -z), (0, 2, y), (1, 0, z), (1, 2, -x), (2, 0, -y), (2, 1, x)]
        for i, j, value in rows:
            cross[:, i, j] = value
        identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
        # Near 0 the formula of Rodrigues is 0 / 0; its series serves, and has a gradient.
        small = square < 1e-6
        safe = torch.where(small, 1.0, square)
        angle = safe.sqrt()
        first = torch.where(small, 1 - square / 6, angle.sin() / angle)
        second = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / safe)
        return identity + first * cross + second * (cross @ cross)


@final
@dataclass(frozen=True)
class Pose(Ranges):
    """The pose of an object: turned and moved from where it stands, under a light that may turn.

    It changes scenes, rows (B, 17) of numbers that a renderer turns into images: see
    ``advbench.attacks.rendering``. ``eps`` in [0, 1] is the share of every range that may be used.
    The rotation is about the object's own origin, in the camera's frame; the light turns about the
    camera's vertical axis (``azimuth``) and horizontal one (``elevation``).
    After Alcorn et al., "Strike (with) a pose: neural networks are easily fooled by strange poses
    of familiar objects", CVPR 2019, arXiv:1811.11553.

    Fields:
        rotation: Euler angles, or a ball of rotations.
        x, y, z: how far it may move, in the unit of the scene: one number to either side, or a
            pair from the least, at most 0, to the largest; z grows towards the camera.
        azimuth, elevation: how far the light may turn, in degrees.
    """

    bounds: ClassVar[tuple[float, float]] = (-torch.inf, torch.inf)

    rotation: Rotation = Euler()
    x: float | tuple[float, float] = 0.0
    y: float | tuple[float, float] = 0.0
    z: float | tuple[float, float] = 0.0
    azimuth: float = 0.0
    elevation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("x", "y", "z"):
            value = getattr(self, name)
            if isinstance(value, tuple):
                limits.interval("pose", name, value)
            else:
                limits.number("pose", name, value)
        for name in ("azimuth", "elevation"):
            limits.number("pose", name, getattr(self, name), 180)
        if not self.axes:
            raise ValueError("pose: every range is 0, so that nothing is left to change")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The numbers whose range is not 0, the rotation first."""
        moves = [_move(name, getattr(self, name)) for name in ("x", "y", "z")]
        lights = [Axis(name, getattr(self, name), 180.0) for name in ("azimuth", "elevation")]
        return (*self.rotation.axes, *(axis for axis in (*moves, *lights) if any(axis.ends)))

    @property
    def ball(self) -> bool:
        """Whether the rotation is a ball."""
        return self.rotation.ball

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the scenes (B, 17) in their new poses; differentiable."""
        scene, numbers = unpack(x), self.numbers(p)
        place = {axis.name: numbers[:, row] for row, axis in enumerate(self.axes)}
        rotation = scene.rotation
        if self.rotation.axes:
            rotation = self.rotation.matrix(numbers) @ rotation
        still = torch.zeros_like(scene.position[:, 0])
        shift = torch.stack([place.get(name, still) for name in ("x", "y", "z")], 1)
        light = scene.light
        for name, about in (("elevation", 0), ("azimuth", 1)):
            if name in place:
                turn = about_axis(place[name], about)
                light = (turn @ light.unsqueeze(2)).squeeze(2)
        moved = scene._replace(rotation=rotation, position=scene.position + shift, light=light)
        return torch.cat([x[:, :2], moved.rows()[:, 2:]], 1)

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return every number by name, and by what angle the object is turned, in degrees."""
        found = dict(zip(self.names, self.numbers(p).unbind(1), strict=True))
        turned = unpack(self.apply(x, p)).rotation @ unpack(x).rotation.transpose(1, 2)
        return {**found, "turned": rotation_angle(turned).rad2deg()}

    def refusal(self, shape: torch.Size) -> str | None:
        """Refuse what is no scene."""
        if tuple(shape) == (WIDTH,):
            return None
        return (
            f"a pose changes scenes, rows of {WIDTH} numbers; got {tuple(shape)}. Images are "
            "turned and moved by 'affine'."
        )


def _move(name: str, value: float | tuple[float, float]) -> Axis:
    if isinstance(value, tuple):
        return Axis(name, value[1], back=-value[0])
    return Axis(name, value)
