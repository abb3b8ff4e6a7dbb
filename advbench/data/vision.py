"""Datasets read through torchvision from files that are already on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torchvision import datasets

from advbench.data.dataset import (
    Dataset,
    Samples,
    carve,
    check_split,
    data_root,
    first,
    missing,
    permutation,
)


@final
@dataclass(frozen=True)
class MNIST(Dataset):
    """Handwritten digits of 28x28 pixels, from ROOT/MNIST/raw: 55,000 / 5,000 / 10,000 samples.

    Source: LeCun et al., Gradient-based learning applied to document recognition, Proceedings of
    the IEEE 86(11), 1998.
    """

    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load samples of shape (1, 28, 28)."""
        return _load("mnist", datasets.MNIST, "MNIST/raw", split, samples, root)


@final
@dataclass(frozen=True)
class FashionMNIST(Dataset):
    """Articles of clothing, 28x28 pixels, from ROOT/FashionMNIST/raw: 55,000 / 5,000 / 10,000.

    Source: Xiao et al., Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms, 2017, arXiv:1708.07747.
    """

    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load samples of shape (1, 28, 28)."""
        return _load(
            "fashion_mnist", datasets.FashionMNIST, "FashionMNIST/raw", split, samples, root
        )


@final
@dataclass(frozen=True)
class CIFAR10(Dataset):
    """Photographs of 32x32 pixels, from ROOT/cifar-10-batches-py: 45,000 / 5,000 / 10,000 samples.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load samples of shape (3, 32, 32)."""
        return _load("cifar10", datasets.CIFAR10, "cifar-10-batches-py", split, samples, root)


def _load(
    name: str,
    source: type[datasets.MNIST] | type[datasets.CIFAR10],
    folder: str,
    split: str,
    samples: int | None,
    root: Path | None,
) -> Samples:
    check_split(split)
    place = data_root(root)
    if not (place / folder).is_dir():
        raise missing(name, [place / folder])
    try:
        stored = source(str(place), train=split != "test", download=False)
    except Exception as error:  # of many kinds, for files that are cut off or something else
        raise ValueError(
            f"data: {name}: the files in '{place / folder}' are incomplete or damaged "
            f"({type(error).__name__}: {error}); put the original ones there, which are not fetched"
        ) from error
    if split == "test":
        order = permutation(len(stored))
    else:
        order = carve(len(stored))[split == "validation"]
    ids = torch.tensor(first(order, samples, name, split))
    return Samples(
        name=name,
        split=split,
        x=_channels_first(torch.as_tensor(stored.data)[ids]).float() / 255,
        y=torch.as_tensor(stored.targets)[ids],
        ids=ids,
        classes=tuple(stored.classes),
    )


def _channels_first(images: Tensor) -> Tensor:
    return images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1).contiguous()
