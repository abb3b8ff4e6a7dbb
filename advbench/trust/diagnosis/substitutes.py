"""Small smooth nets fitted to what a model answers, to be attacked in its place.

Source: Papernot, McDaniel, Goodfellow, Jha, Celik, Swami, "Practical black-box attacks against
machine learning", ASIA CCS 2017, arXiv:1602.02697, algorithm 1: only labels are asked for, and the
images are augmented along the gradient of the substitute. Added: copies with noise, blends of two
images, and a net that is trained adversarially.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks import Perturbation
from advbench.attacks.rows import lift
from advbench.attacks.victim import Model
from advbench.trust.answers import predict

_NOISE = (0.05, 0.1, 0.2)
"""Of the copies of an image, to either side in each pixel."""
_BLENDS = 3
"""Copies of an image that have up to half of another one in them."""
_ROUNDS = 2
"""How often the images are augmented along the gradient, by this much in each pixel:"""
_STRIDE = 0.1
_HIDDEN = 128
_EPOCHS = 8
_BATCH = 128
_RATE = 3e-3


def substitute(
    model: Model,
    x: Tensor,
    seed: int,
    batch_size: int,
    perturbation: Perturbation | None = None,
    eps: float = 0.0,
) -> nn.Module:
    """Return a net that answers to images like x (N, *shape) in [0, 1] as the model does.

    It is trained adversarially within ``eps`` of the set where one is given. The global random
    state is left as it was, and the same seed gives the same net.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.cat([x, *_copies(x, generator)])
    labels, classes = _labels(model, images, batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = _net(tuple(x.shape[1:]), classes).to(x.device)
    optimizer = torch.optim.Adam(net.parameters(), _RATE)
    for number in range(_ROUNDS + 1):
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(images), generator=generator).split(_BATCH):
                batch, wanted = images[rows.to(x.device)], labels[rows.to(x.device)]
                if perturbation is not None:
                    batch = _attacked(net, batch, wanted, perturbation, eps)
                optimizer.zero_grad()
                functional.cross_entropy(net(batch), wanted).backward()
                optimizer.step()
        if number < _ROUNDS:
            further = _augmented(net, x, labels[: len(x)])
            images = torch.cat([images, further])
            labels = torch.cat([labels, _labels(model, further, batch_size)[0]])
    return net.eval()


def _net(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two smooth hidden layers: from few images they learn as much as convolutions do, sooner."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), _HIDDEN),
        nn.Softplus(),
        nn.Linear(_HIDDEN, _HIDDEN),
        nn.Softplus(),
        nn.Linear(_HIDDEN, classes),
    )


def _copies(x: Tensor, generator: torch.Generator) -> list[Tensor]:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(x)

    noisy = [(x + scale * (2 * uniform(*x.shape) - 1)).clamp(0, 1) for scale in _NOISE]
    blends = []
    for _ in range(_BLENDS):
        other = x[torch.randperm(len(x), generator=generator).to(x.device)]
        blends.append(x + lift(uniform(len(x)) / 2, x) * (other - x))
    return noisy + blends


def _labels(model: Model, x: Tensor, batch_size: int) -> tuple[Tensor, int]:
    answers = predict(model, x, batch_size)
    return answers.argmax(1), answers.shape[1]


def _augmented(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Move each image away from its class, as far as the substitute knows."""
    return (x + _STRIDE * _uphill(net, x, labels).sign()).clamp(0, 1)


def _attacked(
    net: nn.Module, x: Tensor, labels: Tensor, perturbation: Perturbation, eps: float
) -> Tensor:
    """Take one steepest step of length eps, as FGSM does."""
    zero = perturbation.zero(x)
    sizes = torch.full_like(x.flatten(1)[:, 0], eps)
    p = perturbation.steepest(x, zero, _uphill(net, x, labels), sizes)
    return perturbation.apply(x, perturbation.project(x, p, sizes)).detach()


def _uphill(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    images = x.detach().clone().requires_grad_()
    loss = functional.cross_entropy(net(images), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient
