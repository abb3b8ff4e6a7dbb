"""Intervals for one accuracy, and tests for two on the same samples.

What is paired: sample by sample, `lost` of them are right for the first model and wrong for the
second, `won` of them the other way round; the rest are alike, whatever they are.

scipy takes a second to import, so it is imported where it is needed: every run has intervals.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_CONFIDENCE = 0.95
_quantile = NormalDist().inv_cdf


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share.

    Of a model that answers at random, `successes` is a sum of shares. The interval is then too wide
    rather than too narrow, since a mean of shares varies less from sample to sample than one of
    verdicts; what all samples have in common in one draw, such as sampled weights, it leaves out.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22 (1927), pp. 209-212.
    """
    z = _quantile((1 + _CONFIDENCE) / 2)
    p, z2 = successes / n, z * z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else middle - half  # exactly, where rounding would miss it
    return low, 1.0 if successes == n else middle + half


def clopper_pearson(successes: int, n: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a share, which never covers less often than it says.

    Source: C. Clopper, E. S. Pearson, The use of confidence or fiducial limits illustrated in the
    case of the binomial, Biometrika 26 (1934), pp. 404-413.
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def mcnemar(lost: int, won: int) -> float:
    """Return the exact one-sided p-value of "the second model is worse".

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions
    or percentages, Psychometrika 12 (1947), pp. 153-157, in its binomial form.
    """
    from scipy.stats import binomtest

    if lost + won == 0:
        return 1.0
    return float(binomtest(lost, lost + won, 0.5, alternative="greater").pvalue)


def tango_upper(lost: int, won: int, n: int, alpha: float = 0.05) -> float:
    """Return the one-sided upper bound of the drop, (lost - won) / n, at confidence 1 - alpha.

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design, Statistics in Medicine 17 (1998), pp. 891-908, equation 7.
    """
    from scipy.optimize import brentq

    z = _quantile(1 - alpha)

    def score(drop: float) -> float:
        a = 2 * n
        b = -lost - won + (2 * n - lost + won) * drop
        c = -won * drop * (1 - drop)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * q + drop * (1 - drop))
        return (lost - won - n * drop) / math.sqrt(variance) + z

    observed = (lost - won) / n
    if observed >= 1:
        return 1.0
    # Just above the drop that was seen the score is z; it falls from there.
    start = observed + 1e-12
    return float(brentq(score, start, 1 - 1e-12, xtol=1e-12))


def shares_differ(
    first: NDArray[np.float64], second: NDArray[np.float64], alpha: float, seed: int = 0
) -> tuple[float, float]:
    """Compare mean shares of right answers, for models that answer at random; both (N,).

    Returns the one-sided upper bound of the drop, first - second, by the percentile bootstrap over
    samples, and the p-value of "the second is worse" by exchanging the two at random per sample.
    """
    from scipy.stats import bootstrap, permutation_test

    if np.array_equal(first, second):
        return tango_upper(0, 0, len(first), alpha), 1.0

    def drop(a: NDArray[np.float64], b: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        difference: NDArray[np.float64] = (a - b).mean(axis=axis)
        return difference

    pair = (first, second)
    found = bootstrap(
        pair,
        drop,
        paired=True,
        vectorized=True,
        batch=100,
        confidence_level=1 - alpha,
        alternative="less",
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    test = permutation_test(
        pair,
        drop,
        permutation_type="samples",
        vectorized=True,
        batch=100,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.high), float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
    of Statistics 6 (1979), pp. 65-70.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(largest, 1.0)
    return adjusted


def detectable_drop(discordance: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true drop that McNemar's test finds with so much power.

    `discordance` is the share of samples on which the two differ; the drop is at least that of one
    way only. Source: R. J. Connor, Sample size for testing differences in proportions for the
    paired-sample design, Biometrics 43 (1987), pp. 207-211.
    """
    from scipy.optimize import brentq

    z_alpha, z_beta = _quantile(1 - alpha), _quantile(power)

    def missing(drop: float) -> float:
        share = max(discordance, drop)
        spread = z_alpha * math.sqrt(share) + z_beta * math.sqrt(share - drop * drop)
        return spread * spread - n * drop * drop

    if missing(1.0) > 0:
        return 1.0
    return float(brentq(missing, 1e-9, 1.0))
