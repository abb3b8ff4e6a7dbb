"""The judge: whatever an attack claims is re-measured here, and only this counts.

A fresh forward of the bare model scores the returned inputs themselves; range, size and the link
between input and parameters are measured again. A row that breaks the threat model is `invalid`:
never a success, and never clipped into one. A row is `nan`, neither broken nor robust, where the
model has no finite answer, or where the search met nothing but such answers around it.

A model that answers at random is asked about the same input again and again, in draws that no
attack has seen: one answer would make of its luck a success, the more so the more attacks try.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.attacks.attack import Attack, Outcome
from advbench.attacks.flags import Flag
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.victim import Model, full_precision
from advbench.trust.answers import Look, as_they_are, tally

_TOLERANCE = 1e-6  # of the box, and of the link between inputs and parameters


@dataclass(frozen=True, eq=False)
class Verdict:
    """The judged facts of each row, all (B,)."""

    prediction: NDArray[np.int64]  # -1 where the logits are not finite
    confidence: NDArray[np.float64]  # the probability of the prediction; NaN where there is none
    right: NDArray[np.float64]  # the share of the draws that rank no class above the label
    screened: NDArray[np.float64]  # the same of other draws, to choose between attacks by
    success: NDArray[np.bool_]  # legal, and wrong in most draws
    success_8bit: NDArray[np.bool_]
    size: NDArray[np.float64]
    invalid: NDArray[np.bool_]
    nan: NDArray[np.bool_]
    detail: str  # how many rows broke which rule; empty without any


def judge(
    model: Model,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    eps: float,
    outcome: Outcome,
    batch_size: int,
    look: Look = as_they_are,
    seeds: Sequence[int] = (0,),
    screening: Sequence[int] = (),
) -> Verdict:
    """Judge what an attack returned for the clean rows `x` (B, *shape) with labels `y` (B,).

    The model is shown what the rows `look` like, once under each of the `seeds`, as often rounded
    to 8 bits, and once under each seed for `screening`, where the verdict is the same without any.
    Raises TypeError or ValueError, naming the attack, where the answer has not the form of one.
    """
    check_form(attack, x, outcome)
    adversarial = outcome.x_adv.detach()
    parameters = outcome.p.detach()
    with full_precision(x.device):
        size, broken = _measure(attack.perturbation, x, adversarial, parameters, eps, batch_size)
        images = look(adversarial)
    legal = ~torch.stack(list(broken.values())).any(0)
    seen = tally(model, images, y, batch_size, seeds=seeds)
    again = tally(model, images, y, batch_size, seeds=screening) if screening else seen
    rounded = tally(model, _rounded(images), y, batch_size, seeds=seeds)
    success = legal & seen.finite & (seen.right < 0.5)
    # With nothing finite to go by, a search brings back the sample itself: it has seen nothing.
    blind = ((outcome.flags & int(Flag.NON_FINITE)) != 0) & (size == 0)
    answered = seen.finite & again.finite & (success | ~blind)
    counts = {rule: int(rows.sum()) for rule, rows in broken.items()}
    detail = "; ".join(f"{count} rows {rule}" for rule, count in counts.items() if count)
    return Verdict(
        prediction=_array(seen.prediction),
        confidence=_array(seen.confidence),
        right=_array(seen.right),
        screened=_array(again.right),
        success=_array(success),
        success_8bit=_array(legal & rounded.finite & (rounded.right < 0.5)),
        size=_array(size),
        invalid=_array(~legal),
        nan=_array(legal & ~answered),
        detail=detail,
    )


def check_form(attack: Attack, x: Tensor, outcome: object) -> None:
    """Refuse an answer of the wrong type, shape or dtype."""
    who = type(attack).__name__
    if not isinstance(outcome, Outcome):
        raise TypeError(f"{who} must return an Outcome; got {type(outcome).__name__}")
    for name, value in zip(outcome._fields, outcome, strict=True):
        if not isinstance(value, Tensor):
            raise TypeError(f"{who}: {name} must be a tensor; got {type(value).__name__}")
        if len(value) != len(x):
            raise ValueError(f"{who}: {name} must have {len(x)} rows; got {len(value)}")
    if outcome.x_adv.shape != x.shape or outcome.x_adv.dtype != x.dtype:
        raise ValueError(
            f"{who}: x_adv must be {tuple(x.shape)} {x.dtype}; "
            f"got {tuple(outcome.x_adv.shape)} {outcome.x_adv.dtype}"
        )


def _measure(
    perturbation: Perturbation, x: Tensor, adversarial: Tensor, p: Tensor, eps: float, batch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Size of each row in 64 bits, and the rows that break each rule of the threat model.

    Whether the parameters make the input is asked in their own precision: what is resampled comes
    out differently in 64 bits.
    """
    sizes: list[Tensor] = []
    rules: dict[str, list[Tensor]] = {}
    for clean, changed, given in _batches(x, adversarial, p, batch):
        size = perturbation.size(clean.double(), given.double())
        limit = perturbation.limit(torch.full_like(size, eps))
        flat = changed.flatten(1)
        made = perturbation.apply(clean.to(given), given).to(changed)
        apart = (made - changed).flatten(1).abs()
        low, high = perturbation.bounds
        outside = ((flat < low - _TOLERANCE) | (flat > high + _TOLERANCE)).any(1)
        finite = flat.isfinite().all(1)
        broken = {
            f"larger than {eps:g}": ~(size <= limit),
            f"outside [{low:g}, {high:g}]": outside,
            "not finite": ~finite,
            "not what their parameters make": finite & ~(apart <= _TOLERANCE).all(1),
        }
        sizes.append(size)
        for rule, rows in broken.items():
            rules.setdefault(rule, []).append(rows)
    return torch.cat(sizes), {rule: torch.cat(rows) for rule, rows in rules.items()}


def _rounded(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def _batches(x: Tensor, adversarial: Tensor, p: Tensor, batch: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(x.split(batch), adversarial.split(batch), p.split(batch), strict=True)


def _array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.cpu().numpy()
    return array
