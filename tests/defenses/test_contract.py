"""Every registered defence keeps every promise that a defence makes."""

import pytest

from advbench import registry
from advbench.defenses.defense import Defense
from advbench.models.architecture import Architecture
from advbench.schema import plain, remade
from advbench.testing import DEFENSE_CHECKS, DefenseCheck
from advbench.testing.defense.trials import UNDEFENDED, suited

KINDS = [registry.get("defenses", name) for name in registry.names("defenses")]
DEFENSES: list[Defense] = [one for kind in KINDS for one in kind.examples()]
PICKY = {"WeightSharing": [UNDEFENDED[0].model]}
"""Defences that do not suit every network, and those that they suit."""


def test_there_are_defenses() -> None:
    assert len(KINDS) >= 30
    assert {type(one) for one in DEFENSES} == set(KINDS)
    assert len(DEFENSE_CHECKS) >= 16


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
@pytest.mark.parametrize("check", DEFENSE_CHECKS.values(), ids=DEFENSE_CHECKS)
def test_contract(check: DefenseCheck, defense: Defense) -> None:
    check(defense)


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_it_suits_every_network_unless_it_is_known_to_be_picky(defense: Defense) -> None:
    every: list[Architecture] = [recipe.model for recipe in UNDEFENDED]
    found = [recipe.model for recipe in suited(defense)]
    assert found == PICKY.get(type(defense).__name__, every)


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_a_card_can_be_read_back(defense: Defense) -> None:
    assert remade("defenses", plain(defense), "card", "defense") == defense
