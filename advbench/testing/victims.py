"""Small victims with fixed weights, each made to show one fault.

Weights and inputs come from the counter-based generator: no global random state is used. Inputs
are images of any shape, or scenes of the shape ``SCENE``; ``shape_for`` an attack says which it
changes. The victims of scenes are the same networks on a scene's numbers, without a renderer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advbench.attacks.attack import Adversary
from advbench.attacks.randomness import Draws
from advbench.attacks.rendering.scene import WIDTH, Scene
from advbench.attacks.rows import lift
from advbench.testing.requirement import ContractError

SHAPE = (1, 4, 5)
"""A small oblong image, which most sets change."""
SCENE = (WIDTH,)
"""A scene, for sets that refuse images."""

# Scenes are alike, as images are grey: a pose of a few degrees has to be able to fool.
_POSE = torch.tensor([0.4, -0.9, 0.3, 0.2, -0.1, -4.0, 0.3, 0.8, 0.6], dtype=torch.float64)
_SPREAD = 0.05
_GAIN = 4.0  # so that numbers of scenes differ about as much as pixels do


class Case(NamedTuple):
    """A victim with inputs (N, *shape) that it classifies as ``y``, and other classes to reach."""

    model: nn.Module
    x: Tensor
    y: Tensor
    targets: Tensor


def shape_for(attack: Adversary) -> tuple[int, ...]:
    """Return the shape of the inputs that the set of ``attack`` changes: ``SHAPE`` or ``SCENE``.

    Raises:
        ContractError: the set takes neither.

    """
    perturbation = attack.perturbation
    image, scene = (perturbation.refusal(torch.Size(shape)) for shape in (SHAPE, SCENE))
    if image is None:
        return SHAPE
    if scene is None and perturbation.bounds == (-torch.inf, torch.inf):
        return SCENE
    why = scene or f"scenes do not lie within its bounds {perturbation.bounds}"
    raise ContractError(
        f"{attack!r}: the checks need a set that changes images {SHAPE} or scenes {SCENE}; this "
        f"one refuses both: {image}; {why}"
    )


def numbers(key: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return standard normal numbers (*shape) that depend on ``key`` alone."""
    zero = torch.zeros(1, dtype=torch.int64)
    return Draws(zero + 2718, zero + key, zero, zero).normal(shape, torch.float64)[0].to(dtype)


