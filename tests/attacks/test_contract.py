"""Every registered attack keeps every promise that an attack makes."""

import pytest
import torch

from advbench import registry
from advbench.attacks import (
    L0,
    L1,
    NIFGSM,
    PGD,
    Attack,
    Fittable,
    Grid,
    MinimumEps,
    Patch,
    Picture,
    Placement,
    RandomNoise,
    RandomSearch,
    Square,
    TotalVariation,
)
from advbench.testing import CHECKS, FIT_CHECKS, Check, FitCheck

KINDS = [registry.get("attacks", name) for name in registry.names("attacks")]
LOOKS = Placement(rotation=20, perspective=0.2, brightness=0.1, contrast=0.2, blur=0.3)
RAMP = Picture.of(torch.linspace(0, 1, 9).view(1, 3, 3))
ATTACKS: list[Attack] = [
    *(attack for kind in KINDS if issubclass(kind, Attack) for attack in kind.examples()),
    PGD(perturbation=L1(), steps=12),
    PGD(perturbation=L0(), steps=5, restarts=2),
    RandomSearch(perturbation=L1(), steps=10),
    RandomNoise(perturbation=L0(), steps=5),
    PGD(perturbation=Patch(), steps=5),
    PGD(
        perturbation=Patch(mask=Square(), placement=LOOKS, penalties=(TotalVariation(0.1),)),
        steps=5,
    ),
    NIFGSM(perturbation=Patch()),
    RandomSearch(perturbation=Patch(placement=Placement(rotation=20)), steps=10),
    RandomNoise(perturbation=Patch(picture=RAMP), steps=5),
    Grid(perturbation=Patch(picture=RAMP), points=4, blocks=2),
    MinimumEps(attack=PGD(perturbation=Patch(), steps=5), rounds=6),
]
FITTABLES: list[Fittable] = [
    one for kind in KINDS if issubclass(kind, Fittable) for one in kind.examples()
]


def test_there_are_attacks() -> None:
    assert {"FGSM", "BIM", "PGD", "MinimumEps"} <= {kind.__name__ for kind in KINDS}
    assert {type(attack) for attack in ATTACKS} == {k for k in KINDS if issubclass(k, Attack)}
    assert len(CHECKS) >= 20


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check: Check, attack: Attack) -> None:
    check(attack)


def test_there_are_fittable_attacks() -> None:
    kinds = {kind for kind in KINDS if issubclass(kind, Fittable)}
    assert {"Sticker", "NoiseSticker"} <= {kind.__name__ for kind in kinds}
    assert {type(one) for one in FITTABLES} == kinds
    assert set(KINDS) == {type(one) for one in (*ATTACKS, *FITTABLES)}
    assert len(FIT_CHECKS) >= 15


@pytest.mark.parametrize("one", FITTABLES, ids=repr)
@pytest.mark.parametrize("check", FIT_CHECKS.values(), ids=FIT_CHECKS)
def test_contract_of_a_fit(check: FitCheck, one: Fittable) -> None:
    check(one)
