"""A model as a sequence of stages: affine maps, then activations."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from advbench.trust.certificates.affine import AffineMap
from advbench.trust.certificates.curves import Activation
from advbench.trust.certificates.rows import Interval, Rows, Step

BUDGET = 1 << 22
"""How many numbers a tensor of rows may hold: 16 MB, of which several are needed at once."""
_KEPT = 1 << 25  # numbers in the rows of a stage that are kept for all samples


@final
@dataclass(frozen=True, eq=False)
class Stage:
    """Affine maps and the activations behind them, ``inputs`` and ``outputs`` of the maps."""

    maps: tuple[AffineMap, ...]
    activations: tuple[Activation, ...]
    inputs: int
    outputs: int
    like: Tensor  # a tensor of the device and precision of the weights

    @property
    def exact(self) -> bool:
        """Whether intervals pass the maps without loss: at most one of them mixes its inputs."""
        return sum(one.mixes for one in self.maps) <= 1

    def affine(self, values: Tensor) -> Tensor:
        """Apply the maps to (N, inputs)."""
        for one in self.maps:
            values = one(values)
        return values

    def activate(self, values: Tensor) -> Tensor:
        """Apply the activations to (N, outputs)."""
        for one in self.activations:
            values = one(values)
        return values

    def interval(self, given: Interval) -> Interval:
        """Return the bounds of the maps' outputs."""
        for one in self.maps:
            given = one.interval(given)
        return given

    def after(self, given: Interval) -> Interval:
        """Return the bounds of the activations' outputs."""
        for one in self.activations:
            given = one.interval(given)
        return given

    def relax(self, given: Interval) -> list[Step]:
        """Return the relaxed activations for bounds of the maps' outputs."""
        steps = []
        for one in self.activations:
            steps.append(one.relax(given))
            given = one.interval(given)
        return steps

    def needs(self, given: Interval) -> Tensor:
        """Say which of the maps' outputs need better bounds than these, bool (B, outputs)."""
        seen = []
        for one in self.activations:
            seen.append(given)
            given = one.interval(given)
        idle = wanted = torch.zeros_like(given.low, dtype=torch.bool)
        for one, interval in zip(reversed(self.activations), reversed(seen), strict=True):
            wanted, idle = one.needs(interval, wanted, idle)
        return wanted

    def back(self, rows: Rows) -> Rows:
        """Take rows back through the maps."""
        for one in reversed(self.maps):
            rows = one.back(rows)
        return rows

    def rows(self, units: Tensor) -> Rows:
        """Return some outputs of the maps, units (B, R), in terms of the stage's inputs."""
        if self._all is not None:
            return Rows(self._all.matrix[0][units], self._all.constant[0][units])
        some, place = units.unique(return_inverse=True)
        few = self._some(some)
        return Rows(few.matrix[0][place], few.constant[0][place])

    def blocks(self) -> Iterator[Rows]:
        """Yield all outputs in their order, as rows (1, R, inputs), some at a time."""
        if self._all is not None:
            yield self._all
        else:
            yield from self._parts()

    def _parts(self) -> Iterator[Rows]:
        step = max(1, BUDGET // max(self.inputs, self.outputs))
        for part in torch.arange(self.outputs, device=self.like.device).split(step):
            yield self._some(part)

    @cached_property
    def _all(self) -> Rows | None:
        """All outputs as rows, which are the same for all samples, unless that is too large."""
        if self.inputs * self.outputs > _KEPT:
            return None
        parts = list(self._parts())
        return Rows(
            torch.cat([part.matrix for part in parts], 1),
            torch.cat([part.constant for part in parts], 1),
        )

    def _some(self, units: Tensor) -> Rows:
        unit = self.like.new_zeros(1, len(units), self.outputs)
        return self.back(Rows.of(unit.scatter_(2, units.view(1, -1, 1), 1.0), measured=False))


@final
@dataclass(frozen=True, eq=False)
class Network:
    """What a model computes, from flat images (N, n) to logits (N, classes)."""

    stages: tuple[Stage, ...]
    classes: int

    def __call__(self, values: Tensor) -> Tensor:
        """Return the logits."""
        for stage in self.stages:
            values = stage.activate(stage.affine(values))
        return values

    @property
    def like(self) -> Tensor:
        """A tensor of the device and precision of the weights."""
        return self.stages[0].like

    @property
    def hidden(self) -> tuple[Stage, ...]:
        """All stages but the last: those whose activations have to be relaxed."""
        return self.stages[:-1]

    @property
    def searched(self) -> list[int]:
        """The widths of the hidden stages whose bounds take back-substitution."""
        return [one.outputs for n, one in enumerate(self.hidden) if n or not one.exact]

    @property
    def widest(self) -> int:
        """The most values between two layers."""
        between = [len(one.offset) for stage in self.stages for one in stage.maps]
        return max(*between, *(stage.inputs for stage in self.stages), self.classes)
