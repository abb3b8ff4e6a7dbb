"""The models that the libraries are compared on, with samples and radii."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from advbench import data
from advbench.models.cifar_resnet import CifarResNet
from advbench.models.loading import ModelSpec, load_model

Loaded = tuple[nn.Module, Tensor, Tensor]


@dataclass(frozen=True)
class Victim:
    """A model in eval mode, its images and labels, and the eps used in each ball.

    `load` raises FileNotFoundError where weights or data are not on this machine.
    """

    label: str
    linf: float
    l2: float
    load: Callable[[], Loaded]


def _loader(spec: ModelSpec, dataset: str, samples: int) -> Callable[[], Loaded]:
    def load() -> Loaded:
        chosen = data.load(dataset, samples=samples)
        return load_model(spec).model, chosen.x, chosen.y

    return load


def _zoo(name: str, *, linf: float, l2: float, samples: int) -> Victim:
    spec = ModelSpec(name=f"zoo:{name}")
    return Victim(f"zoo:{name}", linf, l2, _loader(spec, name.partition("/")[0], samples))


RESNET = ModelSpec(
    name="file:models/resnet20-cifar10.th",
    architecture=CifarResNet(depth=20),
    shape=(3, 32, 32),
    classes=10,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)

VICTIMS = (
    _zoo("digits/ffn_relu", linf=0.1, l2=0.5, samples=256),
    _zoo("mnist/cnn", linf=0.3, l2=2.0, samples=128),
    _zoo("mnist/cnn_adv", linf=0.3, l2=2.0, samples=128),
    Victim("resnet20-cifar10", 8 / 255, 0.5, _loader(RESNET, "folder:cifar10-jpeg", 32)),
)
