"""Sides of a gate over a model of one number: robust where the mean pixel is far from one half."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from advbench.bench.plan import Cell, Victim
from advbench.bench.run import Runner
from advbench.gate.side import Side, measure
from tests.advbench.fakes import Push, cell

N = 400
EPS = 0.1


class Threshold(nn.Module):
    """Two classes divided by the mean of two pixels at a threshold."""

    def __init__(self, at: float = 0.5) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 2)."""
        lead = x.flatten(1).mean(1) - self.at
        return torch.stack([-lead, lead], 1)


def cells(at: float = 0.5, gain: float = 1.0, keep: bool = True, n: int = N) -> list[Cell]:
    """Return one cell: samples spread evenly, those above one half of class 1."""
    values = np.linspace(0.1, 0.9, n)
    one = cell(Push(gain=gain), (EPS,), values.tolist(), (values > 0.5).astype(int).tolist())
    victim = Victim("net", Threshold(at), f"{at}")
    return [replace(one, victim=victim, keep_changes=keep)]


def side(at: float = 0.5, gain: float = 1.0, keep: bool = True, n: int = N) -> Side:
    """Measure it."""
    return measure(cells(at, gain, keep, n), Runner())
