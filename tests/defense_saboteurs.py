"""Defences with one planted fault each, and the check that has to see it.

``Honest`` acts at most moments and keeps every promise; its children spoil one of them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from advbench.attacks.masking import Masking
from advbench.attacks.victim import BPDA
from advbench.defenses.defense import Defense, Make
from advbench.defenses.fit import Batch, Fit, Objective
from advbench.defenses.regularization.early_stopping import EarlyStopping
from advbench.defenses.regularization.weight_decay import WeightDecay

SABOTEURS: list[tuple[str, Any]] = []
"""Name of the check, defence that it must refuse."""


class Louder(nn.Module):
    """A network whose logits are multiplied by a gain."""

    gain: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K)."""
        logits: Tensor = self.model(x)
        return self.gain * logits


class After(nn.Module):
    """A network whose logits are changed by a function."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        """Return the changed logits."""
        return self.change(self.model(x))


@dataclass(frozen=True, kw_only=True)
class Honest(Defense):
    """Train on noisy images at larger weights, and answer the louder the more steps there were."""

    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."
    share: float = 0.1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(share=0.2)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        return batch._replace(x=batch.x.lerp(torch.rand_like(batch.x), self.share))

    @contextmanager
    def moved(self, objective: Objective, fit: Fit) -> Iterator[None]:
        before = [weight.detach().clone() for weight in fit.model.parameters()]
        try:
            scale(fit.model, 1 + self.share)
            yield
        finally:
            with torch.no_grad():
                for weight, old in zip(fit.model.parameters(), before, strict=True):
                    weight.copy_(old)

    def after_step(self, batch: Batch, fit: Fit) -> None:
        kept = fit.kept(self)
        kept["steps"] = kept.get("steps", 0) + 1

    def wrap(self, model: nn.Module) -> nn.Module:
        return Louder(model)

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        louder = Louder(model)
        louder.gain.fill_(1 + self.share * fit.kept(self)["steps"])
        return louder


def scale(model: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(factor)


@dataclass(frozen=True, kw_only=True)
class HonestRandom(Defense):
    """Answer with noise on the logits."""

    adaptive: ClassVar[str] = "EOT: mean gradients over many draws."
    random: ClassVar[bool] = True
    share: float = 0.1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(share=0.2)

    def wrap(self, model: nn.Module) -> nn.Module:
        return After(model, lambda logits: logits + self.share * torch.randn_like(logits))


class Rounded(Masking):
    """Rounds pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Return images of four levels."""
        return (x * 3).round() / 3

    def stand_in(self) -> nn.Module:
        """Return the same with the gradient of the identity."""
        return BPDA(self.forward)


@dataclass(frozen=True, kw_only=True)
class HonestControl(Defense):
    """A control: round pixels before the network sees them."""

    adaptive: ClassVar[str] = "BPDA with the identity."
    broken: ClassVar[str] = "Here."
    share: float = 0.1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(share=0.2)

    def wrap(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(Rounded(), model)


HONEST = (
    Honest(),
    HonestRandom(),
    HonestControl(),
    WeightDecay(strength=0.1),
    EarlyStopping(patience=1),
)


def caught_by(check: str) -> Callable[[Any], Any]:
    """Enlist a defence, as its default instance."""

    def enlist(fault: Any) -> Any:
        SABOTEURS.append((check, fault()))
        return fault

    return enlist


# What it says of itself


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class HasOneExample(Honest):
    """Give one example."""

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(),)


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class ClaimsEverything(Honest):
    """Claim what nobody knows."""

    claims: ClassVar[Any] = frozenset({"everything"})


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class KeepsItsWeaknessSecret(Honest):
    """Say nothing of how it is attacked."""

    adaptive: ClassVar[str] = ""


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class IsBrokenInSilence(HonestControl):
    """Round pixels before the network sees them."""


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class SaysNothing(Honest):
    share: float = 0.1


@caught_by("round_trip")
@dataclass(frozen=True, kw_only=True, repr=False)
class Mumbles(Honest):
    """Have a repr that is no call."""

    def __repr__(self) -> str:
        return "Mumbles"


@caught_by("vocabulary")
@dataclass(frozen=True, kw_only=True)
class SpeaksAnotherTongue(Honest):
    """Have a name of its own for eps."""

    epsilon: float = 0.1


@caught_by("file")
@dataclass(frozen=True, kw_only=True)
class CannotBeWritten(Honest):
    """Have a field that no file can hold."""

    kind: torch.dtype = torch.float32


@caught_by("file")
@dataclass(frozen=True, kw_only=True)
class CannotBeRead(Honest):
    """Have a field whose annotation is another than its value."""

    steps: str = 3  # type: ignore[assignment]


@caught_by("file")
@dataclass(frozen=True, kw_only=True)
class CannotBeNone(Honest):
    """Have a value that a file can only give by leaving it out, and another default."""

    rounds: int | None = 3


SABOTEURS[-1] = ("file", CannotBeNone(rounds=None))


# What comes of a training


@caught_by("trains")
@dataclass(frozen=True, kw_only=True)
class AnswersProbabilities(Honest):
    """Answer with probabilities."""

    def wrap(self, model: nn.Module) -> nn.Module:
        return After(model, lambda logits: logits.softmax(1))

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        return self.wrap(model)


@caught_by("trains")
@dataclass(frozen=True, kw_only=True)
class LosesTheOnlyRow(Honest):
    """Squeeze."""

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        return After(model, torch.squeeze)


@caught_by("trains")
@dataclass(frozen=True, kw_only=True)
class Overflows(Honest):
    """Answer with infinities."""

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        return After(model, lambda logits: logits / 0)


class Restless(nn.Module):
    """Is always in training mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> Self:
        """Go to training mode."""
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(x)
        return logits


