import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featx.backbones.protocol import BackboneRequest
from featx.backbones.scattering import LUMINANCE, SIGMA_PX, XI, build_scattering, load_scattering, make_filters
from featx.errors import BackboneError, WeightsError
from featx.testing import BackboneContract

pytestmark = pytest.mark.keras


@pytest.fixture(scope="module")
def network():
    return build_scattering(64, 64)


@pytest.fixture(scope="module")
def photos():
    """Two real photos and, as the hardest case, noise; uint8 `(3, 64, 64, 3)`."""
    photos = [Image.fromarray(load_sample_image(name)).resize((64, 64)) for name in ("china.jpg", "flower.jpg")]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return np.stack([*(np.asarray(photo) for photo in photos), noise])


class TestScattering(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls):
        return load_scattering(BackboneRequest("scattering"))


class TestScatteringInColourCutAtEveryOrder(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls):
        return load_scattering(
            BackboneRequest(
                "scattering",
                {"J": "2", "L": "4", "colour": "rgb"},
                layers=("order0", "order1", "order2", -1),
                pooling="none",
                height=16,
                width=24,
            )
        )

    def test_the_orders_are_parts_of_the_whole(self, backbone, images):
        orders = [
            matrix.reshape(-1, *output.feature_shape)
            for matrix, output in zip(backbone.embed(images), backbone.outputs, strict=True)
        ]
        assert [order.shape for order in orders] == [(7, 4, 6, 3), (7, 4, 6, 24), (7, 4, 6, 48), (7, 4, 6, 75)]
        assert np.allclose(np.concatenate(orders[:3], axis=-1), orders[3], atol=1e-6)


def test_the_default_keeps_the_whole_map():
    backbone = load_scattering(BackboneRequest("scattering"))
    (output,) = backbone.outputs
    assert (output.layer, output.pooling, output.dim) == ("scattering", "flatten", 4 * 4 * 217)
    assert (backbone.height, backbone.width, backbone.weights) == (32, 32, "computed")


# --- against another implementation: in the Fourier domain, by the formulas, nothing subsampled until the end


def sum_aliases(transform, frequencies):
    shifts = 2 * np.pi * np.arange(-3, 4)
    return sum(transform(frequencies[:, None] + row, frequencies[None] + column) for row in shifts for column in shifts)


def transform_wavelet(frequencies, scale, angle, angles):
    sigma, xi, slant, theta = 0.8 * 2**scale, 0.75 * np.pi / 2**scale, 4 / angles, np.pi * angle / angles

    def transform_gabor(centre):
        def transform(row, column):
            along = column * np.cos(theta) + row * np.sin(theta) - centre
            across = (row * np.cos(theta) - column * np.sin(theta)) / slant
            return np.exp(-(sigma**2) * (along**2 + across**2) / 2)

        return sum_aliases(transform, frequencies)

    gabor, envelope = transform_gabor(xi), transform_gabor(0)
    return gabor - gabor[0, 0] / envelope[0, 0] * envelope


def scatter_in_fourier_domain(image, scales, angles):
    """Scatter one grey image `(side, side)` that is mirrored without limit; one stack of maps per order."""
    side, cell, sigma = len(image), 2**scales, 0.8 * 2 ** (scales - 1)
    mirrored = np.block([[image, image[:, ::-1]], [image[::-1], image[::-1, ::-1]]])
    frequencies = 2 * np.pi * np.fft.fftfreq(2 * side)
    wavelets = [[transform_wavelet(frequencies, j, angle, angles) for angle in range(angles)] for j in range(scales)]
    lowpass = sum_aliases(lambda row, column: np.exp(-(sigma**2) * (row**2 + column**2) / 2), frequencies)
    middle = np.exp(1j * frequencies * (cell - 1) / 2)  # from a cell's first pixel to its middle

    def average(signal):
        smooth = np.fft.ifft2(np.fft.fft2(signal) * lowpass / lowpass[0, 0] * middle[:, None] * middle).real
        return smooth[:side:cell, :side:cell]

    def scatter(signal, j):
        return [np.abs(np.fft.ifft2(np.fft.fft2(signal) * wavelet)) for wavelet in wavelets[j]]

    first = [scatter(mirrored, j) for j in range(scales)]
    second = [
        modulus for j in range(scales) for k in range(j + 1, scales) for one in first[j] for modulus in scatter(one, k)
    ]
    orders = [mirrored], [modulus for moduli in first for modulus in moduli], second
    return [np.stack([average(signal) for signal in order], axis=-1) for order in orders]


def test_it_agrees_with_the_formulas_up_to_the_border(network, photos):
    for photo, found in zip(photos, network(photos).numpy(), strict=True):
        expected = scatter_in_fourier_domain(photo / 255 @ LUMINANCE, 3, 8)
        assert [order.shape for order in expected] == [(8, 8, 1), (8, 8, 24), (8, 8, 192)]
        for ours, theirs in zip(np.split(found, [1, 25], axis=-1), expected, strict=True):
            assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)


# --- properties that the theory predicts


