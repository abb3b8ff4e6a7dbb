"""The table for people and programs, and what its flags mean for whoever reads it."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from advbench.bench.table import to_csv
from advbench.bench.verdicts import Row

_SHOWN = {
    "model": "model",
    "dataset": "dataset",
    "attack": "attack",
    "perturbation": "set",
    "eps": "eps",
    "seed": "seed",
    "n": "n",
    "clean_accuracy": "clean",
    "robust_accuracy": "robust",
    "interval": "95 % interval",
    "success_rate": "success",
    "median_size": "size",
    "forwards": "forwards",
    "backwards": "backwards",
    "seconds": "seconds",
    "status": "status",
    "flags": "flags",
}
_LEFT = ("model", "dataset", "attack", "perturbation", "status", "flags")
_ADVICE = {
    "zero_gradient": (
        "zero gradient on {share} of the attacked samples. The attack was blind there: this is not "
        "robustness. Believe attacks that need no gradient (random_search, grid) instead."
    ),
    "non_finite": (
        "a loss, logit or gradient was not finite on {share} of the attacked samples. Their result "
        "may be too good: look for overflow in the model."
    ),
    "out_of_budget": (
        "the budget ended the search on {share} of the attacked samples. With a larger budget the "
        "robust accuracy may be lower."
    ),
    "probabilities": (
        "the model returns probabilities on {share} of the attacked samples. Return the logits: "
        "losses saturate on probabilities and the attack is weaker."
    ),
    "masked_gradient": (
        "searches from larger balls got much further than those within eps on {share} of the "
        "attacked samples: gradients mislead there. Believe robust, which goes on from there; "
        "advbench diagnose says more."
    ),
    "hidden_gradient": (
        "made on a model that has layers that hide gradients, which is not robustness: "
        "add adaptive = true to an attack."
    ),
    "black_box_stronger": (
        "attacks without gradients broke {share} of the correct samples that those with gradients "
        "did not. Gradients mislead here, or the attacks had not finished: advbench diagnose."
    ),
    "transfer_stronger": (
        "attacks made on another model broke {share} of the correct samples that those made on the "
        "model itself did not. Gradients mislead here, or the attacks had not finished."
    ),
    "not_monotone": (
        "{share} of the correct samples fell at a smaller eps and not at this one. The attacks "
        "have not finished: take more steps or restarts."
    ),
    "lost_in_8bit": (
        "{share} of the successes are none after rounding to 8 bits, as an image file has them: "
        "see robust_8bit."
    ),
    "one_draw": (
        "made with eot = 1 on a model that answers at random: each step followed a single draw. "
        "Leave eot out, or average over 10 draws or more."
    ),
}
_LEAST = {"masked_gradient": 0.1}
"""Shares below which a flag is not worth a sentence: honest models have some."""


def render(table: Sequence[Row], style: str) -> str:
    """Return the table as `table` (aligned text), `csv`, `md` or `json`."""
    if style == "csv":
        return to_csv(table)
    if style == "json":
        document = {"schema_version": 1, "rows": list(table)}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"
    cells = [list(_SHOWN.values()), *([_shown(row, name) for name in _SHOWN] for row in table)]
    if style == "md":
        lines = [f"| {' | '.join(map(escaped, line))} |" for line in cells]
        rule = "|".join(" --- " if name in _LEFT else " ---: " for name in _SHOWN)
        return "\n".join([lines[0], f"|{rule}|", *lines[1:]]) + "\n"
    return aligned(cells, [name in _LEFT for name in _SHOWN])


def aligned(cells: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """Return lines of cells as text in columns; `left` says which columns begin at the left."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = [
        "  ".join(
            value.ljust(width) if first else value.rjust(width)
            for value, width, first in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(text) + "\n"


def advice(table: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for each model, flag and share, naming the attacks that met it."""
    attacks: dict[tuple[str, str], dict[str, float]] = {}
    for row in table:
        for part in (row["flags"] or "").split(";"):
            name, _, share = part.partition(":")
            if name in _ADVICE:
                met = attacks.setdefault((row["model"], name), {})
                met[row["attack"]] = max(met.get(row["attack"], 0.0), float(share))
    for (model, name), met in attacks.items():
        least, most = min(met.values()), max(met.values())
        if most < _LEAST.get(name, 0.0):
            continue
        share = f"{'' if least == most else 'up to '}{100 * most:.3g} %"
        yield f"{model}: {', '.join(met)}: {_ADVICE[name].format(share=share)}"
    for row in table:
        if row["status"] in ("invalid", "nan", "error"):
            what = row["detail"] or f"{row[row['status']]} of {row['n']} rows"
            eps = f"{row['eps']:.4g}"
            yield f"{row['model']}: {row['attack']} at {eps}: {row['status']} ({what}); no result."


def _shown(row: Row, name: str) -> str:
    if name == "interval":
        known = row["robust_low"] is not None
        return f"{row['robust_low']:.3f} - {row['robust_high']:.3f}" if known else ""
    return _text(row[name], 3 if name.endswith(("accuracy", "rate")) else None)


def _text(value: Any, digits: int | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return " ".join(str(value).split())
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def escaped(text: str) -> str:
    """Return a text on one line that Markdown shows as it is: no column, tag, link or code."""
    line = " ".join(text.split())
    return re.sub(r"([\\|`\[])", r"\\\1", line).replace("<", "&lt;")
