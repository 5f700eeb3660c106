import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.preprocessing import StandardScaler

from featx.errors import UnknownNameError
from featx.heads.rows import FeatureRows
from featx.heads.scaling import Frame, Moments, make_scaler, measure_lengths, measure_spread
from featx.specs import SCALINGS

FEATURES = arrays.arrays(np.float32, (7, 5), elements=st.integers(-100, 100))


def scale(X, scaling):
    return X if scaling == "none" else make_scaler(scaling).fit_transform(X)


@settings(deadline=None)  # a busy machine is not a failure
@given(FEATURES, st.sampled_from(SCALINGS))
def test_spread_is_the_mean_squared_distance_to_the_mean(X, scaling):
    scaled = scale(X, scaling).astype(np.float64)
    expected = np.mean(np.sum((scaled - scaled.mean(axis=0)) ** 2, axis=1))
    if scaling == "standard":
        expected = max(expected, 1)  # it is divided by
    assert measure_spread(FeatureRows(X), scaling) == pytest.approx(
        expected, rel=0.02, abs=1e-5 * np.mean(scaled**2) * 5
    )


def test_scaling_keeps_float32_and_the_callers_array():
    X = np.random.default_rng(0).normal(3, 2, (20, 4)).astype(np.float32)
    before = X.copy()
    assert scale(X, "standard").dtype == scale(X, "l2").dtype == np.float32
    np.testing.assert_allclose(scale(X, "standard").std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(scale(X, "l2"), axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(X, before)


def test_an_unknown_scaling_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="did you mean standard"):
        make_scaler("standart")


@pytest.mark.parametrize("shift", [0, 1000])
def test_a_frame_is_the_standard_scaler_of_the_same_items(shift):
    random = np.random.default_rng(0)
    X = (random.standard_normal((5000, 6)) * [1, 10, 0.1, 1, 0, 3] + shift).astype(np.float32)
    X[:, 3] = 0
    weights = np.zeros((5000, 2))
    weights[:3000, 0] = weights[3000:, 1] = 1
    moments = Moments.measure(FeatureRows(X), weights)
    for part, rows in enumerate([slice(3000), slice(3000, None)]):
        frame, scaler = Frame.make("standard", moments, part), StandardScaler().fit(X[rows].astype(np.float64))
        np.testing.assert_allclose(frame.shift, scaler.mean_, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(frame.scale, scaler.scale_, rtol=1e-3)


def test_lengths_of_zero_count_as_one():
    X = np.array([[3, 4], [0, 0]], np.float32)
    assert measure_lengths(FeatureRows(X), "l2").tolist() == [5, 1]
    assert measure_lengths(FeatureRows(X), "standard") is None
