"""One adapter per library: the same task through each library's public entry point.

A contestant turns (model, x, y, task) into a call without arguments that returns adversarial
images like `x`. Building the attack is outside that call, everything the library does per batch
is inside. The model is handed over unfrozen, as a user has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from advbench.benchmarks.machine import installed

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Task:
    """A gradient attack as every library can be asked for it.

    One step is FGSM: a full step of length eps from the image itself. More steps are PGD from a
    random start with steps of length 2.5 eps / steps.
    """

    steps: int
    norm: Literal["linf", "l2"]
    eps: float

    @property
    def label(self) -> str:
        """Name in the table."""
        return "FGSM" if self.steps == 1 else f"PGD-{self.steps}"

    @property
    def step(self) -> float:
        """Length of a step, in units of eps."""
        return 1.0 if self.steps == 1 else 2.5 / self.steps


@dataclass(frozen=True)
class Contestant:
    """A library, the distribution it comes in and how it is called."""

    name: str
    distribution: str
    prepare: Callable[[nn.Module, Tensor, Tensor, Task], Call]

    @property
    def version(self) -> str | None:
        """Installed version, or None where the distribution is not installed."""
        return installed(self.distribution)


def _ours(stop: Literal["never", "success"]) -> Callable[[nn.Module, Tensor, Tensor, Task], Call]:
    def prepare(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Call:
        from advbench.attacks import FGSM, L2, PGD, Linf

        perturbation = Linf() if task.norm == "linf" else L2()
        attack = (
            FGSM(perturbation=perturbation)
            if task.steps == 1
            else PGD(perturbation=perturbation, steps=task.steps, step_size=task.step)
        )
        return lambda: attack(model, x, y, eps=task.eps, stop=stop)

    return prepare


def _torchattacks(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Call:
    import torchattacks

    start = task.steps > 1
    if task.norm == "linf" and task.steps == 1:
        attack = torchattacks.FGSM(model, eps=task.eps)
    elif task.norm == "linf":
        attack = torchattacks.PGD(
            model, eps=task.eps, alpha=task.step * task.eps, steps=task.steps, random_start=start
        )
    else:
        attack = torchattacks.PGDL2(
            model, eps=task.eps, alpha=task.step * task.eps, steps=task.steps, random_start=start
        )

    def call() -> Tensor:
        images: Tensor = attack(x, y)
        return images

    return call


def _foolbox(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Call:
    import foolbox

    attacks = foolbox.attacks
    if task.steps == 1:
        attack = {"linf": attacks.LinfFastGradientAttack, "l2": attacks.L2FastGradientAttack}[
            task.norm
        ](random_start=False)
    else:
        attack = {"linf": attacks.LinfPGD, "l2": attacks.L2PGD}[task.norm](
            rel_stepsize=task.step, steps=task.steps, random_start=True
        )
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")

    def call() -> Tensor:
        images: Tensor = attack(wrapped, x, y, epsilons=task.eps)[1]
        return images

    return call


def _art(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Call:
    import numpy as np
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
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
    norm = np.inf if task.norm == "linf" else 2
    if task.steps == 1:
        attack = FastGradientMethod(estimator, norm=norm, eps=task.eps, batch_size=len(x))
    else:
        attack = ProjectedGradientDescent(
            estimator,
            norm=norm,
            eps=task.eps,
            eps_step=task.step * task.eps,
            max_iter=task.steps,
            num_random_init=1,
            batch_size=len(x),
            verbose=False,
        )
    images, labels = x.numpy(), y.numpy()
    return lambda: torch.from_numpy(attack.generate(images, labels))


CONTESTANTS = (
    Contestant("advbench stop=never", "advbench", _ours("never")),
    Contestant("advbench stop=success", "advbench", _ours("success")),
    Contestant("torchattacks", "torchattacks", _torchattacks),
    Contestant("foolbox", "foolbox", _foolbox),
    Contestant("ART", "adversarial-robustness-toolbox", _art),
)
