"""Datasets by name: digits (embedded), mnist, fashion_mnist, cifar10 and folder:PATH."""

from pathlib import Path

from advbench import registry
from advbench.data.dataset import Dataset, Samples

__all__ = ["Dataset", "Samples", "load"]


def load(
    name: str, split: str = "test", samples: int | None = None, root: Path | None = None
) -> Samples:
    """Load a split of a named dataset.

    `name` is a registered dataset (`advbench list datasets`) or `folder:PATH`; `samples` asks for
    the first so many of one fixed, class-mixing permutation of the split (None: all of it);
    `root` is the data root (None: the environment variable ADVBENCH_DATA, then ./data).

    Raises ValueError for an unknown name or split, or for more samples than the split has, and
    FileNotFoundError where the data are not where they were looked for.

    >>> load("digits", samples=100).x.shape
    torch.Size([100, 1, 8, 8])
    """
    kind, _, argument = name.partition(":")
    dataset = registry.get("datasets", kind)
    try:
        instance = dataset(argument) if argument else dataset()
    except TypeError as error:
        expected = f"{kind}:PATH" if not argument else kind
        raise ValueError(f"data: got '{name}', expected '{expected}'") from error
    loaded: Samples = instance.load(split, samples, root)
    return loaded
