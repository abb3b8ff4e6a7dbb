"""What the verdicts of a run give reason to doubt, as flags of its worst cases.

Each flag is `name:share`, of the samples that are right without attack. Nothing is asked of a
model; `advbench diagnose` asks more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.bench.groups import Group, Member, worst_of
from advbench.bench.verdicts import Verdicts
from advbench.trust.diagnosis.thresholds import stronger

_LOST = 0.05
"""The share of the successes that rounding to 8 bits may undo without remark."""


def doubts(groups: Mapping[Group, Sequence[Member]]) -> dict[Group, list[str]]:
    """Return the flags of each group; a group that is not sound, or answers at random, has none.

    black_box_stronger: samples that only attacks without gradients broke.
    transfer_stronger: samples that only attacks made on another model broke.
    not_monotone: samples that the same attacks broke at a smaller eps, but not at this one.
    lost_in_8bit: successes that are none after rounding to 8 bits, of all successes. Attacks that
        look for the smallest change are left out, for they end where any rounding undoes them.
    """
    whole = {group: worst_of(members) for group, members in groups.items()}
    found: dict[Group, list[str]] = {group: [] for group in groups}
    for group, members in groups.items():
        worst = whole[group]
        if worst is not None and not worst.random:
            found[group] = list(_flags(group, members, worst, groups, whole))
    return found


def _flags(
    group: Group,
    members: Sequence[Member],
    worst: Verdicts,
    groups: Mapping[Group, Sequence[Member]],
    whole: Mapping[Group, Verdicts | None],
) -> Iterator[str]:
    white = _broken(members, lambda facts: facts["access"] == "gradient")
    black = _broken(members, lambda facts: facts["access"] != "gradient")
    if white is not None and black is not None and not group.surrogate:
        yield from _flag("black_box_stronger", black & ~white, worst.correct)
    own = groups.get(group._replace(surrogate=""))
    direct = None if own is None else _broken(own, lambda facts: facts["access"] == "gradient")
    if group.surrogate and direct is not None:
        yield from _flag("transfer_stronger", worst.broken & ~direct, worst.correct)
    smaller = [one for one in groups if one[:-1] == group[:-1] and one.eps < group.eps]
    before = [verdicts for one in smaller if (verdicts := whole[one]) is not None]
    alike = [one for one in before if np.array_equal(one.index, worst.index)]
    if alike:
        once = np.logical_or.reduce([one.broken for one in alike])
        yield from _flag("not_monotone", once & ~worst.broken, worst.correct)
    inside = worst_of([member for member in members if member.facts["finds"] == "inside"])
    lost = 0 if inside is None else int((inside.broken & ~inside.broken_8bit).sum())
    if inside is not None and lost > _LOST * inside.broken.sum():
        yield f"lost_in_8bit:{lost / inside.broken.sum():.2f}"


def _broken(
    members: Sequence[Member], wanted: Callable[[Mapping[str, Any]], bool]
) -> NDArray[np.bool_] | None:
    """The samples that any of the wanted attacks broke, (N,); None without such an attack."""
    found = [m.verdicts.broken for m in members if m.verdicts is not None and wanted(m.facts)]
    return np.logical_or.reduce(found) if found else None


def _flag(name: str, rows: NDArray[np.bool_], correct: NDArray[np.bool_]) -> Iterator[str]:
    """The flag, where the rows are more than chance."""
    count, n = int(rows.sum()), int(correct.sum())
    if stronger(count, n):
        yield f"{name}:{count / n:.2f}"
