"""What both autoencoders share: all but the last layer learns to restore spoilt images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from advbench.attacks.victim import SceneModel
from advbench.defenses.fit import Fit
from advbench.defenses.last_layer import last_linear, with_features

_RENDERED = 128  # scenes at once: rendering takes far more memory than its images

Spoil = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) to spoilt ones, and to weights of the same shape for the error of pixels."""


def pretrain(
    fit: Fit, spoil: Spoil, *, epochs: int, learning_rate: float, batch_size: int
) -> nn.Module:
    """Train all but the last layer of the network to restore spoilt training images, by Adam.

    The encoder is what comes before the last ``nn.Linear``, the decoder a new network with one
    hidden layer as wide as the features. Returns the decoder, from features (B, D) to flat images
    (B, C * H * W). Raises ValueError where the network does not end in an ``nn.Linear`` or has no
    weights before it.
    """
    images = _images(fit)
    layer = last_linear(fit.model)
    head = set(layer.parameters())
    encoder = [weight for weight in fit.model.parameters() if weight not in head]
    if not encoder:
        raise ValueError("pre-training: the network has no weights before its last layer")
    decoder = nn.Sequential(
        nn.Linear(layer.in_features, layer.in_features),
        nn.ReLU(),
        nn.Linear(layer.in_features, math.prod(images.shape[1:])),
    ).to(images.device)
    optimizer = torch.optim.Adam([*encoder, *decoder.parameters()], learning_rate)
    fit.model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch_size):
            clean = images[rows]
            spoilt, weights = spoil(clean)
            features, _ = with_features(fit.model, layer, spoilt)
            error = (decoder(features) - clean.flatten(1)).square()
            loss = (weights.flatten(1) * error).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    fit.model.zero_grad()
    return decoder


def check(name: str, epochs: int, learning_rate: float, batch_size: int) -> None:
    """Raise ValueError, in the name of a defence, where a pre-training cannot be had so."""
    if epochs < 1 or batch_size < 1 or learning_rate <= 0:
        raise ValueError(
            f"{name}: epochs and batch_size must be at least 1 and learning_rate positive; "
            f"got {epochs}, {batch_size} and {learning_rate}"
        )


def _images(fit: Fit) -> Tensor:
    """The training images (N, C, H, W), rendered where the samples are scenes."""
    if not isinstance(fit.seen, SceneModel):
        return fit.train.x
    with torch.no_grad():
        return torch.cat([fit.seen.renderer(part) for part in fit.train.x.split(_RENDERED)])
