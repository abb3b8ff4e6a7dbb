"""What a dataset is, and which of its samples a run sees."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from advbench.attacks.rendering.renderer import Renderer
from advbench.attacks.victim import Model, SceneModel

SPLITS = ("train", "validation", "test")
ROOT_VARIABLE = "ADVBENCH_DATA"
_RENDERED = 128  # scenes at once: rendering takes far more memory than its images


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one split.

    x (N, *shape) float32: images in [0, 1], or scenes, which `renderer` turns into images; y (N,)
    int64; ids (N,) int64, the place of each sample in the file or folder it was read from, so that
    a sample keeps its id whatever selection it is in.
    """

    name: str
    split: str
    x: Tensor
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    renderer: Renderer | None = None

    def __len__(self) -> int:
        return len(self.y)

    def seen_by(self, model: Model) -> Model:
        """The model of images as a model of these samples, whatever they are."""
        return model if self.renderer is None else SceneModel(self.renderer, model)

    def images(self, x: Tensor) -> Tensor:
        """What samples like these, x (B, *shape), look like: images (B, C, H, W) where x is."""
        if self.renderer is None:
            return x
        device = next(iter(_tensors(self.renderer)), x).device
        with torch.no_grad():
            parts = [self.renderer(part.to(device)).to(x.device) for part in x.split(_RENDERED)]
        return torch.cat(parts)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(self.images(self.x[:1]).shape[1:])

    def only(self, number: int) -> "Samples":
        """The samples of one class."""
        return self._rows((self.y == number).nonzero().squeeze(1))

    def first(self, count: int | None) -> "Samples":
        """The first `count` samples, or all if there are fewer or it is None."""
        return self if count is None else self._rows(torch.arange(min(count, len(self))))

    def _rows(self, index: Tensor) -> "Samples":
        return replace(self, x=self.x[index], y=self.y[index], ids=self.ids[index])

    def digest(self) -> str:
        """The sha256 of the samples: x, y and ids, in their order, and how they are rendered."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y, self.ids, *_tensors(self.renderer)):
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        if self.renderer is not None:
            digest.update(_name(self.renderer).encode())
        return digest.hexdigest()


def _tensors(renderer: Renderer | None) -> list[Tensor]:
    return list(renderer.state_dict().values()) if isinstance(renderer, nn.Module) else []


def _name(renderer: Renderer) -> str:
    """A renderer as text: with its settings if it is a module, else the class alone."""
    return repr(renderer) if isinstance(renderer, nn.Module) else type(renderer).__qualname__


@dataclass(frozen=True)
class Dataset(ABC):
    """A source of labelled images, or scenes, with the splits "train", "validation" and "test"."""

    @abstractmethod
    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load the first `samples` of the split's fixed permutation (None: all of them)."""


def permutation(n: int) -> list[int]:
    """One fixed permutation of range(n), the same on every machine and in every version."""

    def key(index: int) -> bytes:
        return hashlib.blake2b(index.to_bytes(8, "little"), digest_size=8).digest()

    return sorted(range(n), key=key)


def carve(n: int) -> tuple[list[int], list[int]]:
    """Part a training set of n into train and validation: the last 5,000, or a tenth if fewer."""
    order = permutation(n)
    held_out = min(5000, n // 10)
    return order[: n - held_out], order[n - held_out :]


def first(order: Sequence[int], samples: int | None, name: str, split: str) -> list[int]:
    """The first `samples` of an order, or all of it."""
    if samples is None:
        return list(order)
    if not 0 < samples <= len(order):
        raise ValueError(
            f"data.samples: got {samples}, expected 1 to {len(order)} ({name}, split '{split}')"
        )
    return list(order[:samples])


def check_split(split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"data.split: got '{split}', expected one of {', '.join(SPLITS)}")


def data_root(root: Path | None) -> Path:
    """The data root: the argument, else the environment variable ADVBENCH_DATA, else ./data."""
    return Path(root if root is not None else os.environ.get(ROOT_VARIABLE) or "data")


def located(name: str, path: str, root: Path | None) -> Path:
    """The folder `path`, under the data root or else under the working directory."""
    places = [data_root(root) / path, Path(path)]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise missing(name, places)
    return found


def missing(name: str, places: Sequence[Path]) -> FileNotFoundError:
    """The error for data that are in none of the places."""
    looked = ", ".join(f"'{place}'" for place in places)
    return FileNotFoundError(
        f"data: {name} not found; looked in {looked}. Name the folder that holds it with "
        f"data.root or the environment variable {ROOT_VARIABLE}."
    )
