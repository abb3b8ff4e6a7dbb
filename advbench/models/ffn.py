"""Feed-forward networks: linear, and any depth with a choice of activation."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from advbench.models.architecture import Architecture
from advbench.registry import did_you_mean


class Step(nn.Module):
    """The Heaviside step: 1 where the input is positive, else 0.

    In eval mode its gradient is what it truly is: zero everywhere. In training mode the derivative
    of the sigmoid stands in for it, so that the network can be trained (a straight-through
    estimator: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013,
    arXiv:1308.3432).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the step elementwise."""
        hard = torch.relu(torch.sign(x))
        if not self.training:
            return hard
        soft = torch.sigmoid(x)
        return hard.detach() + (soft - soft.detach())


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "step": Step,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
}


@final
@dataclass(frozen=True)
class Linear(Architecture):
    """One linear layer on the flattened input: softmax regression."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A network from (N, *shape) to (N, classes)."""
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


@final
@dataclass(frozen=True)
class FFN(Architecture):
    """A fully connected network on the flattened input.

    Fields:
        hidden: the widths of the hidden layers, as many as wanted.
        activation: "step", "sigmoid", "tanh", "relu" or "softplus", after every hidden layer.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"ffn: got activation '{self.activation}', expected one of "
                f"{', '.join(ACTIVATIONS)}.{did_you_mean(self.activation, ACTIVATIONS)}"
            )
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"ffn: widths in hidden must be positive; got {self.hidden}")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A network from (N, *shape) to (N, classes)."""
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for following in self.hidden:
            layers += [nn.Linear(width, following), ACTIVATIONS[self.activation]()]
            width = following
        return nn.Sequential(*layers, nn.Linear(width, classes))
