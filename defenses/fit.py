"""One training as a defence sees it: what is trained, on what, how far it is, how it stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advbench.attacks.attack import Attack
from advbench.attacks.masking import unmasked
from advbench.attacks.victim import Model, frozen

Objective = Callable[[], Tensor]
"""Computes the loss of a minibatch, a scalar, at the weights as they are."""

_IN_FLIGHT = 500  # samples at once where nothing is trained


class Split(NamedTuple):
    """Samples: x (N, *shape) images in [0, 1] or scenes, classes y (N,), ids (N,)."""

    x: Tensor
    y: Tensor
    ids: Tensor

    def rows(self, index: Tensor) -> "Split":
        """Return some of the samples."""
        return Split(self.x[index], self.y[index], self.ids[index])

    def first(self, count: int | None) -> "Split":
        """Return the first samples, all of them for None."""
        return Split(self.x[:count], self.y[:count], self.ids[:count])


class Batch(NamedTuple):
    """A minibatch, as far as defences have changed it.

    x (B, *shape) is what the network is trained on, y (B,) are the classes and ids (B,) the numbers
    of the samples. ``soft`` (B, K) are probabilities wanted instead of the classes, where a defence
    asks for any; ``clean`` (B, *shape) is x before it was attacked, where the loss wants both.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    soft: Tensor | None = None
    clean: Tensor | None = None

    @property
    def wanted(self) -> Tensor:
        """What a loss compares the logits with: classes (B,), or probabilities (B, K)."""
        return self.y if self.soft is None else self.soft


class Score(NamedTuple):
    """How a network does on a split: accuracy, mean cross-entropy, and accuracy under attack."""

    accuracy: float
    loss: float
    robust: float | None = None


class Epoch(NamedTuple):
    """How training stood after an epoch.

    ``rate`` is the learning rate it ended with and ``loss`` the mean loss of its minibatches.
    """

    number: int
    rate: float
    loss: float
    validation: Score
    train: Score | None = None
    test: Score | None = None


@dataclass
class Fit:
    """A training under way.

    Fields:
        model: the network, from images (B, C, H, W) in [0, 1] to logits (B, K).
        seen: the same as a model of training samples, which may be scenes.
        seen_validation: the same as a model of validation samples, which may be other scenes.
        optimizer: of the network's parameters.
        loss: logits (B, K) and what is wanted of them to a scalar: the objective of the recipe.
        train, validation: the samples.
        classes: how many there are.
        epochs: how many there are to be; ``epoch`` how many are done, with fractions.
        seed: that of the recipe.
        log: how training stood after each epoch so far.
        stop: set by a defence, training ends after the epoch.
        alarm: what a defence found so wrong with the training that it must be told.
        kept_epoch: number of the epoch whose weights are the result; None where no single one's.
        memory: what defences keep between moments, see ``kept``.
    """

    model: nn.Module
    seen: Model
    seen_validation: Model
    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Split
    validation: Split
    classes: int
    epochs: int
    seed: int
    epoch: float = 0.0
    log: list[Epoch] = field(default_factory=list)
    stop: bool = False
    alarm: str = ""
    kept_epoch: int | None = None
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def done(self) -> float:
        """The share of the training that is done, 0 to 1."""
        return self.epoch / self.epochs

    @property
    def epoch_seed(self) -> int:
        """A seed that differs from epoch to epoch and does not change within one."""
        return (self.seed * 1_000_003 + int(self.epoch)) % 2**32

    def kept(self, defense: object) -> dict[str, Any]:
        """What one defence keeps between its moments.

        It is saved with a checkpoint, so it holds tensors, numbers, text, None, and lists, tuples
        and dicts of these, and nothing else.
        """
        return self.memory.setdefault(type(defense).__name__, {})


def logits(model: nn.Module, seen: Model, x: Tensor, seed: int = 0) -> Tensor:
    """Return the logits (N, K) for x (N, *shape), ``seen`` by the model in eval mode.

    Model and global random state come back as they were.
    """
    with frozen(model, seed), torch.inference_mode():
        return torch.cat([seen(part) for part in x.split(_IN_FLIGHT)])


def score(model: nn.Module, seen: Model, split: Split, seed: int = 0) -> Score:
    """Return accuracy and mean cross-entropy on a split."""
    answers = logits(model, seen, split.x, seed)
    share = (answers.argmax(1) == split.y).double().mean().item()
    return Score(share, nn.functional.cross_entropy(answers, split.y).item())


def robust_accuracy(
    model: nn.Module, seen: Model, split: Split, attack: Attack, eps: float, seed: int = 0
) -> float:
    """Return the share of a split that is right and stays so under an attack of size ``eps``.

    The attack knows the layers that hide gradients.
    """
    differentiated = unmasked(seen)
    correct = logits(model, seen, split.x, seed).argmax(1) == split.y
    for rows in torch.arange(len(split.y)).split(_IN_FLIGHT):
        x, y, ids = split.rows(rows)
        changed = attack(differentiated, x, y, eps=eps, seed=seed, ids=ids, stop="never")
        correct[rows] &= logits(model, seen, changed, seed).argmax(1) == y
    return correct.double().mean().item()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights and buffers of a network."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network weights and buffers as ``weights_of`` returns them."""
    model.load_state_dict(dict(weights))
