"""Two classifiers on the same items: which is better, by how much, and whether these items can show it.

What both had right or both had wrong says nothing about their difference. All that
is counted is the items that only one of them had right; with groups (patients,
bursts), how many more of them one had in each group.
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

#: A difference counts as shown where its p-value is below.
SIGNIFICANCE = 0.05

# With fewer units (items, or groups) that differ, percentiles of resamples are too narrow: benchmarks/intervals.py.
_FEWEST_DIFFERING = 30

# What is smaller may be the rounding of a transform.
_LEAST_P_VALUE = 1e-9
_LEAST_SHOWN = 0.001
_STEP = 1e-9


@dataclass(frozen=True, slots=True)
class Paired:
    """How two classifiers, a and b, differ on the same items.

    Attributes:
        difference: Accuracy of a less that of b.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p_value: Two-sided mid-p value of the hypothesis that neither is better; 1e-9 stands for all below.
        p_value_exact: The same without the half of what was observed: never too small, mostly too large.
        only_a: Items that only a had right.
        only_b: Items that only b had right.
        n_items: Number of items.
        n_units: Number of groups, or of items where there are none.
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
    """Compare two classifiers by the same items.

    The test is McNemar's with the mid-p value (M. W. Fagerland, S. Lydersen and
    P. Laake, "The McNemar test for binary matched-pairs data: mid-p and asymptotic are
    better than exact conditional", BMC Medical Research Methodology 13 (2013), 91). At
    the 5 % level it is wrong in 4 to 5 % of comparisons of equals that differ on at
    least ten items, where the exact test is in 3 to 5 % (`benchmarks/intervals.py`);
    on fewer items both are wrong less often, and see less.

    With groups it is the test that flips the signs of whole groups: were the two
    equally good, each group's difference could as well be the opposite (E. J. G.
    Pitman, Supplement to the Journal of the Royal Statistical Society 4 (1937),
    119-130). Where every group is one item this is McNemar's test, so that one
    computation serves both; it is exact, not drawn.

    The interval is the percentile bootstrap of items, or of groups, drawn for both at
    once. Where fewer than 30 of them differ it held the truth in as few as 84 % of the
    simulations, and the score interval, with 93 to 98 %, takes its place (T. Tango, "Equivalence
    test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), 891-908), with groups at the number of
    items that they are worth. Two classifiers that agree on all of n items are so known
    to within 3.84 / (n + 3.84) of each other.

    Args:
        correct_a: Whether a had each item right, bool (n_items,).
        correct_b: Whether b had each item right, bool (n_items,), the items in the same order.
        groups: The group of every item; items whose group is empty have none.
        seed: Seed of the bootstrap.
        resamples: Resamples of the bootstrap.

    Returns:
        Their difference, its 95 % interval and its p-values.

    Raises:
        DataError: If there is no item, or the arrays do not have the shape or values above.
        UsageError: If there is no resample.
    """
    if resamples < 1:
        msg = f"resamples is {resamples}; an interval needs at least 1, and 2000 are usual"
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
    """Adjust p-values for their number, so that all that stay below 5 % are right at once in 95 % of the cases.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979), 65-70. It holds whatever the dependence of the tests.

    Args:
        p_values: float (n_tests,), between 0 and 1.

    Returns:
        The adjusted values in the same order, float64 (n_tests,), none above 1.

    Raises:
        DataError: If these are not p-values.
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
    """Describe a comparison in one sentence, a tie as a tie.

    Args:
        paired: The comparison.
        name_a: What a is called.
        name_b: What b is called.
        p_value: What decides, such as one adjusted for several comparisons; by default the comparison's own.
        items: What was compared, in the plural.
    """
    p = paired.p_value if p_value is None else p_value
    if p >= SIGNIFICANCE:
        number = f"{paired.n_items:,} {items}"
        number += f" in {paired.n_units:,} groups" if paired.n_units < paired.n_items else ""
        return f"{name_a} and {name_b}: no difference that {number} could show"
    better, worse = (name_a, name_b) if paired.difference > 0 else (name_b, name_a)
    ends = (paired.low, paired.high) if paired.difference > 0 else (-paired.high, -paired.low)
    low, high = (f"{100 * end:.1f}" for end in ends)
    shown = f"p < {_LEAST_SHOWN}" if p < _LEAST_SHOWN else f"p {p:.3f}"
    return f"{better} is {100 * abs(paired.difference):.1f} points better than {worse} ({low} to {high}), {shown}"


def _check_correct(name: str, correct: ArrayLike) -> NDArray[np.bool_]:
    given = np.asarray(correct)
    if given.dtype != np.bool_ or given.ndim != 1 or given.size == 0:
        msg = f"{name} is {given.dtype} of shape {given.shape}; pass predictions == targets, one bool for each item"
        raise DataError(msg)
    return given


def _sum_by_group(differences: IntArray, codes: IntArray) -> IntArray:
    # Sums of whole numbers are exact in float64.
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
    """Find Tango's interval: the differences that his score test (1998, eq. 16) does not refuse."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    worth = differences.size if codes is None else estimate_effective_items(differences.astype(np.float64), codes)
    scale = worth / differences.size
    only_a, only_b = scale * int((differences > 0).sum()), scale * int((differences < 0).sum())
    point = (only_a - only_b) / worth
    z_squared = float(ndtri(0.5 + CONFIDENCE / 2)) ** 2

    def exceed(difference: float) -> float:
        """Return by how much the squared score is too large for this difference; below 0 around the point."""
        half = (only_a + only_b - (2 * worth - only_a + only_b) * difference) / 2
        root = math.sqrt(max(half**2 + 2 * worth * only_b * difference * (1 - difference), 0.0))
        variance = half + root + worth * difference * (1 - difference)
        return float((only_a - only_b - worth * difference) ** 2 - z_squared * variance)

    # Without items that differ the variance is 0 at the point itself.
    below, above = point - _STEP, point + _STEP
    low = brentq(exceed, -1.0, below) if below > -1 else -1.0
    high = brentq(exceed, above, 1.0) if above < 1 else 1.0
    return float(low), float(high)
