"""95 % intervals: Wilson's for a proportion, the percentile bootstrap for any other metric.

Items that share a group (a patient, a burst) are not independent. With groups,
the bootstrap draws whole groups, and Wilson's interval counts the items at what
they are worth together.
"""

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

# Numbers in one block of weights: 4 MB, so that a block stays in the processor's cache.
_BLOCK_SIZE = 2**19
_SMALLEST_BLOCK = 16


def compute_wilson_interval(successes: ArrayLike, trials: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Compute the 95 % score interval of a proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22 (1927), 209-212.

    Args:
        successes: How many of the trials succeeded, any shape; need not be whole.
        trials: How many trials there were, of a shape that broadcasts.

    Returns:
        The lower and the upper ends, float64 of the broadcast shape; 0 and 1
        where there were no trials.
    """
    from scipy.special import ndtri

    won, total = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    lost = total - won
    center = won + z**2 / 2
    reach = z * np.sqrt(won * lost / np.where(total > 0, total, 1) + z**2 / 4)
    # The ends are exact at no success and no failure, where rounding would leave 1e-17.
    low = np.where(won == 0, 0.0, (center - reach) / (total + z**2))
    high = np.where(lost == 0, 1.0, (center + reach) / (total + z**2))
    return low, high


def encode_groups(groups: Sequence[Hashable]) -> IntArray:
    """Number the groups of the items from 0.

    Args:
        groups: The group of every item; an item whose group is empty or None
            has none, and becomes a group of its own.

    Returns:
        Group numbers, int64 (n_items,).
    """
    numbers: dict[Any, int] = {}
    keys = ((group,) if group not in ("", None) else ("alone", item) for item, group in enumerate(groups))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def check_groups(groups: Sequence[Hashable], n_items: int) -> IntArray:
    """Number the groups as `encode_groups` does, if there is one for each item.

    Raises:
        DataError: If there are more or fewer.
    """
    if len(groups) != n_items:
        msg = f"there are {len(groups)} groups for {n_items} items; pass one for each, empty where there is none"
        raise DataError(msg)
    return encode_groups(groups)


def estimate_effective_items(values: NDArray[np.bool_] | FloatArray, groups: IntArray) -> float:
    """Estimate how many independent items would know the mean as well as these do.

    The variance of the mean (of the proportion, where the values are bool) is that of
    the ratio estimator over groups (W. G. Cochran, "Sampling Techniques", 3rd ed. 1977,
    section 3.12, without the finite-population term); putting n / (design effect) into Wilson's interval
    follows N. Dean and M. Pagano, "Evaluating confidence interval methods for
    binomial proportions in clustered surveys", Journal of Survey Statistics and
    Methodology 3 (2015), 484-503. Where all items agree there is no variance to
    estimate; each group then counts once (L. Kish, "Survey Sampling", 1965:
    (sum of sizes)^2 / sum of squared sizes).

    Args:
        values: What is averaged, such as whether each item was classified correctly, bool or float64 (n_items,).
        groups: Group numbers as from `encode_groups`, int64 (n_items,).

    Returns:
        A number between 1 and n_items.
    """
    n_items = values.size
    spread = float(values.var())
    sizes = np.bincount(groups).astype(np.float64)
    excess = np.bincount(groups, weights=values - values.mean())
    n_groups = sizes.size
    if n_groups == 1 or spread == 0:
        return float(n_items**2 / (sizes @ sizes))
    variance = n_groups / (n_groups - 1) * (excess @ excess) / n_items**2
    return float(np.clip(spread / np.maximum(variance, 1e-300), 1, n_items))


def bootstrap_intervals(
    metric: WeightedMetric,
    n_items: int,
    *,
    groups: IntArray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[FloatArray, FloatArray]:
    """Find the 95 % percentile intervals of metrics by resampling the items.

    B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993),
    section 13.3. A resample is a column of weights: how often each item was drawn.

    Args:
        metric: What maps weights (n_items, n_resamples) to values (n_resamples, n_metrics).
        n_items: Number of items.
        groups: Group numbers as from `encode_groups`, int64 (n_items,); whole
            groups are then drawn instead of items.
        seed: Seed of the draws; the first resamples are the same for any `resamples`.
        resamples: Number of resamples.

    Returns:
        The lower and the upper ends, float64 (n_metrics,). Both are NaN where all
        resamples agree, since an interval without width would claim a certainty that
        resampling cannot give, and where the metric is undefined in all of them.
    """
    blocks = _draw_weights(n_items, groups, seed, resamples)
    values = np.concatenate([metric(weights) for weights in blocks])
    ends = np.array([_take_percentiles(column) for column in values.T])
    return ends[:, 0], ends[:, 1]


def reflect_interval(point: float, low: float, high: float) -> tuple[float, float]:
    """Turn the percentile interval of a metric that noise can only raise into a fair one.

    A calibration error is a mean of absolute values: the noise of few items raises
    it, and resampling adds the same noise again, so that its percentiles lie above the
    truth. In simulations of calibrated classifiers (100 to 2,000 items, 10 classes) they
    never held it, and in up to a quarter of the runs missed even the point value. The
    basic interval subtracts that bias: it runs from 2 point - high to 2 point - low
    (A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application" (1997),
    eq. 5.6). It held the truth in 43 to 70 % of the same simulations, and in 81 to 96 %
    of those of overconfident classifiers. It is kept between 0 and 1, and widened to
    hold the point value.

    Args:
        point: Value of the metric on the items themselves.
        low: Lower end of its percentile interval.
        high: Upper end of its percentile interval.

    Returns:
        The lower and the upper ends; NaN if they were.
    """
    # NaN passes through np.clip and np.maximum, and not through Python's max.
    return float(np.clip(2 * point - high, 0, 1)), float(np.clip(np.maximum(point, 2 * point - low), 0, 1))


def _draw_weights(n_items: int, groups: IntArray | None, seed: int, resamples: int) -> Iterator[FloatArray]:
    """Yield blocks of weights, float64 (n_items, n_resamples of the block)."""
    rng = np.random.default_rng(seed)
    n_units = n_items if groups is None else int(groups.max()) + 1
    block = max(_SMALLEST_BLOCK, _BLOCK_SIZE // n_items)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(n_units, size=(size, n_units))
        cells = drawn * size + np.arange(size)[:, np.newaxis]
        counts = np.bincount(cells.ravel(), minlength=n_units * size).reshape(n_units, size)
        yield (counts if groups is None else counts[groups]).astype(np.float64)


def _take_percentiles(values: FloatArray) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    # Weighted sums of equal terms differ by rounding alone.
    if defined.size == 0 or np.ptp(defined) < 1e-12:  # noqa: PLR2004 - a rounding error, see above
        return np.nan, np.nan
    low, high = np.quantile(defined, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return float(low), float(high)
