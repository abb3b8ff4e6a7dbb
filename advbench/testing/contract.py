"""The checks of an ordinary attack, by name."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from advbench.attacks.attack import Attack
from advbench.testing import answers, independence, interface, manners, strength

Check = Callable[[Attack], None]


def checks_of(*modules: ModuleType) -> dict[str, Any]:
    """Return the functions whose names begin with ``check_``, by the rest of the name."""
    named = [item for module in modules for item in vars(module).items()]
    return {name.removeprefix("check_"): f for name, f in named if name.startswith("check_")}


CHECKS: dict[str, Check] = checks_of(interface, answers, manners, independence, strength)
"""Every check by its name: a function of an attack that raises ``ContractError``."""
