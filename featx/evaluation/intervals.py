"""95 % intervals: Wilson's for a proportion, bootstrap intervals for any other metric.

Items that share a group (a patient, a burst) are not independent. With groups,
the bootstrap draws whole groups, and Wilson's interval takes the effective number
of independent items.

Plain percentiles of resamples are too narrow for a few hundred items: in simulations
like those of `benchmarks/intervals.py` they held the truth in 72 to 95 % of the data
sets, while `fit_fraction` and `studentize` hold it in 93 to 98 %.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Weights, float64 (n_items, n_resamples) -> values, float64 (n_resamples, n_metrics); NaN where undefined.
WeightedMetric = Callable[[FloatArray], FloatArray]

CONFIDENCE = 0.95

# Numbers in one block of weights: 4 MB, so that it fits in the processor's cache.
_BLOCK_SIZE = 2**19
_SMALLEST_BLOCK = 16
# With millions of items, a block has fewer resamples, down to one: the same are drawn, a few after the others.
_LARGEST_BLOCK = 2**22

_ROUNDING = 1e-12

# True sums that `invert_gaps` tries: how many, and how far beyond the observed one, in sums of standard errors.
_N_SUMS, _FARTHEST = 100, 2.5


def compute_wilson_interval(successes: ArrayLike, trials: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Compute the 95 % score interval of a proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22 (1927), 209-212.

    Args:
        successes: Number of successful trials, any shape; fractions are allowed.
        trials: Number of trials, of a shape that broadcasts.

    Returns:
        The lower and upper ends, float64 of the broadcast shape; 0 and 1 for no
        trials.
    """
    from scipy.special import ndtri

    won, total = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    lost = total - won
    center = won + z**2 / 2
    reach = z * np.sqrt(won * lost / np.where(total > 0, total, 1) + z**2 / 4)
    # Without successes or failures the end is exact, where rounding would leave 1e-17.
    low = np.where(won == 0, 0.0, (center - reach) / (total + z**2))
    high = np.where(lost == 0, 1.0, (center + reach) / (total + z**2))
    return low, high


def measure_accuracy(correct: NDArray[np.bool_], groups: IntArray | None) -> tuple[float, float, float]:
    """Return the accuracy and the ends of its 95 % interval.

    Args:
        correct: bool (n_items,).
        groups: int (n_items,), the number of each item's group; None without groups.
    """
    accuracy = float(correct.mean())
    worth = correct.size if groups is None else estimate_effective_items(correct, groups)
    low, high = compute_wilson_interval(accuracy * worth, worth)
    return accuracy, float(low), float(high)


def encode_groups(groups: Sequence[Hashable]) -> IntArray:
    """Number the groups of the items from 0.

    Args:
        groups: The group of every item; an item whose group is empty or None
            becomes a group of its own.

    Returns:
        Group numbers, int64 (n_items,).
    """
    numbers: dict[Any, int] = {}
    keys = ((group,) if group not in ("", None) else ("alone", item) for item, group in enumerate(groups))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def check_groups(groups: Sequence[Hashable], n_items: int) -> IntArray:
    """Number the groups as `encode_groups` does, after checking that each item has one.

    Raises:
        DataError: If there are more or fewer.
    """
    if len(groups) != n_items:
        msg = f"there are {len(groups)} groups for {n_items} items; pass one for each item, empty for none"
        raise DataError(msg)
    return encode_groups(groups)


def estimate_effective_items(values: NDArray[np.bool_] | FloatArray, groups: IntArray) -> float:
    """Estimate how many independent items would give the mean the same variance.

    The variance of the mean (of the proportion, where the values are bool) is that of
    the ratio estimator over groups (W. G. Cochran, "Sampling Techniques", 3rd ed. 1977,
    section 3.12, without the finite-population term); putting n / (design effect) into
    Wilson's interval follows N. Dean and M. Pagano, "Evaluating confidence interval
    methods for binomial proportions in clustered surveys", Journal of Survey Statistics
    and Methodology 3 (2015), 484-503. If all items agree there is no variance to
    estimate, and each group counts once (L. Kish, "Survey Sampling", 1965:
    (sum of sizes)^2 / sum of squared sizes). Few groups give a poor estimate of the variance,
    which Student's t accounts for (E. L. Korn and B. I. Graubard, "Confidence intervals
    for proportions with small expected number of positive counts estimated from survey
    data", Survey Methodology 24 (1998), 193-201).

    Args:
        values: The averaged values, such as whether each item is classified correctly, bool or float64 (n_items,).
        groups: Group numbers as from `encode_groups`, int64 (n_items,).

    Returns:
        A number between 1 and n_items.
    """
    n_items = values.size
    sizes = np.bincount(groups).astype(np.float64)
    excess = np.bincount(groups, weights=values - values.mean())
    n_groups = sizes.size
    spread = float(values.var())
    if n_groups == 1 or spread == 0:
        return float(n_items**2 / (sizes @ sizes))
    variance = n_groups / (n_groups - 1) * (excess @ excess) / n_items**2
    return float(np.clip(spread / np.maximum(variance, 1e-300) * _compare_normal(n_groups), 1, n_items))


