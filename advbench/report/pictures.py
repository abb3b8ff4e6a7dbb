"""Samples for pictures: as they were judged, as bytes, with the names of their classes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.attacks.attack import Attack
from advbench.attacks.expectation import EOT
from advbench.attacks.victim import Model
from advbench.bench.plan import Cell


def remade(cell: Cell, attack: Attack, at: NDArray[np.int64], model: Model | None = None) -> Tensor:
    """Return the rows ``at`` (n,) of the samples as they were judged, (n, *shape).

    They are made again from the attack, seed and sample ids. ``model`` stands in for the victim:
    it has to give the same answers to what the samples are, images or scenes.
    """
    samples, index = cell.selection.samples, torch.from_numpy(at)
    outcome = attack.run(
        samples.seen_by(cell.victim.model) if model is None else model,
        samples.x[index],
        samples.y[index],
        eps=cell.scale,
        targets=_aims(cell, attack, len(at)),
        seed=cell.seed,
        ids=samples.ids[index],
        stop="success",
        correct=torch.ones(len(at), dtype=torch.bool),
        budget=cell.budget,
        eot=None if cell.eot is None else EOT(cell.eot),
    )
    return outcome.x_adv


def _aims(cell: Cell, attack: Attack, count: int) -> Tensor | None:
    """The classes to reach; what was fitted has its own built in."""
    if cell.targets is None or attack is not cell.attack:
        return None
    return torch.full((count,), cell.targets)


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """Return an image (C, H, W) in [0, 1], grey or in colour, as (H, W, 3) in bytes."""
    whole = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return np.broadcast_to(whole.numpy(), (*whole.shape[:2], 3))


def class_name(classes: Sequence[str], number: int) -> str:
    """Return the name of a class: its number where the data set does not know it."""
    if number < 0:
        return "nothing"
    return classes[number] if number < len(classes) else f"class {number}"
