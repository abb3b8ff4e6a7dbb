"""One adapter per library: minimum-norm attacks and APGD through each library's public entry point.

adv-lib is not part of the extra `bench`: it depends on visdom, which no longer builds with a recent
setuptools and which only its plots need. `pip install --no-deps adv-lib` is enough here.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from advbench import registry
from advbench.attack_facts import accepted, backwards, inside
from advbench.attacks import APGD, APGDL1, DLR, PGD, CrossEntropy, MinimumEps
from advbench.attacks.attack import Attack
from advbench.attacks.minimal.carlini_wagner_linf import CWLinf
from advbench.benchmarks.machine import installed

Run = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""Images (N, *shape) for a model, x, y and the passes that may be spent on a sample."""

ORDER = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
_SEARCHES = 9
_ROUNDS = 10
_USUAL = 2 * 30  # passes of thirty rounds of one step
_BISECTED = {
    "linf": MinimumEps(attack=APGD(loss=DLR()), rounds=_ROUNDS),
    "l2": MinimumEps(attack=APGD(loss=DLR()), rounds=_ROUNDS),
    "l1": MinimumEps(attack=APGDL1(loss=DLR()), rounds=_ROUNDS),
    "l0": MinimumEps(attack=PGD(loss=DLR()), rounds=_ROUNDS),
}


@dataclass(frozen=True)
class Entrant:
    """An attack of a library on one norm; `attack` is the name of our class for it.

    Its steps are chosen for the passes that it is given: forwards and backwards of one sample.
    """

    attack: str
    norm: str
    library: str
    distribution: str
    run: Run

    @property
    def version(self) -> str | None:
        """Installed version, or None where the distribution is not installed."""
        return installed(self.distribution)


