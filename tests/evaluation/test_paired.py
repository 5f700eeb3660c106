import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from featx.errors import DataError, UsageError
from featx.evaluation import Paired, adjust_holm, compare_pair, describe_pair


def make_pair(only_a, only_b, both=20):
    right_a = np.repeat([True, False, True], [only_a, only_b, both])
    right_b = np.repeat([False, True, True], [only_a, only_b, both])
    return right_a, right_b


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_both_p_values_equal_their_definition_by_the_binomial_distribution(only_a, only_b):
    paired = compare_pair(*make_pair(only_a, only_b), resamples=2)
    total = only_a + only_b
    if total == 0:
        assert (paired.p_value, paired.p_value_exact) == (1, 1)
        return
    exact = binomtest(only_a, total).pvalue
    assert paired.p_value_exact == pytest.approx(max(exact, 1e-9), rel=1e-9, abs=1e-13)
    # Fagerland, Lydersen and Laake (2013): the exact value less the chance of what was seen; half of it in a draw.
    seen = binom.pmf(only_a, total, 0.5)
    middle = 1 - seen / 2 if only_a == only_b else exact - seen
    assert paired.p_value == pytest.approx(max(middle, 1e-9), rel=1e-9, abs=1e-13)


def test_the_p_values_of_a_published_table():
    # Bentur et al. (2009), as in table 1 of Fagerland, Lydersen and Laake (2013): 1 against 7 of 21 children.
    paired = compare_pair(*make_pair(1, 7, 13))
    assert paired.p_value_exact == pytest.approx(0.0703, abs=5e-5)
    assert paired.p_value == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize("sums", [[3, -1, 2], [1, 1, 1, -4, 2, 0, 5], [2, 2, -2, 6]])
def test_with_groups_the_signs_of_whole_groups_are_flipped(sums):
    right_a = np.concatenate([np.repeat([True, False], [max(s, 0), max(-s, 0) + 1]) for s in sums])
    right_b = np.concatenate([np.repeat([False, True, False], [max(s, 0), max(-s, 0), 1]) for s in sums])
    groups = np.repeat(np.arange(len(sums)), [abs(s) + 1 for s in sums])
    flipped = [abs(np.dot(signs, sums)) for signs in itertools.product([1, -1], repeat=len(sums))]
    above, same = (np.mean(test(flipped, abs(sum(sums)))) for test in (np.greater, np.equal))
    paired = compare_pair(right_a, right_b, groups=groups.tolist())
    assert paired.p_value == pytest.approx(above + same / 2)
    assert paired.p_value_exact == pytest.approx(above + same)
    assert (paired.n_units, paired.n_items) == (len(sums), groups.size)


def test_groups_of_one_change_nothing_and_copies_add_nothing():
    rng = np.random.default_rng(0)
    right_a, right_b = rng.random(200) < 0.9, rng.random(200) < 0.8
    alone = compare_pair(right_a, right_b)
    assert compare_pair(right_a, right_b, groups=[""] * 200) == alone
    copies = [np.repeat(right, 6) for right in (right_a, right_b)]
    together = compare_pair(*copies, groups=np.repeat(np.arange(200), 6).tolist())
    assert together.p_value == pytest.approx(alone.p_value, abs=1e-9)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    naive = compare_pair(*copies)
    assert naive.high - naive.low < 0.6 * (alone.high - alone.low)


def test_swapping_the_two_turns_the_difference_around():
    right_a, right_b = make_pair(14, 5, 100)
    one, other = compare_pair(right_a, right_b), compare_pair(right_b, right_a)
    assert (one.only_a, one.only_b, one.difference) == (14, 5, 9 / 119)
    assert (other.difference, other.p_value) == (-one.difference, one.p_value)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=0.01)
    assert 0 < one.low < one.difference < one.high


