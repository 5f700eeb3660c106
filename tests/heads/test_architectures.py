import itertools

import numpy as np
import pytest

from featx.errors import UsageError
from featx.heads.architectures import Architecture, check_weights, compute_logits, read_hidden, take_probabilities


def make_weights(*widths, batch_norm=False, seed=0):
    random = np.random.default_rng(seed)
    weights = []
    for inputs, units in itertools.pairwise(widths):
        if batch_norm:
            weights += [np.full(inputs, value, np.float32) for value in (2, 1, 0.5, 4)]
        weights += [random.standard_normal((inputs, units)).astype(np.float32), np.ones(units, np.float32)]
    return weights


def test_sizes_of_hidden_layers():
    assert read_hidden("") == ()
    assert read_hidden("1024") == (1024,)
    assert read_hidden("512-256-1") == (512, 256, 1)


@pytest.mark.parametrize("text", ["abc", "0", "512-", "-512", "512--2", "5.5", "65537", "9" * 5000, "²", " 5", "1e3"])
def test_wrong_sizes_are_refused_with_an_example(text):
    with pytest.raises(UsageError, match="write 1 to 65,536 units for each, such as 256 or 512-256"):
        read_hidden(text)


def test_two_classes_share_one_output():
    assert Architecture.plan(8, "4", 2, batch_norm=False, dropout=0.0).widths == (8, 4, 1)
    assert Architecture.plan(8, "", 3, batch_norm=False, dropout=0.0).widths == (8, 3)


def test_logits_by_hand():
    kernel, bias = np.float32([[1, -1], [2, 0]]), np.float32([0, 1])
    last, offset = np.float32([[1], [10]]), np.float32([0.5])
    features = np.float32([[1, 1], [-3, 0]])
    # The hidden units are 3, 0 and 0, 4.
    np.testing.assert_array_equal(compute_logits([kernel, bias, last, offset], features, 1), [[3.5], [40.5]])
    gamma, beta, mean, variance = (np.float32([value] * 2) for value in (2, 1, 0.5, 4 - 1e-3))
    normalized = compute_logits([gamma, beta, mean, variance, kernel, bias], features, 2)
    scaled = (features - 0.5) / 2 * 2 + 1
    np.testing.assert_allclose(normalized, scaled @ kernel + bias, rtol=1e-6)


def test_probabilities_of_extreme_logits_are_finite():
    for logits in (np.float32([[1000], [-1000]]), np.float32([[1000, -1000], [-1000, 1000]])):
        probabilities = take_probabilities(logits)
        assert probabilities.shape == (2, 2)
        np.testing.assert_allclose(np.sort(probabilities), [[0, 1], [0, 1]])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_sound_weights_pass(batch_norm):
    check_weights(make_weights(6, 5, 3, batch_norm=batch_norm), (6, 5, 3))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda weights: weights[:-1], TypeError),
        (lambda weights: weights[:-2], ValueError),
        (lambda _: [], ValueError),
        (tuple, TypeError),
        (lambda weights: [*weights[:-1], weights[-1].astype(np.float64)], TypeError),
        (lambda weights: [*weights[:-1], weights[-1][:, None]], ValueError),
        (lambda weights: [*weights[:-1], np.full_like(weights[-1], np.nan)], ValueError),
        (lambda weights: [weights[0][:, :4], *weights[1:]], ValueError),
        (lambda weights: [weights[0][:5], *weights[1:]], ValueError),
        (lambda weights: [*weights, *make_weights(3, 3)], ValueError),
        (lambda _: make_weights(6, 3), ValueError),
    ],
)
def test_weights_that_do_not_fit_are_refused(spoil, error):
    with pytest.raises(error):
        check_weights(spoil(make_weights(6, 5, 3)), (6, 5, 3))


def test_a_variance_below_0_is_refused():
    weights = make_weights(6, 3, batch_norm=True)
    weights[3][2] = -1
    with pytest.raises(ValueError, match="variance below 0"):
        check_weights(weights, (6, 3))
