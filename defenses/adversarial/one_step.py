"""Examples of a single step, which one-step adversarial training makes."""

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks import checks
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.randomness import Draws
from advbench.attacks.victim import frozen
from advbench.defenses.fit import Batch, Fit


def one_step(
    name: str,
    perturbation: Perturbation,
    batch: Batch,
    fit: Fit,
    *,
    start: float,
    length: float,
    bound: float,
) -> Tensor:
    """Return a minibatch (B, *shape) after one steepest step up the cross-entropy of the classes.

    The step, of size ``length``, begins at a uniform draw from the set of size ``start``, keyed by
    the sample and the epoch, and ends inside that of size ``bound``; both ends lie in the box. The
    network is in eval mode meanwhile. It costs one forward and one backward pass.

    Raises ValueError, in the name of the defence, where the set cannot change such samples.
    """
    x, zero = batch.x, torch.zeros_like(batch.ids)
    checks.accepted(name, perturbation, x)
    one = torch.ones_like(x.flatten(1)[:, 0])
    draws = Draws(zero + fit.epoch_seed, batch.ids, zero, zero)
    with frozen(fit.model, fit.epoch_seed):
        p = perturbation.draw(x, one * start, draws)
        p = perturbation.project(x, p, one * start).requires_grad_()
        loss = functional.cross_entropy(
            fit.seen(perturbation.apply(x, p)), batch.y, reduction="sum"
        )
        (g,) = torch.autograd.grad(loss, p)
        p = p.detach()
        p = p + perturbation.steepest(x, p, g, one * length)
        return perturbation.apply(x, perturbation.project(x, p, one * bound))
