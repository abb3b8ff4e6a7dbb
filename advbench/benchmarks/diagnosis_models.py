"""Small nets whose gradients mislead, and honest ones, for the study of the diagnosis.

Masked ones hide their gradient from the panel as a stranger's would: layers for which this package
has a stand-in are made opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks import PGD
from advbench.attacks.masking import Masking
from advbench.bench.surrogates import MeanLogits
from advbench.data import Samples
from advbench.defenses.adversarial.adversarial_training import AdversarialTraining
from advbench.defenses.averaging.ema import EMA
from advbench.defenses.controls.bit_depth import Quantiser
from advbench.defenses.controls.distillation import Distillation
from advbench.defenses.controls.jpeg import Compression
from advbench.defenses.controls.k_wta import KWTA
from advbench.defenses.controls.thermometer import Thermometer
from advbench.defenses.defense import Defense
from advbench.defenses.regularization.dropout import Dropout
from advbench.defenses.regularization.label_smoothing import LabelSmoothing
from advbench.defenses.regularization.weight_decay import WeightDecay
from advbench.defenses.replacing import replace_layers
from advbench.models.architecture import Architecture
from advbench.models.ffn import FFN
from advbench.models.lenet import LeNet
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import train

Group = Literal["masked", "honest", "weak control"]


@dataclass(frozen=True, eq=False)
class Bed:
    """What nets are trained on: the samples and for how long, and the radius of adversarial ones.

    Fields:
        adversarial: the Linf radius that adversarially trained nets are trained at.
    """

    data: Samples
    validation: Samples
    epochs: int
    adversarial: float


@dataclass(frozen=True)
class Kind:
    """A kind of net, and what it is known to be."""

    name: str
    group: Group
    build: Callable[[Bed, int], nn.Module]


@dataclass(frozen=True)
class Conv(Architecture):
    """Two convolutions and a hidden layer, for what `LeNet` does not have."""

    activation: str = "relu"
    normalised: bool = False
    average: bool = False

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a freshly initialised network."""
        layers: list[nn.Module] = []
        width = shape[0]
        for following in (8, 16):
            layers.append(nn.Conv2d(width, following, 3, 1 if self.average else 2, 1))
            layers += [nn.BatchNorm2d(following)] * self.normalised
            layers.append(_ACTIVATIONS[self.activation]())
            layers += [nn.AvgPool2d(2)] * self.average
            width = following
        layers.append(nn.Flatten())
        with torch.no_grad():
            flat = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape[1]
        hidden = [nn.Linear(flat, 64), _ACTIVATIONS[self.activation](), nn.Linear(64, classes)]
        return nn.Sequential(*layers, *hidden).train()


class Opaque(nn.Module):
    """A function as a layer, of which nobody knows a stand-in."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return what the function returns."""
        return self.function(x)


class Jump(nn.Module):
    """A ReLU that jumps up from step to step and falls in between.

    Its gradient is that of the falls; only in training is it that of the ReLU.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        positive = x.relu()
        steps = (positive.detach() / self.width).floor() * self.width
        jumping = 1.5 * steps - 0.5 * positive
        return jumping.detach() + positive - positive.detach() if self.training else jumping


class DeadZone(nn.Module):
    """A ReLU whose features are their mean wherever they are within some deviations of it.

    After Amini, Teymoorianfard, Ma, Houmansadr, MeanSparse: Post-Training Robustness Enhancement
    Through Mean-Centered Feature Sparsification, 2024, arXiv:2406.05927.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width
        self.mean = self.deviation = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        near = (x - self.mean).abs() <= self.width * self.deviation
        return torch.where(near, self.mean, x).relu()


class Votes(nn.Module):
    """Members vote for a class each; backwards, their probabilities stand in for the votes."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Return the votes for each class, (B, K)."""
        total = torch.zeros(())
        for member in self.members:
            soft = member(x).softmax(1)
            hard = functional.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
            total = total + hard + soft - soft.detach()
        return total


def _trained(
    bed: Bed,
    seed: int,
    *defenses: Defense,
    model: Architecture | None = None,
) -> nn.Module:
    recipe = Recipe(
        train=Train(epochs=bed.epochs, seed=seed, batch_size=64, schedule="one_cycle"),
        data=Data(name=bed.data.name),
        model=model or _cnn(bed),
        optimizer=Optimizer(lr=3e-3),
        defenses=defenses,
    )
    return train(recipe, data=bed.data, validation=bed.validation).model


def _cnn(bed: Bed) -> Architecture:
    small = bed.data.image_shape[-1] < 16
    return LeNet((16, 32), 3, 64, pool=False) if small else LeNet((8, 16), 4, 64, pool=False)


def _opaque(model: nn.Module) -> nn.Module:
    def hide(layer: nn.Module) -> nn.Module | None:
        return Opaque(layer.forward) if isinstance(layer, Masking) else None

    replace_layers(model, hide)
    return model


