"""An attack from another package is found, held to the contract and evaluated like ours."""

from pathlib import Path

import pytest

from tests.plugin import call, install

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(repository, tmp_path_factory)


def test_registry_lists_it_without_importing_it(installed: Path, tmp_path: Path) -> None:
    code = """
import sys
from advbench import registry
assert {"pgd", "toy_sign", "toy_universal"} <= set(registry.names("attacks"))
plugin = registry.describe("attacks", "toy_sign")
print(plugin.distribution, plugin.version, "toy_attacks" in sys.modules)
cls = registry.get("attacks", "toy_sign")
print(cls.__name__, registry.name_of(cls))
"""
    assert call(installed, code, tmp_path).split() == (
        ["toy-attacks", "0.3", "False", "ToySign", "toy_sign"]
    )


def test_contract_runs_over_it(installed: Path, tmp_path: Path) -> None:
    code = """
from advbench import registry
from advbench.testing import CHECKS
for attack in registry.get("attacks", "toy_sign").examples():
    for check in CHECKS.values():
        check(attack)
        print(check.__name__)
"""
    done = call(installed, code, tmp_path).split()
    assert len(done) == 2 * len(set(done)) > 40


def test_contract_of_a_fit_runs_over_it(installed: Path, tmp_path: Path) -> None:
    code = """
from advbench import registry
from advbench.testing import FIT_CHECKS
for one in registry.get("attacks", "toy_universal").examples():
    for check in FIT_CHECKS.values():
        check(one)
        print(check.__name__)
"""
    done = call(installed, code, tmp_path).split()
    assert len(done) == 2 * len(set(done)) > 30


def test_evaluate_takes_it_by_name_and_by_value(installed: Path, tmp_path: Path) -> None:
    code = """
import advbench
from advbench import registry
from advbench.testing.victims import linear
from toy_attacks import ToySign
model, x, y, _ = linear(count=20)
results = advbench.evaluate(model, (x, y), attacks=["toy_sign", ToySign(steps=2)], eps=[0.0, 0.3])
assert not results.errors, results.errors
table = results.table
toys = table[table.attack.str.contains("toy")]
print(*toys[toys.eps.astype(float) == 0].robust_accuracy)
print(*toys[toys.eps.astype(float) > 0].robust_accuracy)
"""
    zero, far = call(installed, code, tmp_path).strip().splitlines()
    assert [float(share) for share in zero.split()] == [1.0, 1.0]
    assert all(float(share) < 0.5 for share in far.split())
    assert len(far.split()) == 2


def test_a_fitted_attack_is_an_ordinary_one(installed: Path, tmp_path: Path) -> None:
    code = """
import torch
from advbench import registry
from advbench.attacks import Attack, Fittable
from advbench.testing.victims import linear
kind = registry.get("attacks", "toy_universal")
assert issubclass(kind, Fittable)
model, x, y, _ = linear(classes=2, count=80)
row = y == y[0]
x, y = x[row], y[row]
half = len(x) // 2
attack = kind().fit(model, [(x[:half], y[:half])], eps=0.5)
assert isinstance(attack, Attack)
found = attack.run(model, x[half:], y[half:], eps=0.5)
plain = (model(found.x_adv).argmax(1) != y[half:])
assert torch.equal(found.success, plain)
assert (found.backwards == 0).all()
print(float(plain.double().mean()))
"""
    assert float(call(installed, code, tmp_path)) > 0.5
