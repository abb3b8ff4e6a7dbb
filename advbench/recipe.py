"""The schema of a recipe file: everything that decides what a training produces.

[train]      epochs, seed, batch_size, loss, schedule, select, threads
[optimizer]  name, lr, momentum, weight_decay
[data]       name, samples
[model]      an architecture: name and its fields
[normalize]  mean, std; only where the model normalises
[[defense]]  a defence: name and its fields; they act one after the other
"""

from dataclasses import dataclass
from typing import Literal

from advbench.defenses.defense import Defense
from advbench.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Train:
    """How long, on what objective and by which measure the best epoch is kept.

    Fields:
        seed: everything random follows from it: initialisation, order and attacks.
        loss: "squared_error" is taken between the logits and the one-hot labels.
        schedule: of the learning rate, by the step: "cosine" falls to 0; "one_cycle" rises to the
            rate of the optimizer over the first 30 % of training and then falls to 0.
        select: validation accuracy that decides: "clean", or "robust" (under the defences).
        threads: of the processor. Sums come out in another order with another number, so it is
            part of the recipe: the same recipe gives the same bits on the same machine.
    """

    epochs: int
    seed: int = 0
    batch_size: int = 128
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    select: Literal["clean", "robust"] = "clean"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2**32 - 1; got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer; momentum is that of SGD and is not used by Adam."""

    name: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Data:
    """The dataset, by its name; samples limits the training split."""

    name: str
    samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Normalisation inside the model: a mean and a std per channel, in pixel units [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what a training produces; the schema of a recipe file."""

    train: Train
    data: Data
    model: Architecture
    optimizer: Optimizer = Optimizer()
    normalize: Normalize | None = None
    defense: tuple[Defense, ...] = ()

    def __post_init__(self) -> None:
        if self.train.select == "robust" and not self.defense:
            raise ValueError('train.select = "robust" needs a [[defense]]')
