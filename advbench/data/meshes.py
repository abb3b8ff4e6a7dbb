"""A folder of meshes, one sub-folder per class."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from advbench.attacks.randomness import Draws
from advbench.data.dataset import SPLITS, Dataset, Samples, check_split, first, located
from advbench.data.obj import FORMATS, read_mesh
from advbench.data.view import View
from advbench.document import parse_toml
from advbench.schema import build

VIEWS = 100
"""Scenes of each mesh in a split; of the test split the first is the canonical one itself."""
_NUMBERED = re.compile(r"(\d+)(?:[-_ ](.*))?")


@dataclass(frozen=True, kw_only=True)
class Look:
    """The schema of view.toml."""

    view: View = View()


@final
@dataclass(frozen=True)
class Meshes(Dataset):
    """Objects in PATH/<class>/*.obj, rendered in colour; other formats need the extra `meshes`.

    Every split shows all of them, each from other sides; the test split begins with each mesh just
    in its canonical pose. The tables [view] and [view.spread] of a file PATH/view.toml say how they
    are looked at: the fields of `advbench.data.view.View`.

    Where all sub-folders begin with a number, as in `817_sports_car`, it is the number of the class
    in the model; otherwise classes are numbered in the order of their names. A relative path is
    looked for under the data root, then under the working directory.
    """

    path: str

    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load scenes (N, 17), with a renderer that makes images (N, 3, H, W) of them."""
        check_split(split)
        name = f"meshes:{self.path}"
        base = located(name, self.path, root)
        view = _view(base)
        folders = sorted(place for place in base.iterdir() if place.is_dir())
        classes = _classes([folder.name for folder in folders])
        files = [
            (classes[folder.name], file)
            for folder in folders
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in FORMATS
        ]
        if not files:
            raise ValueError(
                f"data: {name}: no meshes in '{base}'; expected files such as "
                f"'{base / 'car' / 'beetle.obj'}', in one folder per class"
            )
        rows = torch.tensor(first(range(len(files) * VIEWS), samples, name, split))
        mesh = rows % len(files)
        zero = torch.zeros_like(rows)
        exact = (rows < len(files)) & (split == "test")
        draws = Draws(zero, rows, zero + SPLITS.index(split), zero)
        known = {number: label for label, number in classes.items()}
        backgrounds = torch.tensor(view.background).expand(1, 3)
        renderer = view.renderer([read_mesh(file) for _, file in files], backgrounds)
        return Samples(
            name,
            split,
            view.scenes(mesh, zero, draws, exact),
            torch.tensor([number for number, _ in files])[mesh],
            rows,
            tuple(known.get(number, f"class {number}") for number in range(max(known) + 1)),
            renderer,
        )


def _view(base: Path) -> View:
    file = base / "view.toml"
    view = build(Look, parse_toml(file)).view if file.exists() else View()
    if len(view.background) not in (1, 3):
        raise ValueError(
            f"{file}: background must be a grey, or red, green and blue; got {view.background}"
        )
    return view


def _classes(folders: list[str]) -> dict[str, int]:
    """The number of each class by the name of its folder."""
    found = [_NUMBERED.fullmatch(folder) for folder in folders]
    if not all(found):
        return {folder: number for number, folder in enumerate(folders)}
    return {match[0]: int(match[1]) for match in found if match}
