import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, norm, t

from featx.evaluation import intervals
from featx.evaluation.intervals import (
    bootstrap_intervals,
    bound_mean,
    compute_wilson_interval,
    count_units,
    encode_groups,
    estimate_effective_items,
    fit_fraction,
    invert_gaps,
    resample,
    studentize,
    take_percentiles,
)
from featx.evaluation.metrics import make_log_loss


def test_the_same_resamples_are_drawn_however_many_at_a_time(monkeypatch):
    losses = np.random.default_rng(0).exponential(size=40_000)
    found = []
    for largest in (2**22, 1):  # blocks of 16 resamples, and of 13
        monkeypatch.setattr(intervals, "_LARGEST_BLOCK", largest)
        found.append(resample(make_log_loss(losses, None), len(losses), groups=None, seed=3, resamples=20))
    np.testing.assert_allclose(*found, rtol=1e-12)


@given(st.integers(1, 5000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_equals_scipy(counts):
    successes, trials = counts
    reference = binomtest(successes, trials).proportion_ci(method="wilson")
    low, high = compute_wilson_interval(successes, trials)
    assert low == pytest.approx(reference.low, abs=1e-12)
    assert high == pytest.approx(reference.high, abs=1e-12)


def test_wilson_accepts_arrays_and_zero_trials():
    low, high = compute_wilson_interval([0, 5, 10, 0], [10, 10, 10, 0])
    assert low.shape == high.shape == (4,)
    assert (low[0], high[2], low[3], high[3]) == (0, 1, 0, 1)
    assert low[1] + high[1] == pytest.approx(1)


def test_wilson_covers_the_truth_in_95_percent_of_the_samples():
    successes = np.random.default_rng(0).binomial(60, 0.9, size=20_000)
    low, high = compute_wilson_interval(successes, 60)
    assert np.mean((low <= 0.9) & (high >= 0.9)) == pytest.approx(0.95, abs=0.02)


def weigh_mean(values):
    return lambda weights: (values @ weights / weights.sum(axis=0))[:, np.newaxis]


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).normal(size=200)
    low, high = bootstrap_intervals(weigh_mean(values), 200, resamples=4000)
    reference = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=2).confidence_interval
    assert low[0] == pytest.approx(reference.low, abs=0.01)
    assert high[0] == pytest.approx(reference.high, abs=0.01)


def test_few_items_have_percentiles_farther_out():
    values = np.random.default_rng(3).normal(size=1000)
    # Hesterberg (2015): Phi(-sqrt(n / (n - 1)) t), 1.0 % for 8 items and 2.5 % for very many.
    level = norm.cdf(-np.sqrt(8 / 7) * t.ppf(0.975, 7))
    assert take_percentiles(values, 8) == pytest.approx(tuple(np.quantile(values, [level, 1 - level])))
    assert take_percentiles(values, 10**6) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-4)


def test_a_fraction_that_is_a_proportion_has_nearly_the_interval_of_wilson():
    correct = np.random.default_rng(0).random(400) < 0.9
    values = resample(weigh_mean(correct.astype(float)), 400, groups=None, seed=0, resamples=4000)[:, 0]
    low, high = map(float, compute_wilson_interval(correct.sum(), 400))
    assert fit_fraction(correct.mean(), values, 400, 1e9) == pytest.approx((low, high), abs=2e-3)
    wider = fit_fraction(correct.mean(), values, 400, 1)  # two items a class: twice the variance
    assert (wider[1] - wider[0]) / (high - low) == pytest.approx(np.sqrt(2), rel=0.03)


def test_the_units_of_a_class_are_its_items_or_groups():
    targets = np.array([0, 0, 0, 0, 1, 1])
    assert count_units(targets, None) == pytest.approx(2 / (1 / 4 + 1 / 2))
    assert count_units(targets, np.array([0, 0, 1, 1, 1, 1])) == pytest.approx(2 / (1 / 2 + 1 / 1))


def test_studentized_ends_are_farther_out_where_large_losses_lie():
    losses = np.random.default_rng(0).exponential(size=80)
    error = losses.std() / np.sqrt(80)
    metric = make_log_loss(losses, None)
    values, errors = resample(metric, 80, groups=None, seed=0, resamples=2000).T
    low, high = studentize(losses.mean(), error, values, errors)
    distances = (values - losses.mean()) / errors
    expected = losses.mean() - np.quantile(distances, [0.975, 0.025]) * error
    assert (low, high) == pytest.approx(tuple(expected))
    assert high - losses.mean() > 1.15 * (losses.mean() - low)


def test_bootstrap_is_repeatable_and_its_seed_matters():
    metric = weigh_mean(np.random.default_rng(1).normal(size=50))
    first = bootstrap_intervals(metric, 50, seed=3)
    assert first == bootstrap_intervals(metric, 50, seed=3)
    assert first != bootstrap_intervals(metric, 50, seed=4)