@caught_by("trains")
@dataclass(frozen=True, kw_only=True)
class StaysInTraining(Honest):
    """Deploy a model in training mode."""

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        return Restless(model)


@caught_by("trains")
@dataclass(frozen=True, kw_only=True)
class SuitsNothing(Honest):
    """Refuse every network."""

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        raise ValueError("suits_nothing: expected another network than any that there is")


@caught_by("trains")
@dataclass(frozen=True, kw_only=True)
class RefusesCurtly(Honest):
    """Refuse convolutions without a word."""

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        model = make(shape, classes)
        if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
            raise ValueError("no")
        return model


@caught_by("acts")
@dataclass(frozen=True, kw_only=True)
class DoesNothing(Defense):
    """Do nothing."""

    adaptive: ClassVar[str] = Honest.adaptive


@caught_by("repeatable")
@dataclass(frozen=True, kw_only=True)
class Remembers(Honest):
    """Darken images the more, the more often it was asked for any."""

    calls: list[int] = field(default_factory=list, compare=False, repr=False)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        self.calls.append(1)
        return batch._replace(x=batch.x / len(self.calls))


@caught_by("repeatable")
@dataclass(frozen=True, kw_only=True)
class IgnoresTheSeed(Honest):
    """Draw the weights by a seed of its own."""

    def finish(self, fit: Fit) -> None:
        torch.manual_seed(5)
        with torch.no_grad():
            for weight in fit.model.parameters():
                weight.normal_()


@caught_by("resumes")
@dataclass(frozen=True, kw_only=True)
class KeepsInItself(Honest):
    """Darken images the more, the longer it trains; how long is forgotten in a resumption."""

    calls: list[int] = field(default_factory=list, init=False, compare=False, repr=False)

    def start(self, fit: Fit) -> None:
        self.calls.clear()

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        self.calls.append(1)
        return batch._replace(x=batch.x / len(self.calls))


@caught_by("resumes")
@caught_by("kept")
@dataclass(frozen=True, kw_only=True)
class KeepsObjects(Honest):
    """Keep what can be written but is not read back."""

    def after_epoch(self, fit: Fit) -> None:
        fit.kept(self)["share"] = Fraction(1, 3)


@caught_by("kept")
@dataclass(frozen=True, kw_only=True)
class KeepsAGraph(Honest):
    """Keep a loss with all that it was computed from."""

    def after_epoch(self, fit: Fit) -> None:
        fit.kept(self)["sum"] = sum(weight.sum() for weight in fit.model.parameters())


@caught_by("kept")
@dataclass(frozen=True, kw_only=True)
class KeepsElsewhere(Honest):
    """Keep under the name of another defence."""

    def after_epoch(self, fit: Fit) -> None:
        fit.memory["WeightDecay"] = {"strength": 1.0}


