"""The size at which a model is diagnosed, where none is given."""

import math

from torch import nn

from advbench.attacks import PGD, RelativeMargin
from advbench.trust.diagnosis.subject import Subject

_ROWS = 64
_STEPS = 10
_HALVINGS = 7
"""Of the range of sizes, on a logarithmic scale: to within 6 % of the size."""
_OCTAVES = 10
"""How far below the largest size the search begins."""
_FURTHEST = 2.0
"""Times the size that halves a substitute: beyond it a search is misled."""


def chosen(subject: Subject, substitute: nn.Module) -> float:
    """Return the size at which a short search by gradients leaves about half of the rows.

    Where none does, or the model answers at random, it is that of a substitute of the model, and
    never more than twice that.
    """
    other = half_way(subject, substitute)
    own = half_way(subject) if subject.differentiable and not subject.random else None
    if other is None:
        return own or subject.perturbation.largest(subject.x) / 10
    return other if own is None else min(own, _rounded(_FURTHEST * other))


def half_way(subject: Subject, substitute: nn.Module | None = None) -> float | None:
    """Return the size at which a short search breaks half of the rows, of the model or of another.

    The search begins at the samples, not at random, so that it finds nothing without a gradient.
    None where it does not break half at any size.
    """
    few = subject.first(_ROWS)
    attack = PGD(
        perturbation=subject.perturbation, loss=RelativeMargin(), steps=_STEPS, random_start=False
    )
    largest = subject.perturbation.largest(subject.x)
    low, high = -float(_OCTAVES), 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = few.at(largest * 2**middle).attacked(attack, on=substitute)
        fallen = found.broken if substitute is None else found.outcome.success
        if 2 * int(fallen.sum()) > len(few):
            high = middle
        else:
            low = middle
    return None if high == 0 else _rounded(largest * 2**high)


def _rounded(size: float) -> float:
    """Two digits are enough."""
    return round(size, 1 - math.floor(math.log10(size)))
