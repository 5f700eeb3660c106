"""Heat maps: evidence adds up to the score, and occlusion finds what decides."""

import numpy as np
import pytest

from featx.explaining.heat_maps import compute_evidence, occlude, scale_heat
from featx.heads.plain import DIVIDED, PlainHead


@pytest.mark.parametrize("scaling", ["none", "standard", "l2", DIVIDED])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_mean_of_the_evidence_is_the_score_above_the_mean_score(scaling, n_outputs):
    rng = np.random.default_rng(n_outputs)
    maps = rng.random((4, 5, 6), np.float32)
    moments = {"shift": rng.random(6), "scale": 1 + rng.random(6)} if scaling == "standard" else {}
    kernel, n_classes = rng.normal(size=(6, n_outputs)).astype(np.float32), max(2, n_outputs)
    head = PlainHead(np.arange(n_classes), [kernel, np.zeros(n_outputs, np.float32)], "margins", scaling, **moments)
    logits = np.log(head.predict_proba(maps.mean(axis=(0, 1))[None])[0])
    for place in range(n_classes):
        evidence = compute_evidence(head, place, maps)
        assert evidence.shape == (4, 5)
        # One output for two classes stands for the difference of their scores.
        expected = (logits[place] - logits.mean()) * (2 if n_outputs == 1 else 1)
        assert evidence.mean() == pytest.approx(expected, abs=1e-5)


def test_occlusion_finds_the_part_that_decides():
    image = np.full((70, 140, 3), 90, np.uint8)
    image[30:40, 100:120] = 250  # in row 3 and column 5 of seven

    def predict(images):
        bright = (images[..., 0] > 200).mean(axis=(1, 2)) / (200 / 9800)
        return np.stack([1 - 0.9 * bright, 0.9 * bright], axis=1)

    heat = scale_heat(occlude(image, 1, predict))
    assert heat.dtype == np.float32
    assert heat.shape == (7, 7)
    assert np.unravel_index(heat.argmax(), heat.shape) == (3, 5)
    assert heat.max() == 1
    assert heat[0].max() == heat[:, 0].max() == 0
    assert not scale_heat(occlude(image, 0, predict)).any()


def test_an_image_of_few_pixels_has_as_many_cells():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert occlude(image, 0, lambda images: np.full((len(images), 2), 0.5)).shape == (2, 4)
