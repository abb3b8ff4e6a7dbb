"""What a model answers, asked once, or again and again where it answers at random."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.attacks.victim import Model, Victim, frozen

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
    with frozen(model, seed), torch.no_grad():
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
        with frozen(model, seed), torch.no_grad():
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


def _generators(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that a model on a device may draw from."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]
