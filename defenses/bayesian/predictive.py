"""The mean answer of a network that answers at random."""

import math

import torch
from torch import Tensor, nn

_IN_FLIGHT = 1024  # rows at once


class Predictive(nn.Module):
    """The log of the mean probability over ``samples`` answers of a network that answers at random.

    The network must draw for every row of a batch by itself, because an image is given to it as
    ``samples`` rows; it draws from torch's global generator. Source: Gal and Ghahramani, Dropout as
    a Bayesian Approximation, ICML 2016, arXiv:1506.02142, whose predictive mean it is.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.model = model
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities (B, K) for images (B, C, H, W)."""
        rows = x.expand(self.samples, *x.shape).flatten(0, 1)
        logits = torch.cat([self.model(part) for part in rows.split(_IN_FLIGHT)])
        answers: Tensor = logits.log_softmax(1).unflatten(0, (self.samples, len(x)))
        return answers.logsumexp(0) - math.log(self.samples)


def check_samples(owner: str, samples: int) -> None:
    """Raise ValueError unless there is at least one sample."""
    if samples < 1:
        raise ValueError(f"{owner}: samples must be at least 1; got {samples}")
