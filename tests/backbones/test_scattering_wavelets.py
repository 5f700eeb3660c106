import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.backbones.scattering import SIGMA_PX, XI, make_filters


def respond(kernel, omega_row, omega_column):
    """Fourier transform of a kernel at one angular frequency (radians per px), about its middle."""
    offsets = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    return np.exp(-1j * omega_row * offsets) @ kernel @ np.exp(-1j * omega_column * offsets)


@given(J=st.integers(1, 4), L=st.integers(1, 12))
def test_wavelets_ignore_constants_and_lowpasses_keep_them(J, L):
    filters = make_filters(J, L)
    assert len(filters.wavelets) == len(filters.lowpasses) == J
    for d, wavelets in enumerate(filters.wavelets):
        count, rows, columns = wavelets.shape
        assert count == L
        assert rows == columns >= 2**d
        assert rows % 2 == (d == 0)
        assert np.abs(wavelets.sum(axis=(1, 2))).max() < 1e-6
    for d, lowpass in enumerate(filters.lowpasses, start=1):
        assert len(lowpass) % 2 == 0
        assert len(lowpass) >= 2**d
        assert lowpass.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("d", range(3))
def test_a_wavelet_answers_most_to_its_own_frequency_and_angle(d):
    wavelets = make_filters(3, 8).wavelets
    for angle in range(8):
        theta = np.pi * angle / 8
        row, column = XI / 2**d * np.sin(theta), XI / 2**d * np.cos(theta)
        answers = np.abs([[respond(kernel, row, column) for kernel in scale] for scale in wavelets])
        assert np.unravel_index(answers.argmax(), answers.shape) == (d, angle)
        # The Gaussian at its top, less the share that makes the mean zero.
        assert answers.max() == pytest.approx(1 - np.exp(-((SIGMA_PX * XI) ** 2)), abs=0.005)


def test_a_quarter_turn_of_a_wavelet_is_the_one_half_the_angles_on():
    for wavelets in make_filters(3, 8).wavelets:
        for angle in range(4):
            assert np.allclose(np.rot90(wavelets[angle], -1), wavelets[angle + 4], atol=1e-9)


def test_the_point_reflection_of_a_wavelet_is_its_conjugate():
    for wavelets in make_filters(3, 5).wavelets:
        assert np.allclose(wavelets[:, ::-1, ::-1], wavelets.conj(), atol=1e-9)


def test_a_lowpass_has_the_width_of_the_coarsest_wavelet():
    lowpass = make_filters(4, 8).lowpasses[-1]
    offsets = np.arange(len(lowpass)) - (len(lowpass) - 1) / 2
    deviation = np.sqrt((lowpass.sum(axis=0) * offsets**2).sum())
    assert deviation == pytest.approx(SIGMA_PX * 2**3, rel=0.03)


def test_the_filters_create_no_energy_and_miss_no_frequency():
    # Littlewood-Paley sum, Bruna & Mallat 2013, eq. 5; 1 wherever the transform keeps all energy.
    filters = make_filters(3, 8)
    sums = {
        (row, column): np.abs(respond(filters.lowpasses[-1], row, column)) ** 2
        + sum(
            np.abs(respond(kernel, sign * row, sign * column)) ** 2 / 2
            for scale in filters.wavelets
            for kernel in scale
            for sign in (1, -1)
        )
        for row in np.linspace(-3, 3, 13)
        for column in np.linspace(0, 3, 7)
    }
    assert max(sums.values()) < 1.02
    assert min(energy for frequency, energy in sums.items() if np.hypot(*frequency) <= 2.5) > 0.4
