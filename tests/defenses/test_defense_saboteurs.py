"""Every check of a defence sees the fault planted for it, and complains of nothing honest."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from advbench.defenses.defense import Defense
from advbench.testing import DEFENSE_CHECKS, ContractError, DefenseCheck, check_defense
from advbench.testing.defense import trials
from tests.defense_saboteurs import HONEST, SABOTEURS, Honest, SuitsNothing


@pytest.fixture(autouse=True)
def _repaired() -> Iterator[None]:
    """What saboteurs leave behind is put in order."""
    yield
    torch.use_deterministic_algorithms(False)
    trials.samples.cache_clear()


@pytest.mark.parametrize(
    ("check", "saboteur"), SABOTEURS, ids=[f"{c}-{type(s).__name__}" for c, s in SABOTEURS]
)
def test_planted_fault_is_seen(check: str, saboteur: Any) -> None:
    with pytest.raises(ContractError, match=r"\w"):
        DEFENSE_CHECKS[check](saboteur)


def test_every_check_has_a_saboteur() -> None:
    assert {check for check, _ in SABOTEURS} == set(DEFENSE_CHECKS)


@pytest.mark.parametrize("check", DEFENSE_CHECKS.values(), ids=DEFENSE_CHECKS)
@pytest.mark.parametrize("defense", HONEST, ids=repr)
def test_honest_defense_passes(check: DefenseCheck, defense: Defense) -> None:
    """The saboteurs' honest parents pass, so what is seen in a saboteur is its fault."""
    check(defense)


def test_check_defense_runs_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in list(DEFENSE_CHECKS):
        monkeypatch.setitem(DEFENSE_CHECKS, name, lambda _, name=name: called.append(name))
    check_defense(Honest())
    assert called == list(DEFENSE_CHECKS)


def test_complaint_names_the_defense_and_what_it_said() -> None:
    with pytest.raises(ContractError, match=r"^SuitsNothing\(share=0.1\): .*expected another"):
        DEFENSE_CHECKS["trains"](SuitsNothing())