@pytest.mark.parametrize("n_items", [1, 7, 100_000])
def test_bootstrap_draws_as_many_items_as_there_are(n_items):
    seen = []

    def metric(weights):
        seen.append(weights)
        return weights[0][:, np.newaxis]

    bootstrap_intervals(metric, n_items, resamples=40)
    weights = np.concatenate(seen, axis=1)
    assert weights.shape == (n_items, 40)
    assert (weights.sum(axis=0) == n_items).all()
    assert (weights >= 0).all()


def test_bootstrap_keeps_groups_together_and_widens_the_interval():
    groups = np.repeat(np.arange(20), 10)
    values = np.repeat(np.random.default_rng(0).normal(size=20), 10)
    apart = []

    def metric(weights):
        apart.append(np.ptp(weights.reshape(20, 10, -1), axis=1).max())
        return weigh_mean(values)(weights)

    low, high = bootstrap_intervals(metric, 200, groups=groups)
    assert max(apart) == 0
    single_low, single_high = bootstrap_intervals(weigh_mean(values), 200)
    # Ten copies of a value carry the information of one: the interval is sqrt(10) times wider, and 20 are few.
    few, many = (np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) for n in (20, 200))
    assert (high - low) / (single_high - single_low) == pytest.approx(np.sqrt(10) * few / many, rel=0.1)


def test_bootstrap_leaves_out_resamples_in_which_the_metric_is_undefined():
    def metric(weights):
        return np.stack([np.where(weights[0] > 0, weights[1], np.nan), np.full(weights.shape[1], np.nan)], axis=1)

    low, high = bootstrap_intervals(metric, 30)
    assert low[0] == 0
    assert high[0] >= 2
    assert np.isnan([low[1], high[1]]).all()


def test_bootstrap_claims_no_certainty_where_all_resamples_agree():
    low, high = bootstrap_intervals(weigh_mean(np.full(30, 0.1)), 30)
    assert np.isnan([low, high]).all()


def test_an_item_without_a_group_is_its_own_group():
    codes = encode_groups(["a", "", "b", "a", None, ""])
    assert codes.tolist() == [0, 1, 2, 0, 3, 4]
    assert encode_groups([("alone", 1), ""]).tolist() == [0, 1]


def test_independent_items_count_each_and_copies_count_once():
    rng = np.random.default_rng(0)
    correct = rng.random(2000) < 0.8
    singles = estimate_effective_items(correct, np.arange(2000))
    allowance = (1.959964 / t.ppf(0.975, 1999)) ** 2
    assert singles == pytest.approx(2000 * allowance, rel=1e-3)
    copies = estimate_effective_items(np.repeat(correct, 5), np.repeat(np.arange(2000), 5))
    assert copies == pytest.approx(2000 * allowance, rel=1e-3)
    few = estimate_effective_items(np.repeat(correct[:12], 5), np.repeat(np.arange(12), 5))
    assert few == pytest.approx(11 * (1.959964 / t.ppf(0.975, 11)) ** 2)


def test_without_errors_every_group_counts_once():
    assert estimate_effective_items(np.ones(60, dtype=bool), np.repeat(np.arange(6), 10)) == pytest.approx(6)
    assert estimate_effective_items(np.array([True, False, True]), np.zeros(3, dtype=np.int64)) == pytest.approx(1)


def test_a_bounded_mean_is_a_proportion_of_the_largest_value():
    low, high = bound_mean(0.3, 6.0, 40)
    assert (low, high) == pytest.approx(tuple(6 * float(end) for end in compute_wilson_interval(2, 40)))


@given(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=6), st.floats(0.001, 0.1))
def test_an_interval_of_gaps_includes_their_sum(gaps, spread):
    point = np.array(gaps) / len(gaps)
    noise = np.random.default_rng(0).normal(0, spread, (50, len(gaps)))
    low, high = invert_gaps(point, point + noise, 30)
    assert 0 <= low <= np.abs(point).sum() <= high <= 1


def test_large_gaps_have_the_interval_of_a_normal_mean():
    point, noise = np.array([0.2, -0.2]), np.random.default_rng(0).normal(0, 0.01, (4000, 2))
    assert invert_gaps(point, point + noise, 10**6) == pytest.approx(0.4 + np.array([-1, 1]) * 1.96 * 0.0141, abs=0.003)


def test_gaps_that_are_only_noise_have_an_interval_from_zero():
    noise = np.random.default_rng(0).normal(0, 0.01, (500, 10))
    low, high = invert_gaps(noise[0], noise + noise[0], 1000)
    assert low == 0
    assert high > np.abs(noise[0]).sum()


def test_gaps_that_never_vary_have_no_interval():
    assert np.isnan(invert_gaps(np.array([0.1, 0.0]), np.tile([0.1, 0.0], (20, 1)), 5)).all()
