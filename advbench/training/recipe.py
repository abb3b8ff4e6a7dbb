"""The schema of a recipe file: everything that decides what a training produces.

defenses     a list of defences, each a name, or a table with name and its fields
[train]      epochs, seed, batch_size, loss, schedule, threads
[optimizer]  name, lr, momentum
[data]       name, samples
[model]      an architecture: name and its fields
[normalize]  mean, std; only where the model normalises
[log]        attack, eps, samples, every: what else is measured while it trains
"""

from dataclasses import dataclass
from typing import Literal

from advbench.attacks.attack import Attack
from advbench.defenses.defense import Defense, check_together
from advbench.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Train:
    """How long and on what objective; the weights of the last epoch are the result.

    Fields:
        seed: everything random follows from it: initialisation, order and attacks.
        loss: "squared_error" is taken between the logits and the one-hot labels.
        schedule: of the learning rate, by the step: "cosine" falls to 0; "one_cycle" rises to the
            rate of the optimizer over the first 30 % of training and then falls to 0.
        threads: of the processor. Sums come out in another order with another number, so it is
            part of the recipe: the same recipe gives the same bits on the same machine.
    """

    epochs: int
    seed: int = 0
    batch_size: int = 128
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
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
class Log:
    """What is measured while a network trains: accuracy and loss on all splits, and under attack.

    Fields:
        attack: for the robust accuracy; None for none.
        eps: the scale of its perturbation set.
        samples: of each split that are attacked, the first ones; None for all.
        every: epochs between two measurements; the last epoch is always measured.
    """

    attack: Attack | None = None
    eps: float = 0.0
    samples: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or (self.samples is not None and self.samples < 1):
            raise ValueError(
                f"every and samples must be at least 1; got {self.every} and {self.samples}"
            )
        if (self.eps > 0) != (self.attack is not None):
            raise ValueError("attack and eps go together; only one of them is given")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what a training produces; the schema of a recipe file.

    The defences act in the order in which they are listed.
    """

    train: Train
    data: Data
    model: Architecture
    optimizer: Optimizer = Optimizer()
    normalize: Normalize | None = None
    defenses: tuple[Defense, ...] = ()
    log: Log | None = None

    def __post_init__(self) -> None:
        check_together(self.defenses)
