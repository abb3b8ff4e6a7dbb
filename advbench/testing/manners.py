"""Checks that everything is left as it was found, also after an exception."""

import random
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from advbench.attacks.attack import Attack
from advbench.testing.requirement import require, require_same
from advbench.testing.victims import Stateful, inputs, linear, scale, shape_for, smooth


def check_inputs(attack: Attack) -> None:
    """No argument is written to, and the answer shares no memory with one."""
    model, x, y, targets = smooth(shape=shape_for(attack))
    x = x.mT.contiguous().mT.requires_grad_()
    for share in (0.0, 0.1):
        eps = torch.full((len(x),), scale(attack, x, share))
        given = [x, y, targets, eps, torch.arange(4)]
        before = [value.detach().clone() for value in given]
        found = attack.run(model, x, y, eps=eps, targets=targets, ids=given[-1], stop="never")
        same = all(torch.equal(one, two) for one, two in zip(before, given, strict=True))
        require(same, attack, "an argument was written to")
        require(x.requires_grad and x.grad is None, attack, "x got a gradient")
        require(not found.x_adv.requires_grad, attack, "x_adv hangs on a graph")
        places = {value.untyped_storage().data_ptr() for value in given}
        for name, value in found._asdict().items():
            view = value.untyped_storage().data_ptr() in places
            require(not view, attack, f"{name} shares memory with an argument")


def photograph(model: nn.Module) -> list[object]:
    """Everything about a model that a user could notice."""
    parts: list[object] = []
    for module in model.modules():
        parts.append(module.training)
        parts += [len(module._forward_hooks), len(module._forward_pre_hooks)]
        parts += [len(module._backward_hooks), len(module._backward_pre_hooks)]
    for tensor in (*model.parameters(), *model.buffers()):
        parts += [tensor.requires_grad, tensor.detach().clone().tolist()]
        parts.append(None if tensor.grad is None else tensor.grad.tolist())
    return parts


def check_model(attack: Attack) -> None:
    """Modes, buffers, parameters, gradients and hooks are as before, also after an exception."""
    shape = shape_for(attack)
    x = inputs(6, 3, shape, torch.float64)
    y = torch.zeros(3, dtype=torch.int64)
    for fails_at in (None, 1, 2, 3):
        model = Stateful(fails_at, shape)
        before = photograph(model)
        with suppress(InterruptedError):
            attack.run(model, x, y, eps=scale(attack, x, 0.1), stop="never")
        when = "" if fails_at is None else f" after an exception in forward pass {fails_at}"
        require(photograph(model) == before, attack, f"the model was changed{when}")


def random_states() -> list[object]:
    """Return the random states of torch, NumPy and Python."""
    kind, words, *rest = np.random.get_state(legacy=True)
    return [torch.get_rng_state().tolist(), random.getstate(), kind, list(words), rest]


def check_random_state(attack: Attack) -> None:
    """N9: The random states of torch, NumPy and Python are as before, also after an exception."""
    shape = shape_for(attack)
    for fails_at in (None, 2):
        model = Stateful(fails_at, shape)
        x = inputs(6, 3, shape, torch.float64)
        y = torch.zeros(3, dtype=torch.int64)
        before = random_states()
        with suppress(InterruptedError):
            attack.run(model, x, y, eps=scale(attack, x, 0.1), stop="never")
        require(random_states() == before, attack, "a global random state was changed")


def check_grad_modes(attack: Attack) -> None:
    """Under no_grad and inference_mode the answer is the same."""
    model, x, y, targets = smooth(shape=shape_for(attack))
    eps = scale(attack, x, 0.1)
    for aims in (None, targets):
        plain = attack.run(model, x, y, eps=eps, targets=aims)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                made = [None if value is None else value.clone() for value in (x, y, aims)]
                found = attack.run(model, _some(made[0]), _some(made[1]), eps=eps, targets=made[2])
            require_same(attack, found, plain, f"differs under {mode.__name__}")
        require(torch.is_grad_enabled(), attack, "gradients are left switched off")


def _some(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def check_autocast(attack: Attack) -> None:
    """N1: Under the caller's autocast nothing of the attack's own is rounded to 16 bits.

    A model that keeps out of autocast is attacked as it is without any.
    """
    model, x, y, _ = smooth(count=2, shape=shape_for(attack), dtype=torch.float32)
    exact, eps = _Exact(model), scale(attack, x, 0.1)
    plain = attack.run(exact, x, y, eps=eps, stop="never")
    with torch.autocast("cpu", torch.bfloat16):
        found = attack.run(exact, x, y, eps=eps, stop="never")
    require_same(attack, found, plain, "differs under autocast", tolerance=0)


class _Exact(nn.Module):
    """A model that runs in its own precision, whatever the mode of the caller."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            logits: Tensor = self.model(x)
        return logits


def check_labels(attack: Attack) -> None:
    """Labels of any integer type are the same labels; one-hot labels and floats are refused."""
    model, x, y, _ = linear(shape=shape_for(attack))
    eps = scale(attack, x, 0.1)
    plain = attack.run(model, x, y, eps=eps)
    for dtype in (torch.int32, torch.uint8, torch.int16):
        require_same(attack, attack.run(model, x, y.to(dtype), eps=eps), plain, f"{dtype} labels")
    for bad in (torch.nn.functional.one_hot(y, 3), y.float(), y.unsqueeze(1)):
        try:
            attack.run(model, x, bad, eps=eps)
        except (TypeError, ValueError):
            continue
        require(False, attack, f"labels {tuple(bad.shape)} of {bad.dtype} are taken")


def check_progress(attack: Attack) -> None:
    """The progress that is told adds up to the number of samples."""
    model, x, y, targets = smooth(shape=shape_for(attack))
    y = torch.cat([y[:3], targets[3:]])
    eps = scale(attack, x, 0.1)
    for batch_size in (None, 2):
        for correct in (None, torch.tensor([True, True, True, False])):
            told: list[int] = []
            attack.run(
                model,
                x,
                y,
                eps=eps,
                stop="never" if correct is None else "success",
                correct=correct,
                batch_size=batch_size,
                progress=told.append,
            )
            require(sum(told) == len(x), attack, f"told progress on {sum(told)} of {len(x)} rows")
