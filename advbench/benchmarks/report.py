"""A benchmark's two files, a CSV with every figure and a page to be read; here those of peers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import click

from advbench.files import write_atomic

Command = TypeVar("Command", bound=Callable[..., object])


@dataclass(frozen=True)
class Line:
    """One library on one task; a `status` other than ok is why nothing was measured."""

    victim: str
    attack: str
    norm: str
    eps: float | None
    library: str
    version: str
    status: str
    n: int | None = None
    forwards: float | None = None  # rows through the model per sample
    backwards: float | None = None
    robust_accuracy: float | None = None  # share of all n; a clean mistake counts as broken
    outside: int | None = None  # rows returned outside the ball or the box
    ratio: float | None = None  # CPU seconds over the floor's: median, lowest, highest
    ratio_low: float | None = None
    ratio_high: float | None = None
    floor_seconds: float | None = None
    noise: float | None = None  # slowest over fastest run of a fixed spin loop


METHOD = """\
Passes per sample are counted by hooks on the model and are exact. CPU time is a multiple of the
floor: as many forwards and backwards to the input of the bare frozen model as the attack has steps,
same batch, timed in turn with the libraries in one process. It is the median of the repetitions,
the range in brackets. Robust accuracy is measured afresh on the images that each library returns,
over all n (clean mistakes count as broken); a cheaper attack that finds less is not faster. Noise
is the slowest over the fastest run of a fixed loop during the measurement: smaller differences than
that are not established. Steps of PGD are 2.5 eps / steps from a random start inside the ball;
every library gets the model unfrozen, as a user has it, and defaults otherwise. `stop=success`
leaves a sample at the first image that fools the model, `stop=never` runs all steps.
"""


def write(folder: Path, lines: Sequence[Line], facts: Mapping[str, str]) -> None:
    """Write peers.csv and peers.md into `folder`, which is made where it is missing."""
    store(folder, "peers", [asdict(line) for line in lines], markdown(lines, facts))


def store(folder: Path, name: str, rows: Sequence[Mapping[str, object]], page: str) -> None:
    """Write NAME.csv and NAME.md into `folder`; at least one row, all with the same keys."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomic(folder / f"{name}.csv", buffer.getvalue().encode())
    write_atomic(folder / f"{name}.md", page.encode())


def bullets(facts: Mapping[str, str]) -> str:
    """Return what the figures depend on as a list in Markdown."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items()) + "\n"


def out_option(*names: str) -> Callable[[Command], Command]:
    """Return the option `--out` of a benchmark that writes NAME.csv and NAME.md for each name."""
    files = [f"{name}.{suffix}" for name in names for suffix in ("csv", "md")]
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path("results/benchmarks"),
        show_default=True,
        help=f"Folder for {', '.join(files[:-1])} and {files[-1]}.",
    )


def markdown(lines: Sequence[Line], facts: Mapping[str, str]) -> str:
    """Lay the lines out as one table per victim and task, the facts of the machine above them."""
    parts = ["# advbench beside other attack libraries\n", METHOD]
    parts.append(bullets(facts))
    for victim, measured in groupby(lines, key=lambda line: line.victim):
        parts.append(f"## {victim}\n")
        for _, group in groupby(measured, key=lambda line: (line.attack, line.norm)):
            parts.append(_section(list(group)))
    return "\n".join(parts)


def _section(lines: Sequence[Line]) -> str:
    done = [line for line in lines if line.status == "ok"]
    missed = "\n".join(f"Not measured: {x.library} ({x.status})." for x in lines if x not in done)
    if not done:
        return missed + "\n"
    one = done[0]
    rows = [
        f"**{one.attack}, {one.norm}, eps {one.eps:.4g}**: n = {one.n}, "
        f"floor {one.floor_seconds:.3g} s, noise {one.noise:.2f}\n",
        "| library | forwards / backwards per sample | CPU time over the floor | robust accuracy |",
        "|---|---|---|---|",
        *map(_row, done),
    ]
    return "\n".join(rows) + "\n" + (f"\n{missed}\n" if missed else "")


def _row(line: Line) -> str:
    left = f", {line.outside} outside the ball" if line.outside else ""
    return (
        f"| {line.library} | {line.forwards:.2f} / {line.backwards:.2f} "
        f"| {line.ratio:.2f} ({line.ratio_low:.2f} to {line.ratio_high:.2f}) "
        f"| {line.robust_accuracy:.3f}{left} |"
    )
