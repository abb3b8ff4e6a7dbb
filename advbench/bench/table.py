"""From stored rows to the summary: every number here is a function of the rows of a run.

An attack gives an upper bound on robustness. The interval printed with it covers the choice of the
samples, not the weakness of the attack. A certificate gives a lower bound.

For a model that answers at random a sample counts as the share of its draws that are right, and the
worst attack on a sample is chosen by other draws than those that count.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from advbench.attacks.flags import Flag
from advbench.bench.doubts import doubts
from advbench.bench.groups import Group, Member, groups_of, worst_of
from advbench.bench.store import Rows
from advbench.bench.verdicts import Row, Verdicts, share
from advbench.trust.statistics import wilson

COLUMNS = (
    "model",
    "surrogate",
    "dataset",
    "attack",
    "perturbation",
    "eps",
    "seed",
    "n",
    "clean_accuracy",
    "robust_accuracy",
    "robust_low",
    "robust_high",
    "success_rate",
    "median_size",
    "forwards",
    "backwards",
    "seconds",
    "status",
    "flags",
    "targets",
    "targeted_rate",
    "targeted_low",
    "targeted_high",
    "success_low",
    "success_high",
    "robust_8bit",
    "invalid",
    "nan",
    "detail",
    "key",
    "draws",
    "certified_accuracy",
    "certified_low",
    "certified_high",
)
"""Columns of the summary; those up to `flags` are fixed, others may follow."""

Finished: TypeAlias = Mapping[str, tuple[Mapping[str, Any], Rows | None]]
"""Record and rows of each cell by its key; a cell that failed has no rows."""


def status_of(rows: Rows) -> str:
    """Return `ok`, `invalid` (a row broke the threat model) or `nan` (logits were not finite)."""
    if rows["invalid"].any():
        return "invalid"
    return "nan" if rows["nan"].any() else "ok"


def worst_cases(
    planned: Sequence[Mapping[str, Any]], finished: Finished
) -> dict[Group, Verdicts | None]:
    """Return the worst of all attacks and seeds on each sample, for each group of cells.

    None while one of them is missing or not sound. Arguments are those of `summary`.
    """
    return {group: worst_of(members) for group, members in _grouped(planned, finished).items()}


def summary(planned: Sequence[Mapping[str, Any]], finished: Finished) -> list[Row]:
    """Return a row per cell and eps, and after those of each model, set and eps their worst case.

    Args:
        planned: what the plan says of each cell (`Cell.facts`), in its order.
        finished: records and rows of the cells that were run.

    """
    table: list[Row] = []
    groups = _grouped(planned, finished)
    doubted = doubts(groups)
    for group, members in groups.items():
        table.extend(member.row for member in members)
        table.append(_worst_row(members) | {"flags": ";".join(doubted[group])})
    return table


def to_csv(table: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Return columns of a table as CSV; text that a spreadsheet takes for a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in table:
        writer.writerow([_guarded(row[name]) for name in columns])
    return buffer.getvalue()


def flags_text(flags: NDArray[np.int64]) -> str:
    """Return the share of the attacked samples that carry each flag, as `name:share;…`."""
    if not len(flags):
        return ""
    shares = {flag.name: float(np.mean((flags & flag.value) != 0)) for flag in Flag if flag.value}
    return ";".join(f"{str(name).lower()}:{_short(s)}" for name, s in shares.items() if s)


def _short(share: float) -> str:
    return f"{share:.2f}" if 0.005 <= share < 0.995 or share == 1 else f"{share:.4f}"


def _cell_row(
    facts: Mapping[str, Any], finished: Finished, eps: float, limit: float, adaptive: bool
) -> tuple[Row, Verdicts | None]:
    """The row of one cell at one eps; its numbers are blank unless all of its rows are sound.

    `adaptive` says whether any attack on its model knows the defence.
    """
    row: Row = dict.fromkeys(COLUMNS)
    for name in ("model", "surrogate", "dataset", "attack", "perturbation"):
        row[name] = facts[name]
    row |= {name: facts[name] for name in ("seed", "targets", "key", "n")}
    row |= {"eps": eps, "status": "missing", "flags": ""}
    if facts["key"] not in finished:
        return row, None
    record, rows = finished[facts["key"]]
    row["detail"] = record.get("detail")
    if rows is None:
        return row | {"status": record["status"]}, None
    row |= {"invalid": int(rows["invalid"].sum()), "nan": int(rows["nan"].sum())}
    flags = [flags_text(rows["flags"][rows["attacked"]]), *_remarks(record, adaptive)]
    row |= {"status": status_of(rows), "flags": ";".join(filter(None, flags))}
    row["draws"] = record.get("draws")
    if row["status"] != "ok":
        return row, None
    verdicts = Verdicts.of(rows, limit, eps)
    numbers = verdicts.numbers() | targeted(rows, facts["targets"], limit)
    return row | numbers | {"seconds": round(record["seconds"], 3)}, verdicts


def _remarks(record: Mapping[str, Any], adaptive: bool) -> list[str]:
    """What a whole cell is to be doubted for, in the form of flags."""
    hidden = record.get("masked") and not adaptive
    one_draw = record.get("draws") and record.get("eot") == 1
    return ["hidden_gradient:1.00"] * bool(hidden) + ["one_draw:1.00"] * bool(one_draw)


def targeted(rows: Rows, targets: int | None, limit: float) -> Row:
    """How many attacked samples of other classes are taken for the class `targets`, with interval.

    Empty without a class to reach.
    """
    if targets is None:
        return {}
    counted = rows["attacked"] & (rows["label"] != targets)
    reached = counted & (rows["prediction"] == targets) & (rows["size"] <= limit)
    n = int(counted.sum())
    low, high = wilson(int(reached.sum()), n) if n else (None, None)
    return {
        "targeted_rate": share(reached.sum(), n),
        "targeted_low": low if low is None else round(low, 6),
        "targeted_high": high if high is None else round(high, 6),
    }


def _grouped(planned: Sequence[Mapping[str, Any]], finished: Finished) -> dict[Group, list[Member]]:
    """The cells of each worst case, in the order of the table."""
    adaptive = {facts["model"] for facts in planned if facts["content"].get("adaptive")}
    groups: dict[Group, list[Member]] = {}
    for facts in planned:
        for group, limit in groups_of(facts):
            found = _cell_row(facts, finished, group.eps, limit, facts["model"] in adaptive)
            groups.setdefault(group, []).append(Member(facts, *found))
    models = list(dict.fromkeys(facts["model"] for facts in planned))
    order = sorted(groups, key=lambda group: (models.index(group.model), *group[1:]))
    return {group: groups[group] for group in order}


def _worst_row(members: Sequence[Member]) -> Row:
    """Per sample, the worst of all attacks and seeds; blank while one of them is missing."""
    first = members[0].row
    row: Row = dict.fromkeys(COLUMNS)
    for name in ("model", "surrogate", "dataset", "perturbation", "eps", "n", "draws"):
        row[name] = first[name]
    row |= {"attack": "worst", "status": "incomplete"}
    worst = worst_of(members)
    if worst is None:
        return row
    seconds = round(sum(member.row["seconds"] for member in members), 3)
    return row | worst.numbers() | {"status": "ok", "seconds": seconds}


def _guarded(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
