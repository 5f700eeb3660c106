"""Paired comparison of two classifiers on the same items: the difference, its interval and p-value.

Items that both classify correctly, or both incorrectly, say nothing about the difference.
Only items that exactly one of them classifies correctly count; with groups (patients,
bursts), the sum of the differences in each group.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DataError, UsageError
from featx.evaluation.intervals import (
    CONFIDENCE,
    FloatArray,
    IntArray,
    bootstrap_intervals,
    check_groups,
    estimate_effective_items,
)
from featx.wording import LEAST_P_VALUE

#: A difference is significant if its p-value is below this.
SIGNIFICANCE = 0.05

# With fewer differing units (items or groups), percentiles of resamples are too narrow: benchmarks/intervals.py.
_FEWEST_DIFFERING = 30

# Smaller values may be rounding errors of a transform.
_LEAST_P_VALUE = 1e-9
_STEP = 1e-9


@dataclass(frozen=True, slots=True)
class Paired:
    """The difference of two classifiers, a and b, on the same items.

    Attributes:
        difference: Accuracy of a minus accuracy of b.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p_value: Two-sided mid-p value of the hypothesis that neither is better, at least 1e-9.
        p_value_exact: The exact p-value: never too small, mostly too large.
        only_a: Number of items that only a classifies correctly.
        only_b: Number of items that only b classifies correctly.
        n_items: Number of items.
        n_units: Number of groups, or of items if there are no groups.
    """

    difference: float
    low: float
    high: float
    p_value: float
    p_value_exact: float
    only_a: int
    only_b: int
    n_items: int
    n_units: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self)


def compare_pair(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Paired:
    """Compare two classifiers on the same items.

    The test is McNemar's with the mid-p value (M. W. Fagerland, S. Lydersen and
    P. Laake, "The McNemar test for binary matched-pairs data: mid-p and asymptotic are
    better than exact conditional", BMC Medical Research Methodology 13 (2013), 91). At
    the 5 % level it is wrong in 4 to 5 % of comparisons of equals that differ on at
    least ten items; the exact test in 3 to 5 % (`benchmarks/intervals.py`). On fewer
    items both are wrong less often, and have less power.

    With groups, the test flips the signs of whole groups: if both were equally good,
    each group's difference could just as well have the opposite sign (E. J. G. Pitman,
    Supplement to the Journal of the Royal Statistical Society 4 (1937),
    119-130). If every group is one item, this is McNemar's test, so one computation
    serves both. It is exact, without random draws.

    The interval is the percentile bootstrap of items, or of groups, drawn for both
    classifiers at once. If fewer than 30 of them differ, it held the truth in only 84 %
    of some simulations; the score interval, with 93 to 98 %, replaces it (T. Tango, "Equivalence
    test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), 891-908), with groups at their
    effective number of items. For two classifiers that agree on all n items, its ends
    are 3.84 / (n + 3.84) from 0.

    Args:
        correct_a: Whether a classifies each item correctly, bool (n_items,).
        correct_b: The same for b, with the items in the same order.
        groups: The group of every item; an item whose group is empty has none.
        seed: Seed of the bootstrap.
        resamples: Number of resamples.

    Returns:
        Their difference, its 95 % interval and its p-values.

    Raises:
        DataError: If there is no item, or the arrays do not have the shape or values above.
        UsageError: If `resamples` is below 1.
    """
    if resamples < 1:
        msg = f"resamples is {resamples}; pass at least 1 (2000 is usual)"
        raise UsageError(msg)
    right_a, right_b = _check_correct("correct_a", correct_a), _check_correct("correct_b", correct_b)
    if right_a.size != right_b.size:
        msg = f"correct_a has {right_a.size} items and correct_b {right_b.size}; compare predictions of the same items"
        raise DataError(msg)
    differences = right_a.astype(np.int64) - right_b
    codes = None if groups is None else check_groups(groups, differences.size)
    by_unit = differences if codes is None else _sum_by_group(differences, codes)
    p_value, p_value_exact = _test_signs(by_unit)
    if np.count_nonzero(by_unit) < _FEWEST_DIFFERING or np.ptp(differences) == 0:
        low, high = _score_interval(differences, codes)
    else:
        low, high = _resample(differences, codes, seed, resamples)
    return Paired(
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=p_value,
        p_value_exact=p_value_exact,
        only_a=int((differences > 0).sum()),
        only_b=int((differences < 0).sum()),
        n_items=differences.size,
        n_units=by_unit.size,
    )


def adjust_holm(p_values: ArrayLike) -> FloatArray:
    """Adjust p-values for multiple tests, so that at the 5 % level the chance of any false positive is at most 5 %.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979), 65-70. It holds for any dependence between the tests.

    Args:
        p_values: float (n_tests,), between 0 and 1.

    Returns:
        The adjusted values in the same order, float64 (n_tests,), none above 1.

    Raises:
        DataError: If they are not p-values.
    """
    given = np.asarray(p_values, np.float64)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        msg = f"p_values have the shape {given.shape} or values outside 0 to 1; pass a list of p-values"
        raise DataError(msg)
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    adjusted[order] = np.maximum.accumulate(given[order] * np.arange(given.size, 0, -1))
    return np.minimum(adjusted, 1)


def describe_pair(
    paired: Paired, name_a: str, name_b: str, *, p_value: float | None = None, items: str = "test items"
) -> str:
    """Describe a comparison in one sentence; it names no winner if the difference is not significant.

    Args:
        paired: The comparison.
        name_a: The name of a.
        name_b: The name of b.
        p_value: The p-value that decides, such as an adjusted one; by default the comparison's own.
        items: The plural noun for the items.
    """
    p = paired.p_value if p_value is None else p_value
    if p >= SIGNIFICANCE:
        number = f"{paired.n_items:,} {items}"
        number += f" in {paired.n_units:,} groups" if paired.n_units < paired.n_items else ""
        return f"{name_a} and {name_b}: no difference that {number} could show"
    better, worse = (name_a, name_b) if paired.difference > 0 else (name_b, name_a)
    ends = (paired.low, paired.high) if paired.difference > 0 else (-paired.high, -paired.low)
    low, high = (f"{100 * end:.1f}" for end in ends)
    shown = f"p < {LEAST_P_VALUE}" if p < LEAST_P_VALUE else f"p {p:.3f}"
    return f"{better} is {100 * abs(paired.difference):.1f} points better than {worse} ({low} to {high}), {shown}"


def _check_correct(name: str, correct: ArrayLike) -> NDArray[np.bool_]:
    given = np.asarray(correct)
    if given.dtype != np.bool_ or given.ndim != 1 or given.size == 0:
        msg = f"{name} is {given.dtype} of shape {given.shape}; pass predictions == targets, one bool per item"
        raise DataError(msg)
    return given


def _sum_by_group(differences: IntArray, codes: IntArray) -> IntArray:
    # Sums of integers are exact in float64.
    return np.bincount(codes, weights=differences.astype(np.float64)).astype(np.int64)


def _test_signs(by_unit: IntArray) -> tuple[float, float]:
    """Return the mid-p and the exact p-value of a sum under all flips of its terms' signs.

    The sum's characteristic function is a product of cosines, one for each term; its
    Fourier transform is the whole distribution.
    """
    sizes, counts = np.unique(np.abs(by_unit[by_unit != 0]), return_counts=True)
    if sizes.size == 0:
        return 1.0, 1.0
    reach = int(sizes @ counts)
    period = 2 * reach + 1
    steps = np.arange(reach + 1)
    waves = np.ones(reach + 1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        waves *= np.cos(2 * np.pi / period * (steps * size % period)) ** count
    chances = np.fft.irfft(waves, period)[: reach + 1]
    chances[1:] *= 2  # of a sum and of its opposite
    observed = abs(int(by_unit.sum()))
    beyond = chances[observed + 1 :].sum()
    middle, exact = np.clip([beyond + chances[observed] / 2, beyond + chances[observed]], _LEAST_P_VALUE, 1)
    return float(middle), float(exact)


def _resample(differences: IntArray, codes: IntArray | None, seed: int, resamples: int) -> tuple[float, float]:
    values = differences.astype(np.float64)

    def average(weights: FloatArray) -> FloatArray:
        means: FloatArray = values @ weights / weights.sum(axis=0)
        return means[:, np.newaxis]

    lows, highs = bootstrap_intervals(average, values.size, groups=codes, seed=seed, resamples=resamples)
    return float(lows[0]), float(highs[0])


def _score_interval(differences: IntArray, codes: IntArray | None) -> tuple[float, float]:
    """Compute Tango's interval: the differences that his score test (1998, eq. 16) does not reject."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    worth = differences.size if codes is None else estimate_effective_items(differences.astype(np.float64), codes)
    scale = worth / differences.size
    only_a, only_b = scale * int((differences > 0).sum()), scale * int((differences < 0).sum())
    point = (only_a - only_b) / worth
    z_squared = float(ndtri(0.5 + CONFIDENCE / 2)) ** 2

    def exceed(difference: float) -> float:
        """Return the excess of the squared score for this difference; below 0 near the point value."""
        half = (only_a + only_b - (2 * worth - only_a + only_b) * difference) / 2
        root = math.sqrt(max(half**2 + 2 * worth * only_b * difference * (1 - difference), 0.0))
        variance = half + root + worth * difference * (1 - difference)
        return float((only_a - only_b - worth * difference) ** 2 - z_squared * variance)

    # Without differing items the variance is 0 at the point value itself.
    below, above = point - _STEP, point + _STEP
    low = brentq(exceed, -1.0, below) if below > -1 else -1.0
    high = brentq(exceed, above, 1.0) if above < 1 else 1.0
    return float(low), float(high)
