"""One side of a comparison: what was run on which samples, and what each sample came to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from advbench.bench.groups import Group, groups_of
from advbench.bench.plan import Cell, Victim
from advbench.bench.run import Found, Runner, run_cells
from advbench.bench.store import Rows
from advbench.bench.table import summary, worst_cases
from advbench.bench.verdicts import Row, Verdicts
from advbench.trust.answers import fooled, predict

_OF_THE_MODEL = ("model", "code", "surrogates", "certify", "keep_changes")
"""What two sides may differ in, or what changes no verdict."""


class IncompleteError(RuntimeError):
    """A cell has no result, so that nothing can be said of its model."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What attacks changed: the parameters `p` (M, ...) for the samples at `places` (M,)."""

    places: NDArray[np.int64]
    p: NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Standing:
    """What each sample came to, in the worst case over the attacks of a group; both (N,).

    Shares of `draws` answers, which are 0 or 1 for a model that does not answer at random; `draws`
    is then 1. `changes` are those that broke a sample, and the best tried where none did.
    """

    clean: NDArray[np.float64]
    right: NDArray[np.float64]
    draws: int
    changes: Changes | None


@dataclass(frozen=True, eq=False)
class Side:
    """What was run, and what came of it.

    `models` has the address of each model by its label, `searches` all that the verdicts depend on
    but the models, `table` the rows of the summary (of a side that was read from a file: none), and
    `accepted` the alarms that its owner knows of.
    """

    models: Mapping[str, str]
    searches: Sequence[Mapping[str, Any]]
    groups: Mapping[Group, Standing]
    table: Sequence[Row] = ()
    accepted: tuple[str, ...] = ()


def measure(cells: Sequence[Cell], runner: Runner) -> Side:
    """Run the cells and return the side.

    Raises IncompleteError, with what is missing, where a cell failed or broke its threat model.
    """
    return side_of(cells, dict(run_cells(cells, runner)))


def side_of(cells: Sequence[Cell], finished: Mapping[str, Found]) -> Side:
    """Return the side that finished cells make.

    Raises IncompleteError, with what is missing, where one has no result.
    """
    planned = [cell.facts() for cell in cells]
    table = summary(planned, finished)
    missing = [
        f"{row['model']}: {row['attack']} at {row['eps']:g}: {row['status']} "
        f"({row['detail'] or 'no result'})"
        for row in table
        if row["status"] != "ok" and row["attack"] != "worst"
    ]
    if missing:
        raise IncompleteError("\n".join(missing))
    members = _members(cells, finished)
    return Side(
        {cell.victim.label: cell.victim.sha256 + cell.victim.code for cell in cells},
        searches_of(cells),
        {
            group: _standing(worst, members[group])
            for group, worst in worst_cases(planned, finished).items()
            if worst is not None
        },
        table,
    )


def searches_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return, for each cell, all that its verdicts depend on but the weights of its model."""
    return [_search(cell.facts()) for cell in cells]


def falls(
    cell: Cell, victim: Victim, eps: float, changes: Changes, batch: int
) -> NDArray[np.bool_]:
    """Return which samples of a cell's selection (N,) a victim gets wrong with stored changes.

    Each change is first brought within `eps`; where that cannot be done it does not count.
    """
    samples, change = cell.selection.samples, cell.attack.perturbation
    places = torch.from_numpy(changes.places)
    x, y = samples.x[places], samples.y[places]
    radius = torch.full((len(x),), eps, dtype=x.dtype)
    p = change.project(x, torch.from_numpy(changes.p).to(x.dtype), radius)
    legal = change.size(x.double(), p.double()) <= change.limit(radius.double())
    images = samples.images(change.apply(x, p))
    wrong = fooled(predict(victim.model, images, batch), y) & legal
    found = np.zeros(len(samples), bool)
    found[changes.places] = wrong.numpy()
    return found


def cell_of(cells: Sequence[Cell], group: Group) -> Cell:
    """Return the first cell of a group."""
    return next(cell for cell, of, _ in _placed(cells) if of == group)


def _placed(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Group, float]]:
    """Each cell at each of its scales, with the largest size that counts there."""
    for cell in cells:
        for group, limit in groups_of(cell.facts()):
            yield cell, group, limit


class _Member(NamedTuple):
    """A cell of a group: its rows, the largest size that counts, the draws of a random model."""

    rows: Rows
    limit: float
    draws: int | None


def _members(cells: Sequence[Cell], finished: Mapping[str, Found]) -> dict[Group, list[_Member]]:
    """The cells of each group."""
    found: dict[Group, list[_Member]] = {}
    for cell, group, limit in _placed(cells):
        record, rows = finished[cell.key]
        assert rows is not None  # a side is made of sound cells only
        found.setdefault(group, []).append(_Member(rows, limit, record.get("draws")))
    return found


def _search(facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that the verdicts of a cell depend on but its model."""
    content = {k: v for k, v in facts["content"].items() if k not in _OF_THE_MODEL}
    named = {k: facts[k] for k in ("model", "surrogate", "perturbation", "eps")}
    return {**content, **named, "name": facts["attack"]}


def _standing(worst: Verdicts, members: Sequence[_Member]) -> Standing:
    changes = None if worst.random else _changes(worst, members)
    return Standing(worst.clean, worst.right, members[0].draws or 1, changes)


def _changes(worst: Verdicts, members: Sequence[_Member]) -> Changes | None:
    """For each sample that was attacked, what broke it, or else what the last attack ended with.

    None where no attack has kept its changes.
    """
    kept = [member for member in members if "changes" in member.rows]
    if not kept:
        return None
    p, known = kept[-1].rows["changes"].copy(), kept[-1].rows["attacked"].copy()
    for rows, limit, _ in kept:
        broken = rows["success"] & (rows["size"] <= limit)
        p[broken] = rows["changes"][broken]
        known |= rows["attacked"]
    places = (known & worst.correct).nonzero()[0]
    return Changes(places, p[places])
