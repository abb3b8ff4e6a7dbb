"""Which cells make one worst case together."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from advbench.bench.verdicts import Row, Verdicts


class Group(NamedTuple):
    """What the attacks of one worst case have in common."""

    model: str
    surrogate: str
    dataset: str
    perturbation: str
    eps: float


class Member(NamedTuple):
    """A cell at one eps: what the plan says of it, its row, and what it says of each sample.

    `verdicts` is None where the cell is missing or not sound.
    """

    facts: Mapping[str, Any]
    row: Row
    verdicts: Verdicts | None


def groups_of(facts: Mapping[str, Any]) -> list[tuple[Group, float]]:
    """Return the group of a cell at each of its eps, with the largest size that counts there."""
    scales = zip(facts["eps"], facts["limits"], strict=True)
    return [
        (Group(**{name: facts[name] for name in Group._fields[:-1]}, eps=eps), limit)
        for eps, limit in scales
    ]


def worst_of(members: Sequence[Member]) -> Verdicts | None:
    """Return the worst of all members on each sample; None where one is not sound, or none is."""
    sound = [member.verdicts for member in members if member.verdicts is not None]
    if not sound or len(sound) < len(members):
        return None
    return functools.reduce(Verdicts.joined, sound)
