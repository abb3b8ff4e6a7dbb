"""Checks that the answer for a row depends on nothing but this row."""

import dataclasses
from typing import get_args

import torch

from advbench.attacks.attack import Attack, Stop
from advbench.testing.requirement import require, require_same, rows, stack
from advbench.testing.victims import scale, shape_for, smooth

_STOPS: tuple[Stop, ...] = get_args(Stop)
_SHARE = 0.1  # about half of the rows can be fooled


def check_batch_size(attack: Attack) -> None:
    """N10: One row at a time, two at a time or all at once: the same answers at the same cost."""
    model, x, y, _ = smooth(count=5, shape=shape_for(attack))
    eps = scale(attack, x, _SHARE)
    for stop in _STOPS:
        whole = attack.run(model, x, y, eps=eps, stop=stop)
        for size in (1,) if stop == "success" else (2,):
            part = attack.run(model, x, y, eps=eps, stop=stop, batch_size=size)
            require_same(attack, part, whole, f"differs with batch_size={size}, stop={stop!r}")


def check_composition(attack: Attack) -> None:
    """N10: Shuffled, or with other company, a row gets the same answer: ids key the randomness."""
    model, x, y, targets = smooth(count=6, shape=shape_for(attack))
    eps = scale(attack, x, _SHARE)
    ids = torch.tensor([40, 7, 2**40 + 3, 19, 0, 23])
    for stop in _STOPS:
        aims = targets if stop == "success" else None
        whole = attack.run(model, x, y, eps=eps, ids=ids, stop=stop, targets=aims)
        for some in ([4, 2, 0, 5, 3, 1], [3, 1]):
            index = torch.tensor(some)
            part = attack.run(
                model,
                x[index],
                y[index],
                eps=eps,
                ids=ids[index],
                stop=stop,
                targets=None if aims is None else aims[index],
            )
            require_same(attack, part, rows(whole, index), f"differs as rows {some} of 6")


def check_repeatable(attack: Attack) -> None:
    """A second call, and an equal attack, give the same answer."""
    model, x, y, _ = smooth(shape=shape_for(attack))
    eps = scale(attack, x, _SHARE)
    first = attack.run(model, x, y, eps=eps, stop="never")
    again = attack.run(model, x, y, eps=eps, stop="never")
    require_same(attack, again, first, "differs in a second call", tolerance=0)
    copy = dataclasses.replace(attack)
    other = copy.run(model, x, y, eps=eps, stop="never")
    require_same(attack, other, first, "differs in an equal attack", tolerance=0)


def check_eps_per_sample(attack: Attack) -> None:
    """One eps per sample is the same as a call per sample."""
    model, x, y, _ = smooth(shape=shape_for(attack))
    eps = scale(attack, x, 1) * torch.tensor([0.02, 0.2, 0.0, 0.06], dtype=torch.float64)
    for stop in _STOPS:
        together = attack.run(model, x, y, eps=eps, stop=stop)
        single = [
            attack.run(
                model,
                x[row : row + 1],
                y[row : row + 1],
                eps=float(eps[row]),
                ids=torch.tensor([row]),
                stop=stop,
            )
            for row in range(len(x))
        ]
        require_same(attack, together, stack(single), "differs from a call per sample")


def check_stop(attack: Attack) -> None:
    """Stopping at the first success finds a success for the same rows, and costs no more."""
    model, x, y, _ = smooth(count=12, shape=shape_for(attack))
    eps = scale(attack, x, 1) * torch.tensor([_SHARE / 2, _SHARE, 2 * _SHARE]).repeat(4)
    early = attack.run(model, x, y, eps=eps, stop="success")
    late = attack.run(model, x, y, eps=eps, stop="never")
    require(early.success == late.success, attack, "stop='success' changes the verdict")
    require(early.forwards <= late.forwards + 1, attack, "stop='success' costs more")
