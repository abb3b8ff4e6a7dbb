"""Randomised smoothing."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit


@final
@dataclass(frozen=True, kw_only=True)
class RandomizedSmoothing(Defense):
    """Train on noisy images, and answer with the mean over noisy copies of the image.

    Source: Cohen, Rosenfeld, Kolter, Certified Adversarial Robustness via Randomized Smoothing,
    ICML 2019, arXiv:1902.02918. There the copies vote and the answer may be withheld, here their
    probabilities are averaged, which has a gradient; the certificate of the paper
    (``smoothed_radius``) holds for the vote. Pixels are not clipped after the noise, as there. It
    may also wrap a finished network, which answers the better for having been trained on noise.

    Fields:
        sigma: standard deviation of the noise, in pixel units.
        samples: noisy copies per answer.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"answer"})
    adaptive: ClassVar[str] = (
        "EOT: mean gradients over many draws of the noise, judged with draws of its own."
    )
    random: ClassVar[bool] = True

    sigma: float = 0.25
    samples: int = 30

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ValueError(f"randomized_smoothing: sigma must not be negative; got {self.sigma}")
        if self.samples < 1:
            raise ValueError(
                f"randomized_smoothing: samples must be at least 1; got {self.samples}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(samples=2), cls(sigma=0.1, samples=3)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the images with noise, what was clean before an attack with the same noise.

        Raises ValueError for scenes, whose numbers are no pixels.
        """
        if batch.x.dim() != 4:
            raise ValueError(
                "randomized_smoothing: noise goes on images (B, C, H, W); "
                f"got samples {tuple(batch.x.shape)}"
            )
        delta = self.sigma * torch.randn_like(batch.x)
        clean = None if batch.clean is None else batch.clean + delta
        return batch._replace(x=batch.x + delta, clean=clean)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the mean over noisy copies."""
        return Smoothed(model, self.sigma, self.samples)


class Smoothed(nn.Module):
    """Answers with the log of the mean probability over noisy copies of each image.

    The noise comes from torch's global generator: other draws for every image and every call.
    """

    def __init__(self, model: nn.Module, sigma: float, samples: int) -> None:
        super().__init__()
        self.model = model
        self.sigma = sigma
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities (B, K) for images (B, C, H, W) in [0, 1]."""
        copies = (x + self.sigma * torch.randn_like(x) for _ in range(self.samples))
        answers = torch.stack([self.model(copy).log_softmax(1) for copy in copies])
        return answers.logsumexp(0) - math.log(self.samples)

    def extra_repr(self) -> str:
        """Return the noise and the number of copies."""
        return f"sigma={self.sigma}, samples={self.samples}"
