"""The judge: whatever an attack claims is re-measured here, and only this counts.

A fresh forward of the bare model scores the returned inputs themselves; range, size and the link
between input and parameters are measured again. A row that breaks the threat model is `invalid`:
never a success, and never clipped into one.

A model that answers at random is asked about the same input again and again, in draws that no
attack has seen: one answer would make of its luck a success, the more so the more attacks try.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.attacks.attack import Attack, Outcome
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.victim import Model, Victim, frozen

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


Look = Callable[[Tensor], Tensor]
"""What inputs look like: images (B, C, H, W)."""


def as_they_are(x: Tensor) -> Tensor:
    """How images look."""
    return x


def predict(
    model: Model, x: Tensor, batch_size: int, look: Look = as_they_are, seed: int = 0
) -> Tensor:
    """Return the logits (N, K) of the bare model in eval mode, on the device of `x`."""
    victim = Victim(model, x)
    with frozen(model, seed), torch.inference_mode():
        parts = [victim(look(part.to(victim.device))).to(x.device) for part in x.split(batch_size)]
    return torch.cat(parts)


def answers_at_random(model: Model, x: Tensor, batch_size: int, look: Look = as_they_are) -> bool:
    """Whether the model answers at random.

    It does where two answers to the inputs (N, *shape), under two seeds, differ in any bit, or
    where it draws from torch's generators, though both answers may happen to be the same.
    """
    victim = Victim(model, x)
    answers, drawn = [], False
    for seed in (0, 1):
        with frozen(model, seed), torch.inference_mode():
            images = [look(part.to(victim.device)) for part in x.split(batch_size)]
            before = _generators(victim.device)
            answers.append(torch.cat([victim(part) for part in images]).nan_to_num())
            after = _generators(victim.device)
        drawn |= not all(map(torch.equal, before, after))
    return drawn or not torch.equal(*answers)


def draw_seeds(purpose: str, seed: int, count: int) -> list[int]:
    """Return the seeds of `count` draws for one purpose, far from the seed of any attack."""
    texts = [f"{purpose} {seed} {number}" for number in range(count)]
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]


@dataclass(frozen=True, eq=False)
class Tally:
    """What a model answers to each input in one draw or in many, all (N,)."""

    prediction: Tensor  # the class of most draws; -1 where a logit of any is not finite
    confidence: Tensor  # the probability of the prediction, as a mean over the draws
    right: Tensor  # the share of the draws that rank no class above the label
    finite: Tensor


def tally(
    model: Model,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    look: Look = as_they_are,
    seeds: Sequence[int] = (0,),
) -> Tally:
    """Ask about the inputs (N, *shape) with labels `y` (N,) once under each seed."""
    finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
    right = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    votes, probability = right.new_zeros(len(x), 1), right.new_zeros(len(x), 1)
    for seed in seeds:
        logits = predict(model, x, batch_size, look, seed)
        finite = finite & logits.isfinite().all(1)
        right = right + (logits.isfinite().all(1) & ~fooled(logits, y))
        votes = votes + torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
        probability = probability + logits.double().softmax(1)
    first = votes.argmax(1)
    sure = probability.gather(1, first.unsqueeze(1)).squeeze(1) / len(seeds)
    return Tally(first.where(finite, -1), sure, right / len(seeds), finite)


def confidence(logits: Tensor) -> Tensor:
    """Return the probability of the predicted class (N,), NaN where a logit is not finite."""
    return logits.double().softmax(1).amax(1)


def classes(logits: Tensor) -> Tensor:
    """Return the predicted class (N,), -1 where a logit is not finite."""
    return logits.argmax(1).where(logits.isfinite().all(1), -1)


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Which rows (N,) are finite and rank a class above `y`; a tie is no success."""
    label = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return logits.isfinite().all(1) & (logits.amax(1) > label)


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
    size, broken = _measure(attack.perturbation, x, adversarial, parameters, eps, batch_size)
    legal = ~torch.stack(list(broken.values())).any(0)
    images = look(adversarial)
    seen = tally(model, images, y, batch_size, seeds=seeds)
    again = tally(model, images, y, batch_size, seeds=screening) if screening else seen
    rounded = tally(model, _rounded(images), y, batch_size, seeds=seeds)
    counts = {rule: int(rows.sum()) for rule, rows in broken.items()}
    detail = "; ".join(f"{count} rows {rule}" for rule, count in counts.items() if count)
    return Verdict(
        prediction=_array(seen.prediction),
        confidence=_array(seen.confidence),
        right=_array(seen.right),
        screened=_array(again.right),
        success=_array(legal & seen.finite & (seen.right < 0.5)),
        success_8bit=_array(legal & rounded.finite & (rounded.right < 0.5)),
        size=_array(size),
        invalid=_array(~legal),
        nan=_array(legal & ~(seen.finite & again.finite)),
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


def _generators(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that a model on a device may draw from."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def _rounded(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def _batches(x: Tensor, adversarial: Tensor, p: Tensor, batch: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(x.split(batch), adversarial.split(batch), p.split(batch), strict=True)


def _array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.cpu().numpy()
    return array
