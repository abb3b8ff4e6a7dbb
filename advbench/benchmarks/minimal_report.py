"""The files of the comparison of minimum-norm attacks: minimal and optimality, .csv and .md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from advbench.benchmarks.report import bullets, store


@dataclass(frozen=True)
class MinimalLine:
    """One library on one task; a `status` other than ok is why nothing was measured.

    An attack that looks for the smallest change has no eps and no robust accuracy, one inside a
    ball no sizes.
    """

    victim: str
    attack: str
    norm: str
    library: str
    version: str
    status: str
    passes: int | None = None  # what the steps were chosen for
    eps: float | None = None
    n: int | None = None
    median_size: float | None = None  # of all n, infinite for a failure
    unfooled: float | None = None  # share of n
    robust_accuracy: float | None = None  # share of n
    outside: int | None = None  # rows returned outside the ball or the box
    forwards: float | None = None  # rows through the model per sample
    backwards: float | None = None


@dataclass(frozen=True)
class OptimalityLine:
    """One attack on one victim, or over all of them; `status` as in MinimalLine."""

    victim: str
    norm: str
    attack: str
    library: str
    version: str
    status: str
    passes: int
    n: int | None = None
    optimality: float | None = None
    nearest: float | None = None  # share of n on which no attack found a smaller change
    median_size: float | None = None
    unfooled: float | None = None
    forwards: float | None = None
    backwards: float | None = None


OVERALL = "all"
"""Victim of the lines that average over the victims."""

MINIMAL_METHOD = """\
Attacks that look for the smallest change, beside the same attacks of other libraries, with as many
steps each. All get the same samples, every one of which the model has right. Passes per sample are
counted by hooks on the model and are exact. What a library returns is measured afresh: its
prediction by the bare model and the size of the change. The median size is over all n samples, a
failure counting as infinitely far: an attack that gives up on hard samples does not look better for
it. `unfooled` is the share of failures. Numbers of an attack without passes for it say nothing.

Settings are the defaults of each library but for the steps, with these exceptions: adv-lib's DDN
does not round to 8 bits (`levels=None`), its ALMA has the first step that its authors use
(`init_lr_distance` 0.1 in L2, 0.5 in L1); C&W searches nine constants everywhere but in
torchattacks, which has one (`c=1`). APGD is run on cross-entropy, inside a ball, on the same
samples.
"""

OPTIMALITY_METHOD = """\
How near each attack comes to the best of all attacks of the table, ours and theirs, with at most so
many passes a sample (forwards and backwards together). On every sample the best distance d* is the
smallest that any attack found. With A the area under an attack's curve of robust accuracy against
eps, up to the largest d*, and A* that under the best distances, its optimality is
1 - (A - A*) / (the largest d* - A*): 1 if it found the best distance everywhere, 0 if it found
nothing (Cinà et al., "AttackBench", 2024, arXiv:2404.19460; areas are exact here, of step curves,
and all samples are such as the model has right). It depends on the attacks it is compared with.
`nearest` is the share of samples on which no other attack came nearer than by 0.1 %. The first
table of a norm has means over the victims.

Steps are chosen for the budget from what each attack spends a step; the passes beside it are
counted by hooks. An attack that ends by itself, as DeepFool does, spends less. Settings are as in
minimal.md.
"""


def write_minimal(folder: Path, lines: Sequence[MinimalLine], facts: Mapping[str, str]) -> None:
    """Write minimal.csv and minimal.md into `folder`, which is made where it is missing."""
    parts = ["# Minimum-norm attacks beside other libraries\n", MINIMAL_METHOD, bullets(facts)]
    for victim, own in groupby(lines, key=lambda line: line.victim):
        parts.append(f"## {victim}\n")
        for _, group in groupby(own, key=lambda line: (line.attack, line.norm, line.passes)):
            parts.append(_task(list(group)))
    store(folder, "minimal", [asdict(line) for line in lines], "\n".join(parts))


def write_optimality(
    folder: Path, lines: Sequence[OptimalityLine], facts: Mapping[str, str]
) -> None:
    """Write optimality.csv and optimality.md into `folder`, which is made where it is missing."""
    parts = ["# Optimality of minimum-norm attacks\n", OPTIMALITY_METHOD, bullets(facts)]
    for norm in dict.fromkeys(line.norm for line in lines):
        parts.append(f"## {norm}\n")
        own = [line for line in lines if line.norm == norm]
        victims = list(dict.fromkeys(line.victim for line in own))
        victims.sort(key=lambda victim: victim != OVERALL)
        parts += [_ranking([line for line in own if line.victim == name]) for name in victims]
    store(folder, "optimality", [asdict(line) for line in lines], "\n".join(parts))


def _missed(lines: Sequence[MinimalLine] | Sequence[OptimalityLine]) -> str:
    reasons = dict.fromkeys(
        f"Not measured: {line.attack} of {line.library} ({line.status})."
        for line in lines
        if line.status != "ok"
    )
    return "".join(f"{reason}\n" for reason in reasons)


def _task(lines: Sequence[MinimalLine]) -> str:
    done = [line for line in lines if line.status == "ok"]
    if not done:
        return _missed(lines)
    one = done[0]
    inside = one.eps is not None
    result = "robust accuracy" if inside else "median size | unfooled"
    title = (
        f"**{one.attack}, {one.norm}**"
        if not inside
        else (f"**{one.attack}, {one.norm}, eps {one.eps:.4g}**")
    )
    spent = "" if one.passes is None else f", steps for {one.passes} passes"
    rows = [
        f"{title}: n = {one.n}{spent}\n",
        f"| library | {result} | forwards / backwards per sample |",
        f"|---|---|{'' if inside else '---|'}---|",
        *map(_row, done),
    ]
    missed = _missed(lines)
    return "\n".join(rows) + "\n" + (f"\n{missed}" if missed else "")


def _row(line: MinimalLine) -> str:
    left = f", {line.outside} outside" if line.outside else ""
    if line.eps is None:
        result = f"{size(line.median_size)} | {line.unfooled:.3f}{left}"
    else:
        result = f"{line.robust_accuracy:.3f}{left}"
    return f"| {line.library} | {result} | {line.forwards:.1f} / {line.backwards:.1f} |"


def _ranking(lines: Sequence[OptimalityLine]) -> str:
    done = [line for line in lines if line.status == "ok"]
    missed = _missed(lines)
    if not done:
        return missed
    done.sort(key=lambda line: -(line.optimality or 0))
    one = done[0]
    samples = f"n = {one.n}, at most {one.passes} passes"
    title = "means over the victims" if one.victim == OVERALL else one.victim
    rows = [
        f"**{title}**: {samples}\n",
        "| attack | library | optimality | nearest | median size | unfooled "
        "| forwards / backwards |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {line.attack} | {line.library} | {line.optimality:.3f} | {line.nearest:.2f} "
            f"| {size(line.median_size)} | {line.unfooled:.3f} "
            f"| {line.forwards:.0f} / {line.backwards:.0f} |"
            for line in done
        ),
    ]
    return "\n".join(rows) + "\n" + (f"\n{missed}" if missed else "")


def size(value: float | None) -> str:
    """Return a size to four digits; infinity, and what has no size, in a word and a dash."""
    if value is None:
        return "-"
    return "infinite" if math.isinf(value) else f"{value:.4g}"
