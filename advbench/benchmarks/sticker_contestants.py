"""One adapter per library that can make an adversarial patch, each through its public entry point.

A contestant turns (model, images, labels, task, seed) into a square picture (C, n, n) in [0, 1].
Everything that the library does for that, from building the attack on, is inside the call. The
model is handed over unfrozen, as a user has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advbench.attacks import MIFGSM, Attack, Patch, Placement, Square, Sticker
from advbench.attacks.universal.controls import pasted
from advbench.benchmarks.machine import installed


@dataclass(frozen=True)
class StickerTask:
    """A universal targeted sticker as every library can be asked for it.

    It is a square of half the image's pixels a side, which covers `eps` of the image, lies anywhere
    on it and is turned by up to `rotation` degrees to either side. A step takes its gradient over
    `samples` of the `images` training images; `targets` is the class to reach.
    """

    eps: float
    targets: int
    images: int
    steps: int = 250
    samples: int = 64
    rotation: float = 20.0

    @property
    def patch(self) -> Patch:
        """The set in which advbench looks for the sticker, and in which all are judged."""
        return Patch(mask=Square(), placement=Placement(rotation=self.rotation))

    @property
    def rounds(self) -> int:
        """How often the steps go through all images.

        Raises ValueError where they do not end with a full round of full steps.
        """
        if self.images % self.samples or self.steps * self.samples % self.images:
            raise ValueError(
                f"{self.steps} steps of {self.samples} images are no whole number of rounds of "
                f"full steps through {self.images} images"
            )
        return self.steps * self.samples // self.images


Fit = Callable[[nn.Module, Tensor, Tensor, StickerTask, int], Tensor]
Paste = Callable[[nn.Module, Tensor, Tensor, StickerTask], Tensor]


@dataclass(frozen=True)
class StickerMaker:
    """A library, the distribution it comes in and how it is asked for a sticker.

    `growth` says how many times larger the gradient that the library goes by is after five steps
    than after one where nothing differs between the steps; None where there is no way to look.
    """

    name: str
    distribution: str
    fit: Fit
    growth: Callable[[nn.Module, Tensor, StickerTask], float] | None = None

    @property
    def version(self) -> str | None:
        """Installed version, or None where the distribution is not installed."""
        return installed(self.distribution)


def sticker_of(task: StickerTask) -> Sticker:
    """Return advbench's sticker for a task, at its defaults otherwise."""
    search = Sticker().attack
    assert isinstance(search, MIFGSM)
    search = replace(search, perturbation=task.patch, steps=task.steps)
    return Sticker(attack=search, samples=task.samples, images=task.images)


def _ours(model: nn.Module, x: Tensor, y: Tensor, task: StickerTask, seed: int) -> Tensor:
    sticker = sticker_of(task)
    return picture_of(sticker.fit(model, [(x, y)], eps=task.eps, targets=task.targets, seed=seed))


def picture_of(attack: Attack) -> Tensor:
    """Return what a fitted sticker of advbench pastes, (C, n, n)."""
    patch = attack.perturbation
    assert isinstance(patch, Patch)
    assert patch.picture is not None
    return patch.picture.tensor()


def paste(model: nn.Module, picture: Tensor, x: Tensor, task: StickerTask) -> Tensor:
    """Return `x` with the picture, rounded to 8 bits, pasted by advbench at the draws of seed 0."""
    y = torch.zeros(len(x), dtype=torch.int64)  # which the control that pastes does not look at
    return pasted(task.patch, picture)(model, x, y, eps=task.eps, seed=0)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that ART draws from and put them back afterwards."""
    import numpy as np

    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)


def _art_patch(
    model: nn.Module,
    x: Tensor,
    task: StickerTask,
    *,
    scale: float,
    rotation: float,
    optimizer: Literal["Adam", "pgd"],
    rate: float,
    rounds: int,
) -> Any:
    """ART's attack on images like `x`; `scale` is a share of the shorter side of the image."""
    from art.attacks.evasion.adversarial_patch.adversarial_patch_pytorch import (
        AdversarialPatchPyTorch,
    )
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    estimator = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    side = task.patch.side(x)
    return AdversarialPatchPyTorch(
        estimator,
        rotation_max=rotation,
        scale_min=scale,
        scale_max=scale,
        learning_rate=rate,
        max_iter=rounds,
        batch_size=task.samples,
        patch_shape=(x.shape[1], side, side),
        patch_type="square",
        optimizer=optimizer,
        targeted=True,
        verbose=False,
    )


def _scale(x: Tensor, task: StickerTask) -> float:
    height, width = x.shape[-2:]
    return math.sqrt(task.eps * height * width) / min(height, width)


def _art(optimizer: Literal["Adam", "pgd"], rate: float) -> Fit:
    """ART's patch; its `max_iter` are rounds through all images, a gradient step per batch."""

    def fit(model: nn.Module, x: Tensor, y: Tensor, task: StickerTask, seed: int) -> Tensor:
        attack = _art_patch(
            model,
            x,
            task,
            scale=_scale(x, task),
            rotation=task.rotation,
            optimizer=optimizer,
            rate=rate,
            rounds=task.rounds,
        )
        with _seeded(seed):
            picture, _ = attack.generate(x.numpy(), torch.full_like(y, task.targets).numpy())
        return torch.from_numpy(picture).float()

    return fit


def art_paste(model: nn.Module, picture: Tensor, x: Tensor, task: StickerTask) -> Tensor:
    """Return `x` with the picture pasted by ART, at the draws of seed 0."""
    scale = _scale(x, task)
    attack = _art_patch(
        model, x, task, scale=scale, rotation=task.rotation, optimizer="Adam", rate=0.0, rounds=1
    )
    with _seeded(0):
        images = attack.apply_patch(x.numpy(), scale, patch_external=picture.numpy())
    return torch.from_numpy(images)


def _art_growth(model: nn.Module, x: Tensor, task: StickerTask) -> float:
    """Step five times at rate 0 on one batch, under a patch that can lie in one way only."""
    attack = _art_patch(
        model, x, task, scale=1.0, rotation=0.0, optimizer="Adam", rate=0.0, rounds=1
    )
    batch = x[: task.samples].numpy()
    labels = torch.full((len(batch),), task.targets).numpy()
    norms = []
    with _seeded(0):
        for _ in range(5):
            attack.generate(batch, labels)
            norms.append(float(attack._patch.grad.norm()))
    return norms[-1] / norms[0]


def _art_maker(optimizer: Literal["Adam", "pgd"], rate: float) -> StickerMaker:
    return StickerMaker(
        f"ART {'sign rule' if optimizer == 'pgd' else optimizer} {rate:g}",
        "adversarial-robustness-toolbox",
        _art(optimizer, rate),
        _art_growth,
    )


MAKERS = (
    StickerMaker("advbench", "advbench", _ours),
    _art_maker("Adam", 0.01),
    _art_maker("Adam", 0.1),
    _art_maker("Adam", 1),
    _art_maker("Adam", 5),
    _art_maker("pgd", 0.01),
)
