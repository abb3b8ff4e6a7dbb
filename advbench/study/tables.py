"""From stored rows, cards and logs to the tables of a study; nothing here looks at a model.

An interval covers what another choice would have changed: of the seed where there are several
(Student's t over the means of the seeds), else of the test samples. It covers neither the choice of
the training samples nor the weakness of the attacks.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from advbench.bench.render import escaped
from advbench.bench.run import Found
from advbench.bench.table import status_of
from advbench.bench.verdicts import Row, Verdicts
from advbench.files import write_atomic
from advbench.report.learning import Curve, learning_curves
from advbench.report.output import write_lines
from advbench.trust.statistics import wilson

Shares: TypeAlias = NDArray[np.float64]
"""How often each sample is right, (N,): 0 or 1, or between for a model that answers at random."""
Card: TypeAlias = Mapping[str, Any]

_Z = float(stats.norm.ppf(0.975))  # two-sided 95 %


@dataclass(frozen=True, eq=False)
class Result:
    """What a study holds of one training.

    Fields:
        card: None where the training failed.
        log: the CSV of the training.
        planned: what the plan says of each cell.
        found: record and rows of each cell by its key.
    """

    network: str
    remedy: str
    seed: int
    card: Card | None
    log: str
    planned: Sequence[Mapping[str, Any]]
    found: Mapping[str, Found]


class Estimate(NamedTuple):
    """A mean with its 95 % interval, which is not always known."""

    mean: float
    low: float | None = None
    high: float | None = None


class Point(NamedTuple):
    """What was attacked how hard."""

    attack: str
    perturbation: str
    eps: float


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of several seeds with Student's t interval; of one seed alone without."""
    k = len(values)
    mean = math.fsum(values) / k
    if k == 1:
        return Estimate(mean)
    half = float(stats.t.ppf(0.975, k - 1)) * float(np.std(values, ddof=1)) / math.sqrt(k)
    return Estimate(mean, mean - half, mean + half)


def over_samples(shares: Shares) -> Estimate:
    """The mean of how often samples (N,) are right, with Wilson's interval."""
    low, high = wilson(float(shares.sum()), len(shares))
    return Estimate(float(shares.mean()), low, high)


def paired(one: Shares, other: Shares) -> Estimate:
    """The mean difference of the same samples (N,), with a normal interval."""
    difference = one - other
    mean = float(difference.mean())
    if len(difference) == 1:
        return Estimate(mean)
    half = _Z * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return Estimate(mean, mean - half, mean + half)


def study_lines(results: Sequence[Result], baseline: str) -> list[Row]:
    """A line per network, remedy, attack, set and eps, and the worst case of each set and eps.

    What is compared with the baseline of the same network is paired by seed. A line is blank while
    one of its seeds is missing or not sound.
    """
    seen = {id(result): _points(result) for result in results}
    groups = _groups(results)
    lines = []
    for (network, remedy), members in groups.items():
        base = [] if remedy == baseline else groups.get((network, baseline), [])
        for point in seen[id(members[0])]:
            ours = [seen[id(one)].get(point) for one in members]
            theirs = [seen[id(one)].get(point) for one in base]
            row: Row = {"network": network, "remedy": remedy, **point._asdict()}
            row |= {"seeds": len(members), "n": members[0].planned[0]["n"]}
            row |= _scores(members, ours) | _changes(members, ours, base, theirs)
            lines.append(row | _remarks(members, point, ours))
    return lines


def gap_lines(results: Sequence[Result]) -> list[Row]:
    """A line per network and remedy: accuracy under the log's attack on training and test samples.

    ``result`` are the weights that the training kept, ``last`` those of its last epoch.
    """
    lines = []
    for (network, remedy), members in _groups(results).items():
        cards = [one.card for one in members if one.card is not None]
        measured = [card["robust_accuracy"] for card in cards if "robust_accuracy" in card]
        if not measured:
            continue
        row: Row = {"network": network, "remedy": remedy, "seeds": len(members)}
        row |= {"attack": measured[0]["attack"]["name"], "eps": measured[0]["eps"]}
        for name, at in (("result", "result"), ("last", "last_epoch")):
            train = [one[at].get("train") for one in measured]
            test = [one[at].get("test") for one in measured]
            pairs = zip(train, test, strict=True)
            gap = [None if a is None or b is None else a - b for a, b in pairs]
            for what, values in (("train", train), ("test", test), ("gap", gap)):
                known = [value for value in values if value is not None]
                complete = len(known) == len(members)
                row |= _named(f"{name}_{what}", over_seeds(known) if complete else None)
        lines.append(row)
    return lines


