"""Bounds written once more, naively: one sample, dense float64 matrices, loops.

Nothing here is shared with what it checks.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import nn

Array = NDArray[np.float64]


class Layer(NamedTuple):
    """A dense layer."""

    weight: Array
    bias: Array


def dense_layers(model: nn.Module) -> list[Layer]:
    """The linear layers of a feed-forward network."""
    return [
        Layer(one.weight.detach().double().numpy(), one.bias.detach().double().numpy())
        for one in model.modules()
        if isinstance(one, nn.Linear)
    ]


def margin_layer(layer: Layer, label: int) -> Layer:
    """The last layer with the margins of the label as outputs."""
    difference = -np.eye(len(layer.bias))
    difference[:, label] += 1
    return Layer(difference @ layer.weight, difference @ layer.bias)


def least(row: Array, low: Array, high: Array) -> float:
    """The least of a linear function over a box."""
    ends = zip(row, low, high, strict=True)
    return float(sum(w * (a if w > 0 else b) for w, a, b in ends))


def through(layer: Layer, low: Array, high: Array) -> tuple[Array, Array]:
    """Interval arithmetic, output by output."""
    rows = list(zip(layer.weight, layer.bias, strict=True))
    lows = [bias + least(row, low, high) for row, bias in rows]
    highs = [bias - least(-row, low, high) for row, bias in rows]
    return np.array(lows), np.array(highs)


def interval_margins(layers: Sequence[Layer], low: Array, high: Array, label: int) -> Array:
    """Interval bound propagation through a ReLU network, the margins in one with the last layer."""
    for layer in layers[:-1]:
        low, high = through(layer, low, high)
        low, high = np.maximum(low, 0), np.maximum(high, 0)
    return through(margin_layer(layers[-1], label), low, high)[0]


def crown_margins(layers: Sequence[Layer], low: Array, high: Array, label: int) -> Array:
    """CROWN for a ReLU network with the adaptive lower slope.

    Hidden bounds come from the better of intervals and back-substitution, where the sign is open.
    """
    hidden: list[tuple[Array, Array]] = []
    given = (low, high)
    for number, layer in enumerate(layers[:-1]):
        bounds = through(layer, *given)
        for unit in range(len(layer.bias)):
            if number and bounds[0][unit] < 0 < bounds[1][unit]:
                row, bias = layer.weight[unit], layer.bias[unit]
                above = substituted(row, bias, layers, hidden, low, high)
                below = -substituted(-row, -bias, layers, hidden, low, high)
                bounds[0][unit] = max(bounds[0][unit], above)
                bounds[1][unit] = min(bounds[1][unit], below)
        hidden.append(bounds)
        given = (np.maximum(bounds[0], 0), np.maximum(bounds[1], 0))
    last = margin_layer(layers[-1], label)
    return np.array(
        [
            substituted(row, bias, layers, hidden, low, high)
            for row, bias in zip(last.weight, last.bias, strict=True)
        ]
    )


def substituted(
    row: Array,
    constant: float,
    layers: Sequence[Layer],
    hidden: Sequence[tuple[Array, Array]],
    low: Array,
    high: Array,
) -> float:
    """The least of a linear function of the last hidden activations, relaxed down to the box."""
    for number in reversed(range(len(hidden))):
        lower, upper = hidden[number]
        before = np.zeros(len(row))
        for unit, coefficient in enumerate(row):
            a, b = lower[unit], upper[unit]
            if a >= 0:
                before[unit] = coefficient
            elif b > 0 and coefficient < 0:
                before[unit] = coefficient * b / (b - a)
                constant += coefficient * -a * b / (b - a)
            elif b > 0 and b >= -a:
                before[unit] = coefficient
        constant += before @ layers[number].bias
        row = before @ layers[number].weight
    return constant + least(row, low, high)


def exact_margins(layers: Sequence[Layer], low: Array, high: Array, label: int) -> Array:
    """The least margins of a ReLU network over a box: a linear program for each ReLU pattern."""
    widths = [len(layer.bias) for layer in layers[:-1]]
    last = margin_layer(layers[-1], label)
    smallest = np.full(len(last.bias), np.inf)
    for pattern in itertools.product((0.0, 1.0), repeat=sum(widths)):
        matrix, offset, start = np.eye(len(low)), np.zeros(len(low)), 0
        sides: list[Array] = []
        limits: list[Array] = []
        for layer, width in zip(layers[:-1], widths, strict=True):
            on = np.array(pattern[start : start + width])
            start += width
            matrix, offset = layer.weight @ matrix, layer.weight @ offset + layer.bias
            sign = 2 * on - 1
            sides.append(-sign[:, None] * matrix)
            limits.append(sign * offset)
            matrix, offset = on[:, None] * matrix, on * offset
        rows, constants = last.weight @ matrix, last.weight @ offset + last.bias
        for target in range(len(smallest)):
            found = linprog(
                rows[target],
                A_ub=np.concatenate(sides),
                b_ub=np.concatenate(limits),
                bounds=np.stack([low, high], 1),
            )
            if found.status == 0:
                smallest[target] = min(smallest[target], found.fun + constants[target])
            elif target == 0:
                break  # no image has this pattern
    return smallest
