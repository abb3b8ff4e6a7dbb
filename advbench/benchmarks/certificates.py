"""What certificates save and how near they come: `python -m advbench.benchmarks.certificates`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from advbench.attacks import Robust
from advbench.bench.plan import Cell, Victim, select
from advbench.bench.run import Runner
from advbench.benchmarks.machine import facts
from advbench.benchmarks.report import bullets, out_option, store
from advbench.config import CertifySection
from advbench.models.loading import ModelSpec, load_model

_TASKS = (
    ("digits/linear", (0.0333, 0.1), 400, 0),
    ("digits/ffn_relu", (0.0333, 0.1), 400, 0),
    ("digits/ffn_tanh", (0.0333, 0.1), 400, 0),
    ("digits/ffn_sigmoid", (0.0333, 0.1), 400, 0),
    ("digits/ffn_softplus", (0.0333, 0.1), 400, 0),
    ("digits/ffn_squared_error", (0.0333, 0.1), 400, 0),
    ("digits/ffn_adv", (0.0333, 0.1), 400, 0),
    ("digits/ffn_adv", (0.0333, 0.1), 400, 1000),
    ("mnist/ffn", (0.02, 0.05), 500, 0),
)
_METHOD = """\
`certified` is the share of all samples that is proven robust, `robust` the share that the attack
`robust` leaves; the truth lies between. The attack is run without certificates and after them. A
pass is one forward of one sample; a backward counts as two; passes are means over the samples that
are right as they are. `nodes` limits the search, for each class, of what bounds leave open.
"""


def rows(tasks: Sequence[tuple[str, Sequence[float], int, int]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each net and radius. Raises RuntimeError where a cell fails."""
    for name, scales, count, nodes in tasks:
        model = load_model(ModelSpec(name=f"zoo:{name}"))
        selection = select(name.partition("/")[0], "test", count, None)
        victim = Victim(name, model.model, model.sha256)
        for eps in scales:
            cell = Cell(victim, selection, "robust", Robust(), (eps,), 0)
            without = _run(cell, CertifySection("never"))
            with_ = _run(cell, CertifySection("always", nodes=nodes))
            yield {
                "model": name,
                "eps": eps,
                "nodes": nodes,
                "n": count,
                "clean": with_["clean"],
                "certified": with_["certified"],
                "robust": with_["robust"],
                "gap": round(with_["robust"] - with_["certified"], 4),
                "same": without["robust"] == with_["robust"],
                "passes_without": without["passes"],
                "passes_with": with_["passes"],
            }


def _run(cell: Cell, section: CertifySection) -> dict[str, Any]:
    """Run `robust` with or without certificates and count."""
    record, found = Runner().run(dataclasses.replace(cell, certify=section))
    if found is None:
        raise RuntimeError(record["traceback"])
    correct = found["clean_correct"]
    passes = (found["forwards"] + 2 * found["backwards"]).sum() / correct.sum()
    certified = found.get("certified_eps", correct - 2.0) >= cell.scale
    return {
        "clean": round(float(correct.mean()), 4),
        "certified": round(float(certified.mean()), 4),
        "robust": round(float((correct & ~found["success"]).mean()), 4),
        "passes": round(float(passes), 2),
    }


def markdown(lines: Sequence[dict[str, Any]], about: dict[str, str]) -> str:
    """Lay the rows out as a table, with the median saving above it."""
    saved = statistics.median(line["passes_with"] / line["passes_without"] for line in lines)
    parts = [
        "# What certificates save, and how near they come\n",
        _METHOD,
        bullets(about),
        f"In the median `robust` needs {saved:.2f} of its passes after certificates.\n",
        "| net | eps | nodes | clean | certified | robust | gap | passes without / with |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        numbers = [f"{line[name]:.4f}" for name in ("clean", "certified", "robust", "gap")]
        passes = f"{line['passes_without']:.1f} / {line['passes_with']:.1f}"
        row = [
            line["model"],
            f"{line['eps']:g}",
            str(line["nodes"]),
            *numbers,
            passes,
        ]
        parts.append(f"| {' | '.join(row)} |")
    return "\n".join(parts) + "\n"


@click.command()
@out_option("certificates")
def main(out: Path) -> None:
    """Compare `robust` with and without certificates; minutes on one core."""
    torch.set_num_threads(1)
    lines = list(rows(_TASKS))
    store(out, "certificates", lines, markdown(lines, facts(1, ["advbench"])))


if __name__ == "__main__":
    main()