def markdown(lines: Sequence[Row], baseline: str, seeds: int) -> str:
    """The worst case of each remedy as a readable table per network, the most robust first."""
    worst = [line for line in lines if line["attack"] == "worst"]
    text = ["# Study", ""]
    for network, group in groupby(worst, key=lambda line: line["network"]):
        text += [f"## {escaped(network)}", "", *_table(list(group)), ""]
    text += [_legend(baseline, seeds)]
    notes = {
        f"{line['remedy']}: {line[name]}": name
        for name in ("control", "alarm", "detail")
        for line in worst
        if line[name]
    }
    headings = {"control": "Broken, and here as a control", "alarm": "Alarm", "detail": "No result"}
    text += [f"- {headings[name]}: {escaped(note)}" for note, name in notes.items()]
    return "\n".join(text).rstrip() + "\n"


def curves(results: Sequence[Result], shown: Sequence[str]) -> list[Curve]:
    """How the shown remedies learn: means over the seeds, at epochs that all seeds measured."""
    found = []
    for (network, remedy), members in _groups(results).items():
        logs = [list(csv.DictReader(io.StringIO(one.log))) for one in members]
        if remedy not in shown or not all(logs):
            continue
        for column in ("train_accuracy", "test_accuracy", "train_robust", "test_robust"):
            series = [{int(e["epoch"]): float(e[column]) for e in log if e[column]} for log in logs]
            common = sorted(set.intersection(*(set(one) for one in series)))
            points = [(e + 1, math.fsum(one[e] for one in series) / len(series)) for e in common]
            split, measure = column.split("_")
            if points:
                found.append(Curve(network, remedy, split, measure, tuple(points)))
    return found


def write_tables(
    folder: Path, results: Sequence[Result], baseline: str, shown: Sequence[str]
) -> None:
    """Write study.csv, gaps.csv, study.md and learning.png; raises WriteError."""
    lines = study_lines(results, baseline)
    write_lines(folder / "study.csv", lines)
    write_lines(folder / "gaps.csv", gap_lines(results))
    seeds = len({result.seed for result in results})
    write_atomic(folder / "study.md", markdown(lines, baseline, seeds).encode())
    drawn = curves(results, shown)
    if drawn:
        write_atomic(folder / "learning.png", learning_curves(drawn))


def _groups(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.network, result.remedy), []).append(result)
    return groups


def _points(result: Result) -> dict[Point, Verdicts | None]:
    """The verdicts of each attack, set and eps, and the worst of each set and eps.

    None where one of them is missing or not sound.
    """
    found: dict[Point, list[Verdicts | None]] = {}
    for facts in result.planned:
        _, rows = result.found.get(facts["key"], ({}, None))
        sound = rows is not None and status_of(rows) == "ok"
        for eps, limit in zip(facts["eps"], facts["limits"], strict=True):
            given = Verdicts.of(rows, limit, eps) if rows is not None and sound else None
            for attack in (facts["attack"], "worst"):
                found.setdefault(Point(attack, facts["perturbation"], eps), []).append(given)

    def place(point: Point) -> tuple[Any, ...]:
        return point.perturbation, point.eps, point.attack == "worst"

    return {point: _worst(found[point]) for point in sorted(found, key=place)}


def _worst(members: Sequence[Verdicts | None]) -> Verdicts | None:
    sound = [one for one in members if one is not None]
    return reduce(Verdicts.joined, sound) if len(sound) == len(members) else None


def _scores(members: Sequence[Result], ours: Sequence[Verdicts | None]) -> Row:
    """What a remedy is worth, over its seeds."""
    known = [one for one in ours if one is not None]
    complete = len(known) == len(members)
    row = _named("clean_accuracy", _share([one.clean for one in known]) if complete else None)
    train = _numbers(members, _train)
    row["train_accuracy"] = None if train is None else _short(over_seeds(train).mean)
    for name, number in _FROM_CARDS.items():
        values = _numbers(members, number)
        row |= _named(name, None if values is None else over_seeds(values))
    robust = _share([one.right for one in known]) if complete else None
    return row | _named("robust_accuracy", robust)


def _changes(
    members: Sequence[Result],
    ours: Sequence[Verdicts | None],
    base: Sequence[Result],
    theirs: Sequence[Verdicts | None],
) -> Row:
    """What a remedy changes against the baseline, seed by seed; blank for the baseline itself."""
    row: Row = {}
    for name, number in _FROM_CARDS.items():
        values, before = _numbers(members, number), _numbers(base, number)
        change = None
        if values is not None and before is not None:
            change = over_seeds([a - b for a, b in zip(values, before, strict=True)])
        row |= _named(f"{name}_change", change)
    both = zip(ours, theirs, strict=bool(base))
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    complete = len(pairs) == len(members)
    clean = _difference([(a.clean, b.clean) for a, b in pairs]) if complete else None
    robust = _difference([(a.right, b.right) for a, b in pairs]) if complete else None
    return row | _named("clean_change", clean) | _named("robust_change", robust)


