"""Success against queries: ``queries.csv`` of a run with attacks that ask for scores or labels.

A line per model, attack, perturbation, eps, seed and number of queries: 1, 2, 5, 10, 20, 50 and so
on, and last the most that the attack spent on any sample. A query is a forward pass; ``n`` are the
samples classified correctly without attack, ``broken`` those of them that fell within so many
queries, and ``robust_accuracy`` is what that leaves; in the last line it is that of the summary.
All of it is computed from the stored cells.

Left out is what tells only the cost of the whole search: attacks that go on after a first success
to find a smaller change, and models that answer at random; and what was made on another model.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from advbench.attacks.attack import Attack
from advbench.attacks.search import Rule
from advbench.bench.plan import Cell
from advbench.bench.store import Rows, Store
from advbench.bench.verdicts import Row, Verdicts
from advbench.report.output import write_lines
from advbench.report.trial import Hits

_DECADE = (1, 2, 5)


def write_queries(cells: Sequence[Cell], store: Store) -> Path | None:
    """Write the table of a run and return its path; None where no attack has such a curve.

    Cells that are missing or not sound are left out. Raises WriteError.
    """
    told = [cell for cell in cells if _has_curve(cell)]
    if not told:
        return None
    path = store.folder / "queries.csv"
    write_lines(path, [line for cell in told for line in _lines_of(cell, store)])
    return path


def _has_curve(cell: Cell) -> bool:
    """Whether the passes of a fooled sample are those up to its first success."""
    attack = cell.attack
    if cell.surrogates or not isinstance(attack, Attack):
        return False
    until = attack.finds == "inside" or (isinstance(attack, Rule) and attack.ascending)
    return until and attack.access in ("scores", "labels")


def _lines_of(cell: Cell, store: Store) -> Iterator[Row]:
    found = store.load(cell.key)
    if found is None or found[1] is None or found[0]["status"] != "ok" or found[0].get("draws"):
        return
    facts = cell.facts()
    head = ("model", "dataset", "attack", "perturbation")
    for eps, limit in zip(facts["eps"], facts["limits"], strict=True):
        about = {name: facts[name] for name in head}
        about |= {"eps": eps, "seed": facts["seed"], "targets": facts["targets"]}
        for line in curve(found[1], limit):
            yield {**about, **line, "key": facts["key"]}


def curve(rows: Rows, limit: float) -> list[Row]:
    """Return a line per number of queries for the rows of a cell; changes up to ``limit`` count.

    ``success_rate`` is the share of the correct samples that are broken, with its 95 % interval.
    """
    verdicts = Verdicts.of(rows, limit, limit)
    spent = rows["forwards"]
    lines = []
    for queries in decades(int(spent[verdicts.correct].max(initial=1))):
        rate = Hits(verdicts.correct, verdicts.broken & (spent <= queries)).rate()
        low, high = rate.interval
        lines.append(
            {
                "queries": queries,
                "n": rate.n,
                "broken": rate.hits,
                "success_rate": rate.rate,
                "success_low": low,
                "success_high": high,
                "robust_accuracy": round((rate.n - rate.hits) / len(spent), 6),
            }
        )
    return lines


def decades(most: int) -> list[int]:
    """Return 1, 2, 5, 10, 20, 50 and so on below ``most``, and ``most``."""
    grid = (base * 10**power for power in range(len(str(most))) for base in _DECADE)
    return [*(number for number in grid if number < most), most]
