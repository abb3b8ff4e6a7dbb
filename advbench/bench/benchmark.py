"""One benchmark in one results folder: plan in, cells stored, summary out."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advbench.bench.determinism import repeatable
from advbench.bench.plan import Cell
from advbench.bench.run import Found, Runner, provenance, run_cells
from advbench.bench.store import Store, opened
from advbench.bench.table import summary, to_csv
from advbench.bench.verdicts import Row
from advbench.config import Config, Document, plain


def benchmark(
    cells: Sequence[Cell],
    folder: Path,
    runner: Runner,
    config: Config,
    document: Document,
    command: Sequence[str],
) -> list[Row]:
    """Run what the folder does not hold yet, write its summary and return the table.

    Whatever ends the run early, the cells finished by then are kept and in the summary.

    Raises:
        WriteError: a file cannot be written.
        FolderError: the folder belongs to another run or another configuration.

    """
    planned = [cell.facts() for cell in cells]
    with repeatable(config.run.deterministic), opened(folder) as store:
        store.prepare(
            {
                "cells": planned,
                "config": plain(config),
                "config_text": document.text,
                "overrides": sorted(set(document.overridden.values())),
                "provenance": provenance(command),
            }
        )
        finished: dict[str, Found] = {}
        try:
            for key, found in run_cells(cells, runner, store):
                finished[key] = found
        except BaseException:
            with contextlib.suppress(OSError):
                for cell in cells:  # those of an earlier run that this one had not come to
                    stored = None if cell.key in finished else store.load(cell.key)
                    if stored is not None:
                        finished[cell.key] = stored
                _summarise(store, planned, finished)
            raise
        return _summarise(store, planned, finished)


def _summarise(
    store: Store, planned: list[dict[str, Any]], finished: dict[str, Found]
) -> list[Row]:
    table = summary(planned, finished)
    store.write("summary.csv", to_csv(table))
    return table
