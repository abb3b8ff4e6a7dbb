"""Trainings under way, made by hand."""

import torch
from torch import Tensor, nn

from advbench.defenses.fit import Fit, Split


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
