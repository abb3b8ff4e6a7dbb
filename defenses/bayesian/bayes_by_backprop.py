"""Bayes by Backprop."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.defenses.bayesian.predictive import Predictive, check_samples
from advbench.defenses.defense import Claim, Defense, Make
from advbench.defenses.fit import Batch, Fit, Objective
from advbench.defenses.locally_connected import LocallyConnected2d
from advbench.defenses.replacing import replace_layers

_LEAST_VARIANCE = 1e-16  # keeps the gradient of the square root finite


@final
@dataclass(frozen=True, kw_only=True)
class BayesByBackprop(Defense):
    """Learn a Gaussian for each weight instead of a number, and answer with the mean over draws.

    Source: Blundell et al., Weight Uncertainty in Neural Networks, ICML 2015, arXiv:1505.05424.
    There the prior is a mixture of two Gaussians, the divergence from it is sampled, and one draw
    of the weights serves a minibatch. Here the prior is one Gaussian, the divergence is exact, and
    each row draws its outputs instead of the weights (local reparametrisation: Kingma, Salimans,
    Welling, Variational Dropout and the Local Reparameterization Trick, NeurIPS 2015,
    arXiv:1506.02557). In convolutions this draws each place apart, as if the kernel were drawn anew
    there. Added to it: the divergence counts little at first. Normalisations keep plain weights,
    and layers that share weights share the means alone.

    Fields:
        prior: the standard deviation of the weights before anything is learnt.
        kl_weight: factor of the divergence from the prior; below 1 the posterior is a cold one.
        warmup: epochs over which that factor grows from 0; 0 for none.
        samples: how many draws each answer is the mean of.
        initial: the standard deviations start as softplus of this.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"answer"})
    adaptive: ClassVar[str] = (
        "Answers are random: follow the gradient of the mean answer over fresh draws (EOT), and "
        "transfer from the network of the mean weights."
    )
    random: ClassVar[bool] = True

    prior: float = 1.0
    kl_weight: float = 1.0
    warmup: float = 10.0
    samples: int = 30
    initial: float = -5.0

    def __post_init__(self) -> None:
        check_samples("bayes_by_backprop", self.samples)
        if self.prior <= 0:
            raise ValueError(f"bayes_by_backprop: prior must be positive; got {self.prior}")
        if self.kl_weight < 0 or self.warmup < 0:
            raise ValueError(
                f"bayes_by_backprop: kl_weight and warmup must not be negative; "
                f"got {self.kl_weight} and {self.warmup}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(samples=3, warmup=1.0), cls(samples=2, prior=0.1, kl_weight=0.1, warmup=0.0)

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network with Gaussians as weights, around those that it starts with."""

        def replacement(layer: nn.Module) -> nn.Module | None:
            if isinstance(layer, nn.Linear | nn.Conv2d | LocallyConnected2d):
                return Gaussian(layer, self.initial)
            return None

        model = make(shape, classes)
        if not replace_layers(model, replacement):
            raise ValueError(
                "bayes_by_backprop: expected a network with linear or convolutional layers; "
                f"{type(model).__name__} has none"
            )
        return model

    def objective(self, inner: Objective, batch: Batch, fit: Fit) -> Tensor:
        """Return the loss plus the divergence from the prior per training sample."""
        grown = 1.0 if fit.epoch >= self.warmup else fit.epoch / self.warmup
        layers = [module for module in fit.model.modules() if isinstance(module, Gaussian)]
        divergence = torch.stack([layer.divergence(self.prior) for layer in layers]).sum()
        return inner() + self.kl_weight * grown / len(fit.train.y) * divergence

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the mean over draws."""
        return Predictive(model, self.samples)


class Gaussian(nn.Module):
    """A linear or convolutional layer whose weights and biases are independent Gaussians.

    ``weight`` and ``bias`` are the means, those of the layer it is made of; the standard deviations
    are the softplus of ``weight_rho`` and ``bias_rho``, of the same shapes. Every output is drawn
    by itself from the Gaussian that the weights make of it, in training and in eval mode.
    """

    bias: Tensor | None
    bias_rho: Tensor | None

    def __init__(self, layer: nn.Linear | nn.Conv2d | LocallyConnected2d, initial: float) -> None:
        super().__init__()
        self.connect = _connection(layer)
        self.weight, self.bias = layer.weight, layer.bias
        self.weight_rho = nn.Parameter(torch.full_like(layer.weight, initial))
        self.bias_rho = None
        if layer.bias is not None:
            self.bias_rho = nn.Parameter(torch.full_like(layer.bias, initial))

    def forward(self, x: Tensor) -> Tensor:
        """Return a draw of the layer's output for x."""
        spread = None if self.bias_rho is None else _variance(self.bias_rho)
        mean = self.connect(x, self.weight, self.bias)
        variance = self.connect(x.square(), _variance(self.weight_rho), spread)
        return mean + variance.clamp_min(_LEAST_VARIANCE).sqrt() * torch.randn_like(mean)

    def divergence(self, prior: float) -> Tensor:
        """Return the divergence KL(q || p), a scalar, for weights that are N(0, prior**2) in p."""
        total = _divergence(self.weight, self.weight_rho, prior)
        if self.bias is not None and self.bias_rho is not None:
            total = total + _divergence(self.bias, self.bias_rho, prior)
        return total


def _connection(
    layer: nn.Linear | nn.Conv2d | LocallyConnected2d,
) -> Callable[..., Tensor]:
    """Return what a layer computes of (x, weight, bias)."""
    if isinstance(layer, nn.Linear):
        return functional.linear
    if isinstance(layer, LocallyConnected2d):
        return layer.connect
    if layer.padding_mode != "zeros":
        raise ValueError(
            f"bayes_by_backprop: convolutions must pad with zeros; got '{layer.padding_mode}'"
        )
    return partial(
        functional.conv2d,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )


def _variance(rho: Tensor) -> Tensor:
    return functional.softplus(rho).square()


def _divergence(mean: Tensor, rho: Tensor, prior: float) -> Tensor:
    deviation = functional.softplus(rho)
    fitted = (deviation.square() + mean.square()) / (2 * prior**2)
    return (math.log(prior) - deviation.log() + fitted - 0.5).sum()
