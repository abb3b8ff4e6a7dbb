"""The checks of a defence, by name."""

from collections.abc import Callable

from advbench.defenses.defense import Defense
from advbench.testing.contract import checks_of
from advbench.testing.defense import declared, deployed, moments, training

DefenseCheck = Callable[[Defense], None]

DEFENSE_CHECKS: dict[str, DefenseCheck] = checks_of(declared, training, moments, deployed)
"""Every check of a defence by its name: a function that raises ``ContractError``."""
