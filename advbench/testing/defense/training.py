"""Checks of a training with a defence: it works, repeats itself, resumes, and keeps its manners."""

import dataclasses
import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from advbench.defenses.defense import Defense
from advbench.defenses.fit import Epoch, Fit
from advbench.testing.defense.trials import (
    UNDEFENDED,
    answers,
    refusal,
    run,
    same_bits,
    samples,
    suited,
    trained,
    under_way,
)
from advbench.testing.manners import random_states
from advbench.testing.requirement import require
from advbench.training.recipe import Recipe
from advbench.training.trainer import Trained


def check_trains(defense: Defense) -> None:
    """Losses stay finite, and what is deployed answers in eval mode with finite logits (B, K).

    A network that it does not suit is refused with a sentence that names the defence.
    """
    for recipe in UNDEFENDED:
        words = refusal(dataclasses.replace(recipe, defenses=(defense,)))
        said = words is None or len(words.split()) > 4
        require(said, defense, f"refuses {recipe.model} and says only {words!r}")
    for recipe in suited(defense):
        made = trained(recipe)
        for epoch in made.log:
            finite = math.isfinite(epoch.loss) and math.isfinite(epoch.rate)
            require(finite, defense, f"loss {epoch.loss}, rate {epoch.rate}")
        require(isinstance(made.alarm, str), defense, f"alarm is {made.alarm!r}")
        quiet = not any(module.training for module in made.model.modules())
        require(quiet, defense, "what is deployed is not in eval mode")
        for count in (1, 3, 22):
            found = answers(made.model, samples("test").x[:count])
            right = found.shape == (count, 10) and found.dtype == torch.float32
            require(right, defense, f"answers {tuple(found.shape)} {found.dtype} for {count}")
            require(found.isfinite().all(1), defense, "logits must be finite")
            sums = (found.sum(1) - 1).abs()
            shares = bool((found >= 0).all() and (sums < 1e-4).all())
            require(not shares, defense, "answers with probabilities; take their logarithm")


def check_acts(defense: Defense) -> None:
    """It changes what comes of a training: structure, weights or answers.

    Where three quiet epochs give it nothing to do, eight at a wild learning rate do.
    """
    for recipe in suited(defense):
        wild = dataclasses.replace(
            recipe,
            train=dataclasses.replace(recipe.train, epochs=8),
            optimizer=dataclasses.replace(recipe.optimizer, lr=0.3),
        )
        acts = _differs(recipe) or _differs(wild)
        require(acts, defense, f"changes nothing in a training of {recipe.model}")


def _differs(recipe: Recipe) -> bool:
    model = trained(recipe).model
    plain = trained(dataclasses.replace(recipe, defenses=())).model
    return not (same_bits(model, plain) and torch.equal(answers(model), answers(plain)))


def check_repeatable(defense: Defense) -> None:
    """The same seed gives the same bits, also to an equal defence; another seed gives others."""
    for recipe in suited(defense):
        model = trained(recipe).model
        equal = dataclasses.replace(recipe, defenses=(dataclasses.replace(defense),))
        again = run(equal).model
        require(same_bits(model, again), defense, "a second training gives other weights")
        same = torch.equal(answers(model), answers(again))
        require(same, defense, "a second training gives other answers")
        seeded = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, seed=1))
        other = trained(seeded).model
        require(not same_bits(model, other), defense, "the seed does not matter")


def _resumed(defense: Defense, recipe: Recipe, path: Path) -> Trained:
    """Train, killed after every epoch; each time an equal defence goes on from the checkpoint."""
    numbers: list[int] = []

    def kill(epoch: Epoch, _: Fit) -> None:
        numbers.append(epoch.number)
        raise InterruptedError

    while True:
        equal = dataclasses.replace(recipe, defenses=(dataclasses.replace(defense),))
        try:
            return run(equal, kill, path)
        except InterruptedError:
            goes_on = numbers == list(range(len(numbers)))
            require(goes_on, defense, "a checkpoint is lost: what is kept cannot be read back")


def check_resumes(defense: Defense) -> None:
    """Killed after each epoch and continued, a training comes to the same bits."""
    for recipe in suited(defense):
        whole = trained(recipe)
        with tempfile.TemporaryDirectory() as folder:
            parts = _resumed(defense, recipe, Path(folder) / "checkpoint")
        require(parts.log == whole.log, defense, "a resumed training has another log")
        require(parts.kept == whole.kept, defense, "a resumed training keeps another epoch")
        require(parts.alarm == whole.alarm, defense, "a resumed training has another alarm")
        require(same_bits(parts.model, whole.model), defense, "resumed, the weights are others")
        same = torch.equal(answers(parts.model), answers(whole.model))
        require(same, defense, "resumed, the answers are others")


def _switches() -> list[object]:
    return [
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    ]


def _hooks(module: nn.Module) -> int:
    before = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return before + len(module._backward_hooks) + len(module._backward_pre_hooks)


def check_manners(defense: Defense) -> None:
    """Random states, settings of torch and the samples are left alone, and a clean model is made.

    A user may train it further: every parameter wants its gradient, no buffer does, and neither
    hangs on a graph or has a hook on it.
    """
    splits = (samples(), samples("validation"))
    given = [tensor for split in splits for tensor in (split.x, split.y, split.ids)]
    for recipe in suited(defense):
        before = [tensor.clone() for tensor in given]
        randomness, switches = random_states(), _switches()
        model = run(recipe).model
        require(random_states() == randomness, defense, "a global random state was changed")
        require(_switches() == switches, defense, "a setting of torch was changed")
        same = all(torch.equal(one, two) for one, two in zip(before, given, strict=True))
        require(same, defense, "samples were written to")
        wanted = all(p.is_leaf and p.requires_grad for p in model.parameters())
        require(wanted, defense, "a parameter of the model is frozen, or hangs on a graph")
        loose = all(b.is_leaf and not b.requires_grad for b in model.buffers())
        require(loose, defense, "a buffer of the model has a gradient, or hangs on a graph")
        require(not sum(map(_hooks, model.modules())), defense, "a hook is left on the model")
        owned = {tensor.untyped_storage().data_ptr() for tensor in given}
        held = (*model.parameters(), *model.buffers())
        shares = any(tensor.untyped_storage().data_ptr() in owned for tensor in held)
        require(not shares, defense, "the model shares memory with the samples")


def check_kept(defense: Defense) -> None:
    """What it keeps between moments is plain, so that a checkpoint can be read without trust."""
    for recipe in suited(defense):
        fit = under_way(recipe)
        for value in fit.memory.values():
            require(_is_plain(value), defense, f"keeps what a checkpoint does not: {value!r:.80}")
        require(set(fit.memory) <= {type(defense).__name__}, defense, "keeps under another name")


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    if isinstance(value, torch.Tensor):
        return value.grad_fn is None and type(value) in (torch.Tensor, nn.Parameter)
    return value is None or type(value) in (bool, int, float, str)