@caught_by("manners")
@dataclass(frozen=True, kw_only=True)
class UsesNumPy(Honest):
    """Draw from NumPy's global generator."""

    def finish(self, fit: Fit) -> None:
        np.random.random()


@caught_by("manners")
@dataclass(frozen=True, kw_only=True)
class TurnsASwitch(Honest):
    """Leave another setting of torch behind."""

    def finish(self, fit: Fit) -> None:
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())


@caught_by("manners")
@dataclass(frozen=True, kw_only=True)
class WritesToTheSamples(Honest):
    """Darken the samples themselves."""

    def finish(self, fit: Fit) -> None:
        fit.train.x.mul_(0.9)


@caught_by("manners")
@dataclass(frozen=True, kw_only=True)
class FreezesTheWeights(Honest):
    """Deploy a model that cannot be trained further."""

    def finish(self, fit: Fit) -> None:
        fit.model.requires_grad_(False)


@caught_by("manners")
@dataclass(frozen=True, kw_only=True)
class TrainsItsBuffers(Honest):
    """Deploy a model with a buffer that wants a gradient."""

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        louder = Louder(model)
        louder.gain.requires_grad_()
        return louder


@caught_by("manners")
@dataclass(frozen=True, kw_only=True)
class LeavesAHook(Honest):
    """Deploy a model with a hook."""

    def finish(self, fit: Fit) -> None:
        fit.model.register_forward_hook(lambda *_: None)


@caught_by("manners")
@dataclass(frozen=True, kw_only=True)
class HoldsTheSamples(Honest):
    """Deploy a model with a view of the samples."""

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        louder = Louder(model)
        louder.register_buffer("first", fit.train.x[0])
        return louder


# Moments at which the model is borrowed


@dataclass(frozen=True, kw_only=True)
class Spoils(Honest):
    """An honest minibatch with one fault."""

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        return self.spoilt(batch, fit)

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        raise NotImplementedError


@caught_by("batch")
class TooBright(Spoils):
    """Leave [0, 1]."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        return batch._replace(x=batch.x + 0.1)


@caught_by("batch")
class Blurred(Spoils):
    """Have NaN in the clean images."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        return batch._replace(clean=batch.x * torch.nan)


@caught_by("batch")
class WritesToTheBatch(Spoils):
    """Darken in place."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        batch.x.mul_(0.9)
        return batch


@caught_by("batch")
class LosesTheLast(Spoils):
    """Leave out the last image of a large minibatch, and not its class."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        if fit.model.training and len(batch.x) == 5:
            return batch._replace(x=batch.x[:-1])
        return batch


@caught_by("batch")
class HangsOnAGraph(Spoils):
    """Return images with the graph that made them."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        return batch._replace(x=batch.x.clone().requires_grad_() * 0.9)


@caught_by("batch")
class TurnsPrecise(Spoils):
    """Return numbers of the classes in another type."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        return batch._replace(ids=batch.ids.int())


@caught_by("batch")
class InventsAClass(Spoils):
    """Count classes from 1 where they are not asked for."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        soft = torch.full((len(batch.y), fit.classes), 1 / fit.classes)
        return batch._replace(y=batch.y + fit.classes, soft=soft)


@caught_by("batch")
class WantsTooMuch(Spoils):
    """Want probabilities that sum to more than 1."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        return batch._replace(soft=torch.full((len(batch.y), fit.classes), 0.2))


