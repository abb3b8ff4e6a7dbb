"""Every registered attack keeps every promise that an attack makes."""

import pytest
import torch

from advbench import registry
from advbench.attacks import (
    BIM,
    L0,
    L1,
    MIFGSM,
    NIFGSM,
    PGD,
    Affine,
    Attack,
    Ball,
    Combined,
    Euler,
    Evolution,
    FiniteDifferences,
    Fittable,
    Flow,
    Grid,
    MinimumEps,
    Patch,
    Perspective,
    Picture,
    Placement,
    Pose,
    RandomNoise,
    RandomSearch,
    Square,
    StratifiedSearch,
    Sweep,
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
    Grid(perturbation=Patch(picture=RAMP), points=4),
    MinimumEps(attack=PGD(perturbation=Patch(), steps=5), rounds=6),
    PGD(perturbation=Affine(shift=1), steps=5),
    Grid(perturbation=Affine(shift=1), points=(3, 1, 3)),
    MinimumEps(attack=PGD(perturbation=Affine(shift=1), steps=5), rounds=4),
    BIM(perturbation=Perspective(shift=1), steps=5),
    PGD(perturbation=Flow(), steps=5),
    MIFGSM(perturbation=Combined(), steps=5),
    PGD(perturbation=Pose(), steps=5),
    PGD(perturbation=Pose(Ball(180), x=0.1, azimuth=40), steps=5),
    RandomNoise(perturbation=Pose(Ball(20)), steps=5),
    RandomSearch(perturbation=Pose(), steps=10),
    Grid(perturbation=Pose(Euler(180, 30, 0), z=0.2), points=(4, 2)),
    Evolution(perturbation=Pose(Euler(180, 30, 0)), rounds=3, population=4),
    FiniteDifferences(perturbation=Pose(Ball(180)), rounds=2),
    StratifiedSearch(perturbation=Pose(z=0.5), axis="z", strata=3, samples=2, refinements=4),
    Sweep(perturbation=Pose(), points=2),
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
