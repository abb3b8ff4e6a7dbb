"""A diagnosis for people and for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from advbench.trust.diagnosis.finding import Finding
from advbench.trust.diagnosis.panel import Diagnosis

_COLUMNS = ("id", "check", "measured", "threshold", "verdict")
_LIMITS = (
    "The panel is necessary, not sufficient: a defence made to pass it would pass. What attacks "
    "leave is an upper bound of the robust accuracy."
)


def text(diagnosis: Diagnosis, model: str, data: str) -> str:
    """Return the table of checks, then a sentence and the remedy for each that fired."""
    head = [
        f"{model} on {diagnosis.n} samples of {data}, "
        f"{type(diagnosis.perturbation).__name__.lower()}, eps {diagnosis.eps:.4g}, "
        f"seed {diagnosis.seed}",
        f"right {diagnosis.clean_accuracy:.3f}, left by the search by gradients "
        f"{diagnosis.white_box_accuracy:.3f}, left by all that was tried "
        f"{diagnosis.lowest_accuracy:.3f}",
    ]
    parts = ["\n".join(head), _table(diagnosis), *_explained(diagnosis), _verdict(diagnosis)]
    return "\n\n".join([*parts, _LIMITS]) + "\n"


def document(diagnosis: Diagnosis, model: str, data: str) -> str:
    """Return all of it as JSON; a check that was not asked has no numbers."""
    content = {
        "schema_version": 1,
        "model": model,
        "data": data,
        "samples": diagnosis.n,
        "perturbation": type(diagnosis.perturbation).__name__.lower(),
        "eps": diagnosis.eps,
        "seed": diagnosis.seed,
        "clean_accuracy": diagnosis.clean_accuracy,
        "white_box_accuracy": diagnosis.white_box_accuracy,
        "lowest_accuracy": diagnosis.lowest_accuracy,
        "masked": diagnosis.masked,
        "stopped": diagnosis.stopped,
        "flags": list(diagnosis.flags),
        "findings": [{**asdict(one), "verdict": one.verdict} for one in diagnosis.findings],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _table(diagnosis: Diagnosis) -> str:
    rows = [_COLUMNS, *(_row(one) for one in diagnosis.findings)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _row(one: Finding) -> tuple[str, ...]:
    measured = f"{next(iter(one.measured.values())):.3g}" if one.asked else ""
    return one.id, one.name, measured, one.threshold, one.verdict


def _explained(diagnosis: Diagnosis) -> Iterator[str]:
    for one in diagnosis.findings:
        if one.fired:
            yield f"{one.id} {one.name} ({one.verdict}): {one.sentence}\n  {one.remedy}"


def _verdict(diagnosis: Diagnosis) -> str:
    if diagnosis.stopped:
        return "STOP: what attacks by gradients say of this model cannot be trusted."
    if diagnosis.masked:
        return "CAREFUL: gradients mislead some attacks here; follow the remedies before you quote."
    return "Nothing says that gradients mislead."
