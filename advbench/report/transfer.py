"""What moves from model to model: ``transfer.csv`` of a run with surrogates.

A line per attack, eps, model it was made on and model it was judged on, this one itself among
them where the attack was also made there. ``rate`` is the success among the samples that the judged
model classifies correctly without attack, of other classes than the one to reach; ``moved`` is the
share of it among those of them whose change fooled what it was made on. What was fitted was never
asked about these samples there, so of it nothing is known to have moved. All of it is computed from
the stored cells.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from advbench.attacks.attack import Fittable
from advbench.bench.plan import Cell
from advbench.bench.store import Rows, Store
from advbench.bench.verdicts import Row
from advbench.report.output import write_lines
from advbench.report.trial import Hits


def write_transfer(cells: Sequence[Cell], store: Store) -> Path | None:
    """Write the table of a run and return its path; None where there was no surrogate.

    Cells that are missing or not sound are left out. Raises WriteError.
    """
    if not any(cell.surrogates for cell in cells):
        return None
    path = store.folder / "transfer.csv"
    write_lines(path, transfer_lines(cells, store))
    return path


def transfer_lines(cells: Sequence[Cell], store: Store) -> list[Row]:
    """Return the lines of all sound cells, in the order of the plan."""
    return [line for cell in cells for line in _lines_of(cell, store)]


def _lines_of(cell: Cell, store: Store) -> Iterator[Row]:
    found = store.load(cell.key)
    if found is None or found[1] is None or found[0]["status"] != "ok":
        return
    facts = cell.facts()
    for eps, limit in zip(facts["eps"], facts["limits"], strict=True):
        rate, moved = _rates(found[1], limit, fitted=isinstance(cell.attack, Fittable))
        yield {
            "dataset": facts["dataset"],
            "attack": facts["attack"],
            "perturbation": facts["perturbation"],
            "eps": eps,
            "seed": facts["seed"],
            "targets": facts["targets"],
            "made_on": " + ".join(one.label for one in cell.made_on),
            "judged_on": facts["model"],
            **rate,
            **{f"moved_{name}" if name != "rate" else "moved": v for name, v in moved.items()},
            "key": facts["key"],
        }


def _rates(rows: Rows, limit: float, fitted: bool) -> tuple[Row, Row]:
    """Success on the judged model, and among what fooled the other: ``Rate.table`` of each."""
    inside = rows["size"] <= limit
    hit = rows["success"] & inside
    # A sample that was wrong there as it is can be left unchanged: nothing was made.
    fooled = rows["claimed"] & inside & (rows["size"] > 0) & np.bool_(not fitted)
    counted = rows["attacked"]
    return Hits(counted, hit).rate().table(), Hits(counted & fooled, hit).rate().table()
