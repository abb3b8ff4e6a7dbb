"""What a defence is, the moments of training at which it may act, and which go together."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from advbench.defenses.fit import Batch, Fit, Objective

Make = Callable[[tuple[int, ...], int], nn.Module]
"""Builds a network for images of a shape (C, H, W) in [0, 1] and a number of classes."""

Claim = Literal[
    "examples",  # what is trained on is made by an attack or a mixture
    "objective",  # the loss of the recipe is replaced
    "step",  # the weights at which the gradient is taken
    "kept weights",  # which weights are the result
    "answer",  # how answers are averaged, or what is sampled for them
    "pre-training",
    "dropout",
    "input",  # the network is given something else than pixels
    "decay",
]
"""What only one defence of a training can decide."""


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A remedy: it acts at moments of a training, or wraps a finished model, or both.

    Its fields are its hyper-parameters; it holds no state, which is what ``Fit.kept`` is for. All
    moments do nothing unless they are overridden. Several defences act in the order in which they
    are listed; of those that build or wrap, the first is the innermost.

    Class variables are facts. ``claims`` are what it alone may decide. ``adaptive`` says how a
    model that has it is attacked fairly. ``broken`` names the work that broke it: such a one is a
    control, kept to show what a broken defence looks like. ``random`` says that the deployed model
    answers at random.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset()
    adaptive: ClassVar[str]
    broken: ClassVar[str] = ""
    random: ClassVar[bool] = False

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two or more instances that train in a moment, for the contract suite."""
        raise NotImplementedError(f"{cls.__name__}.examples")

    @property
    def replays(self) -> int:
        """How often each minibatch is trained on in a row; epochs become fewer by as much."""
        return 1

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Model built: return the network to train; ``make`` builds it without this defence.

        A network built for the same shape and classes must take the weights of another.
        """
        return make(shape, classes)

    def optimizer(self, fit: Fit) -> None:
        """Optimiser built: change its parameter groups. Comes again after a resumption."""

    def start(self, fit: Fit) -> None:
        """Before the first epoch, once: pre-training."""

    def rate(self, rate: float, fit: Fit) -> float:
        """Return the learning rate of the next step, as a fraction of the recipe's."""
        return rate

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return what to train on instead of a minibatch. The model comes back as it was."""
        return batch

    def objective(self, inner: Objective, batch: Batch, fit: Fit) -> Tensor:
        """Return the loss, a scalar; ``inner`` computes it without this defence."""
        return inner()

    def moved(self, objective: Objective, fit: Fit) -> AbstractContextManager[None]:
        """Hold the weights elsewhere while the gradient is taken; exactly as before afterwards."""
        return nullcontext()

    def after_step(self, batch: Batch, fit: Fit) -> None:
        """After a step of the optimiser, with the batch as it was trained on."""

    def after_epoch(self, fit: Fit) -> None:
        """After an epoch, whose standing is the last of ``fit.log``; may end the training."""

    def finish(self, fit: Fit) -> None:
        """After the last epoch: decide the weights, and learn what ``deploy`` needs."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return what is deployed for a finished network, from images in [0, 1] to logits.

        Weights and buffers that this adds are blank: they come from ``deploy``, or from a file.
        """
        return model

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        """Return what ``wrap`` returns, with all that the training has learnt."""
        return self.wrap(model)


def check_together(defenses: Sequence[Defense]) -> None:
    """Raise ValueError, naming both, where two defences decide the same or are the same."""
    for place, one in enumerate(defenses):
        for other in defenses[:place]:
            names = f"{type(other).__name__} and {type(one).__name__}"
            if type(one) is type(other):
                raise ValueError(f"defenses: {type(one).__name__} is listed twice")
            both = sorted(one.claims & other.claims)
            if both:
                raise ValueError(
                    f"defenses: {names} contradict each other: both decide {' and '.join(both)}; "
                    "leave one of them out"
                )


def built(
    defenses: Sequence[Defense], make: Make, shape: tuple[int, ...], classes: int
) -> nn.Module:
    """Build the network that a training with these defences trains, for images of a shape."""

    def with_defense(inner: Make, defense: Defense) -> Make:
        return lambda shape, classes: defense.build(inner, shape, classes)

    for defense in defenses:
        make = with_defense(make, defense)
    return make(shape, classes)


def wrapped(defenses: Sequence[Defense], model: nn.Module) -> nn.Module:
    """Return what is deployed for a network that was built with these defences."""
    for defense in defenses:
        model = defense.wrap(model)
    return model
