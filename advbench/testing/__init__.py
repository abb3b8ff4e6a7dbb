"""The contract of an attack as checks, for our attacks and for everyone's.

``check_attack(MyAttack())`` runs all of them and raises ``ContractError`` at the first promise
that is not kept. In a test suite, a test per check shows more::

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    @pytest.mark.parametrize("attack", MyAttack.examples(), ids=repr)
    def test_contract(attack, check):
        check(attack)
"""

from collections.abc import Callable
from types import ModuleType

from advbench.attacks.attack import Attack
from advbench.testing import answers, independence, interface, manners, strength
from advbench.testing.requirement import ContractError

__all__ = ["CHECKS", "Check", "ContractError", "check_attack"]

Check = Callable[[Attack], None]


def _checks(*modules: ModuleType) -> dict[str, Check]:
    named = [item for module in modules for item in vars(module).items()]
    return {name.removeprefix("check_"): f for name, f in named if name.startswith("check_")}


CHECKS: dict[str, Check] = _checks(interface, answers, manners, independence, strength)
"""Every check by its name: a function of an attack that raises ``ContractError``."""


def check_attack(attack: Attack) -> None:
    """Run every check on ``attack``; takes seconds, longer for many steps.

    >>> from advbench.attacks import FGSM
    >>> check_attack(FGSM())

    Raises:
        ContractError: a promise that every attack makes is not kept; the message says which.

    """
    for check in CHECKS.values():
        check(attack)