def test_a_plain_image_has_its_brightness_and_nothing_else(network):
    plain = np.broadcast_to(np.uint8([200, 100, 50]), (1, 64, 64, 3))
    brightness, waves = np.split(network(plain).numpy(), [1], axis=-1)
    assert np.allclose(brightness, (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255, atol=1e-4)
    assert np.abs(waves).max() < 1e-4


def split_orders(maps, angles=8):
    first, second = maps[..., 1 : 1 + 3 * angles], maps[..., 1 + 3 * angles :]
    cells = maps.shape[:-1]
    return maps[..., :1], first.reshape(*cells, 3, angles), second.reshape(*cells, 3, angles, angles)


@pytest.mark.parametrize(
    ("move", "turn"),
    [
        (lambda maps: maps[:, :, ::-1], lambda angle: -angle % 8),
        (lambda maps: maps[:, ::-1], lambda angle: -angle % 8),
        (lambda maps: np.rot90(maps, -1, axes=(1, 2)), lambda angle: (angle + 4) % 8),
    ],
    ids=["left to right", "upside down", "quarter turn"],
)
def test_moving_the_image_moves_the_map_and_its_angles(network, photos, move, turn):
    zeroth, first, second = split_orders(network(photos).numpy())
    moved = split_orders(network(np.ascontiguousarray(move(photos))).numpy())
    turned = turn(np.arange(8))
    assert np.allclose(moved[0], move(zeroth), atol=1e-5)
    assert np.allclose(moved[1][..., turned], move(first), atol=1e-5)
    assert np.allclose(moved[2][..., turned, :][..., turned], move(second), atol=1e-5)


def test_it_brings_no_two_images_further_apart(network, photos):
    pixels = photos / 255 @ LUMINANCE
    maps = network(photos).numpy() * 8  # each value stands for a cell of 8x8 px
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(maps[one] - maps[other]) <= 1.02 * np.linalg.norm(pixels[one] - pixels[other])


def test_a_shift_by_a_pixel_changes_it_far_less_than_the_pixels(network, photos):
    shifted = np.roll(photos, 1, axis=2)
    pixels, maps = photos / 255, network(photos).numpy()
    pixel_change = np.linalg.norm(shifted / 255 - pixels) / np.linalg.norm(pixels)
    map_change = np.linalg.norm(network(shifted).numpy() - maps) / np.linalg.norm(maps)
    assert map_change < pixel_change / 4


def test_handwritten_digits_are_easier_to_tell_apart_than_from_pixels():
    digits = load_digits()
    scans = [Image.fromarray(np.uint8(image * 255 / 16)).convert("RGB") for image in digits.images[:900]]
    images = np.stack([np.asarray(scan.resize((32, 32), Image.Resampling.BILINEAR)) for scan in scans])
    (features,) = load_scattering(BackboneRequest("scattering")).embed(images)

    def score(X):
        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        return head.fit(X[:600], digits.target[:600]).score(X[600:], digits.target[600:900])

    # The writers of the last 300 are not those of the first 600.
    assert 1 - score(features) < (1 - score(digits.data[:900])) / 2


# --- as a Keras network and as a provider


def test_it_is_frozen(network):
    assert network.weights
    assert not network.trainable_weights


def test_it_is_saved_and_loaded_in_safe_mode(network, photos, tmp_path):
    network.save(tmp_path / "scattering.keras")
    loaded = keras.models.load_model(tmp_path / "scattering.keras", safe_mode=True)
    assert np.array_equal(loaded(photos), network(photos))


def test_names_and_weights_are_the_same_in_another_process():
    code = (
        "import keras\n"
        "keras.layers.DepthwiseConv2D(3)\n"
        "from featx.backbones.protocol import BackboneRequest\n"
        "from featx.backbones.scattering import load_scattering\n"
        "backbone = load_scattering(BackboneRequest('scattering'))\n"
        "print(backbone.weights_digest, *[layer.name for layer in backbone.layers])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    backbone = load_scattering(BackboneRequest("scattering"))
    assert done.stdout.split() == [backbone.weights_digest, *(layer.name for layer in backbone.layers)]


def test_a_single_scale_has_no_second_order():
    network = build_scattering(8, 6, scales=1, angles=5)
    assert network.output.shape == (None, 4, 3, 6)


def test_an_image_smaller_than_the_kernels_is_mirrored_repeatedly():
    photo = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    found = build_scattering(8, 8)(photo[None]).numpy()[0]
    expected = np.concatenate(scatter_in_fourier_domain(photo / 255 @ LUMINANCE, 3, 8), axis=-1)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (BackboneRequest("scattering", {"Q": "1"}), "no argument Q; known: J, L, colour"),
        (BackboneRequest("scattering", {"J": "0"}), "J is '0'; it must be a whole number of at least 1"),
        (BackboneRequest("scattering", {"L": "many"}), "L is 'many'"),
        (BackboneRequest("scattering", {"colour": "lab"}), "no colour 'lab'; known: grey, rgb"),
        (BackboneRequest("scattering", height=36, width=32), "multiples of 8 px, not 36x32"),
    ],
)
def test_requests_that_it_cannot_build_are_refused(request_, message):
    with pytest.raises(BackboneError, match=message):
        load_scattering(request_)


@pytest.mark.parametrize("weights", ["imagenet", "none", "weights.h5"])
def test_weights_cannot_be_loaded(weights):
    with pytest.raises(WeightsError, match="are computed"):
        load_scattering(BackboneRequest("scattering", weights=weights))


# --- the filters


def respond(kernel, omega_row, omega_column):
    """Fourier transform of a kernel at one angular frequency (radians per px), about its centre."""
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
        # The maximum of the Gaussian, less the part that makes the mean zero.
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


def test_the_filters_add_no_energy_and_cover_every_frequency():
    # Littlewood-Paley sum, Bruna & Mallat 2013, eq. 5; it is 1 where the transform keeps all energy.
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
