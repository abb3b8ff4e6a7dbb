"""Small victims with fixed weights, each made to show one fault.

Weights and inputs come from the counter-based generator: no global random state is used.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advbench.attacks.attack import Adversary
from advbench.attacks.randomness import Draws

SHAPE = (1, 4, 5)


class Case(NamedTuple):
    """A victim with inputs (N, *shape) that it classifies as ``y``, and other classes to reach."""

    model: nn.Module
    x: Tensor
    y: Tensor
    targets: Tensor


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


def inputs(key: int, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return images (count, *shape) between 0.3 and 0.7, far from the box."""
    return 0.5 + 0.2 * numbers(key, max(count, 1), *shape, dtype=dtype)[:count].tanh()


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
    model = Affine(1, math.prod(shape), classes, dtype)
    return case(model, inputs(2, count, shape, dtype))


def smooth(
    classes: int = 3,
    count: int = 4,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Return a network with one hidden layer of smooth units."""
    width = math.prod(shape)
    layers = Affine(3, width, 8, dtype), nn.Tanh(), Affine(5, 8, classes, dtype)
    return case(nn.Sequential(*layers), inputs(6, count, shape, dtype))


def balanced(
    classes: int = 3,
    count: int = 24,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Return a linear victim that is surest of each class on some of the inputs."""
    model = Affine(13, math.prod(shape), classes, dtype)
    x = inputs(15, count, shape, dtype)
    with torch.no_grad():
        model.bias.sub_(model(x).mean(0))
    return case(model, x)


class Wavy(nn.Module):
    """Two classes whose lead rises and falls along every direction: the last step is not best."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(numbers(7, math.prod(SHAPE)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2)."""
        lead = ((9 * x.flatten(1)).sin() * self.weight).sum(1) - 0.5
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

    def __init__(self, fails_at: int | None) -> None:
        super().__init__()
        width = math.prod(SHAPE)
        self.first = Affine(3, width, 8, torch.float64)
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
