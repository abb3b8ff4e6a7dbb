"""Every check sees the fault planted for it, and complains of nothing honest."""

from typing import Any

import pytest

from advbench.attacks import Attack
from advbench.testing import CHECKS, Check, ContractError, check_attack
from tests.saboteurs import HONEST, NORMS_ALONE, ON_SCENES, SABOTEURS, Honest, Picky, Tampered


def _through(inner: Attack, *arguments: Any, **terms: Any) -> Any:
    return inner.run(*arguments, **terms)


@pytest.mark.parametrize(
    ("check", "saboteur"), SABOTEURS, ids=[f"{c}-{type(s).__name__}-{s!r}" for c, s in SABOTEURS]
)
def test_planted_fault_is_seen(check: str, saboteur: Any) -> None:
    with pytest.raises(ContractError, match=r"\w"):
        CHECKS[check](saboteur)


@pytest.mark.parametrize(
    ("check", "saboteur"), ON_SCENES, ids=[f"{c}-{type(s).__name__}-{s!r}" for c, s in ON_SCENES]
)
def test_planted_fault_is_seen_on_scenes(check: str, saboteur: Any) -> None:
    with pytest.raises(ContractError, match=r"\w"):
        CHECKS[check](saboteur)


def test_every_check_has_a_saboteur() -> None:
    assert {check for check, _ in SABOTEURS} == set(CHECKS)
    assert {check for check, _ in ON_SCENES} == set(CHECKS) - set(NORMS_ALONE)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("attack", HONEST, ids=repr)
def test_honest_attack_passes(check: Check, attack: Attack) -> None:
    """The saboteurs' honest parents pass, so what is seen in a saboteur is its fault."""
    check(attack)


def test_stand_in_without_a_fault_passes() -> None:
    stand_in: Any = Tampered(_through)
    for name, check in CHECKS.items():
        if name not in ("declaration", "round_trip", "repeatable", "vocabulary"):
            check(stand_in)


def test_check_attack_runs_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in list(CHECKS):
        monkeypatch.setitem(CHECKS, name, lambda _, name=name: called.append(name))
    check_attack(Honest())
    assert called == list(CHECKS)


def test_complaint_names_attack_and_rows() -> None:
    lazy = next(one for _, one in SABOTEURS if type(one).__name__ == "DoesNothing")
    with pytest.raises(ContractError, match=r"^DoesNothing\(.*\): .*\(rows \["):
        CHECKS["half_space"](lazy)


def test_a_set_that_no_check_has_inputs_for_is_told_so() -> None:
    words = r"^Honest\(.*images \(1, 4, 5\) or scenes \(17,\).*got \(1, 4, 5\).*got \(17,\)"
    with pytest.raises(ContractError, match=words):
        check_attack(Honest(perturbation=Picky()))
