"""A certificate for the vote of a network under noise, by sampling."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import take
from advbench.attacks.victim import Victim, frozen
from advbench.defenses.randomized_smoothing import Smoothed
from advbench.trust.certificates.affine import Shape
from advbench.trust.certificates.layers import NoBoundsError


def smoothed_radius(
    model: Smoothed,
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    batch_size: int = 1000,
) -> Tensor:
    """Return the Euclidean radius within which the vote is sure to be the label, (N,) float64.

    What is certified is not the answer of ``model``, a mean of some probabilities, but the vote of
    the network in it: the class that it gives most often under the noise, asked infinitely often.
    The radius holds for a sample with probability 1 - alpha over the draws; it is 0 where the vote
    seems to be another class, or is not sure to be the label in more than half of the draws.

    Source: Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing",
    ICML 2019, arXiv:1902.02918, the function CERTIFY: ``n0`` draws choose a class, ``n`` fresh ones
    bound its share p from below (Clopper and Pearson), and the radius is sigma times the normal
    quantile of p. Only where the label is chosen are the ``n`` draws made.

    Args:
        model: as the defence randomised smoothing returns it; left as it was.
        x: images (N, *shape) in [0, 1].
        y: true classes (N,).
        ids: a number per sample (N,) that keys its draws; 0 to N - 1 by default.
        seed: keys all draws. The batch and the global random state play no part.
        n0: draws that choose the class.
        n: draws that bound its share.
        alpha: the probability with which a radius may be wrong.
        batch_size: most noisy images at once.

    Raises:
        TypeError: the model is no Smoothed.
        ValueError: an argument is out of its range.

    """
    if type(model) is not Smoothed:
        raise TypeError(
            f"smoothed_radius: got a {type(model).__name__}, expected a Smoothed, as "
            "RandomizedSmoothing().wrap(model) returns it"
        )
    checks.images(x)
    checks.labels("y", y, x)
    checks.seed(seed)
    for name, count in (("n0", n0), ("n", n), ("batch_size", batch_size)):
        checks.positive(name, count)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1; got {alpha}")
    numbers = checks.identities(torch.arange(len(x)) if ids is None else ids, len(x))
    with frozen(model, seed), torch.no_grad():
        victim = Victim(model.model, x)
        images = checks.inside_box(x, L2()).to(victim.device, victim.precision)
        labels, keys = y.to(victim.device, torch.int64), numbers.to(victim.device)
        ask = _Asking(victim, model.sigma, seed, batch_size)
        index = (ask.votes(images, keys, n0, 0).argmax(1) == labels).nonzero().squeeze(1)
        votes = ask.votes(images[index], keys[index], n, 1)
        hits = votes.gather(1, labels[index].unsqueeze(1)).squeeze(1).cpu().numpy()
    radius = torch.zeros(len(x), dtype=torch.float64)
    radius[index.cpu()] = torch.from_numpy(_radius(hits, n, alpha, model.sigma))
    return radius.to(x.device)


def smoothed_eps(radius: Tensor, perturbation: Perturbation, shape: Shape) -> Tensor:
    """Return the largest eps of a set that a Euclidean radius (N,) covers, (N,).

    ``shape`` is that of one image. Raises NoBoundsError for sets other than L2, L1 and Linf.
    """
    if type(perturbation) is Linf:
        return radius / math.sqrt(math.prod(shape))
    if type(perturbation) in (L1, L2):  # no change is longer than the sum of its parts
        return radius
    raise NoBoundsError(
        f"the set {type(perturbation).__name__} has no radius; Linf, L2 and L1 have one"
    )


class _Asking(NamedTuple):
    """How a network is asked under noise."""

    victim: Victim
    sigma: float
    seed: int
    batch_size: int

    def votes(self, x: Tensor, ids: Tensor, count: int, purpose: int) -> Tensor:
        """Return how often each class is the answer in ``count`` draws, (N, K)."""
        votes = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        zero = torch.zeros_like(ids)
        draws = Draws(zero + self.seed, ids, zero, zero).fork(purpose)
        rows = torch.arange(len(x) * count, device=x.device)
        for part in rows.split(self.batch_size) if len(x) else ():
            row = part // count
            source = take(draws, row)._replace(number=part % count)
            delta = self.sigma * source.normal(x.shape[1:], x.dtype)
            logits = self.victim(x[row] + delta)
            if votes.shape[1] == 1:
                votes = votes.repeat(1, logits.shape[1])
            counted = logits.isfinite().all(1).long()
            votes.index_put_((row, logits.argmax(1)), counted, accumulate=True)
        return votes


def _radius(hits: NDArray[np.int64], n: int, alpha: float, sigma: float) -> NDArray[np.float64]:
    """The radius for ``hits`` of ``n`` draws; 0 where they may be fewer than half."""
    from scipy.stats import beta, norm  # takes a second, which every run would pay

    share = np.where(hits > 0, beta.ppf(alpha, np.maximum(hits, 1), n - hits + 1), 0.0)
    radius: NDArray[np.float64] = sigma * norm.ppf(np.maximum(share, 0.5))
    return radius
