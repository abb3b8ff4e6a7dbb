"""Checks of an attack as a value: what it declares, how it is written down, what it is called.

The last two hold for a defence as well.
"""

import dataclasses
import pickle
from collections.abc import Iterator
from typing import get_args

from advbench import attacks
from advbench.attacks.attack import Adversary
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.query import Access, Finds
from advbench.defenses.defense import Defense
from advbench.testing.requirement import require

FOREIGN_WORDS = {
    **dict.fromkeys(("net", "network", "classifier"), "model"),
    **dict.fromkeys(("y_true", "true_labels"), "y"),
    **dict.fromkeys(("y_target", "target_labels", "target"), "targets"),
    **dict.fromkeys(("targeted", "mode"), "targets, an argument of the call"),
    **dict.fromkeys(("criterion", "cost", "loss_fn", "loss_function"), "loss"),
    **dict.fromkeys(("p", "ord", "norm"), "perturbation"),
    **dict.fromkeys(("epsilon", "epsilons", "radius", "max_norm"), "eps"),
    **dict.fromkeys(("n_iter", "n_iters", "num_iter", "nb_iter", "iterations"), "steps"),
    **dict.fromkeys(("max_iter", "max_iterations", "n_steps", "num_steps", "nb_steps"), "steps"),
    **dict.fromkeys(("alpha", "lr", "stepsize", "eps_iter", "eps_step"), "step_size"),
    **dict.fromkeys(("n_restarts", "num_restarts", "repeat", "repeats"), "restarts"),
    **dict.fromkeys(("noise", "eta"), "delta"),
    **dict.fromkeys(("source", "substitute"), "surrogate"),
    **dict.fromkeys(("sticker",), "patch"),
    **dict.fromkeys(("calls", "num_queries", "n_queries", "max_queries"), "budget"),
}
"""Other names for a thing, and the one that it has here."""


def check_declaration(attack: Adversary) -> None:
    """An attack is a frozen dataclass that says what it needs and finds, with two examples."""
    kind = type(attack)
    require(attack.access in get_args(Access), attack, f"access is {attack.access!r}")
    require(attack.finds in get_args(Finds), attack, f"finds is {attack.finds!r}")
    version = attack.version
    require(type(version) is int and version >= 1, attack, f"version is {version!r}")
    require(isinstance(attack.perturbation, Perturbation), attack, "perturbation is none")
    frozen = dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(frozen, attack, "must be a frozen dataclass")
    examples = kind.examples()
    require(len(set(examples)) >= 2, attack, "examples() must give two different instances")
    require(all(type(one) is kind for one in examples), attack, "examples() are something else")


def check_round_trip(one: Adversary | Defense) -> None:
    """The repr is the call that makes it; it can be pickled, hashed, compared and replaced."""
    known = {**vars(attacks), **{kind.__name__: kind for kind in _kinds(one)}}
    try:
        again = eval(repr(one), known)
    except Exception as error:
        require(False, one, f"the repr is no expression: {error}")
    require(again == one, one, "the repr makes something else")
    require(repr(again) == repr(one), one, "the repr changes")
    require(pickle.loads(pickle.dumps(one)) == one, one, "pickling changes it")
    require(hash(again) == hash(one), one, "equal values have different hashes")
    require(dataclasses.replace(one) == one, one, "dataclasses.replace changes it")


def _kinds(value: object) -> Iterator[type]:
    """Yield the class of a dataclass instance, and those of its fields and their parts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for field in dataclasses.fields(value):
            yield from _kinds(getattr(value, field.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from _kinds(part)


def check_vocabulary(one: Adversary | Defense) -> None:
    """Hyper-parameters carry the names that every other one uses."""
    for kind in _kinds(one):
        for field in dataclasses.fields(kind):
            house = FOREIGN_WORDS.get(field.name)
            require(house is None, one, f"'{field.name}' is called '{house}' here")
