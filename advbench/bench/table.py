"""From stored rows to the summary: every number here is a function of the rows of a run.

An attack gives an upper bound on robustness. The interval printed with it covers the choice of the
samples, not the weakness of the attack.

For a model that answers at random a sample counts as the share of its draws that are right, and the
worst attack on a sample is chosen by other draws than those that count.
"""

import csv
import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from advbench.attacks.flags import Flag
from advbench.bench.store import Rows

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
)
"""Columns of the summary; those up to `flags` are fixed, others may follow."""

Row: TypeAlias = dict[str, Any]
Finished: TypeAlias = Mapping[str, tuple[Mapping[str, Any], Rows | None]]
"""Record and rows of each cell by its key; a cell that failed has no rows."""

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share.

    Of a model that answers at random, `successes` is a sum of shares. The interval is then too wide
    rather than too narrow, since a mean of shares varies less from sample to sample than one of
    verdicts; what all samples have in common in one draw, such as sampled weights, it leaves out.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22 (1927), pp. 209-212.
    """
    p, z2 = successes / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else middle - half  # exactly, where rounding would miss it
    return low, 1.0 if successes == n else middle + half


def status_of(rows: Rows) -> str:
    """Return `ok`, `invalid` (a row broke the threat model) or `nan` (logits were not finite)."""
    if rows["invalid"].any():
        return "invalid"
    return "nan" if rows["nan"].any() else "ok"


def summary(planned: Sequence[Mapping[str, Any]], finished: Finished) -> list[Row]:
    """Return a row per cell and eps, and after those of each model, set and eps their worst case.

    Args:
        planned: what the plan says of each cell (`Cell.facts`), in its order.
        finished: records and rows of the cells that were run.

    """
    adaptive = {facts["model"] for facts in planned if facts["content"].get("adaptive")}
    groups: dict[tuple[Any, ...], list[tuple[Row, Verdicts | None]]] = {}
    for facts in planned:
        for eps, limit in zip(facts["eps"], facts["limits"], strict=True):
            group = (*(facts[name] for name in ("model", "surrogate", "dataset")),)
            key = (*group, facts["perturbation"], eps)
            groups.setdefault(key, []).append(
                _cell_row(facts, finished, eps, limit, facts["model"] in adaptive)
            )
    models = list(dict.fromkeys(facts["model"] for facts in planned))
    table: list[Row] = []
    for key in sorted(groups, key=lambda k: (models.index(k[0]), *k[1:4], k[4])):
        members = groups[key]
        table.extend(row for row, _ in members)
        table.append(_worst_row(members))
    return table


def to_csv(table: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Return columns of a table as CSV; text that a spreadsheet takes for a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in table:
        writer.writerow([_guarded(row[name]) for name in columns])
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What one cell, or several together, say of each sample at one eps; all (N,).

    Shares of draws are 0 or 1 for a model that does not answer at random.
    """

    index: NDArray[np.int64]
    correct: NDArray[np.bool_]
    clean: NDArray[np.float64]  # share of draws that are right without attack
    right: NDArray[np.float64]  # share of draws that are right in spite of it
    screened: NDArray[np.float64]  # the same of other draws, to choose between attacks by
    random: bool
    attacked: NDArray[np.bool_]
    broken: NDArray[np.bool_]
    broken_8bit: NDArray[np.bool_]
    size: NDArray[np.float64]  # infinite where not broken
    forwards: NDArray[np.int64]
    backwards: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows, limit: float) -> Self:
        """Read them off the rows of a cell, counting changes of a size up to `limit`."""
        inside = rows["size"] <= limit
        broken = rows["success"] & inside
        correct = rows["clean_correct"]
        clean, right = correct.astype(float), (correct & ~broken).astype(float)
        screened, random = right, "right" in rows
        if random:
            clean = rows["clean_right"]
            right = np.where(inside, rows["right"], clean)
            screened = np.where(inside, rows["screened"], rows["clean_screened"])
        return cls(
            index=rows["index"],
            correct=correct,
            clean=clean,
            right=right,
            screened=screened,
            random=random,
            attacked=rows["attacked"],
            broken=broken,
            broken_8bit=broken & rows["success_8bit"],
            size=np.where(broken, rows["size"], np.inf),
            forwards=rows["forwards"],
            backwards=rows["backwards"],
        )

    def joined(self, other: Self) -> Self:
        """Both attacks as if they were one: on each sample the worse, at the smaller size."""
        if not np.array_equal(self.index, other.index):
            raise ValueError("cells of one group hold different samples")
        worse = other.screened < self.screened
        return replace(
            self,
            right=np.where(worse, other.right, self.right),
            screened=np.where(worse, other.screened, self.screened),
            attacked=self.attacked | other.attacked,
            broken=np.where(worse, other.broken, self.broken),
            broken_8bit=self.broken_8bit | other.broken_8bit,
            size=np.minimum(self.size, other.size),
            forwards=self.forwards + other.forwards,
            backwards=self.backwards + other.backwards,
        )

    def numbers(self) -> Row:
        """Return the columns of the table that are counted from the samples."""
        n, attacked = len(self.correct), int(self.attacked.sum())
        robust = float(self.right.sum())
        low, high = wilson(robust, n)
        fooled, correct = int(self.broken.sum()), int(self.correct.sum())
        least, most = wilson(fooled, correct) if correct else (0.0, 1.0)
        sizes = self.size[self.broken]
        kept_8bit = self.correct & ~self.broken_8bit
        return {
            "n": n,
            "clean_accuracy": _share(self.clean.sum(), n),
            "robust_accuracy": _share(robust, n),
            "robust_low": round(low, 6),
            "robust_high": round(high, 6),
            "success_rate": _share(fooled, correct),
            "success_low": round(least, 6),
            "success_high": round(most, 6),
            "median_size": float(f"{np.median(sizes):.6g}") if len(sizes) else None,
            "forwards": _share(self.forwards[self.attacked].sum(), attacked),
            "backwards": _share(self.backwards[self.attacked].sum(), attacked),
            "robust_8bit": None if self.random else _share(kept_8bit.sum(), n),
        }


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
    verdicts = Verdicts.of(rows, limit)
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
        "targeted_rate": _share(reached.sum(), n),
        "targeted_low": low if low is None else round(low, 6),
        "targeted_high": high if high is None else round(high, 6),
    }


def _worst_row(members: Sequence[tuple[Row, Verdicts | None]]) -> Row:
    """Per sample, the worst of all attacks and seeds; blank while one of them is missing."""
    first = members[0][0]
    row: Row = dict.fromkeys(COLUMNS)
    for name in ("model", "surrogate", "dataset", "perturbation", "eps", "n", "draws"):
        row[name] = first[name]
    row |= {"attack": "worst", "status": "incomplete", "flags": ""}
    verdicts = [one for _, one in members if one is not None]
    if len(verdicts) < len(members):
        return row
    worst = functools.reduce(Verdicts.joined, verdicts)
    seconds = round(sum(member["seconds"] for member, _ in members), 3)
    return row | worst.numbers() | {"status": "ok", "seconds": seconds}


def _share(part: Any, whole: int) -> float | None:
    return round(float(part) / whole, 6) if whole else None


def _guarded(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
