"""Coverage of the intervals, and errors of the paired test, in a thousand or more simulated data sets.

`benchmarks/intervals.py` has more cases, with their figures.
"""

import numpy as np
import pytest
from scipy.special import expit, softmax

from featx.evaluation import METRICS, compare_pair, evaluate

pytestmark = pytest.mark.slow

N_SETS = 1000
CLASSES = list("abcd")


def draw_items(rng, n_items, size):
    """Draw the predictions of a calibrated classifier; the items of a group share their class and a shift."""
    groups = np.arange(n_items) // size
    targets = rng.integers(len(CLASSES), size=groups[-1] + 1)[groups]
    scores = rng.normal(size=(n_items, len(CLASSES))) + 2.5 * np.eye(len(CLASSES))[targets]
    if size > 1:
        scores += rng.normal(size=(groups[-1] + 1, len(CLASSES)))[groups]
    return softmax(2.5 * scores, axis=1), targets, groups.tolist() if size > 1 else None


@pytest.mark.parametrize(("n_items", "size"), [(250, 1), (300, 5)], ids=["items", "groups"])
def test_the_intervals_of_an_evaluation_hold_the_truth(n_items, size):
    rng = np.random.default_rng(0)
    truth = evaluate(*draw_items(rng, 200_000, size)[:2], CLASSES, resamples=1)
    held = dict.fromkeys(METRICS, 0)
    for seed in range(N_SETS):
        probabilities, targets, groups = draw_items(rng, n_items, size)
        result = evaluate(probabilities, targets, CLASSES, groups=groups, seed=seed, resamples=200)
        for metric in METRICS:
            _, low, high = result.get_interval(metric)
            held[metric] += low <= getattr(truth, metric) <= high
    assert 0.93 <= held.pop("expected_calibration_error") / N_SETS <= 1  # that of `invert_gaps` may be too wide
    for metric, count in held.items():
        assert 0.93 <= count / N_SETS <= 0.97, metric


def draw_pair(rng, n_items, size, difference=0.0):
    """Draw which items two classifiers got right, mostly the same ones; who is better differs by group."""
    groups = np.arange(n_items) // size
    ease, tilt = rng.normal(size=(2, groups[-1] + 1)) * (size > 1)
    luck = rng.random(n_items)
    other = np.where(rng.random(n_items) < 0.6, luck, rng.random(n_items))
    # 2.2 is an accuracy of 0.9.
    right_a, right_b = (u < expit(2.2 + ease + s * tilt)[groups] for u, s in ((luck, 1), (other, -1)))
    return right_a, right_b & (rng.random(n_items) >= difference), groups.tolist() if size > 1 else None


@pytest.mark.parametrize(("n_items", "size"), [(153, 1), (1000, 1), (240, 6)], ids=["153", "1000", "groups"])
def test_the_paired_test_sees_differences_between_equals_in_5_percent(n_items, size):
    rng = np.random.default_rng(1)
    pairs = [draw_pair(rng, n_items, size) for _ in range(2000)]
    results = [compare_pair(right_a, right_b, groups=groups, resamples=1) for right_a, right_b, groups in pairs]
    assert 0.03 <= np.mean([paired.p_value < 0.05 for paired in results]) <= 0.07
    if size > 1:
        naive = [compare_pair(right_a, right_b, resamples=1).p_value < 0.05 for right_a, right_b, _ in pairs]
        assert np.mean(naive) > 0.15, "groups matter"


@pytest.mark.parametrize("difference", [0.0, 0.04])
@pytest.mark.parametrize(("n_items", "size"), [(153, 1), (240, 6)], ids=["items", "groups"])
def test_the_interval_of_a_difference_holds_it(n_items, size, difference):
    rng = np.random.default_rng(2)
    right_a, right_b, _ = draw_pair(rng, 1_200_000, size, difference)
    truth = right_a.mean() - right_b.mean() if difference else 0.0
    held = []
    for seed in range(N_SETS):
        right_a, right_b, groups = draw_pair(rng, n_items, size, difference)
        paired = compare_pair(right_a, right_b, groups=groups, seed=seed, resamples=400)
        held.append(paired.low <= truth <= paired.high)
    assert 0.93 <= np.mean(held) <= 0.97
