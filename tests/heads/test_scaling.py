import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from featx.errors import UnknownNameError
from featx.heads.rows import FeatureRows
from featx.heads.scaling import make_scaler, measure_spread
from featx.specs import SCALINGS

FEATURES = arrays.arrays(np.float32, (7, 5), elements=st.integers(-100, 100))


def scale(X, scaling):
    return X if scaling == "none" else make_scaler(scaling).fit_transform(X)


@settings(deadline=None)  # a busy machine is no failure
@given(FEATURES, st.sampled_from(SCALINGS))
def test_spread_is_the_mean_squared_distance_to_the_mean(X, scaling):
    scaled = scale(X, scaling).astype(np.float64)
    expected = np.mean(np.sum((scaled - scaled.mean(axis=0)) ** 2, axis=1))
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
