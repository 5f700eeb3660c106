import json
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t
from sklearn import metrics as reference

from featx.errors import DataError, UsageError
from featx.evaluation import METRICS, Evaluation, compute_wilson_interval, evaluate, metrics
from featx.evaluation.intervals import invert_gaps
from featx.evaluation.metrics import make_class_scores


def make_items(n_items, n_classes, seed=0, skill=1.5):
    """Draw targets, and probabilities with ties that favour them."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(n_classes, size=n_items)
    scores = np.round(rng.normal(size=(n_items, n_classes)), 1)
    scores[np.arange(n_items), targets] += skill
    odds = np.exp(scores)
    return odds / odds.sum(axis=1, keepdims=True), targets


def name_classes(n_classes):
    return [f"class {number}" for number in range(n_classes)]


def compute_area(probabilities, targets):
    if probabilities.shape[1] == 2:
        return reference.roc_auc_score(targets, probabilities[:, 1])
    present = np.unique(targets)
    return np.mean([reference.roc_auc_score(targets == k, probabilities[:, k]) for k in present])


def compute_calibration_error(confidences, correct):
    """Follow Guo et al. (2017), eq. 3, bin by bin."""
    error = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidences[inside].mean())
    return error


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 120), st.integers(2, 8), st.integers(0, 10_000))
def test_values_equal_those_of_scikit_learn(n_items, n_classes, seed):
    probabilities, targets = make_items(n_items, n_classes, seed)
    result = evaluate(probabilities, targets, name_classes(n_classes), resamples=2)
    predictions = probabilities.argmax(axis=1)
    present = np.unique(targets)
    everyone = np.arange(n_classes)
    recall, f1 = (
        score(targets, predictions, labels=present, average="macro", zero_division=0)
        for score in (reference.recall_score, reference.f1_score)
    )
    assert result.accuracy == pytest.approx(reference.accuracy_score(targets, predictions))
    assert result.mean_per_class_accuracy == pytest.approx(recall)
    assert result.macro_f1 == pytest.approx(f1)
    assert result.log_loss == pytest.approx(reference.log_loss(targets, probabilities, labels=everyone))
    correct = predictions == targets
    assert result.expected_calibration_error == pytest.approx(
        compute_calibration_error(probabilities.max(axis=1), correct)
    )
    assert (result.confusion == reference.confusion_matrix(targets, predictions, labels=everyone)).all()
    if len(present) == 1:
        assert result.roc_auc is None
    else:
        assert result.roc_auc == pytest.approx(compute_area(probabilities, targets))


def test_named_functions_of_scikit_learn_agree_where_all_classes_are_present():
    probabilities, targets = make_items(400, 5)
    result = evaluate(probabilities, targets, name_classes(5), resamples=2)
    predictions = probabilities.argmax(axis=1)
    assert result.mean_per_class_accuracy == pytest.approx(reference.balanced_accuracy_score(targets, predictions))
    assert result.macro_f1 == pytest.approx(reference.f1_score(targets, predictions, average="macro"))
    area = reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    assert result.roc_auc == pytest.approx(area)


def test_many_items_have_fewer_resamples(monkeypatch):
    probabilities, targets = make_items(80, 4, seed=5)
    asked = evaluate(probabilities, targets, name_classes(4), resamples=30).to_dict()
    monkeypatch.setattr(metrics, "_WORK", 80 * 30)
    monkeypatch.setattr(metrics, "_FEWEST_RESAMPLES", 20)
    assert evaluate(probabilities, targets, name_classes(4)).to_dict() == asked


def test_intervals_equal_those_of_resampled_items():
    probabilities, targets = make_items(80, 4, seed=5)
    classes = name_classes(4)
    result = evaluate(probabilities, targets, classes, seed=11, resamples=50)
    rng = np.random.default_rng(11)
    draws = [rng.integers(80, size=80) for _ in range(50)]
    resampled = [evaluate(probabilities[drawn], targets[drawn], classes, resamples=1) for drawn in draws]
    t_point, per_class = t.ppf(0.975, 79), 4 / (1 / np.bincount(targets)).sum()
    for metric in ("mean_per_class_accuracy", "macro_f1", "roc_auc"):
        point = getattr(result, metric)
        variance = np.var([getattr(one, metric) for one in resampled]) * per_class / (per_class - 1)
        trials = point * (1 - point) / variance * (norm.ppf(0.975) / t_point) ** 2
        ends = compute_wilson_interval(point * trials, trials)
        assert result.get_interval(metric)[1:] == pytest.approx(tuple(map(float, ends))), metric
    losses = -np.log(probabilities[np.arange(80), targets])
    distances = [(losses[drawn].mean() - losses.mean()) / losses[drawn].std() for drawn in draws]
    ends = losses.mean() - np.quantile(distances, [0.975, 0.025]) * losses.std()
    assert result.get_interval("log_loss")[1:] == pytest.approx(tuple(ends))
    gaps = make_class_scores(probabilities, targets, probabilities.argmax(axis=1))
    counts = np.stack([np.bincount(drawn, minlength=80) for drawn in draws], axis=1).astype(float)
    points = gaps(np.ones((80, 1)))[0, 2:]
    low, high = invert_gaps(points, gaps(counts)[:, 2:], 80)
    farthest = max(points.sum() + result.accuracy - result.accuracy_low, result.accuracy_high - result.accuracy)
    assert result.expected_calibration_error_low == pytest.approx(low)
    assert result.expected_calibration_error_high == pytest.approx(max(high, farthest))


def test_a_few_confident_errors_do_not_widen_the_log_loss_to_absurdity():
    """With one large loss, a third of the resamples have none, and bootstrap-t ends reach any height."""
    for n_wrong in (1, 2, 3):
        probabilities = np.repeat([[0.999, 0.001]], 120, axis=0)
        targets = np.zeros(120, int)
        targets[:n_wrong] = 1
        result = evaluate(probabilities, targets, ["a", "b"])
        loss = -np.log(0.001)
        proportion = binomtest(n_wrong, 120).proportion_ci(method="wilson")
        assert result.log_loss_low < result.log_loss < result.log_loss_high
        assert result.log_loss_high <= 1.02 * proportion.high * loss
        assert result.log_loss_low >= 0.9 * proportion.low * loss


def test_accuracy_has_the_interval_of_wilson():
    probabilities, targets = make_items(150, 3)
    result = evaluate(probabilities, targets, name_classes(3), resamples=2)
    hits = int((probabilities.argmax(axis=1) == targets).sum())
    ends = binomtest(hits, 150).proportion_ci(method="wilson")
    assert (result.accuracy_low, result.accuracy_high) == pytest.approx((ends.low, ends.high))


def test_groups_widen_the_intervals_and_move_no_value():
    probabilities, targets = (np.repeat(values, 8, axis=0) for values in make_items(100, 3))
    groups = np.repeat([f"patient {number}" for number in range(100)], 8)
    alone = evaluate(probabilities, targets, name_classes(3))
    together = evaluate(probabilities, targets, name_classes(3), groups=groups.tolist())
    for metric in METRICS:
        (value, low, high), (same, lower, higher) = alone.get_interval(metric), together.get_interval(metric)
        assert same == value
        assert higher - lower > 1.8 * (high - low), metric


def test_empty_groups_count_as_ungrouped():
    probabilities, targets = make_items(60, 3)
    plain = evaluate(probabilities, targets, name_classes(3), resamples=20)
    empty = evaluate(probabilities, targets, name_classes(3), groups=[""] * 60, resamples=20)
    # The ratio estimator of a variance divides by n - 1: the accuracy's interval may differ in the third digit.
    assert empty.accuracy_low == pytest.approx(plain.accuracy_low, abs=1e-2)
    assert empty.macro_f1_low == plain.macro_f1_low


def test_given_predictions_are_counted_and_give_the_confidence():
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.2, 0.8]])
    result = evaluate(probabilities, [1, 1, 1], ["a", "b"], predictions=[1, 0, 1], resamples=2)
    assert result.confusion.tolist() == [[0, 0], [1, 2]]
    expected = compute_calibration_error(np.array([0.4, 0.6, 0.8]), np.array([True, False, True]))
    assert result.expected_calibration_error == pytest.approx(expected)


def test_one_item():
    result = evaluate([[0.3, 0.7]], [1], ["a", "b"])
    assert (result.n_items, result.accuracy, result.mean_per_class_accuracy) == (1, 1, 1)
    assert result.log_loss == pytest.approx(-np.log(0.7))
    assert result.get_interval("roc_auc") == (None, None, None)
    assert result.get_interval("log_loss")[1:] == (None, None)
    assert result.accuracy_low == pytest.approx(binomtest(1, 1).proportion_ci(method="wilson").low)


def test_perfect_predictions_have_no_certain_intervals_but_accuracy_has_one():
    result = evaluate(np.eye(3)[[0, 1, 2] * 10], [0, 1, 2] * 10, ["a", "b", "c"])
    for metric in ("mean_per_class_accuracy", "macro_f1", "roc_auc"):
        assert result.get_interval(metric) == (1, None, None)
    assert result.get_interval("expected_calibration_error") == (0, None, None)
    assert result.accuracy_low < 0.9
    assert result.accuracy_high == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_probability_of_zero_costs_as_much_as_in_scikit_learn(dtype):
    probabilities = np.array([[1, 0], [0, 1], [0, 1]], dtype=dtype)
    result = evaluate(probabilities, [1, 1, 0], ["a", "b"], resamples=2)
    assert result.log_loss == pytest.approx(reference.log_loss([1, 1, 0], probabilities), rel=1e-3)


def test_a_class_that_is_absent_counts_in_no_average():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    result = evaluate(probabilities, [0, 1, 1, 0], ["a", "b", "never"])
    assert result.mean_per_class_accuracy == pytest.approx(0.75)
    assert result.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert result.roc_auc == pytest.approx(compute_area(probabilities, np.array([0, 1, 1, 0])))
    absent = result.per_class[2]
    assert (absent.precision, absent.recall, absent.f1, absent.support) == (0, None, 0, 0)


def test_a_class_that_is_never_predicted_has_no_precision():
    result = evaluate([[0.9, 0.1, 0], [0.9, 0.1, 0]], [0, 1], ["a", "b", "c"], resamples=2)
    precision = [row.precision for row in result.per_class]
    assert precision == [0.5, None, None]
    assert [row.recall for row in result.per_class] == [1, 0, None]
    assert [row.f1 for row in result.per_class] == [pytest.approx(2 / 3), 0, None]


def test_no_input_warns_and_seeds_repeat():
    probabilities, targets = make_items(6, 6, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again, other = (
            evaluate(probabilities, targets, name_classes(6), seed=seed).to_dict() for seed in (1, 1, 2)
        )
    assert first == again
    assert first != other


@pytest.mark.parametrize("n_items", [1, 40])
def test_json_and_back(n_items):
    probabilities, targets = make_items(n_items, 4)
    result = evaluate(probabilities, targets, ["a", "ü", "日本", "$x$"], resamples=20)
    text = json.dumps(result.to_dict() | {"seconds": 3.5}, allow_nan=False)
    back = Evaluation.from_dict(json.loads(text))
    assert back.to_dict() == result.to_dict()
    assert back.per_class == result.per_class
    assert back.confusion.dtype == np.int64


def test_json_has_the_promised_keys():
    probabilities, targets = make_items(40, 3)
    values = evaluate(probabilities, targets, name_classes(3), resamples=5).to_dict()
    promised = {f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")}
    assert set(values) == promised | {"items", "classes", "per_class", "confusion"}
    assert values["items"] == 40
    areas = {"roc_auc", "average_precision"}
    assert values["per_class"][0].keys() == {"name", "precision", "recall", "f1", "support"} | areas
    assert np.array(values["confusion"]).sum() == 40


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_that_another_version_did_not_write_is_none(metric):
    values = evaluate([[0.5, 0.5], [0.1, 0.9]], [0, 1], ["a", "b"], resamples=5).to_dict()
    older = {name: value for name, value in values.items() if not name.startswith(metric)}
    read = Evaluation.from_dict(older)
    assert read.get_interval(metric) == (None, None, None)
    assert read.to_dict() == values | dict.fromkeys(set(values) - set(older))


def test_metrics_that_this_version_does_not_know_are_ignored():
    values = evaluate([[0.5, 0.5], [0.1, 0.9]], [0, 1], ["a", "b"], resamples=5).to_dict()
    newer = values | {"matthews": 0.5, "matthews_low": None, "per_class": [dict(one) for one in values["per_class"]]}
    newer["per_class"][0] |= {"specificity": 0.9}
    del newer["per_class"][1]["f1"]
    read = Evaluation.from_dict(newer)
    assert read.accuracy == values["accuracy"]
    assert [row.f1 for row in read.per_class] == [values["per_class"][0]["f1"], None]


@pytest.mark.parametrize(
    "spoil",
    [{"accuracy": "0.9"}, {"log_loss": [1]}, {"per_class": [{"odd": 1}]}, {"per_class": [1]}, {"confusion": "x"}],
)
def test_foreign_metrics_are_refused(spoil):
    values = evaluate([[0.5, 0.5]], [0], ["a", "b"], resamples=1).to_dict() | spoil
    with pytest.raises(DataError, match="evaluate again"):
        Evaluation.from_dict(values)


@pytest.mark.parametrize("lacking", ["items", "classes", "per_class", "confusion"])
def test_metrics_without_items_or_classes_are_refused(lacking):
    values = evaluate([[0.5, 0.5]], [0], ["a", "b"], resamples=1).to_dict()
    del values[lacking]
    with pytest.raises(DataError, match=f"KeyError.*{lacking}.*evaluate again"):
        Evaluation.from_dict(values)


GOOD = np.array([[0.5, 0.5], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.array([[0.5, 0.5], [0.6, 0.9]])}, "item 1 .* sum to 1.5"),
        ({"probabilities": np.array([[0.5, 0.5], [-0.5, 1.5]])}, "item 1 .* smallest is -0.5"),
        ({"probabilities": np.array([[np.nan, 0.5], [0.1, 0.9]])}, "item 0 .* nan"),
        ({"probabilities": GOOD[:, :1]}, r"\(2, 1\).*\(items, 2\)"),
        ({"probabilities": GOOD[0]}, "shape"),
        ({"probabilities": GOOD[:0], "targets": []}, "at least one item"),
        ({"probabilities": GOOD.astype(str)}, "predict_proba"),
        ({"targets": [0, 2]}, r"targets\[1\] is 2; .* from 0 to 1"),
        ({"targets": [-1, 0]}, r"targets\[0\] is -1"),
        ({"targets": [0]}, "targets have the dtype .* and the shape"),
        ({"targets": [0.0, 1.0]}, "integers"),
        ({"predictions": [0, 5]}, r"predictions\[1\] is 5"),
        ({"groups": ["a"]}, "1 groups for 2 items"),
    ],
)
def test_wrong_input_is_refused_in_one_line(change, message):
    arguments = {"probabilities": GOOD, "targets": [0, 1], "classes": ["a", "b"]} | change
    with pytest.raises(DataError, match=message) as caught:
        evaluate(**arguments)
    assert "\n" not in str(caught.value)


def test_no_resamples_are_refused():
    with pytest.raises(UsageError, match="resamples is 0"):
        evaluate(GOOD, [0, 1], ["a", "b"], resamples=0)


def test_a_thousand_resamples_are_fast():
    probabilities, targets = make_items(2000, 10)
    evaluate(probabilities[:50], targets[:50], name_classes(10))
    start = time.process_time()
    evaluate(probabilities, targets, name_classes(10))
    assert time.process_time() - start < 5  # half a second where nothing else runs


@pytest.mark.parametrize(("n_items", "n_classes"), [(60, 2), (90, 5), (6, 9)])
def test_areas_of_each_class_equal_those_of_scikit_learn(n_items, n_classes):
    probabilities, targets = make_items(n_items, n_classes)
    rows = evaluate(probabilities, targets, name_classes(n_classes), resamples=2).per_class
    for at, row in enumerate(rows):
        truth, scores = targets == at, probabilities[:, at]
        if not truth.any():
            assert row.roc_auc is row.average_precision is None
            continue
        assert row.roc_auc == pytest.approx(reference.roc_auc_score(truth, scores))
        assert row.average_precision == pytest.approx(reference.average_precision_score(truth, scores))


def test_a_class_without_other_items_has_no_areas_and_old_files_have_none():
    result = evaluate([[0.9, 0.1], [0.8, 0.2]], [0, 0], ["a", "b"], resamples=2)
    assert [(row.roc_auc, row.average_precision) for row in result.per_class] == [(None, None)] * 2
    values = evaluate([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["a", "b"], resamples=2).to_dict()
    assert values["per_class"][1]["roc_auc"] == 1
    for row in values["per_class"]:
        del row["roc_auc"], row["average_precision"]
    assert Evaluation.from_dict(values).per_class[0].roc_auc is None
