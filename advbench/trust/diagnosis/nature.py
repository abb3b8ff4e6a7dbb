"""What the model is: whether a gradient reaches the input, and whether its answers hold still."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advbench.attacks.victim import Model, Victim, frozen
from advbench.trust.diagnosis.finding import Check, Finding
from advbench.trust.diagnosis.thresholds import PROBABILITY, SAME_ANSWER

_PROBED = 32
"""Samples that are enough to know a model by."""
_REPEATS = 5
_AUTOGRAD = (torch.autograd.grad.__code__, torch.autograd.backward.__code__)

GRAPH = Check(
    "G0",
    "broken_graph",
    "any",
    "Differentiate the model itself, or give the broken part a stand-in (BPDA, Masking); until "
    "then believe only attacks that need no gradient.",
    stops=True,
)
RANDOM = Check(
    "R1",
    "random_answers",
    f"> {SAME_ANSWER:g}, or a generator is drawn from",
    "Attack it by expectation (eot of 10 draws or more) and judge it by many fresh draws.",
    masks=True,
)
PROBABILITIES = Check(
    "P1",
    "probabilities",
    f"rows sum to 1 within {PROBABILITY:g}",
    "Return the logits, or their logarithm: losses saturate on probabilities.",
    masks=True,
)
CHANGING = Check(
    "D1",
    "changing_model",
    f"anything, or > {SAME_ANSWER:g}",
    "Attack the model as it is deployed: fix what it learns or counts while it answers, and take "
    "the gradient through whatever it optimises.",
    masks=True,
)


class Nature(NamedTuple):
    """What the checks of a model found, and what later ones go by."""

    findings: tuple[Finding, ...]
    random: bool
    probabilities: bool
    differentiable: bool


def inspect(model: Model, x: Tensor) -> Nature:
    """Look at how a model answers to images (N, *shape); a few of them are enough."""
    x = x[:_PROBED]
    graph, random_, probabilities = reach(model, x), randomness(model, x), form(model, x)
    changing = changes(model, x, random_.fired)
    found = (graph, random_, probabilities, changing)
    return Nature(found, random_.fired, probabilities.fired, not graph.fired)


def reach(model: Model, x: Tensor) -> Finding:
    """G0: does a gradient reach the input?"""
    victim = Victim(model, x)
    with frozen(model):
        p = x.detach().clone().requires_grad_()
        answer = victim(p)
        why = "the answer does not depend on the input in torch's graph"
        if answer.requires_grad:
            try:
                (gradient,) = torch.autograd.grad(answer[:, 0].sum(), p, allow_unused=True)
            except RuntimeError as error:
                why = f"the backward pass fails ({str(error).splitlines()[0]})"
            else:
                why = "" if gradient is not None else why
    if not why:
        return GRAPH.found(False, {"broken": 0}, "A gradient reaches the input.")
    return GRAPH.found(True, {"broken": 1}, f"No gradient reaches the input: {why}.")


def randomness(model: Model, x: Tensor) -> Finding:
    """R1: does it draw random numbers, or answer the same question in several ways?

    The distance of two answers is that of normalised logits, as Croce and Hein measure it
    (AutoAttack's warnings).
    """
    answers: list[Tensor] = []
    drawn = False
    for repeat in range(_REPEATS):
        with frozen(model, seed=repeat), torch.no_grad():
            before = _generators(x.device)
            answers.append(Victim(model, x)(x))
            drawn |= before != _generators(x.device)
    moved = max(distance(answers[0], other) for other in answers[1:])
    switched = max(int((answers[0].argmax(1) != one.argmax(1)).sum()) for one in answers)
    fired = drawn or switched > 0 or moved > SAME_ANSWER
    told = f"Asked {_REPEATS} times the same, normalised logits move by up to {moved:.2g}"
    told += f" and {switched} of {len(x)} labels change" if switched else ""
    told += "; random numbers are drawn." if drawn else "."
    return RANDOM.found(fired, {"moved": moved, "labels": switched, "drawn": int(drawn)}, told)


def form(model: Model, x: Tensor) -> Finding:
    """P1: does it return probabilities where logits are expected?"""
    with frozen(model), torch.no_grad():
        answer = Victim(model, x)(x).double()
    off = float((answer.sum(1) - 1).abs().max())
    inside = bool(((answer >= -PROBABILITY) & (answer <= 1 + PROBABILITY)).all())
    fired = inside and off <= PROBABILITY
    what = "are probabilities" if fired else "are no probabilities"
    told = f"The answers {what}: their sums differ from 1 by up to {off:.2g}."
    return PROBABILITIES.found(fired, {"off": off}, told)


def changes(model: Model, x: Tensor, random_answers: bool) -> Finding:
    """D1: does a forward pass change it, differentiate, or look at who else is in the batch?

    The last cannot be asked of a model that answers at random.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    with frozen(model), torch.no_grad():
        before = _state(modules)
        with calls_of(_AUTOGRAD.__contains__) as calls:
            together = Victim(model, x)(x)
        after = _state(modules)
        modes = sum(module.training for module in modules)
        for module in modules:
            module.training = False
        other = torch.arange(0, len(x), 2, device=x.device).flip(0)
        parted = Victim(model, x)(x[other]) if not random_answers else together[other]
    tensors = sum(not _same(*pair) for pair in zip(before, after, strict=True))
    moved = distance(together[other], parted)
    reasons = [
        f"{tensors} parameters or buffers change in a forward pass" * bool(tensors),
        f"{modes} modules switch to training mode" * bool(modes),
        "it differentiates while it answers" * bool(calls),
        f"half of a batch, in another order, moves normalised logits by {moved:.2g}"
        * (moved > SAME_ANSWER),
    ]
    told = "; ".join(filter(None, reasons))
    sentence = told[:1].upper() + told[1:] + "." if told else "Nothing changes in a forward pass."
    measured = {"moved": moved, "tensors": tensors, "modes": modes, "autograd": len(calls)}
    return CHANGING.found(bool(told), measured, sentence)


def distance(one: Tensor, other: Tensor) -> float:
    """The largest distance, over rows, of two answers (B, K), each scaled to length 1."""
    scaled = [nn.functional.normalize(each.double().nan_to_num(), dim=1) for each in (one, other)]
    return float((scaled[0] - scaled[1]).norm(dim=1).max())


def _state(modules: list[nn.Module]) -> list[Tensor]:
    """Copies of all parameters and buffers, each module's own."""
    held = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values())]
    return [t.detach().clone() for t in held if t is not None]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _generators(device: torch.device) -> list[object]:
    """The states of all global generators that a model on a device may draw from."""
    own = torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else []
    _, keys, *place = np.random.get_state(legacy=True)
    return [
        torch.get_rng_state().tolist(),
        own,
        np.asarray(keys).tolist(),
        place,
        random.getstate(),
    ]


@contextmanager
def calls_of(wanted: Callable[[CodeType], bool]) -> Iterator[list[str]]:
    """Yield a list that gets a name for each call of a wanted Python function meanwhile."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and wanted(frame.f_code):
            calls.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)
