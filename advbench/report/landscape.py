"""How one object looks to a model from all sides, and where a search went among these poses."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.attacks.criterion import margin
from advbench.attacks.perturbations.pose import Euler, Pose
from advbench.attacks.rendering.renderer import Renderer
from advbench.attacks.rendering.scene import unpack
from advbench.attacks.search import Rule
from advbench.attacks.victim import SceneModel
from advbench.bench.plan import Cell
from advbench.report.pictures import remade
from advbench.trust.answers import classes, predict

ANGLES = np.arange(-180.0, 180.0, 10.0)
"""Yaws and pitches of whole circles, in degrees; 180 is -180."""
NEAR = 21
"""Yaws and pitches near the ranges of the search."""
_WIDER = 1.2
_BATCH = 128
_ROLL = 1e-3  # what a degree of roll counts, next to one outside of the ranges
_ALL = Euler(yaw=180, pitch=180, roll=180)


@dataclass(frozen=True, eq=False)
class View:
    """What a model makes of an object at every yaw and pitch of ``angles`` (A,), in degrees.

    ``margin`` and ``prediction`` (A, A) have a row per pitch and a column per yaw.
    """

    angles: NDArray[np.float64]
    margin: NDArray[np.float64]
    prediction: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Survey:
    """What a model makes of an object from all sides, and a search on it.

    ``canonical`` goes all around the object as it stands. ``near`` covers what the search might
    use, with everything but yaw and pitch as the search left it. ``path`` (n, 2) are yaw and pitch
    of what it asked about in its last restart, in order, ``found`` (1, 17) is where it ended.
    """

    canonical: View
    near: View
    path: NDArray[np.float64]
    found: Tensor


def survey(cell: Cell, row: int) -> Survey:
    """Look at sample ``row`` of a cell from all sides and run the search of the cell on it again.

    The search is a ``Rule``, its set a pose with Euler angles.
    """
    asked, found = _searched(cell, row)
    assert isinstance(cell.attack.perturbation, Pose)
    assert isinstance(cell.attack.perturbation.rotation, Euler)
    ranges = cell.attack.perturbation.rotation
    scene = cell.selection.samples.x[row : row + 1]
    path = euler_angles(_turned(scene, asked), ranges, cell.scale)
    (end,) = euler_angles(_turned(scene, found), ranges, cell.scale)
    side = min(180.0, _WIDER * cell.scale * max(ranges.yaw, ranges.pitch))
    return Survey(
        canonical=_look(cell, row, scene, ANGLES, 0.0),
        near=_look(cell, row, found, np.linspace(-side, side, NEAR), float(end[2])),
        path=path[:, :2].numpy(),
        found=found,
    )


def euler_angles(turned: Tensor, ranges: Euler, eps: float) -> Tensor:
    """Return yaw, pitch and roll (B, 3), in degrees, of rotations R_yaw R_pitch R_roll (B, 3, 3).

    Two triples make each rotation. It is the one within the ranges at ``eps``, or that of less roll
    where both are.
    """
    yaw = torch.atan2(turned[:, 0, 2], turned[:, 2, 2])
    pitch = torch.atan2(-turned[:, 1, 2], torch.hypot(turned[:, 0, 2], turned[:, 2, 2]))
    roll = torch.atan2(turned[:, 1, 0], turned[:, 1, 1])
    first = torch.stack([yaw, pitch, roll], 1).rad2deg()
    second = (first * first.new_tensor([1, -1, 1]) + 360).remainder(360) - 180
    limit = eps * first.new_tensor([ranges.yaw, ranges.pitch, ranges.roll])
    one, other = (
        (angles.abs() - limit).clamp_min(0).sum(1) + _ROLL * angles[:, 2].abs()
        for angles in (first, second)
    )
    return torch.where((one <= other).unsqueeze(1), first, second)


@dataclass(frozen=True, eq=False)
class _Recorder:
    """A renderer that remembers what it is asked for."""

    renderer: Renderer
    asked: list[Tensor] = field(default_factory=list)

    def __call__(self, scenes: Tensor) -> Tensor:
        self.asked.append(scenes.detach().cpu())
        return self.renderer(scenes)


def _searched(cell: Cell, row: int) -> tuple[Tensor, Tensor]:
    """The scenes that the last restart of a search asked about, and the one it ended with."""
    samples, attack = cell.selection.samples, cell.attack
    assert samples.renderer is not None
    assert isinstance(attack, Rule)
    recorder = _Recorder(samples.renderer)
    seen = SceneModel(recorder, cell.victim.model)
    found = remade(cell, attack, np.array([row]), seen)
    asked = torch.cat(recorder.asked)
    run = attack.queries // attack.restarts
    return asked[(len(asked) - 1) // run * run :], found


def _turned(scene: Tensor, others: Tensor) -> Tensor:
    """How objects are turned from where they stand in a scene, (B, 3, 3)."""
    return unpack(others).rotation.double() @ unpack(scene).rotation.double().mT


def _look(cell: Cell, row: int, like: Tensor, angles: NDArray[np.float64], roll: float) -> View:
    """Look at a sample at all yaws and pitches, all else as in the scene ``like`` (1, 17)."""
    samples = cell.selection.samples
    start = samples.x[row : row + 1]
    pitch, yaw = np.meshgrid(angles, angles, indexing="ij")
    numbers = np.stack([yaw.ravel(), pitch.ravel(), np.full(yaw.size, roll)], 1)
    rotation = _ALL.matrix(torch.from_numpy(numbers).to(start)) @ unpack(start).rotation
    scenes = like.repeat(len(numbers), 1)
    scenes = unpack(scenes)._replace(rotation=rotation).rows()
    logits = predict(cell.victim.model, scenes, _BATCH, samples.images)
    lead = margin(logits.double(), samples.y[row].expand(len(logits)))
    shape = yaw.shape
    return View(angles, lead.view(shape).numpy(), classes(logits).view(shape).numpy())
