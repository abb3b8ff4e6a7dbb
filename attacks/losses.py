"""Objectives of an attack, one number per sample, to be increased.

Each is a value: ``loss(logits (B, K), criterion) -> (B,)``. Untargeted, it grows as the label
``y`` loses ground; targeted, as the target ``t`` gains it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.criterion import Criterion, margin

Objective = Callable[[Tensor, Criterion], Tensor]
"""What a query differentiates: logits (B, K) and criterion to (B, ...)."""


class Loss(ABC):
    """An objective per sample; subclasses are frozen dataclasses.

    ``wants_clean`` asks for ``criterion.clean``, which costs a search one forward pass per sample.
    """

    wants_clean: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""


@final
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of the label; targeted, its negative for the target.

    ``logsumexp(z) - z_y``. Its gradient vanishes where the softmax saturates.
    """

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""
        if criterion.targets is None:
            return functional.cross_entropy(logits, criterion.y, reduction="none")
        return -functional.cross_entropy(logits, criterion.targets, reduction="none")


@final
@dataclass(frozen=True)
class Margin(Loss):
    """Lead of the best wrong class over the label; targeted, of the target over the best other.

    ``max_{i != y} z_i - z_y``. Source: Carlini and Wagner, "Towards evaluating the robustness of
    neural networks", IEEE S&P 2017, arXiv:1608.04644, objective f6 without its cap.
    """

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""
        if criterion.targets is None:
            return -margin(logits, criterion.y)
        return margin(logits, criterion.targets)


@final
@dataclass(frozen=True)
class DLR(Loss):
    """Difference of logits ratio: the margin over a spread of the logits, free of their scale.

    With the logits in descending order ``z_1 >= z_2 >= ...``, untargeted
    ``-(z_y - max_{i != y} z_i) / (z_1 - z_3)``, targeted
    ``-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)``.
    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020, arXiv:2003.01690, equations 6 and 7.
    Deviations, where the paper's form is undefined: with 3 classes the targeted spread is
    ``z_1 - z_3``; with 2 classes the ratio is constant, so the plain difference is used.
    """

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""
        lead = _lead(logits, criterion)
        classes = logits.shape[1]
        if classes == 2:
            return lead
        top = logits.topk(min(4, classes), dim=1).values
        if criterion.targets is None or classes == 3:
            spread = top[:, 0] - top[:, 2]
        else:
            spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
        return lead / (spread + 1e-12)


@final
@dataclass(frozen=True)
class Difference(Loss):
    """Lead of one class over the label, whatever the other classes do.

    Targeted ``z_t - z_y``; untargeted the margin. What minimum-norm attacks linearise.
    """

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""
        return _lead(logits, criterion)


@final
@dataclass(frozen=True)
class ProbabilityMargin(Loss):
    """Lead of the best wrong class over the label in probabilities, between -1 and 1.

    ``p_t - p_y`` with ``p = softmax(z)`` and ``t`` the best wrong class, or the target. Its
    gradient vanishes in 32 bits where the margin of the logits exceeds about 100.
    Source: Xie et al., "PMA: probability margin attack", 2025, arXiv:2411.15210.
    """

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K)."""
        return _lead(logits.softmax(1), criterion)


@final
@dataclass(frozen=True)
class TemperedMargin(Loss):
    """The probability margin of logits that are first brought to one scale per sample.

    ``ProbabilityMargin`` of ``temperature * z / s``, where ``s`` is the spread of the clean logits,
    largest less smallest: free of shift and scale of the logits, so that it neither saturates nor
    flattens, and its values can be compared along a search. Our own.
    """

    wants_clean: ClassVar[bool] = True

    temperature: float = 10.0

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K).

        Raises ValueError where there are no clean logits.
        """
        scale = self.temperature / _clean_spread("tempered_margin", criterion)
        return _lead((logits * scale.unsqueeze(1)).softmax(1), criterion)


@final
@dataclass(frozen=True)
class RelativeMargin(Loss):
    """The margin in units of the spread of the clean logits, largest less smallest.

    ``Margin`` over that spread: the same ascent, with values that do not depend on the scale of the
    logits and can be compared between samples. Our own.
    """

    wants_clean: ClassVar[bool] = True

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K).

        Raises ValueError where there are no clean logits.
        """
        return Margin()(logits, criterion) / _clean_spread("relative_margin", criterion)


def _clean_spread(name: str, criterion: Criterion) -> Tensor:
    if criterion.clean is None:
        raise ValueError(
            f"{name}: the logits of the clean samples are missing; a change that many images share "
            "has none. Use Margin()"
        )
    clean = criterion.clean
    return (clean.amax(1) - clean.amin(1)).clamp_min(torch.finfo(clean.dtype).tiny)


def _lead(scores: Tensor, criterion: Criterion) -> Tensor:
    """Return the score of the target, or of the best wrong class, less that of the label."""
    if criterion.targets is None:
        return -margin(scores, criterion.y)
    pair = torch.stack([criterion.targets, criterion.y], 1)
    target, label = scores.gather(1, pair).unbind(1)
    return target - label


@final
@dataclass(frozen=True)
class Divergence(Loss):
    """Divergence of the prediction from that for the clean sample; it asks for no label.

    ``KL(softmax(f(x)) || softmax(z))``, at least 0. It is 0 with gradient 0 at the clean sample
    itself, so a search has to start elsewhere. Source: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan,
    "Theoretically principled trade-off between robustness and accuracy", ICML 2019,
    arXiv:1901.08573, algorithm 1. Untargeted only.
    """

    wants_clean: ClassVar[bool] = True

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,) for ``logits`` (B, K).

        Raises ValueError where there are targets, or no clean logits.
        """
        if criterion.targets is not None:
            raise ValueError(
                "divergence: there is no form of it with targets; leave them out, or use "
                "CrossEntropy(), Margin() or DLR()"
            )
        if criterion.clean is None:
            raise ValueError(
                "divergence: the logits of the clean samples are missing; a change that many "
                "images share has none. Use CrossEntropy(), Margin() or DLR()"
            )
        return divergence(criterion.clean, logits)


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """Return ``KL(softmax(clean) || softmax(logits))``, (B,); both are (B, K)."""
    log_p, log_q = clean.log_softmax(1), logits.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
