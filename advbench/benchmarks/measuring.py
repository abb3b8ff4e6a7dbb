"""Counting passes and timing calls from outside whatever is being measured."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Passes:
    """Rows that went through a model, forwards and backwards."""

    forwards: int = 0
    backwards: int = 0


@final
class Whole(nn.Module):
    """A model as one piece: a library that runs a Sequential layer by layer passes no hook."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of `x`."""
        logits: Tensor = self.model(x)
        return logits


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count every row that passes `model` in the block, whoever calls it.

    A forward counts the rows of the logits, a backward the rows of the gradient that arrives at
    them, so several backwards through one forward are all seen. Works for any model that returns
    logits (B, K).
    """
    passes = Passes()

    def seen_backward(gradient: Tensor) -> None:
        passes.backwards += len(gradient)

    def seen_forward(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
        passes.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(seen_backward)

    handle = model.register_forward_hook(seen_forward)
    try:
        yield passes
    finally:
        handle.remove()


def floor(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Run `steps` times forward and backward to the input, the least a gradient attack can do.

    `model` has to be frozen and in eval mode. Returns the last gradient, shaped like `x`.
    """
    gradient = torch.zeros_like(x)
    for _ in range(steps):
        images = x.detach().requires_grad_(True)
        loss = functional.cross_entropy(model(images), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient


_FLOOR = "floor"


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def cpu_seconds(call: Callable[[], object], calls: int = 1) -> float:
    """CPU seconds of this process for one call, as the mean over `calls` in a row."""
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls


def spin() -> int:
    """Do a fixed amount of pure Python; its spread is the machine's noise."""
    total = 0
    for i in range(300_000):
        total += i
    return total


@dataclass(frozen=True)
class Timing:
    """One interleaved race: CPU seconds of the floor and the spin loop, and the ratios."""

    floor: Spread
    noise: Spread  # the spin loop
    ratios: dict[str, Spread]  # a contestant's seconds over the floor's of the same repetition


def race(
    floor_call: Callable[[], object],
    contestants: Mapping[str, Callable[[], object]],
    *,
    repetitions: int = 5,
    least_seconds: float = 0.02,
) -> Timing:
    """Time all contestants and the floor in turn, `repetitions` times over.

    Each round starts with another one, so that no place in the order is anybody's own. Calls
    shorter than `least_seconds` are repeated until they fill it, judged by the floor. Warm
    up first: nothing here is discarded. Raises ValueError for fewer than five repetitions.
    """
    if repetitions < 5:
        raise ValueError(f"repetitions must be at least 5 for a median; got {repetitions}.")
    calls = max(1, round(least_seconds / max(cpu_seconds(floor_call), 1e-6)))
    floors: list[float] = []
    spins: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in contestants}
    runners = [(_FLOOR, floor_call), *contestants.items()]
    for repetition in range(repetitions):
        spins.append(cpu_seconds(spin))
        first = repetition % len(runners)
        seconds = {}
        for name, call in runners[first:] + runners[:first]:
            gc.collect()  # or one pays for what another has left behind
            seconds[name] = cpu_seconds(call, calls)
        floors.append(seconds.pop(_FLOOR))
        for name, own in seconds.items():
            ratios[name].append(own / floors[-1])
    return Timing(
        floor=Spread.of(floors),
        noise=Spread.of(spins),
        ratios={name: Spread.of(values) for name, values in ratios.items()},
    )
