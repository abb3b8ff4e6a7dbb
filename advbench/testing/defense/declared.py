"""Checks of a defence as a value: what it declares, how it is written down, what it is called."""

import dataclasses
import inspect
from typing import get_args

from advbench.defenses.defense import Claim, Defense
from advbench.document import Document
from advbench.schema import Reader, given, plain
from advbench.testing.interface import check_round_trip, check_vocabulary
from advbench.testing.requirement import require

__all__ = ["check_declaration", "check_file", "check_round_trip", "check_vocabulary"]


def check_declaration(defense: Defense) -> None:
    """A frozen dataclass that says what it is, decides, and is attacked by, with two examples."""
    kind = type(defense)
    frozen = dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(frozen, defense, "must be a frozen dataclass")
    said = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    require(said.endswith("."), defense, f"the docstring must begin with a sentence; got {said!r}")
    adaptive = getattr(kind, "adaptive", None)
    told = isinstance(adaptive, str) and len(adaptive.split()) > 2 and adaptive.endswith(".")
    require(told, defense, f"adaptive must be a sentence; got {adaptive!r}")
    require(isinstance(kind.claims, frozenset), defense, f"claims are {kind.claims!r}")
    unknown = sorted(kind.claims - set(get_args(Claim)))
    require(not unknown, defense, f"claims what nobody knows: {unknown}")
    require(type(kind.random) is bool, defense, f"random is {kind.random!r}")
    require(isinstance(kind.broken, str), defense, f"broken is {kind.broken!r}")
    if kind.broken:
        control = "control" in (kind.__doc__ or "").lower()
        require(control, defense, "is broken, and the docstring does not call it a control")
    replays = defense.replays
    require(type(replays) is int and replays >= 1, defense, f"replays is {replays!r}")
    examples = kind.examples()
    require(len(set(examples)) >= 2, defense, "examples() must give two different instances")
    require(all(type(one) is kind for one in examples), defense, "examples() are something else")


def check_file(defense: Defense) -> None:
    """A recipe file, or a card, can say it: all of its fields are read back as they were."""
    try:
        written = plain(defense)
    except TypeError as error:
        require(False, defense, f"cannot be written down: {error}")
    reader = Reader(Document("contract", "", {}, {}))
    fields = {key: value for key, value in given(written).items() if key != "name"}
    again = reader.table(type(defense), fields, ("defense",))
    problems = "; ".join(text for _, text in reader.problems)
    require(not problems, defense, f"a file cannot say it: {problems}")
    require(again == defense, defense, f"a file makes {again!r} of it")
