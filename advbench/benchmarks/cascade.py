"""`robust` beside `autoattack`, from stored rows: `python -m advbench.benchmarks.cascade`.

The configurations `configs/cascade_*.toml` run both on the same samples; this lays their cells side
by side. Passes are counted over all attacked samples; a backward pass counts as two forward ones.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from advbench.bench.store import Rows, Store
from advbench.benchmarks.report import out_option, store

_BACKWARD = 2
_METHOD = """\
A pass is one forward of one sample; a backward counts as two. `broken by one alone` are samples
that only `autoattack`, or only `robust`, broke. `ratio` is AutoAttack's passes over those of
`robust`, over all samples that are right without attack. Where nothing survives, both end at the
first steps and there is little to save; where few do, these are near the boundary, and `robust`
spends its long rounds and its black box on them. AutoAttack is this package's own, standard set;
its samples leave it as soon as they are broken, which the published program does between attacks
only, so against that one the ratios of undefended nets would be larger.
"""


def pairs(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a line per model, set and eps of a results folder for which both attacks are there."""
    cells: dict[tuple[Any, ...], dict[str, Rows]] = {}
    for file in sorted(folder.glob("cells/*/*/cell.json")):
        record = json.loads(file.read_bytes())
        found = Store(folder).load(record["key"])
        if found is None or found[0]["status"] != "ok":
            continue
        names = ("dataset", "model", "perturbation")
        key = (*(record[name] for name in names), *record["eps"])
        cells.setdefault(key, {})[record["attack"]] = found[1]
    for (dataset, model, perturbation, eps), rows in sorted(cells.items()):
        if {"autoattack", "robust"} <= rows.keys():
            facts = {"dataset": dataset, "model": model, "perturbation": perturbation, "eps": eps}
            yield {**facts, **compare(rows["autoattack"], rows["robust"])}


def compare(long: Rows, short: Rows) -> dict[str, Any]:
    """Compare two attacks on the same samples. Raises ValueError where they are others."""
    if list(long["index"]) != list(short["index"]):
        raise ValueError("the two attacks were run on different samples")
    broken = long["success"], short["success"]
    kept = [one["clean_correct"] & ~one["success"] for one in (long, short)]
    passes = [one["forwards"] + _BACKWARD * one["backwards"] for one in (long, short)]
    totals = [int(one.sum()) for one in passes]
    return {
        "n": len(long["index"]),
        "autoattack": round(float(kept[0].mean()), 4),
        "robust": round(float(kept[1].mean()), 4),
        "only_autoattack": int((broken[0] & ~broken[1]).sum()),
        "only_robust": int((broken[1] & ~broken[0]).sum()),
        "autoattack_passes": round(totals[0] / max(int(long["attacked"].sum()), 1), 1),
        "robust_passes": round(totals[1] / max(int(short["attacked"].sum()), 1), 1),
        "ratio": round(totals[0] / totals[1], 1) if totals[1] else None,
    }


def page(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table as Markdown, its summary above it."""
    ratios = [line["ratio"] for line in lines if line["ratio"] and line["robust"]]
    higher = sum(line["robust"] > line["autoattack"] for line in lines)
    lower = sum(line["robust"] < line["autoattack"] for line in lines)
    missed, extra = (sum(line[f"only_{one}"] for line in lines) for one in ("autoattack", "robust"))
    head = [
        "# robust beside AutoAttack\n",
        _METHOD,
        f"{len(lines)} cells: the robust accuracy by `robust` is higher in {higher} and lower in "
        f"{lower}; of all samples {missed} are broken by `autoattack` alone, {extra} by `robust` "
        f"alone. Where samples survive, AutoAttack needs {statistics.median(ratios):.1f} times the "
        f"passes in the median, {min(ratios):.1f} to {max(ratios):.1f}.\n",
        "| model | data | set | eps | n | robust accuracy: autoattack, robust "
        "| broken by one alone | passes a sample: autoattack, robust | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(_row, lines)]) + "\n"


def _row(line: dict[str, Any]) -> str:
    return (
        f"| {line['model']} | {line['dataset']} | {line['perturbation']} | {line['eps']:.4g} "
        f"| {line['n']} | {line['autoattack']:.4f}, {line['robust']:.4f} "
        f"| {line['only_autoattack']}, {line['only_robust']} "
        f"| {line['autoattack_passes']:.0f}, {line['robust_passes']:.0f} | {line['ratio']} |"
    )


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@out_option("cascade")
def main(folders: tuple[Path, ...], out: Path) -> None:
    """Lay robust and autoattack side by side, from the results FOLDERS of advbench run."""
    lines = [line for folder in folders for line in pairs(folder)]
    if not lines:
        raise click.UsageError("no folder holds sound cells of both robust and autoattack")
    store(out, "cascade", lines, page(lines))


if __name__ == "__main__":
    main()
