"""Whether a robust accuracy is at least what is asked: yes, no, or too few samples to tell."""

import bisect
from dataclasses import dataclass, fields, replace
from typing import Any

from scipy.stats import beta
from torch import Tensor

from advbench import registry
from advbench.attacks.attack import Attack
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.victim import Model
from advbench.bench.evaluate import evaluate
from advbench.bench.plan import short
from advbench.data import Samples
from advbench.gate.gate import flagged
from advbench.gate.verdict import Verdict
from advbench.trust.statistics import clopper_pearson

_MOST = 10**9
"""More samples than anybody has."""


@dataclass(frozen=True)
class Bound:
    """What is asked of a model.

    Fields:
        attack: an attack, or the registered name of one for its defaults.
        eps: the scale of the perturbation set, in its unit.
        at_least: the robust accuracy that is asked for.
        confidence: how often, at least, a model that is less robust does not pass.
        perturbation: the set, or the registered name of one; None for the attack's own.
        seed: of all draws.
        batch_size: most samples in flight.

    Raises TypeError and ValueError for what is no such thing.
    """

    attack: Attack | str = "robust"
    eps: float = 8 / 255
    at_least: float = 0.4
    confidence: float = 0.95
    perturbation: Perturbation | str | None = None
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name in ("eps", "at_least", "confidence"):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise TypeError(f"{name} must be a number; got {given!r}")
        if not 0 < self.at_least < 1:
            raise ValueError(f"at_least must lie between 0 and 1; got {self.at_least:g}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1; got {self.confidence:g}")

    @property
    def search(self) -> Attack:
        """The attack in its perturbation set."""
        given, changes = self.attack, self.perturbation
        attack = registry.get("attacks", given)() if isinstance(given, str) else given
        if isinstance(changes, str):
            changes = registry.get("perturbations", changes)()
        if changes is None:
            return attack
        if not any(field.name == "perturbation" for field in fields(attack)):
            raise ValueError(
                f"{short(attack)} has no field 'perturbation': give it a set where it is made"
            )
        change: dict[str, Any] = {"perturbation": changes}
        return replace(attack, **change)


@dataclass(frozen=True)
class Finding:
    """What a model has come to: a verdict, and `text` that says why.

    `low` and `high` are exact limits of the robust accuracy, each at the confidence of the bound.
    All numbers are None where the attack has failed.
    """

    verdict: Verdict
    text: str
    robust_accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None


def examine(model: Model, data: Samples | tuple[Tensor, Tensor], bound: Bound) -> Finding:
    """Attack a model and hold what is left to a bound.

    It passes where the lower limit of the robust accuracy is not below the bound, and is
    inconclusive where the accuracy alone is above it. A search that failed, or that does not work
    on this model (`gate.STOPS`), is invalid, whatever is left.

    Raises what `advbench.evaluate` raises; its arguments are those.
    """
    attack = bound.search
    results = evaluate(model, data, [attack], bound.eps, bound.seed, bound.batch_size)
    rows = [{str(name): row[name] for name in row} for row in results.table.to_dict("records")]
    own, worst = rows
    asked = f"under {short(attack)} at eps {bound.eps:.4g}"
    if worst["status"] != "ok":
        why = own["detail"] or "logits that are not finite"
        lines = [f"invalid: no result {asked}: {own['status']}: {why}", *results.errors]
        return Finding(Verdict.INVALID, "\n".join(lines))
    n, share = int(worst["n"]), float(worst["robust_accuracy"])
    low, high = clopper_pearson(_count(share, n), n, 2 * bound.confidence - 1)
    alarms = list(flagged(rows))
    verdict, advice = Verdict.FAIL, ""
    if alarms:
        verdict = Verdict.INVALID
        advice = f"; the search does not work on this model: {'; '.join(alarms)}"
    elif low >= bound.at_least:
        verdict = Verdict.PASS
    elif share > bound.at_least:
        verdict = Verdict.INCONCLUSIVE
        advice = f"; take about {enough(share, bound)} samples"
    text = (
        f"{verdict}: robust accuracy {share:.4f} ({low:.4f} to {high:.4f}, each at confidence "
        f"{bound.confidence:g}) of {n} samples {asked}; asked for at least {bound.at_least:g}"
    )
    return Finding(verdict, text + advice, share, low, high, n)


def enough(share: float, bound: Bound) -> int:
    """Return how many samples would pass, rounded up to two digits, if `share` of them stay right.

    That is the least n whose limit is not below the bound, at most a billion.
    """

    def passes(n: int) -> bool:
        limit = beta.ppf(1 - bound.confidence, share * n, n - share * n + 1)
        return bool(limit >= bound.at_least)

    n = bisect.bisect_left(range(1, _MOST), True, key=passes) + 1
    step = int(10 ** max(len(str(n)) - 2, 0))
    return -(-n // step) * step


def _count(share: float, n: int) -> int:
    """How many samples a share of six digits is; for shares of draws, rounded down."""
    return int(share * n + n * 1e-6)
