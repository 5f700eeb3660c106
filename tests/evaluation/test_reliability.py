import json

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss

from featx.errors import DataError, UsageError
from featx.evaluation import evaluate, measure_reliability
from featx.evaluation.reliability import measure_reliability_for_plot


def make_items(n_items=600, n_classes=4, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(n_classes, size=n_items)
    scores = rng.normal(size=(n_items, n_classes))
    scores[np.arange(n_items), targets] += 1.5
    return softmax(sharpness * scores, axis=1), targets


def test_bins_by_hand():
    probabilities = np.array([[0.55, 0.45], [0.95, 0.05], [0.9, 0.1], [0.3, 0.7]])
    result = measure_reliability(probabilities, [0, 0, 1, 1], bins=2)
    assert result.edges.tolist() == [0, 0.5, 1]
    assert result.counts.tolist() == [0, 4]
    assert result.confidences[1] == pytest.approx(0.775)
    assert result.accuracies[1] == 0.75
    ends = binomtest(3, 4).proportion_ci(method="wilson")
    assert (result.lows[1], result.highs[1]) == pytest.approx((ends.low, ends.high))
    assert np.isnan([result.confidences[0], result.accuracies[0], result.lows[0], result.highs[0]]).all()
    assert result.calibration_error == pytest.approx(0.025)
    assert result.brier_score == pytest.approx(2 * np.mean([0.45**2, 0.05**2, 0.9**2, 0.3**2]))


def test_the_error_and_the_score_equal_those_of_evaluate_and_scikit_learn():
    probabilities, targets = make_items()
    result = measure_reliability(probabilities, targets)
    reference = evaluate(probabilities, targets, list("abcd"), resamples=2)
    assert result.calibration_error == pytest.approx(reference.expected_calibration_error)
    assert result.brier_score == pytest.approx(brier_score_loss(targets, probabilities, scale_by_half=False))
    assert result.counts.sum() == result.n_items == 600
    assert result.histogram == pytest.approx(result.counts / 600)


def test_classwise_is_the_mean_over_the_classes_of_each_against_the_rest():
    probabilities, targets = make_items()
    result = measure_reliability(probabilities, targets, classwise=True)
    errors = []
    for k in range(4):
        both = np.stack([1 - probabilities[:, k], probabilities[:, k]], axis=1)
        single = measure_reliability(both, (targets == k).astype(int), predictions=np.ones(600, dtype=int))
        errors.append(single.calibration_error)
    assert result.calibration_error == pytest.approx(np.mean(errors))
    assert result.counts.sum() == 2400
    assert result.classwise


def test_bins_of_equal_mass():
    probabilities, targets = make_items()
    result = measure_reliability(probabilities, targets, bins=12, equal_mass=True)
    assert result.counts == pytest.approx(50, abs=1)
    assert result.histogram.sum() == pytest.approx(1)
    ties = measure_reliability(np.repeat([[0.6, 0.4], [0.8, 0.2]], 50, axis=0), [0] * 100, bins=10, equal_mass=True)
    assert ties.counts[ties.counts > 0].tolist() == [50, 50]


def test_sharpened_probabilities_are_overconfident():
    probabilities, targets = make_items(5000, sharpness=5.0)
    result = measure_reliability(probabilities, targets)
    filled = result.counts > 100
    assert (result.highs[filled] < result.confidences[filled]).mean() > 0.8
    fair, targets = make_items(5000, sharpness=1.5)
    assert measure_reliability(fair, targets).calibration_error < 0.03 < result.calibration_error


def test_json_has_no_nan():
    probabilities, targets = make_items(20)
    values = json.loads(json.dumps(measure_reliability(probabilities, targets).to_dict(), allow_nan=False))
    assert None in values["accuracies"]
    assert values["n_items"] == 20


def test_wrong_input():
    with pytest.raises(UsageError, match="bins is 0"):
        measure_reliability([[0.5, 0.5]], [0], bins=0)
    with pytest.raises(DataError, match="sum to 1"):
        measure_reliability([[0.5, 0.6]], [0])
    with pytest.raises(DataError, match="probabilities have the shape"):
        measure_reliability([0.5, 0.6], [0])
    with pytest.raises(DataError, match=r"targets\[0\] is 2"):
        measure_reliability([[0.5, 0.5]], [2])


@pytest.mark.parametrize(("n_items", "bins"), [(2, 2), (20, 3), (70, 5), (700, 14), (5000, 15)])
def test_a_picture_has_equally_filled_bins_and_the_error_of_the_table(n_items, bins):
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(3), n_items)
    targets = rng.integers(3, size=n_items)
    drawn = measure_reliability_for_plot(chances, targets)
    counts = drawn.counts[drawn.counts > 0]
    assert counts.size == bins
    assert counts.sum() == n_items
    assert counts.max() - counts.min() <= 2
    assert drawn.calibration_error == measure_reliability(chances, targets).calibration_error


@pytest.mark.parametrize(
    ("chances", "right", "start"), [([0.97] * 60, 60, 0.9), ([0.97] * 60, 45, 0.6), ([0.5, 0.9], 2, 0.2)]
)
def test_axes_start_below_all_that_they_show(chances, right, start):
    probabilities = np.stack([chances, 1 - np.array(chances)], axis=1)
    found = measure_reliability(probabilities, [0] * right + [1] * (len(chances) - right), 2, equal_mass=True)
    assert found.start == start
    assert found.start <= np.nanmin([found.lows, found.confidences])
