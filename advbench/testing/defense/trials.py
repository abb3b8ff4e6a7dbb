"""Small trainings with a defence; those that several checks look at are run once."""

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from advbench.data import Samples, load
from advbench.defenses.defense import Defense
from advbench.defenses.fit import Epoch, Fit, logits
from advbench.models.ffn import FFN
from advbench.models.lenet import LeNet
from advbench.testing.requirement import require
from advbench.training.recipe import Data, Normalize, Optimizer, Recipe, Train
from advbench.training.trainer import Progress, Trained, train

_SAMPLES = 44
_EPOCHS = 3

UNDEFENDED = (
    Recipe(
        train=Train(epochs=_EPOCHS, batch_size=16),  # the last minibatch of an epoch is smaller
        data=Data(name="digits", samples=_SAMPLES),
        model=FFN(hidden=(8, 8, 8)),
        optimizer=Optimizer(lr=1e-2),
    ),
    Recipe(
        train=Train(epochs=_EPOCHS, batch_size=16),
        data=Data(name="digits", samples=_SAMPLES),
        model=LeNet(channels=(2, 4), kernel=3, hidden=8),
        optimizer=Optimizer(name="sgd", lr=3e-2),
        normalize=Normalize(mean=(0.3,), std=(0.4,)),
    ),
)
"""A fully connected and a normalised convolutional network; a defence has to suit one of them."""


@cache
def samples(split: str = "train") -> Samples:
    """Return the samples that trials train on, or half as many of another split."""
    return load("digits", split, _SAMPLES if split == "train" else _SAMPLES // 2)


def run(
    recipe: Recipe, progress: Progress | None = None, checkpoint: Path | None = None
) -> Trained:
    """Train anew; a checkpoint is written after every epoch."""
    return train(
        recipe,
        data=samples(),
        validation=samples("validation"),
        progress=progress,
        checkpoint=checkpoint,
        patience=0,
    )


@cache
def trained(recipe: Recipe) -> Trained:
    """Train, unless it has been done: what comes back is shared, and for looking only."""
    return run(recipe)


@cache
def refusal(recipe: Recipe) -> str | None:
    """Return the words with which a defence refuses a network; None if it takes it."""
    try:
        trained(recipe)
    except ValueError as error:
        return str(error)
    return None


def suited(defense: Defense) -> list[Recipe]:
    """Return the trials whose network suits a defence."""
    trials = [replace(recipe, defenses=(defense,)) for recipe in UNDEFENDED]
    found = [recipe for recipe in trials if refusal(recipe) is None]
    told = "; ".join(refusal(recipe) or "" for recipe in trials)
    require(bool(found), defense, f"suits neither a ffn nor a lenet: {told}")
    return found


def under_way(recipe: Recipe) -> Fit:
    """Return a training as it stands after its first epoch, to try moments on."""
    reached: list[Fit] = []

    def stop(_: Epoch, fit: Fit) -> None:
        reached.append(fit)
        raise InterruptedError

    with suppress(InterruptedError):
        run(recipe, stop)
    reached[0].model.train()
    return reached[0]


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all weights and buffers that are saved."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same_bits(one: nn.Module, two: nn.Module) -> bool:
    """Whether two networks have the same weights and buffers, bit for bit."""
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )


def answers(model: nn.Module, x: Tensor | None = None, seed: int = 0) -> Tensor:
    """Return what a model answers for some images, by default those of the test split."""
    return logits(model, model, samples("test").x if x is None else x, seed)
