"""The contracts of an attack and of a defence as checks, for ours and for everyone's.

``check_attack(MyAttack())`` runs all of them and raises ``ContractError`` at the first promise
that is not kept; ``check_fittable`` does so for an attack that is fitted first, and
``check_defense`` for a defence. In a test suite, a test per check shows more::

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    @pytest.mark.parametrize("attack", MyAttack.examples(), ids=repr)
    def test_contract(attack, check):
        check(attack)
"""

from collections.abc import Callable

from advbench.attacks.attack import Attack, Fittable
from advbench.defenses.defense import Defense
from advbench.testing import fitting, interface
from advbench.testing.contract import CHECKS, Check, checks_of
from advbench.testing.defense import DEFENSE_CHECKS, DefenseCheck
from advbench.testing.requirement import ContractError

__all__ = [
    "CHECKS",
    "DEFENSE_CHECKS",
    "FIT_CHECKS",
    "Check",
    "ContractError",
    "DefenseCheck",
    "FitCheck",
    "check_attack",
    "check_defense",
    "check_fittable",
]

FitCheck = Callable[[Fittable], None]

FIT_CHECKS: dict[str, FitCheck] = checks_of(interface, fitting)
"""Every check of a fittable attack by its name: a function that raises ``ContractError``."""


def check_attack(attack: Attack) -> None:
    """Run every check on ``attack``; takes seconds, longer for many steps.

    >>> from advbench.attacks import FGSM
    >>> check_attack(FGSM())

    Raises:
        ContractError: a promise that every attack makes is not kept; the message says which.

    """
    for check in CHECKS.values():
        check(attack)


def check_fittable(one: Fittable) -> None:
    """Run every check on an attack that is fitted first, and on what comes of the fit.

    >>> from advbench.attacks import GreySticker
    >>> check_fittable(GreySticker())

    Raises:
        ContractError: a promise that every such attack makes is not kept; the message says which.

    """
    for check in FIT_CHECKS.values():
        check(one)


def check_defense(defense: Defense) -> None:
    """Run every check on a defence; takes seconds, longer for one that trains long.

    >>> from advbench.defenses.regularization.weight_decay import WeightDecay
    >>> check_defense(WeightDecay())

    Raises:
        ContractError: a promise that every defence makes is not kept; the message says which.

    """
    for check in DEFENSE_CHECKS.values():
        check(defense)
