"""Every registered attack keeps every promise that an attack makes."""

import pytest

from advbench import registry
from advbench.attacks import L0, L1, PGD, Attack, RandomNoise, RandomSearch
from advbench.testing import CHECKS, Check

KINDS = [registry.get("attacks", name) for name in registry.names("attacks")]
ATTACKS: list[Attack] = [
    *(attack for kind in KINDS if issubclass(kind, Attack) for attack in kind.examples()),
    PGD(perturbation=L1(), steps=12),
    PGD(perturbation=L0(), steps=5, restarts=2),
    RandomSearch(perturbation=L1(), steps=10),
    RandomNoise(perturbation=L0(), steps=5),
]


def test_there_are_attacks() -> None:
    assert {"FGSM", "BIM", "PGD", "MinimumEps"} <= {kind.__name__ for kind in KINDS}
    assert {type(attack) for attack in ATTACKS} == {k for k in KINDS if issubclass(k, Attack)}
    assert len(CHECKS) >= 20


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check: Check, attack: Attack) -> None:
    check(attack)
