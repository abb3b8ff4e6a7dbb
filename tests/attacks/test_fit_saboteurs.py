"""Every check of a fit sees the fault planted for it, and complains of nothing honest."""

from collections.abc import Iterator

import pytest
import torch

from advbench.attacks import Fittable
from advbench.testing import FIT_CHECKS, ContractError, FitCheck, check_fittable
from tests.fit_saboteurs import FIT_SABOTEURS, HONEST, Honest


@pytest.fixture(autouse=True)
def _gradients_stay_on() -> Iterator[None]:
    """One of the saboteurs switches them off."""
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize(
    ("check", "saboteur"),
    FIT_SABOTEURS,
    ids=[f"{c}-{type(s).__name__}-{number}" for number, (c, s) in enumerate(FIT_SABOTEURS)],
)
def test_planted_fault_is_seen(check: str, saboteur: Fittable) -> None:
    with pytest.raises(ContractError, match=r"\w"):
        FIT_CHECKS[check](saboteur)


def test_every_check_has_a_saboteur() -> None:
    assert {check for check, _ in FIT_SABOTEURS} == set(FIT_CHECKS)


@pytest.mark.parametrize("check", FIT_CHECKS.values(), ids=FIT_CHECKS)
@pytest.mark.parametrize("one", HONEST, ids=repr)
def test_honest_fit_passes(check: FitCheck, one: Fittable) -> None:
    """The saboteurs' honest parent passes, so what is seen in a saboteur is its fault."""
    check(one)


def test_check_fittable_runs_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in list(FIT_CHECKS):
        monkeypatch.setitem(FIT_CHECKS, name, lambda _, name=name: called.append(name))
    check_fittable(Honest())
    assert called == list(FIT_CHECKS)