def solve_tango(only_a, only_b, n_items, end):
    """Scan differences with the constrained estimate found by maximising the likelihood."""
    inside = []
    for difference in np.linspace(-0.4, 0.4, 8001):
        chance_b = np.linspace(max(0, -difference), (1 - difference) / 2, 4001)[1:-1]
        likelihood = (
            only_a * np.log(chance_b + difference)
            + only_b * np.log(chance_b)
            + (n_items - only_a - only_b) * np.log1p(-2 * chance_b - difference)
        )
        best = chance_b[likelihood.argmax()]
        variance = n_items * (2 * best + difference * (1 - difference))
        if (only_a - only_b - n_items * difference) ** 2 <= 1.959964**2 * variance:
            inside.append(difference)
    return end(inside)


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 2), (1, 3)])
def test_few_differing_items_have_the_score_interval(only_a, only_b):
    paired = compare_pair(*make_pair(only_a, only_b, 53))
    n_items = only_a + only_b + 53
    assert paired.low == pytest.approx(solve_tango(only_a, only_b, n_items, min), abs=2e-4)
    assert paired.high == pytest.approx(solve_tango(only_a, only_b, n_items, max), abs=2e-4)


@pytest.mark.parametrize("n_items", [1, 10, 153])
def test_equal_predictions_are_a_tie_with_an_interval_that_depends_on_the_items(n_items):
    right = np.ones(n_items, dtype=bool)
    paired = compare_pair(right, right)
    assert (paired.difference, paired.p_value, paired.only_a, paired.only_b) == (0, 1, 0, 0)
    reach = 1.959964**2 / (n_items + 1.959964**2)
    assert (paired.low, paired.high) == pytest.approx((-reach, reach), abs=1e-5)
    halves = compare_pair(right, right, groups=(np.arange(n_items) // 2).tolist())
    assert halves.high >= paired.high


@pytest.mark.parametrize("n_items", [1, 153])
def test_one_that_is_always_right_and_one_that_never_is(n_items):
    right = np.ones(n_items, dtype=bool)
    best, worst = compare_pair(right, ~right), compare_pair(~right, right)
    assert (best.difference, best.high, worst.low) == (1, 1, -1)
    assert best.low == pytest.approx(-worst.high)
    assert -1 < best.low < 1
    one_group = compare_pair(right, ~right, groups=["a"] * n_items)
    assert one_group.p_value == pytest.approx(0.5)
    assert one_group.low < 0


def test_json():
    paired = compare_pair(*make_pair(30, 20))
    assert Paired(**json.loads(json.dumps(paired.to_dict(), allow_nan=False))) == paired


def test_holm_by_hand_and_in_any_order():
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1, never falling.
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm([0.9, 0.8]).tolist() == [1, 1]
    assert adjust_holm([0.04]).tolist() == [0.04]
    assert adjust_holm([]).size == 0


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    adjusted = adjust_holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(1, len(p_values) * np.array(p_values))).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_sentences():
    paired = Paired(0.018, 0.003, 0.032, 0.0123, 0.02, 30, 12, 1000, 1000)
    assert describe_pair(paired, "ridge", "knn") == "ridge is 1.8 points better than knn (0.3 to 3.2), p 0.012"
    tie = "ridge and knn: no difference that 1,000 test images could show"
    assert describe_pair(paired, "ridge", "knn", p_value=0.05, items="test images") == tie
    lost = Paired(-0.05, -0.08, -0.02, 1e-5, 1e-5, 2, 52, 1000, 40)
    assert describe_pair(lost, "ridge", "knn") == "knn is 5.0 points better than ridge (2.0 to 8.0), p < 0.001"
    assert describe_pair(lost, "a", "b", p_value=0.3).endswith("1,000 test items in 40 groups could show")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "correct_a is float64"),
        (([1, 0], [True, False]), "correct_a is int64 of shape"),
        (([True], [[True]]), "correct_b is bool of shape"),
        (([True], [True, False]), "correct_a has 1 items and correct_b 2"),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(DataError, match=message):
        compare_pair(*arguments)


def test_other_wrong_input():
    with pytest.raises(DataError, match="2 groups for 1 items"):
        compare_pair([True], [True], groups=["a", "b"])
    with pytest.raises(UsageError, match="resamples is 0"):
        compare_pair([True], [True], resamples=0)
    for wrong in ([1.2], [-0.1], [np.nan], [[0.1]]):
        with pytest.raises(DataError, match="p_values"):
            adjust_holm(wrong)
