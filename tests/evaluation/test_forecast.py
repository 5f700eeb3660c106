import json

import numpy as np
import pytest

from featx.errors import DataError
from featx.evaluation import Forecast, forecast_accuracy

SIZES = [50, 100, 200, 400, 800]


def follow_law(sizes, factor=1.5, power=0.5, floor=0.03):
    return 1 - factor * np.asarray(sizes, dtype=float) ** -power - floor


@pytest.mark.parametrize("floor", [0, 0.03, 0.2])
@pytest.mark.parametrize("power", [0.25, 0.5, 0.9])
def test_a_power_law_is_recovered(power, floor):
    forecast = forecast_accuracy(SIZES, follow_law(SIZES, 0.9, power, floor))
    assert forecast.power == pytest.approx(power, rel=0.05)
    assert forecast.accuracy == pytest.approx(follow_law(1600, 0.9, power, floor), abs=1e-3)
    assert forecast.gain == pytest.approx(np.diff(follow_law([800, 1600], 0.9, power, floor))[0], abs=1e-3)
    assert forecast.predict(SIZES) == pytest.approx(follow_law(SIZES, 0.9, power, floor), abs=2e-3)


def test_three_sizes_are_enough_for_a_law_without_a_floor():
    forecast = forecast_accuracy(SIZES[:3], follow_law(SIZES[:3], floor=0))
    assert forecast.floor == 0
    assert forecast.accuracy == pytest.approx(follow_law(400, floor=0), abs=1e-3)


@pytest.mark.parametrize("curve", [[0.9] * 5, [1.0] * 5, [0.9, 0.89, 0.88, 0.88, 0.87], [0.0] * 5])
def test_curves_that_do_not_rise_have_no_gain(curve):
    forecast = forecast_accuracy(SIZES, curve)
    assert forecast.gain == pytest.approx(0, abs=1e-9)
    assert forecast.accuracy == pytest.approx(np.mean(curve))
    assert 0 <= forecast.gain_low <= forecast.gain <= forecast.gain_high


def test_the_interval_contains_the_gain_of_most_curves():
    rng = np.random.default_rng(0)
    held = []
    for seed in range(40):
        curve = follow_law(SIZES)[:, np.newaxis] + 0.006 * rng.normal(size=(5, 3))
        forecast = forecast_accuracy(SIZES, curve, seed=seed, resamples=200)
        held.append(forecast.gain_low <= np.diff(follow_law([800, 1600]))[0] <= forecast.gain_high)
    assert np.mean(held) >= 0.88


def test_noise_widens_the_interval_and_repeats_narrow_it():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(5, 16))
    one, many = (
        forecast_accuracy(SIZES, follow_law(SIZES)[:, np.newaxis] + 0.01 * noise[:, :repeats]) for repeats in (2, 16)
    )
    assert many.gain_high - many.gain_low < 0.7 * (one.gain_high - one.gain_low)


def test_order_does_not_matter_and_a_seed_gives_the_same_result():
    curve = follow_law(SIZES) + np.array([0.01, -0.01, 0.0, 0.01, 0.0])
    forecast = forecast_accuracy(SIZES, curve)
    assert forecast == forecast_accuracy(SIZES, curve)
    turned = forecast_accuracy(SIZES[::-1], curve[::-1])
    assert (turned.gain, turned.n_items) == (pytest.approx(forecast.gain), 800)


@pytest.mark.parametrize(
    ("low", "gain", "high", "words"),
    [
        (0.004, 0.012, 0.02, "twice as many labels would add about 1.2 points (0.4 to 2.0)"),
        (0.0, 0.001, 0.003, "more labels of this kind would hardly help: +0.1 points with twice as many (0.0 to 0.3)"),
        (
            0.0,
            0.01,
            0.04,
            "it is not clear whether more labels would help: +1.0 points with twice as many (0.0 to 4.0)",
        ),
    ],
)
def test_sentences(low, gain, high, words):
    assert str(Forecast(1, 0.5, 0, 100, 0.9, gain, low, high)) == words


def test_json():
    forecast = forecast_accuracy(SIZES, follow_law(SIZES))
    assert Forecast(**json.loads(json.dumps(forecast.to_dict(), allow_nan=False))) == forecast


@pytest.mark.parametrize(
    ("sizes", "accuracies", "message"),
    [
        ([10, 20], [0.5, 0.6], "at least 3 different"),
        ([10, 10, 20], [0.5, 0.6, 0.7], "at least 3 different"),
        ([0, 10, 20], [0.5, 0.6, 0.7], "from 1 up"),
        ([10, 20, 40], [0.5, 0.6], "pass one row for each size"),
        ([10, 20, 40], [0.5, 0.6, 1.1], "outside 0 to 1"),
        ([10, 20, 40], [0.5, 0.6, np.nan], "outside 0 to 1"),
    ],
)
def test_wrong_input_is_refused_in_one_line(sizes, accuracies, message):
    with pytest.raises(DataError, match=message):
        forecast_accuracy(sizes, accuracies)
