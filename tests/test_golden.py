import io
import math

import numpy as np
import pytest
from PIL import Image

from featx.backbones import load_backbone
from featx.golden import MAX_DRIFT, Golden, make_golden_files, measure_drift
from featx.golden_features import embed_golden
from featx.specs import ImageSpec


def make_golden(features):
    return Golden((b"",), np.array(features, np.float32))


def test_the_pictures_are_always_the_same_and_cover_two_decoders():
    files = make_golden_files()
    assert files == make_golden_files()
    pictures = [Image.open(io.BytesIO(data)) for data in files]
    assert [(picture.format, picture.size) for picture in pictures] == [("JPEG", (320, 240)), ("PNG", (96, 128))]
    assert all(np.asarray(picture).std() > 30 for picture in pictures)


def test_the_same_stack_does_not_drift():
    backbone, spec = load_backbone("colour"), ImageSpec(64, 64)
    (first,) = embed_golden(backbone, spec, make_golden_files())
    (again,) = embed_golden(backbone, spec, first.files)
    assert first.features.shape == (2, 240)
    assert first.features.dtype == np.float32
    assert measure_drift(first, again) == 0.0


@pytest.mark.parametrize("changed", [{"interpolation": "nearest"}, {"resize": "crop"}, {"interpolation": "lanczos"}])
def test_another_resize_drifts_beyond_the_limit(changed):
    backbone = load_backbone("colour")
    (first,) = embed_golden(backbone, ImageSpec(64, 64), make_golden_files())
    (other,) = embed_golden(backbone, ImageSpec(64, 64, **changed), first.files)
    assert measure_drift(first, other) > MAX_DRIFT


def test_drift_is_relative_to_the_largest_value():
    assert measure_drift(make_golden([[1, -8]]), make_golden([[1, -6]])) == pytest.approx(0.25)
    assert measure_drift(make_golden([[0, 0]]), make_golden([[0, 0.5]])) == pytest.approx(0.5)


@pytest.mark.parametrize("found", [[[1, math.nan]], [[1, math.inf]], [[1, 2, 3]], [[1], [2]]])
def test_incomparable_values_exceed_every_limit(found):
    assert not measure_drift(make_golden([[1, 2]]), make_golden(found)) <= MAX_DRIFT
