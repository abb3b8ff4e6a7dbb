"""From two sides of the same samples to a verdict, by numbers that were agreed on before.

The question is whether the second side is worse by `margin` or more. It passes where such a drop is
ruled out, and fails where it is not and some drop is significant; otherwise there are too few
samples to tell. A drop that is significant and provably smaller than the margin passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from advbench.config import GateSection
from advbench.trust.statistics import detectable_drop, holm, mcnemar, shares_differ, tango_upper


class Verdict(StrEnum):
    """What a gate can say, from good to bad."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
    INVALID = "invalid"  # the numbers themselves cannot be trusted


@dataclass(frozen=True, eq=False)
class Pair:
    """One accuracy of two sides: the share of right answers to each sample, both (N,).

    Shares are 0 or 1 for models that do not answer at random.
    """

    name: str
    before: NDArray[np.float64]
    now: NDArray[np.float64]

    @property
    def random(self) -> bool:
        """Whether any side answers at random."""
        both = np.concatenate([self.before, self.now])
        return bool(((both != 0) & (both != 1)).any())


@dataclass(frozen=True)
class Comparison:
    """One accuracy of two sides, compared sample by sample.

    `drop` is before - now, `bound` what it may be at most at confidence 1 - alpha; `lost` and `won`
    count the samples that are right on one side only; `p_value` is adjusted for how many
    comparisons there are; `detectable` is the drop that would be found in four cases of five.
    """

    name: str
    n: int
    before: float
    now: float
    drop: float
    bound: float
    lost: int
    won: int
    p_value: float
    detectable: float
    verdict: Verdict


def compare(pairs: Sequence[Pair], terms: GateSection) -> list[Comparison]:
    """Compare each pair; p-values are adjusted for their number by Holm's method."""
    measured = [_measured(pair, terms.alpha) for pair in pairs]
    adjusted = holm([p for _, p in measured])
    return [
        _comparison(pair, bound, p, terms)
        for pair, (bound, _), p in zip(pairs, measured, adjusted, strict=True)
    ]


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst verdict of all."""
    return max(verdicts, key=list(Verdict).index)


def _measured(pair: Pair, alpha: float) -> tuple[float, float]:
    """Upper bound of the drop, and p-value of "worse"."""
    if pair.random:
        return shares_differ(pair.before, pair.now, alpha)
    lost, won = _discordant(pair)
    return tango_upper(lost, won, len(pair.now), alpha), mcnemar(lost, won)


def _discordant(pair: Pair) -> tuple[int, int]:
    return int((pair.before > pair.now).sum()), int((pair.before < pair.now).sum())


def _comparison(pair: Pair, bound: float, p_value: float, terms: GateSection) -> Comparison:
    n, (lost, won) = len(pair.now), _discordant(pair)
    before, now = float(pair.before.mean()), float(pair.now.mean())
    verdict = Verdict.INCONCLUSIVE
    if bound < terms.margin:
        verdict = Verdict.PASS
    elif p_value < terms.alpha and now < before:
        verdict = Verdict.FAIL
    return Comparison(
        name=pair.name,
        n=n,
        before=before,
        now=now,
        drop=before - now,
        bound=bound,
        lost=lost,
        won=won,
        p_value=p_value,
        detectable=detectable_drop((lost + won) / n, n, terms.alpha),
        verdict=verdict,
    )
