"""A folder of images, one sub-folder per class."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from advbench.data.dataset import Dataset, Samples, carve, check_split, first, located, permutation


@final
@dataclass(frozen=True)
class Folder(Dataset):
    """Colour images of one size in PATH/<split>/<class>/, read by torchvision's ImageFolder.

    A relative path is looked for under the data root, then under the working directory. Without a
    folder `validation`, it is carved out of `train`; a folder without splits is a test split.
    """

    path: str

    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load samples of shape (3, H, W); only the selected images are decoded."""
        check_split(split)
        name = f"folder:{self.path}"
        folder, carved = self._find(split, root)
        try:
            stored = ImageFolder(str(folder), transform=pil_to_tensor)
        except FileNotFoundError as error:
            raise ValueError(f"data: {name}: {error}") from error
        n = len(stored)
        order = carve(n)[split == "validation"] if carved else permutation(n)
        ids = first(order, samples, name, split)
        images, labels = _decode(stored, ids)
        classes = tuple(_readable(one) for one in stored.classes)
        return Samples(name, split, images, labels, torch.tensor(ids), classes)

    def _find(self, split: str, root: Path | None) -> tuple[Path, bool]:
        """The folder that holds the split, and whether train and validation share it."""
        base = located(f"folder:{self.path}", self.path, root)
        shared = not (base / "validation").is_dir()
        held = base / ("train" if split == "validation" and shared else split)
        if held.is_dir():
            return held, shared and split != "test"
        if split == "test" and not (base / "train").is_dir():
            return base, False
        raise ValueError(
            f"data.split: folder:{self.path} has no split '{split}': there is no folder '{held}'"
        )


def _readable(name: str) -> str:
    """The name of a folder as text that can be written, with escapes for what is no UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _decode(stored: ImageFolder, ids: list[int]) -> tuple[Tensor, Tensor]:
    x = torch.empty(0)
    y = torch.empty(len(ids), dtype=torch.int64)
    for row, index in enumerate(ids):
        file = stored.samples[index][0]
        try:
            image, y[row] = stored[index]
        except OSError as error:
            raise ValueError(f"data: cannot read the image '{file}': {error}") from error
        if row == 0:
            x = torch.empty(len(ids), *image.shape)
        if image.shape != x.shape[1:]:
            raise ValueError(
                f"data: images must have one size; '{file}' has {tuple(image.shape)}, "
                f"the first image has {tuple(x.shape[1:])}"
            )
        x[row] = image / 255
    return x, y