@caught_by("batch")
class StopsTraining(Spoils):
    """Leave the model in eval mode."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        fit.model.eval()
        return batch


@caught_by("batch")
class LeavesGradients(Spoils):
    """Leave gradients on the weights."""

    def spoilt(self, batch: Batch, fit: Fit) -> Batch:
        fit.loss(fit.seen(batch.x), batch.y).backward()
        return batch


@dataclass(frozen=True, kw_only=True)
class Moves(Honest):
    """Move the weights with one fault."""

    def moved(self, objective: Objective, fit: Fit) -> AbstractContextManager[None]:
        return self.astray(fit)

    def astray(self, fit: Fit) -> AbstractContextManager[None]:
        raise NotImplementedError


@caught_by("moved")
class StaysMoved(Moves):
    """Never come back."""

    @contextmanager
    def astray(self, fit: Fit) -> Iterator[None]:
        scale(fit.model, 1.001)
        yield


@caught_by("moved")
class IsLostAfterAnException(Moves):
    """Come back only if all goes well."""

    @contextmanager
    def astray(self, fit: Fit) -> Iterator[None]:
        before = [weight.detach().clone() for weight in fit.model.parameters()]
        scale(fit.model, 1.1)
        yield
        with torch.no_grad():
            for weight, old in zip(fit.model.parameters(), before, strict=True):
                weight.copy_(old)


@caught_by("moved")
class RoundsOff(Moves):
    """Come back by the inverse, which is not exact."""

    @contextmanager
    def astray(self, fit: Fit) -> Iterator[None]:
        scale(fit.model, 1.1)
        try:
            yield
        finally:
            scale(fit.model, 1 / 1.1)


@caught_by("moved")
class FreezesAWeight(Moves):
    """Leave a weight that gets no gradient."""

    @contextmanager
    def astray(self, fit: Fit) -> Iterator[None]:
        yield
        next(fit.model.parameters()).requires_grad_(False)


@caught_by("moved")
@dataclass(frozen=True, kw_only=True)
class Numb(Honest):
    """Have a loss that tells nothing."""

    def objective(self, inner: Objective, batch: Batch, fit: Fit) -> Tensor:
        return 0 * inner()


# What is deployed


@caught_by("rebuilt")
@dataclass(frozen=True, kw_only=True)
class WrapsOnlyAfterTraining(Honest):
    """Have a buffer that is not there in a model that is rebuilt."""

    def wrap(self, model: nn.Module) -> nn.Module:
        return model


@caught_by("rebuilt")
@dataclass(frozen=True, kw_only=True)
class ForgetsWhatItLearnt(Honest):
    """Answer by a number that is not among the weights."""

    def wrap(self, model: nn.Module) -> nn.Module:
        return After(model, lambda logits: logits)

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        steps = fit.kept(self)["steps"]
        return After(model, lambda logits: logits * steps)


@caught_by("random")
@dataclass(frozen=True, kw_only=True)
class SecretlyRandom(HonestRandom):
    """Do not say that answers are random."""

    random: ClassVar[bool] = False


@caught_by("random")
@dataclass(frozen=True, kw_only=True)
class PretendsToBeRandom(Honest):
    """Say that answers are random, which they are not."""

    random: ClassVar[bool] = True


@caught_by("random")
@dataclass(frozen=True, kw_only=True)
class DrawsByItself(HonestRandom):
    """Draw from a generator that nobody can seed."""

    def wrap(self, model: nn.Module) -> nn.Module:
        own = torch.Generator()
        return After(model, lambda logits: logits + torch.rand(logits.shape, generator=own))


@caught_by("rows")
@dataclass(frozen=True, kw_only=True)
class ComparesTheBatch(Honest):
    """Answer by how an image differs from the mean of those beside it."""

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        return After(model, lambda logits: logits - logits.mean(0))


@caught_by("rows")
@dataclass(frozen=True, kw_only=True)
class GoesByThePlace(Honest):
    """Answer by the place of an image in the batch."""

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        return After(model, lambda logits: logits + torch.arange(len(logits)).unsqueeze(1))


@caught_by("unmasked")
@dataclass(frozen=True, kw_only=True)
class MasksInSilence(HonestControl):
    """Mask the gradient without being known for it."""

    broken: ClassVar[str] = ""


@caught_by("unmasked")
@dataclass(frozen=True, kw_only=True)
class CannotBeUnmasked(Honest):
    """A control whose mask nobody can take away."""

    broken: ClassVar[str] = "Here."


class Inverts(Rounded):
    """Rounds, and its stand-in turns black to white."""

    def stand_in(self) -> nn.Module:
        """Return another function."""
        return BPDA(lambda x: 1 - x)


class StaysRounded(Rounded):
    """Rounds, and so does its stand-in."""

    def stand_in(self) -> nn.Module:
        """Return a layer without a gradient."""
        return After(nn.Identity(), self.forward)


@caught_by("unmasked")
@dataclass(frozen=True, kw_only=True)
class UnmaskedIsAnother(HonestControl):
    """A control whose stand-in finds other classes."""

    def wrap(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(Inverts(), model)


@caught_by("unmasked")
@dataclass(frozen=True, kw_only=True)
class UnmaskedIsAsBlind(HonestControl):
    """A control whose stand-in has no gradient either."""

    def wrap(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(StaysRounded(), model)