def sized(attack: Attack, passes: int) -> Attack:
    """Return the attack with as many steps as spend at most `passes` on a sample.

    The field that is changed is `steps_per_search` or else `steps`, in a bisection of eps that of
    the attack inside, which gets twice its share, since half of its searches end early: a sample
    whose searches do not is held to `passes` by its budget. Carlini and Wagner's Linf attack, which
    hardly ever needs all its rounds, gets the length of a round from a usual number of them.
    """
    if isinstance(attack, CWLinf):
        return replace(attack, steps_per_search=max(passes // _USUAL, 1))
    if isinstance(attack, MinimumEps):
        return replace(attack, attack=sized(attack.attack, 2 * passes // attack.rounds))
    names = {field.name for field in fields(attack)}
    name = "steps_per_search" if "steps_per_search" in names else "steps"

    def spent(one: Attack) -> int:
        return one.queries + backwards(one) + 1  # one more looks at the clean sample

    count = getattr(attack, name) * passes // spent(attack)
    while True:
        fitting = replace(attack, **{name: max(count, 1)})
        needed = spent(fitting)
        if count <= 1 or needed <= passes:
            return fitting
        count = min(count * passes // needed, count - 1)


def advbench(cls: type[Attack], norm: str) -> Entrant:
    """Return one of our own attacks on a norm that it accepts."""
    bare = _BISECTED[norm] if cls is MinimumEps else cls()
    fitting = inside(bare, registry.get("perturbations", norm)())

    def run(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Tensor:
        budget = passes // 2 if cls is MinimumEps else None
        found = sized(fitting, passes).run(model, x, y, stop="never", budget=budget)
        return found.x_adv

    return Entrant(cls.__name__, norm, "advbench", "advbench", run)


def advbench_entrants() -> list[Entrant]:
    """Return all our attacks that look for the smallest change along gradients."""
    entrants = []
    for name in registry.names("attacks"):
        cls = registry.get("attacks", name)
        own = registry.describe("attacks", name).distribution == "advbench"
        if not own or not issubclass(cls, Attack):
            continue
        if cls.finds == "smallest" and cls.access == "gradient":
            norms = set(accepted(cls()))
            entrants += [advbench(cls, norm) for norm in ORDER if norm in norms]
    return entrants


@cache
def _adv_lib() -> Any:
    """Import adv-lib; an empty module stands in for visdom where that is missing."""
    if find_spec("visdom") is None:
        sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    import adv_lib.attacks.auto_pgd

    return adv_lib.attacks


def _theirs(name: str, settings: Mapping[str, Any], *, steps: str, per_step: int = 2) -> Run:
    """Call a function of adv-lib; `steps` is what it calls them, each of so many passes."""

    def run(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Tensor:
        count = max(passes // per_step, 1)
        images: Tensor = getattr(_adv_lib(), name)(model, x, y, **{steps: count}, **settings)
        return images.detach()

    return run


def _minimal_apgd(norm: str) -> Run:
    largest = {"linf": 0.5, "l2": 10.0, "l1": 100.0}[norm]

    def run(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Tensor:
        images: Tensor = _adv_lib().auto_pgd.minimal_apgd(
            model,
            x,
            y,
            norm=ORDER[norm],
            max_eps=largest,
            binary_search_steps=_ROUNDS,
            n_iter=max(passes // (2 * _ROUNDS) - 1, 1),
        )
        return images.detach()

    return run


def _adv_lib_runs(classes: int = 10) -> dict[tuple[str, str], Run]:
    runs: dict[tuple[str, str], Run] = {
        ("DDN", "l2"): _theirs("ddn", {"levels": None}, steps="steps"),
        ("CWL2", "l2"): _theirs(
            "carlini_wagner_l2", {}, steps="max_iterations", per_step=2 * _SEARCHES
        ),
        ("CWLinf", "linf"): _theirs(
            "carlini_wagner_linf", {}, steps="max_iterations", per_step=_USUAL
        ),
        ("ALMA", "l2"): _theirs(
            "alma", {"distance": "l2", "init_lr_distance": 0.1}, steps="num_steps"
        ),
        ("ALMA", "l1"): _theirs(
            "alma", {"distance": "l1", "init_lr_distance": 0.5}, steps="num_steps"
        ),
        ("SuperDeepFool", "l2"): _theirs("sdf", {}, steps="steps", per_step=100),
        ("PDGD", "l2"): _theirs("pdgd", {}, steps="num_steps"),
        ("SigmaZero", "l0"): _theirs("sigma_zero", {}, steps="num_steps"),
        ("VFGA", "l0"): _theirs("vfga", {"targeted": False}, steps="max_iter", per_step=22),
    }
    for norm, order in ORDER.items():
        runs["FMN", norm] = _theirs("fmn", {"norm": order}, steps="steps")
        runs["PDPGD", norm] = _theirs("pdpgd", {"norm": order}, steps="num_steps")
        if norm in ("linf", "l2"):
            runs["DeepFool", norm] = _theirs("df", {"norm": order}, steps="steps", per_step=classes)
        if norm != "l0":
            runs["FAB", norm] = _theirs(
                "fab", {"norm": order}, steps="n_iter", per_step=classes + 1
            )
            runs["MinimumEps", norm] = _minimal_apgd(norm)
    return runs


def _foolbox(build: Callable[[Any, int], Any], per_step: int = 2) -> Run:
    def run(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = build(foolbox.attacks, max(passes // per_step, 1))
        images: Tensor = attack(wrapped, x, y, epsilons=None)[0]
        return images.detach()

    return run


def _foolbox_fmn(name: str) -> Callable[[Any, int], Any]:
    return lambda attacks, count: getattr(attacks, name)(steps=count)


def _foolbox_runs(classes: int = 10) -> dict[tuple[str, str], Run]:
    searched = 2 * _SEARCHES
    runs: dict[tuple[str, str], Run] = {
        ("DDN", "l2"): _foolbox(lambda attacks, count: attacks.DDNAttack(steps=count)),
        ("CWL2", "l2"): _foolbox(
            lambda attacks, count: attacks.L2CarliniWagnerAttack(
                binary_search_steps=_SEARCHES, steps=count
            ),
            per_step=searched,
        ),
        ("DeepFool", "l2"): _foolbox(
            lambda attacks, count: attacks.L2DeepFoolAttack(steps=count),
            per_step=2 * (classes - 1),
        ),
        ("DeepFool", "linf"): _foolbox(
            lambda attacks, count: attacks.LinfDeepFoolAttack(steps=count),
            per_step=2 * (classes - 1),
        ),
        ("EAD", "l1"): _foolbox(
            lambda attacks, count: attacks.EADAttack(
                binary_search_steps=_SEARCHES, steps=count, decision_rule="L1"
            ),
            per_step=searched + _SEARCHES,
        ),
    }
    for norm, prefix in {"linf": "LInf", "l2": "L2", "l1": "L1", "l0": "L0"}.items():
        runs["FMN", norm] = _foolbox(_foolbox_fmn(f"{prefix}FMNAttack"))
    return runs


def _torchattacks(build: Callable[[Any, nn.Module, int], Any], per_step: int = 2) -> Run:
    def run(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Tensor:
        import torchattacks

        images: Tensor = build(torchattacks, model, max(passes // per_step, 1))(x, y)
        return images.detach()

    return run


def _torchattacks_fab(norm: str, eps: float) -> Callable[[Any, nn.Module, int], Any]:
    name = norm.capitalize()
    return lambda library, model, count: library.FAB(model, norm=name, eps=eps, steps=count)


def _torchattacks_runs(classes: int = 10) -> dict[tuple[str, str], Run]:
    runs: dict[tuple[str, str], Run] = {
        ("CWL2", "l2"): _torchattacks(
            lambda library, model, count: library.CW(model, c=1, steps=count)
        ),
        ("DeepFool", "l2"): _torchattacks(
            lambda library, model, count: library.DeepFool(model, steps=count),
            per_step=classes + 1,
        ),
        ("EAD", "l1"): _torchattacks(
            lambda library, model, count: library.EADL1(
                model, binary_search_steps=_SEARCHES, max_iterations=max(count, 10)
            ),
            per_step=3 * _SEARCHES,
        ),
    }
    for norm, eps in {"linf": 1.0, "l2": 1000.0, "l1": 100_000.0}.items():
        runs["FAB", norm] = _torchattacks(_torchattacks_fab(norm, eps), per_step=classes + 2)
    return runs


def peers() -> list[Entrant]:
    """Return the minimum-norm attacks of the other libraries."""
    return [
        Entrant(attack, norm, library, distribution, run)
        for library, distribution, runs in (
            ("adv-lib", "adv-lib", _adv_lib_runs()),
            ("foolbox", "foolbox", _foolbox_runs()),
            ("torchattacks", "torchattacks", _torchattacks_runs()),
        )
        for (attack, norm), run in runs.items()
    ]


@dataclass(frozen=True)
class FixedEntrant:
    """APGD on cross-entropy as a library has it: for a model, x, y, a norm, eps and steps."""

    library: str
    distribution: str
    run: Callable[[nn.Module, Tensor, Tensor, str, float, int], Tensor]

    @property
    def version(self) -> str | None:
        """Installed version, or None where the distribution is not installed."""
        return installed(self.distribution)


def _our_apgd(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    perturbation = registry.get("perturbations", norm)()
    attack = APGD(perturbation=perturbation, loss=CrossEntropy(), steps=steps)
    return attack(model, x, y, eps=eps, stop="success")


def _adv_lib_apgd(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, steps: int
) -> Tensor:
    images: Tensor = _adv_lib().apgd(
        model, x, y, eps=eps, norm=ORDER[norm], n_iter=steps, loss_function="ce"
    )
    return images.detach()


def _torchattacks_apgd(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, steps: int
) -> Tensor:
    import torchattacks

    images: Tensor = torchattacks.APGD(
        model, norm=norm.capitalize(), eps=eps, steps=steps, loss="ce"
    )(x, y)
    return images.detach()


APGD_ENTRANTS = (
    FixedEntrant("advbench", "advbench", _our_apgd),
    FixedEntrant("adv-lib", "adv-lib", _adv_lib_apgd),
    FixedEntrant("torchattacks", "torchattacks", _torchattacks_apgd),
)