def _share(seeds: Sequence[Shares]) -> Estimate:
    """The share of samples that are right: over several seeds, or over the samples of one."""
    if len(seeds) == 1:
        return over_samples(seeds[0])
    return over_seeds([float(one.mean()) for one in seeds])


def _difference(pairs: Sequence[tuple[Shares, Shares]]) -> Estimate:
    """What has changed: over several seeds, or over the samples of one."""
    if len(pairs) == 1:
        return paired(*pairs[0])
    return over_seeds([float(a.mean()) - float(b.mean()) for a, b in pairs])


def _train(card: Card) -> float:
    return float(card["clean_accuracy"]["train"])


def _gap(card: Card) -> float:
    return _train(card) - float(card["clean_accuracy"]["test"])


def _test_loss(card: Card) -> float:
    return float(card["loss"]["test"])


_FROM_CARDS = {"gap": _gap, "test_loss": _test_loss}


def _numbers(members: Sequence[Result], number: Callable[[Card], float]) -> list[float] | None:
    """A number of the card of each seed; None where one is missing or there are none."""
    cards = [one.card for one in members]
    found = [number(card) for card in cards if card is not None]
    return found if found and len(found) == len(cards) else None


def _remarks(
    members: Sequence[Result], point: Point, ours: Sequence[Verdicts | None]
) -> dict[str, str]:
    """Whether the line is sound, and what must be told with it."""
    cards = [one.card for one in members if one.card is not None]
    alarms = [card["alarm"] for card in cards if card["alarm"]]
    broken = [work for card in cards for work in card["broken"].values()]
    details = [
        f"{record['status']}: {record['detail']}"
        for one in members
        for record, _ in one.found.values()
        if record["status"] != "ok" and point.attack in (record["attack"], "worst")
    ]
    status = "ok" if all(one is not None for one in ours) else "incomplete"
    texts = {"control": broken, "alarm": alarms, "detail": details if status != "ok" else []}
    return {"status": status} | {name: "; ".join(dict.fromkeys(t)) for name, t in texts.items()}


def _named(name: str, estimate: Estimate | None) -> Row:
    """The columns of an estimate."""
    mean, low, high = estimate or (None, None, None)
    return {name: _short(mean), f"{name}_low": _short(low), f"{name}_high": _short(high)}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6) + 0.0  # no -0.0


def _table(lines: Sequence[Row]) -> list[str]:
    """The lines of one network as a table, the most robust remedy first."""
    remedies: dict[str, dict[tuple[str, float], Row]] = {}
    for line in lines:
        found = remedies.setdefault(line["remedy"], {})
        found[line["perturbation"], line["eps"]] = line
    scales = list(next(iter(remedies.values())))
    titles = [f"{where} {eps:g}" for where, eps in scales]
    head = ["remedy", "clean", "gap", "test loss"]
    head += [f"robust, {title}" for title in titles] + [f"change, {title}" for title in titles]

    def rank(one: dict[tuple[str, float], Row]) -> list[float]:
        found = [one[scale]["robust_accuracy"] for scale in reversed(scales)]
        return [-1.0 if value is None else value for value in found]

    text = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for name, found in sorted(remedies.items(), key=lambda item: rank(item[1]), reverse=True):
        first = next(iter(found.values()))
        mark = " †" if first["control"] else ""
        cells = [escaped(name) + mark]
        cells += [_shown(first, "clean_accuracy"), _shown(first, "gap"), _shown(first, "test_loss")]
        cells += [_shown(found[scale], "robust_accuracy") for scale in scales]
        cells += [_changed(found[scale]) for scale in scales]
        text.append(f"| {' | '.join(cells)} |")
    return text


def _shown(row: Row, name: str) -> str:
    value = row[name]
    return "" if value is None else f"{value:.3f}"


def _changed(row: Row) -> str:
    """The change of robust accuracy with its interval, marked where that excludes 0."""
    mean, low, high = (row[f"robust_change{end}"] for end in ("", "_low", "_high"))
    if mean is None:
        return ""
    if low is None:
        return f"{mean:+.3f}"
    mark = " *" if low > 0 or high < 0 else ""
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]{mark}"


def _legend(baseline: str, seeds: int) -> str:
    if seeds > 1:
        interval = f"Student's t over {seeds} seeds, each remedy paired with the baseline by seed"
    else:
        interval = "normal, over the test samples of one seed, paired by sample"
    return (
        "Means. Robust: right under the worst of all attacks, an upper bound on what stronger ones "
        "would leave. Gap: training minus test accuracy. Change: of robust accuracy against "
        f"'{escaped(baseline)}' on the same network, with a 95 % interval ({interval}); * where "
        "it excludes 0. The intervals are not widened for their number: of 20 remedies that do "
        "nothing, one is marked on average. † is a control, known to be broken.\n"
    )
