"""Conformal sets cover what they promise, and grow with it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.errors import UsageError
from featx.explaining.conformal import Conformal, find_threshold

SHARES = st.floats(0.01, 0.99)


def make_conformal(scores, positions=None, units=None, n_classes=2):
    scores = np.asarray(scores, np.float32)
    positions = np.arange(len(scores)) % n_classes if positions is None else np.asarray(positions)
    units = np.arange(len(scores)) if units is None else np.asarray(units)
    names = tuple(f"c{place}" for place in range(n_classes))
    return Conformal(scores, positions.astype(np.int32), units.astype(np.int32), names)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), SHARES)
def test_a_threshold_is_the_order_statistic_of_split_conformal(scores, coverage):
    found = find_threshold(np.array(scores, np.float32), np.arange(len(scores)), coverage)
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    assert found == (sorted(scores)[rank - 1] if rank <= len(scores) else math.inf)


@pytest.mark.parametrize(("n_items", "coverage"), [(19, 0.9), (99, 0.9), (39, 0.95), (60, 0.8)])
def test_exchangeable_scores_are_covered(n_items, coverage):
    rng = np.random.default_rng(n_items)
    # A uniform score is at most a threshold with the probability that equals it.
    covered = [find_threshold(rng.random(n_items, np.float32), np.arange(n_items), coverage) for _ in range(3000)]
    expected = math.ceil((n_items + 1) * coverage - 1e-9) / (n_items + 1)
    error = math.sqrt(expected * (1 - expected) / (n_items + 2) / 3000)
    assert coverage <= expected <= coverage + 1 / (n_items + 1)
    assert abs(np.mean(covered) - expected) < 4 * error


def test_items_of_new_groups_are_covered_though_groups_differ_in_size_and_scores():
    rng = np.random.default_rng(1)
    covered, ungrouped = [], []
    for _ in range(2000):
        sizes = np.where(rng.random(20) < 0.2, 40, 1)  # the few large groups have the low scores
        levels = np.where(sizes > 1, 0.2, 1.0) * rng.random(20)
        scores, units = np.repeat(levels, sizes).astype(np.float32), np.repeat(np.arange(20), sizes)
        new = (0.2 if rng.random() < 0.2 else 1.0) * rng.random()
        covered.append(new <= find_threshold(scores, units, 0.9))
        ungrouped.append(new <= find_threshold(scores, np.arange(len(scores)), 0.9))
    assert np.mean(covered) > 0.9 - 3 * math.sqrt(0.09 / 2000)
    assert np.mean(ungrouped) < 0.5


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 200), SHARES, SHARES)
def test_sets_grow_with_the_coverage(seed, n_classes, n_items, one, other):
    rng = np.random.default_rng(seed)
    positions = rng.integers(0, n_classes, n_items)
    conformal = make_conformal(rng.random(n_items) ** (1 + positions), positions, n_classes=n_classes)
    probabilities = rng.dirichlet(np.ones(n_classes), 50)
    small, large = (conformal.find_thresholds(share).find_sets(probabilities) for share in sorted((one, other)))
    assert not (small & ~large).any()


def test_each_class_has_its_threshold_if_it_has_the_items():
    rng = np.random.default_rng(0)
    positions = np.repeat([0, 1], 50)
    conformal = make_conformal(np.where(positions, 0.5, 0.1) * rng.random(100), positions)
    thresholds = conformal.find_thresholds(0.9)
    assert thresholds.by_class
    assert not thresholds.note
    assert thresholds.values[0] < 0.1
    assert thresholds.values[1] > 0.4
    pooled = conformal.find_thresholds(0.985)
    assert not pooled.by_class
    assert (pooled.values >= thresholds.values).all()
    assert "has 50 calibrating items, and each class would need 66" in pooled.note
    few = make_conformal(conformal.scores[1:], positions[1:]).find_thresholds(0.5)
    assert "has 49 calibrating items, and each class would need 50" in few.note
    assert few.values[0] == few.values[1]


def test_too_few_items_promise_nothing_and_say_so():
    thresholds = make_conformal([0.1, 0.2, 0.3, 0.4]).find_thresholds(0.9)
    assert thresholds.find_sets(np.array([[1.0, 0.0]])).all()
    assert thresholds.note.endswith("needs 9 calibrating items, and the bundle has 4, so every set has all classes; "
                                    "ask for at most 0.8")  # fmt: skip
    assert np.isfinite(make_conformal([0.1, 0.2, 0.3, 0.4]).find_thresholds(0.8).values).all()
    grouped = make_conformal(np.linspace(0, 1, 40), units=np.arange(40) // 10)
    assert "needs 9 calibrating groups, and the bundle has 4" in grouped.find_thresholds(0.9).note


def test_a_set_may_be_empty():
    thresholds = make_conformal(np.linspace(0, 0.1, 40)).find_thresholds(0.9)
    assert thresholds.find_sets(np.array([[0.5, 0.5], [0.99, 0.01]])).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("coverage", [0, 1, -1, 2, math.nan])
def test_a_coverage_is_a_share(coverage):
    with pytest.raises(UsageError, match="coverage is"):
        make_conformal([0.1]).find_thresholds(coverage)