class Affine(nn.Module):
    """A linear layer on the flattened input; its largest weight is about five times its median."""

    def __init__(self, key: int, width: int, classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(numbers(key, classes, width, dtype=dtype))
        self.bias = nn.Parameter(0.1 * numbers(key + 1, classes, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, classes)."""
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)


def first_layer(key: int, shape: tuple[int, ...], classes: int, dtype: torch.dtype) -> Affine:
    """Return a linear layer for inputs of a shape.

    That of scenes weighs how they differ from their middle, not the middle itself.
    """
    layer = Affine(key, math.prod(shape), classes, dtype)
    if shape == SCENE:
        middle = _scenes(_POSE.unsqueeze(0))[0].to(dtype)
        with torch.no_grad():
            layer.weight.mul_(_GAIN)
            layer.bias.sub_(layer.weight @ middle)
    return layer


def inputs(key: int, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return images (count, *shape) between 0.3 and 0.7, far from the box, or scenes.

    Those are of one object before the camera, each time a little turned, moved and lit anew.
    """
    if shape == SCENE:
        changes = _SPREAD * numbers(key, max(count, 1), len(_POSE)).tanh()
        return _scenes(_POSE + changes)[:count].to(dtype)
    return 0.5 + 0.2 * numbers(key, max(count, 1), *shape, dtype=dtype)[:count].tanh()


def _scenes(pose: Tensor) -> Tensor:
    """Return scenes (N, 17) from rotation vectors, positions and directions of light (N, 9)."""
    turn, position, light = pose.unflatten(1, (3, 3)).unbind(1)
    axes = torch.eye(3, dtype=pose.dtype).expand(len(pose), 3, 3)
    spin = torch.linalg.cross(axes, turn.unsqueeze(1).expand_as(axes))
    still = torch.zeros(len(pose))
    return Scene(
        mesh=still,
        background=still + 1,
        rotation=torch.linalg.matrix_exp(spin),
        position=position,
        light=nn.functional.normalize(light),
    ).rows()


def two_kinds(x: Tensor, second: Tensor) -> Tensor:
    """Return ``x`` with some rows (N,) unlike the others: images brighter, scenes of mesh 1."""
    if x.shape[1:] == SCENE:
        return torch.cat([second.unsqueeze(1).to(x), x[:, 1:]], 1)
    return torch.where(lift(second, x), 0.8 + (x - 0.5) / 4, 0.2 + (x - 0.5) / 4)


def kind(x: Tensor) -> Tensor:
    """Return which of the two kinds the rows are of, (N,) bool."""
    return (x[:, 0] if x.shape[1:] == SCENE else x.flatten(1).mean(1)) >= 0.5


def case(model: nn.Module, x: Tensor) -> Case:
    """Label inputs by what the model says; the second choice is the class to reach."""
    with torch.no_grad():
        logits: Tensor = model(x)
    best = logits.topk(2).indices
    return Case(model, x, best[:, 0], best[:, 1])


def linear(
    classes: int = 3,
    count: int = 4,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Return a linear victim."""
    model = first_layer(1, shape, classes, dtype)
    return case(model, inputs(2, count, shape, dtype))


def smooth(
    classes: int = 3,
    count: int = 4,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Return a network with one hidden layer of smooth units."""
    layers = first_layer(3, shape, 8, dtype), nn.Tanh(), Affine(5, 8, classes, dtype)
    return case(nn.Sequential(*layers), inputs(6, count, shape, dtype))


def balanced(
    classes: int = 3,
    count: int = 24,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Return a linear victim that is surest of each class on some of the inputs."""
    model = first_layer(13, shape, classes, dtype)
    x = inputs(15, count, shape, dtype)
    with torch.no_grad():
        model.bias.sub_(model(x).mean(0))
    return case(model, x)


class Wavy(nn.Module):
    """Two classes whose lead rises and falls along every direction: the last step is not best."""

    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__()
        self.weight = nn.Parameter(numbers(7, math.prod(shape)))
        self.pitch = 9 * _GAIN if shape == SCENE else 9

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2)."""
        lead = ((self.pitch * x.flatten(1)).sin() * self.weight).sum(1) - 0.5
        return torch.stack([torch.zeros_like(lead), lead], 1)


class Watched(nn.Module):
    """Count the rows that pass a model forwards and backwards, and keep what it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = 0
        self.backwards = 0
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the model."""
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        logits: Tensor = self.model(x)
        self.seen.append((x.detach().clone(), logits.detach().clone()))
        return logits

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad)


class After(nn.Module):
    """Change the logits of a model: ``change(x, logits) -> logits``."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        """Return the changed logits."""
        return self.change(x, self.model(x))


class Stateful(nn.Module):
    """A model with everything that an attack may leave changed; fails at a chosen forward pass."""

    def __init__(self, fails_at: int | None, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__()
        self.first = first_layer(3, shape, 8, torch.float64)
        self.norm = nn.BatchNorm1d(8, dtype=torch.float64)
        self.dropout = nn.Dropout(0.5)
        self.second = Affine(5, 8, 3, torch.float64)
        self.passes: Tensor
        self.register_buffer("passes", torch.zeros(()))
        self.fails_at = fails_at
        self.train()
        self.norm.eval()
        self.first.bias.requires_grad_(False)
        self.first.weight.grad = torch.ones_like(self.first.weight)
        self.second.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 3)."""
        self.passes += 1
        if self.passes == self.fails_at:
            raise InterruptedError
        hidden = self.dropout(self.norm(self.first(x)).tanh())
        logits: Tensor = self.second(hidden)
        return logits


class Stalled(nn.Module):
    """A model whose gradient is zero the first time it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.stalled = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the model."""
        logits: Tensor = self.model(x)
        if x.requires_grad and not self.stalled:
            self.stalled = True
            return logits.detach() + 0 * logits
        return logits


def scale(attack: Adversary, x: Tensor, share: float) -> float:
    """Return an eps: a share of the size that covers the whole box."""
    return share * attack.perturbation.largest(x.new_zeros(1, *x.shape[1:]))
