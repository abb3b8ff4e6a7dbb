"""A Laplace approximation of the last layer."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from advbench.attacks.victim import SceneModel, frozen
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit
from advbench.defenses.last_layer import last_linear, with_features

_LARGEST = 4000  # weights of the last layer, whose Hessian is decomposed
_AT_ONCE = 128  # samples


@final
@dataclass(frozen=True, kw_only=True)
class Laplace(Defense):
    """Fit a Gaussian to the weights of the last layer and let its spread temper the logits.

    The covariance is the inverse of the full generalised Gauss-Newton matrix of the cross-entropy,
    summed over the training samples, plus a prior precision; the logits, less their mean, are
    divided by the probit factor of their own variance, so that the model answers without drawing.
    Less their mean, because what all logits have in common changes no probability, and the samples
    therefore say nothing of it: its variance is the prior's alone. Source: MacKay, The
    Evidence Framework Applied to Classification Networks, Neural Computation 4(5), 1992; of the
    last layer alone Kristiadi et al., Being Bayesian, Even Just a Bit, Fixes Overconfidence in ReLU
    Networks, ICML 2020, arXiv:2002.10118; Daxberger et al., Laplace Redux, NeurIPS 2021,
    arXiv:2106.14806. The weights are taken as they come out of training, which need not have had
    the prior in its loss, and the training samples without attacks.

    Fields:
        prior: precision of the Gaussian prior of the last layer's weights and biases; None for the
            one of 10^-4, ..., 10^4 that makes the samples likeliest.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"answer"})
    adaptive: ClassVar[str] = (
        "Gradients are exact, through the variance too; transfer attacks on the plain network, "
        "because smaller logits weaken the gradients of a loss on probabilities."
    )

    prior: float | None = None

    def __post_init__(self) -> None:
        if self.prior is not None and self.prior <= 0:
            raise ValueError(f"laplace: prior must be positive, or None; got {self.prior}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(), cls(prior=0.1)

    def start(self, fit: Fit) -> None:
        """Refuse what would fail only after training."""
        layer = _small_enough(fit.model)
        with frozen(fit.model), torch.no_grad():
            with_features(fit.seen, layer, fit.train.x[:1])

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model that tempers its logits; not at all, until it has a covariance."""
        return Tempered(model)

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        """Return the model that tempers its logits by the covariance at its weights."""
        tempered = Tempered(model)
        seen = SceneModel(fit.seen.renderer, model) if isinstance(fit.seen, SceneModel) else model
        layer = last_linear(model)
        with frozen(model), torch.no_grad():
            parts = [with_features(seen, layer, x) for x in fit.train.x.split(_AT_ONCE)]
        features, logits = (torch.cat(part).double() for part in zip(*parts, strict=True))
        if layer.bias is not None:
            features = with_one(features)
        fitted = (-nn.functional.cross_entropy(logits, fit.train.y, reduction="sum")).item()
        with torch.no_grad():
            biases = [] if layer.bias is None else [layer.bias.detach().reshape(-1)]
            weights = torch.cat([layer.weight.detach().reshape(-1), *biases]).double()
        values, vectors = torch.linalg.eigh(gauss_newton(features, logits))
        values = values.clamp(min=0)
        prior = self.prior or likeliest_prior(fitted, weights.square().sum().item(), values)
        covariance = (vectors / (values + prior)) @ vectors.T
        classes, width = logits.shape[1], features.shape[1]
        blocks = centred(covariance.view(classes, width, classes, width)).diagonal(dim1=0, dim2=2)
        tempered.covariance.copy_(blocks.permute(2, 0, 1))
        return tempered


def centred(covariance: Tensor) -> Tensor:
    """Return the covariance (K, D, K, D) of weights less their mean over the K classes."""
    rows = covariance - covariance.mean(0, keepdim=True)
    return rows - rows.mean(2, keepdim=True)


def gauss_newton(features: Tensor, logits: Tensor) -> Tensor:
    """Return the Gauss-Newton matrix (K * D, K * D) of the summed cross-entropy of a linear layer.

    ``features`` (N, D) are what the layer is given and ``logits`` (N, K) what it answers; the
    weights are those of the first class, then those of the second, and so on. For a linear layer
    it is the Hessian.
    """
    classes, width = logits.shape[1], features.shape[1]
    total = features.new_zeros(classes, width, classes, width)
    parts = zip(features.split(_AT_ONCE), logits.softmax(1).split(_AT_ONCE), strict=True)
    for phi, p in parts:
        spread = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        total += torch.einsum("nkl,nd,ne->kdle", spread, phi, phi)
    return total.view(classes * width, classes * width)


def likeliest_prior(fitted: float, squares: float, values: Tensor) -> float:
    """Return the prior precision with the highest Laplace marginal likelihood.

    ``fitted`` is the log-likelihood at the weights, ``squares`` the sum of their squares, and
    ``values`` (P,) are the eigenvalues of the Gauss-Newton matrix.
    """
    priors = torch.logspace(-4, 4, 161, dtype=torch.float64)
    volumes = torch.stack([(values / prior).log1p().sum() for prior in priors.tolist()])
    evidence = fitted - 0.5 * priors * squares - 0.5 * volumes
    return priors[evidence.argmax()].item()


class Tempered(nn.Module):
    """A network whose logits, less their mean, are divided by sqrt(1 + pi / 8 * their variance).

    The buffer covariance (K, D, D) holds, for each class, that of its weights in the last layer
    less their mean over the classes, the bias being the last of D; it is 0 at first. Raises
    ValueError where the network does not end in an ``nn.Linear``, or in one of too many weights.
    """

    covariance: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        layer = _small_enough(model)
        width = layer.in_features + (layer.bias is not None)
        blank = layer.weight.detach().new_zeros(layer.out_features, width, width)
        self.register_buffer("covariance", blank)

    def forward(self, x: Tensor) -> Tensor:
        """Return tempered logits (B, K) for images (B, C, H, W) in [0, 1]."""
        layer = last_linear(self.model)
        features, logits = with_features(self.model, layer, x)
        if layer.bias is not None:
            features = with_one(features)
        variance = torch.einsum("bd,kde,be->bk", features, self.covariance, features)
        return (logits - logits.mean(1, keepdim=True)) / (1 + math.pi / 8 * variance).sqrt()


def with_one(features: Tensor) -> Tensor:
    """Return features (N, D) with a column of ones, (N, D + 1)."""
    return nn.functional.pad(features, (0, 1), value=1.0)


def _small_enough(model: nn.Module) -> nn.Linear:
    layer = last_linear(model)
    count = layer.out_features * (layer.in_features + 1)
    if count > _LARGEST:
        raise ValueError(
            f"laplace: the last layer has {count} weights and biases, and the matrix of their "
            f"covariances would be too large; at most {_LARGEST}: use a smaller last hidden layer"
        )
    return layer
