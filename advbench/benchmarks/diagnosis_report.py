"""The page of the study of the diagnosis, from the lines of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from advbench.benchmarks.report import bullets
from advbench.trust.statistics import clopper_pearson

Line = Mapping[str, str]

GROUPS = ("masked", "honest", "weak control")
_WARNINGS = {
    "randomised": "randomised defence",
    "probabilities": "softmax output",
    "zero_gradient": "zero gradient",
    "square": "Square improves",
    "differentiates": "optimises at test time",
    "failed": "ends with an error",
}

_METHOD = """\
Small nets whose gradients are known to mislead, and honest ones, diagnosed as `advbench diagnose`
does by default: Linf, at the eps at which a short search leaves about half of the images. *Flagged*
means `Diagnosis.masked`: a check says that gradients mislead, or that the model answers at random
or changes. The panel is not told that there is a stand-in for any masking layer. The hard vote is a
weak control, whose gradient is that of the members' probabilities: it is reported apart.

Thresholds were chosen on nets of the digits, seeds 0 to 2, and frozen; those of MNIST come from
other seeds. Beside ours are the five warnings that AutoAttack's program raises, as its authors
describe them, on the same nets and images at the same eps (APGD on the cross-entropy, APGD on
targeted DLR, Square with 5,000 queries; FAB is left out). They cost more than the diagnosis; the
tables say of how many nets they were looked for. *White box* is the share of all images that PGD on
the cross-entropy and on the margin leaves, *lowest* what everything tried leaves.

The panel is necessary, not sufficient: a defence made to pass it would pass.
"""


def page(lines: Sequence[Line], machine: Mapping[str, str]) -> str:
    """Return the study as Markdown; `lines` are those of the table, as text."""
    parts = ["# What the diagnosis is worth\n", _METHOD, bullets(machine), summary(lines)]
    for name, title in (("mnist", "Held out: MNIST"), ("digits", "Frozen on: digits")):
        side = [line for line in lines if line["data"] == name]
        if side:
            parts += [f"## {title}\n", _made_of(side), _kinds(side), _checks(side)]
    return "\n".join(parts)


def _made_of(lines: Sequence[Line]) -> str:
    """Say how many nets, seeds and images there are, as the lines have them."""
    kinds = len({line["kind"] for line in lines})
    seeds = sorted({int(line["seed"]) for line in lines})
    images = sorted({int(line["n"]) for line in lines})
    told = [", ".join(map(str, values)) for values in (seeds, images)]
    return f"{len(lines)} nets of {kinds} kinds, training seeds {told[0]}, {told[1]} images each.\n"


def counts(lines: Sequence[Line], group: str, column: str) -> tuple[int, int]:
    """Return how many nets of a group have a 1 in a column, and how many have anything there."""
    rows = [line for line in lines if line["group"] == group and line[column]]
    return sum(line[column] == "1" for line in rows), len(rows)


def summary(lines: Sequence[Line]) -> str:
    """Return the headline: how many nets of each group are flagged, with exact 95 % intervals."""
    rows = [
        "| nets | data | flagged by the diagnosis | 95 % interval | warned by AutoAttack |",
        "|---|---|---|---|---|",
    ]
    for name in ("mnist", "digits"):
        side = [line for line in lines if line["data"] == name]
        for group in GROUPS:
            flagged, n = counts(side, group, "flagged")
            if n:
                low, high = clopper_pearson(flagged, n)
                warned, asked = counts(side, group, "autoattack")
                rows.append(
                    f"| {group} | {name} | {flagged} of {n} | {low:.3f} to {high:.3f} "
                    f"| {warned} of {asked} |"
                )
    return "\n".join(rows) + "\n"


def _kinds(lines: Sequence[Line]) -> str:
    rows = [
        "| kind | eps | clean | white box | lowest | flagged | checks that fired (nets) "
        "| AutoAttack | its warnings (nets) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group in GROUPS:
        kinds = dict.fromkeys(line["kind"] for line in lines if line["group"] == group)
        rows += [_kind(kind, [line for line in lines if line["kind"] == kind]) for kind in kinds]
    return "\n".join(rows) + "\n"


def _kind(kind: str, nets: Sequence[Line]) -> str:
    def mean(column: str, digits: int = 2) -> str:
        return f"{sum(float(net[column]) for net in nets) / len(nets):.{digits}f}"

    fired = _tally(nets, lambda net: net["fired"].split())
    warned = _tally(
        nets,
        lambda net: [told for name, told in _WARNINGS.items() if net[f"autoattack_{name}"] == "1"],
    )
    flagged = sum(net["flagged"] == "1" for net in nets)
    any_, asked = counts(nets, nets[0]["group"], "autoattack")
    numbers = [mean(f"{name}_accuracy") for name in ("clean", "white_box", "lowest")]
    return (
        f"| {kind} | {mean('eps', 3)} | {' | '.join(numbers)} | {flagged} of {len(nets)} "
        f"| {fired} | {any_} of {asked} | {warned} |"
    )


def _tally(nets: Sequence[Line], names: Callable[[Line], list[str]]) -> str:
    met: dict[str, int] = {}
    for net in nets:
        for name in names(net):
            met[name] = met.get(name, 0) + 1
    return ", ".join(f"{name} ({count})" for name, count in met.items())


def _checks(lines: Sequence[Line]) -> str:
    ids = [name.removesuffix("_fired") for name in lines[0] if name.endswith("_fired")]
    rows = [
        "| check | fired on masked | honest | weak control | measured on honest nets |",
        "|---|---|---|---|---|",
    ]
    for check in ids:
        shares = [_share(lines, group, f"{check}_fired") for group in GROUPS]
        values = [float(x[check]) for x in lines if x["group"] == "honest" and x[check]]
        spread = f"{min(values):.3g} to {max(values):.3g}" if values else ""
        rows.append(f"| {check} | {' | '.join(shares)} | {spread} |")
    for name, told in _WARNINGS.items():
        shares = [_share(lines, group, f"autoattack_{name}") for group in GROUPS]
        rows.append(f"| AutoAttack: {told} | {' | '.join(shares)} | |")
    return "\n".join(rows) + "\n"


def _share(lines: Sequence[Line], group: str, column: str) -> str:
    found, n = counts(lines, group, column)
    return f"{found} of {n}" if n else ""
