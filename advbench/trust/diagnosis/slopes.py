"""The margin, and what is foretold of it by its gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks import CrossEntropy, Loss, RelativeMargin
from advbench.attacks.criterion import Criterion
from advbench.attacks.victim import Victim, frozen
from advbench.trust.diagnosis.subject import Subject


class Slope(NamedTuple):
    """The margin (N,) at some inputs, its gradient, and that of the cross-entropy (N, *shape)."""

    inputs: Tensor
    margin: Tensor
    gradient: Tensor
    entropy: Tensor


def slope(subject: Subject, inputs: Tensor) -> Slope:
    """Differentiate at inputs (N, *shape)."""
    margin, gradient = differentiated(subject, inputs, RelativeMargin())
    _, entropy = differentiated(subject, inputs, CrossEntropy())
    return Slope(inputs, margin, gradient, entropy)


def differentiated(subject: Subject, inputs: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return a loss (N,) at inputs (N, *shape), and its gradient, zero where it is not finite."""
    victim = Victim(subject.asked, subject.x)
    losses, gradients = [], []
    with frozen(subject.asked, subject.seed):
        for rows in torch.arange(len(inputs), device=inputs.device).split(subject.batch_size):
            with torch.no_grad():
                clean = victim(subject.x[rows])
            images = inputs[rows].detach().clone().requires_grad_()
            value = loss(victim(images), Criterion(subject.y[rows], clean=clean))
            (gradient,) = torch.autograd.grad(value.sum(), images)
            losses.append(value.detach())
            gradients.append(gradient.nan_to_num(0, 0, 0))
    return torch.cat(losses), torch.cat(gradients)
