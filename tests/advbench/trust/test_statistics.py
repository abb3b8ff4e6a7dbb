"""Statistics, each against its definition or a published value."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, norm

from advbench.trust.statistics import (
    clopper_pearson,
    detectable_drop,
    holm,
    mcnemar,
    shares_differ,
    tango_upper,
    wilson,
)

_COUNTS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(_COUNTS)
def test_the_wilson_interval_solves_its_equation(counts):
    """Both ends p satisfy |k/n - p| = z sqrt(p (1 - p) / n)."""
    k, n = counts
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            deviation = norm.ppf(0.975) * (end * (1 - end) / n) ** 0.5
            assert abs(k / n - end) == pytest.approx(deviation, abs=1e-9)


@given(_COUNTS)
def test_the_exact_interval_leaves_a_fortieth_at_each_end(counts):
    k, n = counts
    low, high = clopper_pearson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    if k:
        assert binom.sf(k - 1, n, low) == pytest.approx(0.025, rel=1e-6)
    if k < n:
        assert binom.cdf(k, n, high) == pytest.approx(0.025, rel=1e-6)
    exact = binomtest(k, n).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(0, 0, 1.0), (5, 0, 2**-5), (4, 0, 2**-4), (7, 0, 2**-7), (1, 1, 0.75)]
)
def test_mcnemar_is_a_coin_for_each_sample_that_changed(lost, won, p):
    assert mcnemar(lost, won) == pytest.approx(p)


def _score(drop, lost, won, n):
    """The score of a drop with the nuisance parameter found by maximising the likelihood."""

    def surprise(won_share):
        alike = 1 - drop - 2 * won_share
        parts = [(lost, won_share + drop), (won, won_share), (n - lost - won, alike)]
        return -sum(k * math.log(max(q, 1e-300)) for k, q in parts if k)

    low, high = max(0.0, -drop), (1 - drop) / 2
    q = minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (lost - won - n * drop) / math.sqrt(n * (2 * q + drop - drop * drop))


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(10, 3, 500), (3, 10, 500), (12, 12, 400), (40, 20, 2000), (1, 4, 60)]
)
def test_the_score_at_tangos_bound_is_z(lost, won, n):
    bound = tango_upper(lost, won, n)
    assert bound > (lost - won) / n
    assert _score(bound, lost, won, n) == pytest.approx(-norm.ppf(0.95), abs=1e-4)


def test_tangos_bound_without_any_change_is_as_tabulated():
    found = [round(100 * tango_upper(0, 0, n), 3) for n in (500, 1000, 2000)]
    assert found == pytest.approx([0.54, 0.27, 0.135], abs=0.003)


def test_tangos_bound_at_the_ends():
    assert tango_upper(5, 0, 5) == 1.0
    assert -1 < tango_upper(0, 5, 5) < 0
    assert tango_upper(0, 30, 100) < 0


@given(st.integers(0, 40), st.integers(0, 40), st.integers(100, 2000))
def test_tangos_bound_rises_with_what_is_lost(lost, won, n):
    assert tango_upper(lost + 1, won, n) > tango_upper(lost, won, n)
    assert tango_upper(lost, won, n, alpha=0.01) > tango_upper(lost, won, n, alpha=0.05)


@pytest.mark.slow
def test_a_drop_of_the_margin_passes_as_often_as_alpha_says():
    """Simulated tables with a true drop of one point: the bound lies below it in one of twenty."""
    rng, n = np.random.default_rng(0), 500
    lost, won, _ = rng.multinomial(n, [0.015, 0.005, 0.98], size=4000).T
    bounds = {pair: tango_upper(*map(int, pair), n) for pair in set(zip(lost, won, strict=True))}
    wrong = np.mean([bounds[pair] < 0.01 for pair in zip(lost, won, strict=True)])
    assert 0.03 < wrong < 0.06


def test_holm_as_in_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("n", "discordance", "points"),
    [(500, 0.05, 2.48), (1000, 0.02, 1.11), (2000, 0.05, 1.24), (10000, 0.1, 0.79)],
)
def test_detectable_drops_are_as_tabulated(n, discordance, points):
    assert 100 * detectable_drop(discordance, n) == pytest.approx(points, abs=0.005)


def test_a_detectable_drop_is_detected_in_four_cases_of_five():
    rng, n = np.random.default_rng(1), 2000
    drop = detectable_drop(0.05, n)
    share = [(0.05 + drop) / 2, (0.05 - drop) / 2]
    lost, won, _ = rng.multinomial(n, [*share, 0.95], size=2000).T
    found = np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b in zip(lost, won, strict=True)])
    assert 0.74 < found < 0.84


def test_nothing_is_detected_where_all_samples_together_are_too_few():
    assert detectable_drop(0.5, 1) == 1.0


def test_shares_of_a_random_model():
    rng = np.random.default_rng(2)
    first = rng.integers(0, 21, 300) / 20
    worse = np.clip(first - 0.1 * (rng.random(300) < 0.5), 0, 1)
    bound, p = shares_differ(first, worse, 0.05)
    drop = float((first - worse).mean())
    assert drop < bound < drop + 0.02
    assert p < 0.001
    back, other = shares_differ(worse, first, 0.05)
    assert back < 0
    assert other > 0.999
    assert shares_differ(first, worse, 0.05) == (bound, p)
    assert shares_differ(first, first, 0.05) == (tango_upper(0, 0, 300), 1.0)
