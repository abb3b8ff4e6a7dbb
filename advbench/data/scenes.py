"""The embedded scenes: ten kinds of objects, built by code, each seen in its usual pose."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch

from advbench.attacks.randomness import Draws
from advbench.data.dataset import Dataset, Samples, check_split, first
from advbench.data.objects import CLASSES, VARIANTS, instances
from advbench.data.view import View

_SEED = 1811
_GREYS = 64  # backgrounds, from dark to middle grey
_SIZES = {"train": (6000, 600), "validation": (500, 100), "test": (2000, 400)}
"""Samples of each split, and individuals they show: no individual is in two splits."""

VIEW = View(size=(32, 32))
"""How the embedded objects are looked at."""


@final
@dataclass(frozen=True)
class Scenes(Dataset):
    """Ten kinds of grey objects, rendered at 32x32 pixels: 6,000 / 500 / 2,000 scenes.

    x are scenes (N, 17) in a canonical pose, from above and the side, give or take: `renderer`
    turns them into images (N, 1, 32, 32). Only their shape tells the objects apart. Each split
    shows individuals of its own, with other proportions and shades.

    Fields:
        objects: "classes", or "variants": other shapes of the same kinds, for tests of what a
            model has learnt from the first.
    """

    objects: Literal["classes", "variants"] = "classes"

    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load scenes; `root` is not needed."""
        check_split(split)
        if self.objects not in ("classes", "variants"):
            raise ValueError(f"data: scenes:{self.objects}: expected 'classes' or 'variants'")
        total, individuals = _SIZES[split]
        name = "scenes" if self.objects == "classes" else f"scenes:{self.objects}"
        rows = torch.tensor(first(range(total), samples, name, split))
        ids = rows + list(_SIZES).index(split) * 1_000_000
        kinds: Sequence[str] = list(CLASSES)
        shapes = CLASSES if self.objects == "classes" else VARIANTS
        built = [shapes[kind]() for kind in kinds]
        shown = torch.arange(min(individuals, len(rows)))
        meshes = instances([built[n % len(kinds)] for n in shown], _draws(ids[: len(shown)], 1))
        draws = _draws(ids, 0)
        background = draws.fork(1).bits(()) % _GREYS
        x = VIEW.scenes(rows % individuals, background, draws, torch.zeros_like(rows).bool())
        renderer = VIEW.renderer(meshes, torch.linspace(0.1, 0.45, _GREYS).unsqueeze(1))
        return Samples(name, split, x, rows % len(kinds), ids, tuple(kinds), renderer)


def _draws(ids: torch.Tensor, stream: int) -> Draws:
    zero = torch.zeros_like(ids)
    return Draws(zero + _SEED, ids, zero + stream, zero)