def _in_front(function: Callable[[Tensor], Tensor]) -> Callable[[Bed, int], nn.Module]:
    return lambda bed, seed: nn.Sequential(Opaque(function), _trained(bed, seed)).eval()


def _behind(function: Callable[[Tensor], Tensor]) -> Callable[[Bed, int], nn.Module]:
    return lambda bed, seed: nn.Sequential(_trained(bed, seed), Opaque(function)).eval()


@torch.no_grad()
def _smoothed(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * functional.avg_pool2d(x, 3, 1, 1)


def _dead_zone(bed: Bed, seed: int) -> nn.Module:
    model = _trained(bed, seed)
    zones: list[DeadZone] = []

    def replaced(layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, nn.ReLU):
            zones.append(DeadZone(0.5))
            return zones[-1]
        return None

    replace_layers(model, replaced)
    x = bed.data.x[:500]
    for zone in zones:
        seen: list[Tensor] = []
        handle = zone.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        with torch.no_grad():
            model(x)
        handle.remove()
        axes = [axis for axis in range(seen[0].dim()) if axis != 1]
        zone.mean, zone.deviation = (
            value.squeeze(0) if value.dim() == 2 else value
            for value in (seen[0].mean(axes, keepdim=True), seen[0].std(axes, keepdim=True))
        )
    return model


def _distilled(bed: Bed, seed: int) -> nn.Module:
    wrapped = _trained(bed, seed, Distillation(epochs=bed.epochs))
    student = wrapped.get_submodule("model")
    return student


def _votes(bed: Bed, seed: int) -> nn.Module:
    return Votes([_trained(bed, 10 * seed + place) for place in range(3)]).eval()


def _mean(bed: Bed, seed: int) -> nn.Module:
    model = FFN((64, 64))
    return MeanLogits([_trained(bed, 10 * seed + place, model=model) for place in range(3)]).eval()


def _adversarial(model: Architecture | None = None) -> Callable[[Bed, int], nn.Module]:
    def build(bed: Bed, seed: int) -> nn.Module:
        attack = PGD(steps=3)
        remedy = AdversarialTraining(attack=attack, eps=bed.adversarial)
        return _trained(bed, seed, remedy, model=model)

    return build


def _with(*defenses: Defense, model: Architecture | None = None) -> Callable[[Bed, int], nn.Module]:
    return lambda bed, seed: _trained(bed, seed, *defenses, model=model)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "jump": lambda: Jump(0.2),
}

KINDS = (
    Kind("bit depth, 4 levels", "masked", _in_front(Quantiser(4).forward)),
    Kind("JPEG, quality 50", "masked", _in_front(Compression(50).forward)),
    Kind("thermometer", "masked", lambda bed, seed: _opaque(_trained(bed, seed, Thermometer()))),
    Kind("k-WTA, 15 %", "masked", lambda bed, seed: _opaque(_trained(bed, seed, KWTA(share=0.15)))),
    Kind("distillation, T = 100", "masked", _distilled),
    Kind("logits x 1000", "masked", _behind(lambda z: 1000 * z)),
    Kind("softmax of 20 z", "masked", _behind(lambda z: (20 * z).softmax(1))),
    Kind("no-grad smoothing", "masked", _in_front(_smoothed)),
    Kind("sine shattering", "masked", _in_front(lambda x: x + 0.02 * (400 * x).sin())),
    Kind("jump activation", "masked", _with(model=Conv("jump"))),
    Kind("step activation", "masked", _with(model=FFN((64, 64), "step"))),
    Kind("dead zone", "masked", _dead_zone),
    Kind("noise, sigma 0.15", "masked", _in_front(lambda x: x + 0.15 * torch.randn_like(x))),
    Kind("hard vote of 3", "weak control", _votes),
    Kind("CNN, ReLU", "honest", _with()),
    Kind("FFN, ReLU", "honest", _with(model=FFN((64, 64)))),
    Kind("FFN, tanh", "honest", _with(model=FFN((64, 64), "tanh"))),
    Kind("FFN, softplus", "honest", _with(model=FFN((64, 64), "softplus"))),
    Kind("CNN, weight decay", "honest", _with(WeightDecay(strength=0.05))),
    Kind("CNN, dropout", "honest", _with(Dropout())),
    Kind("CNN, label smoothing", "honest", _with(LabelSmoothing())),
    Kind("CNN, PGD-AT", "honest", _adversarial()),
    Kind("FFN, tanh, PGD-AT", "honest", _adversarial(FFN((64, 64), "tanh"))),
    Kind("FFN, mean logits of 3", "honest", _mean),
    Kind("CNN, EMA", "honest", _with(EMA())),
    Kind("CNN, batch norm", "honest", _with(model=Conv(normalised=True))),
    Kind("CNN, average pool, GELU", "honest", _with(model=Conv("gelu", average=True))),
)