def count_units(targets: IntArray, groups: IntArray | None) -> float:
    """Compute the harmonic mean, over the classes, of the number of their items or groups.

    Args:
        targets: True classes, int64 (n_items,).
        groups: Group numbers as from `encode_groups`, int64 (n_items,).
    """
    n_classes = int(targets.max()) + 1
    pairs = targets if groups is None else np.unique(groups * n_classes + targets) % n_classes
    counts = np.bincount(pairs)
    return float(np.count_nonzero(counts) / (1 / counts[counts > 0]).sum())


def bootstrap_intervals(
    metric: WeightedMetric,
    n_items: int,
    *,
    groups: IntArray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[FloatArray, FloatArray]:
    """Find the 95 % percentile intervals of metrics by resampling the items.

    B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), section
    13.3. A resample varies less than the items it is drawn from, and few items give a
    poor estimate of their variance. Percentiles farther out make up for both
    (T. C. Hesterberg, "What teachers should know about the bootstrap", The American
    Statistician 69 (2015), 371-386, expanded percentiles): 2.2 and 97.8 for 60 items.

    Args:
        metric: Maps weights (n_items, n_resamples) to values (n_resamples, n_metrics).
        n_items: Number of items.
        groups: Group numbers as from `encode_groups`, int64 (n_items,); whole
            groups are then drawn instead of items.
        seed: Seed of the draws; the first resamples are the same for any `resamples`.
        resamples: Number of resamples.

    Returns:
        The lower and upper ends, float64 (n_metrics,). Both are NaN if the metric is
        undefined in all resamples, or if all of them agree: an interval without width
        would claim a certainty that resampling cannot give.
    """
    values = resample(metric, n_items, groups=groups, seed=seed, resamples=resamples)
    n_units = count_drawn(n_items, groups)
    ends = np.array([take_percentiles(column, n_units) for column in values.T])
    return ends[:, 0], ends[:, 1]


def resample(metric: WeightedMetric, n_items: int, *, groups: IntArray | None, seed: int, resamples: int) -> FloatArray:
    """Compute metrics on resamples of the items: float64 (n_resamples, n_metrics), as `bootstrap_intervals` does.

    A resample is a column of weights: how often each item was drawn.
    """
    return np.concatenate([metric(weights) for weights in _draw_weights(n_items, groups, seed, resamples)])


def count_drawn(n_items: int, groups: IntArray | None) -> int:
    """Return how many units the bootstrap draws: the groups, or the items if there are none."""
    return n_items if groups is None else int(groups.max()) + 1


def take_percentiles(values: FloatArray, n_units: int) -> tuple[float, float]:
    """Take the expanded percentiles of `bootstrap_intervals` from one metric's resamples.

    Args:
        values: float64 (n_resamples,); NaN where undefined.
        n_units: Number of items or groups that were drawn.
    """
    from scipy.special import ndtr

    if _find_spread(values) == 0:
        return np.nan, np.nan
    level = float(ndtr(-math.sqrt(n_units / (n_units - 1)) * _find_t(n_units)))
    low, high = np.nanquantile(values, [level, 1 - level])
    return float(low), float(high)


def fit_fraction(point: float, values: FloatArray, n_units: int, per_class: float) -> tuple[float, float]:
    """Compute the interval of a metric that lies between 0 and 1, such as a mean of recalls.

    It is Wilson's interval, for the number of items with which a proportion of the same
    size would vary as much as the metric's resamples do. That is the effective number of
    `estimate_effective_items`, with the variance from the bootstrap and the same allowance
    for few items. Unlike percentiles, the interval is skewed near 1, where the truth may
    be farther below than above. In resamples, the variance of a class of m items is too
    small by (m - 1) / m; this is corrected.

    Args:
        point: The metric on the items themselves.
        values: The metric on resamples, float64 (n_resamples,); NaN where undefined.
        n_units: Number of items or groups that were drawn.
        per_class: Number of them per class, as from `count_units`.

    Returns:
        The lower and upper ends; NaN if all resamples agree.
    """
    spread = _find_spread(values)
    if spread == 0:
        return np.nan, np.nan
    variance = spread**2 * max(per_class, 2) / (max(per_class, 2) - 1)
    worth = point * (1 - point) / variance * _compare_normal(n_units)
    low, high = compute_wilson_interval(point * worth, worth)
    return float(low), float(high)


def studentize(point: float, error: float, values: FloatArray, errors: FloatArray) -> tuple[float, float]:
    """Compute the bootstrap-t interval of a mean of skewed values, such as losses.

    B. Efron and R. J. Tibshirani (1993), section 12.5: the resampled statistic is
    the distance from the point value in units of the resample's own standard error.

    Args:
        point: The mean of the items themselves.
        error: Its standard error.
        values: The means of resamples, float64 (n_resamples,).
        errors: Their standard errors, float64 (n_resamples,).

    Returns:
        The lower and upper ends; NaN if all resamples agree.
    """
    usable = errors > _ROUNDING
    if not usable.any() or _find_spread(values) == 0:
        return np.nan, np.nan
    distances = (values[usable] - point) / errors[usable]
    low, high = np.quantile(distances, [0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2])
    return float(min(point, point - low * error)), float(max(point, point - high * error))


def bound_mean(point: float, largest: float, worth: float) -> tuple[float, float]:
    """Bound the interval of a mean of values between 0 and `largest`.

    No values between these ends vary more, for their mean, than those that are either 0 or `largest`.
    The bounds are Wilson's interval of their proportion. They replace a bootstrap-t interval that is
    absurdly wide because nearly all of the mean comes from a few large values, which many resamples lack.

    Args:
        point: The mean.
        largest: The largest of the values, or above all of them.
        worth: Number of independent items, as from `estimate_effective_items`.
    """
    low, high = compute_wilson_interval(point / largest * worth, worth)
    return float(low * largest), float(high * largest)


def invert_gaps(gaps: FloatArray, values: FloatArray, n_units: int) -> tuple[float, float]:
    """Compute the interval of a sum of absolute gaps, such as a calibration error.

    Noise raises such a sum: that of a calibrated classifier is never 0, and percentiles of resamples lie
    above the truth. The interval has the true sums with which the observed one is not among the 2.5 % smallest
    or largest (a test that is inverted: A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their
    Application" (1997), section 5.6). The noise of the gaps is that of their resamples. The true gaps
    are taken to be proportional to the observed ones, and also to their standard errors; the interval
    covers both. It is widened to include the observed sum.

    Args:
        gaps: float64 (n_gaps,), on the items themselves.
        values: The gaps on resamples, float64 (n_resamples, n_gaps).
        n_units: Number of items or groups that were drawn.

    Returns:
        The lower and upper ends, from 0 to 1; NaN if all resamples agree.
    """
    errors = values.std(axis=0)
    if not (np.ptp(values, axis=0) >= _ROUNDING).any():
        return np.nan, np.nan
    observed = float(np.abs(gaps).sum())
    scale = math.sqrt(n_units / (n_units - 1) / _compare_normal(n_units))
    noise = scale * (values - gaps)
    sums = np.linspace(0, observed + _FARTHEST * scale * errors.sum(), _N_SUMS)
    ends = [observed]
    for direction in (gaps, errors):
        if direction.any():
            true = sums[:, np.newaxis] * direction / np.abs(direction).sum()
            drawn = np.stack([np.abs(row + noise).sum(axis=1) for row in true])
            level = 0.5 - CONFIDENCE / 2
            usual = ((drawn >= observed).mean(axis=1) > level) & ((drawn <= observed).mean(axis=1) > level)
            ends += sums[usual].tolist()
    return max(0.0, min(ends)), min(1.0, max(ends))


def _draw_weights(n_items: int, groups: IntArray | None, seed: int, resamples: int) -> Iterator[FloatArray]:
    """Yield blocks of weights, float64 (n_items, n_resamples of the block)."""
    rng = np.random.default_rng(seed)
    n_units = count_drawn(n_items, groups)
    block = max(1, min(_SMALLEST_BLOCK, _LARGEST_BLOCK // n_items), _BLOCK_SIZE // n_items)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(n_units, size=(size, n_units))
        cells = drawn * size + np.arange(size)[:, np.newaxis]
        counts = np.bincount(cells.ravel(), minlength=n_units * size).reshape(n_units, size)
        yield (counts if groups is None else counts[groups]).astype(np.float64)


def _find_spread(values: FloatArray) -> float:
    """Return the standard deviation of the defined resamples; 0 if they agree or there are none."""
    defined = values[~np.isnan(values)]
    # Weighted sums of equal terms differ only by rounding.
    return float(defined.std()) if defined.size and np.ptp(defined) >= _ROUNDING else 0.0


def _find_t(n_units: int) -> float:
    """Return the 97.5 % point of Student's distribution with n_units - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(n_units - 1, 0.5 + CONFIDENCE / 2))


def _compare_normal(n_units: int) -> float:
    """Return the squared ratio of the normal distribution's 97.5 % point to Student's."""
    from scipy.special import ndtri

    return (float(ndtri(0.5 + CONFIDENCE / 2)) / _find_t(n_units)) ** 2
