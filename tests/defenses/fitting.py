"""Short trainings for the tests of defences."""

import torch
from torch import Tensor, nn

from advbench import data
from advbench.defenses.defense import Defense
from advbench.defenses.fit import Batch, Fit, Split
from advbench.models.architecture import Architecture
from advbench.models.ffn import FFN
from advbench.models.lenet import LeNet
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import Trained, train

SAMPLES = data.load("digits", "train", 60)
VALIDATION = data.load("digits", "validation", 30)
SMALL_FFN = FFN(hidden=(16,))
SMALL_LENET = LeNet(channels=(4, 8), kernel=3, hidden=16)


def trained(
    *defenses: Defense,
    model: Architecture = SMALL_FFN,
    epochs: int = 3,
    optimizer: Optimizer = Optimizer(lr=5e-3),  # noqa: B008 - a frozen value
) -> Trained:
    """Train a small network on a few digits."""
    recipe = Recipe(
        train=Train(epochs=epochs, batch_size=20),
        data=Data(name="digits"),
        model=model,
        optimizer=optimizer,
        defenses=defenses,
    )
    return train(recipe, data=SAMPLES, validation=VALIDATION)


def under_way(model: nn.Module, epoch: float = 0.0) -> Fit:
    """Return a training of a network on the same digits, by plain SGD."""
    fit = fit_of(model, SAMPLES.x, SAMPLES.y)
    fit.epoch = epoch
    return fit


def first_batch(count: int = 20) -> Batch:
    """Return the first samples as a minibatch."""
    return Batch(SAMPLES.x[:count], SAMPLES.y[:count], SAMPLES.ids[:count])


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same weights, whatever they are called."""
    mine, theirs = list(one.state_dict().values()), list(other.state_dict().values())
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


def answers(model: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """Return what a network answers, its draws seeded."""
    torch.manual_seed(seed)
    with torch.no_grad():
        answer: Tensor = model(x)
    return answer


def fit_of(model: nn.Module, x: Tensor, y: Tensor, epochs: int = 4) -> Fit:
    """A training of a model before its first epoch, by plain SGD."""
    split = Split(x, y, torch.arange(len(y)))
    return Fit(
        model=model,
        seen=model,
        seen_validation=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        loss=nn.functional.cross_entropy,
        train=split,
        validation=split,
        classes=int(y.max()) + 1,
        epochs=epochs,
        seed=0,
    )


def scrambled(model: nn.Module, seed: int) -> list[Tensor]:
    """Give a model weights at random, and return a copy of them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return [weight.detach().clone() for weight in model.parameters()]
