import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.errors import UsageError
from featx.specs import (
    DECODERS,
    DTYPES,
    INTERPOLATIONS,
    POOLINGS,
    RESIZES,
    BackboneSpec,
    EmbedSpec,
    FineTuneSpec,
    HeadSpec,
    ImageSpec,
    find_differences,
)

BACKBONE = BackboneSpec("inceptionv3", "mixed10", "avg", "imagenet", "ab" * 32)
SPEC = EmbedSpec(BACKBONE, ImageSpec(299, 299, decoder="pillow-scaled"))

texts = st.text(st.characters(codec=None))  # surrogates as well, as in the path of a file
sizes = st.integers(1, 10**6)
backbones = st.builds(BackboneSpec, texts, texts, st.sampled_from(POOLINGS), texts, texts)
images = st.builds(
    ImageSpec, sizes, sizes, st.sampled_from(RESIZES), st.sampled_from(INTERPOLATIONS), st.sampled_from(DECODERS)
)
specs = st.builds(EmbedSpec, backbones, images, st.sampled_from(DTYPES))


@given(specs)
def test_a_spec_comes_back_from_its_json(spec):
    text = spec.to_json()
    again = EmbedSpec.from_dict(json.loads(text))
    assert again == spec
    assert again.to_json() == text
    assert again.digest == spec.digest
    assert text.isascii()


@given(specs, specs)
def test_specs_are_equal_if_and_only_if_their_digests_are(one, other):
    assert (one == other) == (one.digest == other.digest)
    assert (one == other) == (find_differences(one, other) == [])


def test_digests_are_stable():
    """Existing stores hold them: if this fails, none of these can be extended."""
    assert SPEC.to_json() == (
        '{"backbone":{"layer":"mixed10","pooling":"avg","uri":"inceptionv3","weights":"imagenet","weights_digest":"'
        + "ab" * 32
        + '"},"dtype":"float32","image":{"decoder":"pillow-scaled","height":299,"interpolation":"bilinear",'
        '"resize":"stretch","width":299}}'
    )
    assert SPEC.digest == "934dfc54170025cde5fa1a80166517928bb1370d72c6b78845d9eeaaa0788b3e"


def test_differences_are_named_with_both_values():
    other = EmbedSpec(BACKBONE, ImageSpec(299, 224, "crop", decoder="pillow-scaled"), "float16")
    assert find_differences(SPEC, other) == [
        "dtype: asked 'float32', found 'float16'",
        "image.resize: asked 'stretch', found 'crop'",
        "image.width: asked 299, found 224",
    ]


def test_a_parameter_that_one_spec_lacks_is_a_difference():
    assert find_differences(HeadSpec("knn", {"k": 5}), HeadSpec("knn")) == ["params.k: asked 5, found None"]
    assert find_differences(HeadSpec("knn"), HeadSpec("ridge", {"alpha": 1.0})) == [
        "name: asked 'knn', found 'ridge'",
        "params.alpha: asked None, found 1.0",
    ]


@pytest.mark.parametrize("size", [(0, 8), (8, -1), (224.0, 224), ("224", 224), (None, 224)])
def test_sizes_that_no_image_has_are_refused(size):
    with pytest.raises(UsageError, match="whole numbers"):
        ImageSpec(*size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageSpec(8, 8, resize="zoom"), "resize is 'zoom'; it must be one of stretch, crop, pad"),
        (lambda: ImageSpec(8, 8, interpolation="area"), "interpolation is 'area'; it must be one of bilinear"),
        (lambda: ImageSpec(8, 8, decoder="opencv"), "decoder is 'opencv'; it must be one of simd"),
        (lambda: BackboneSpec("a", "b", "mean", "c", "d"), "pooling is 'mean'; it must be one of avg"),
        (lambda: EmbedSpec(BACKBONE, ImageSpec(8, 8), "bfloat16"), "dtype is 'bfloat16'; it must be one of float32"),
    ],
)
def test_unknown_values_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_used_bits_change_a_digest_only_where_they_are_set():
    plain = ImageSpec(8, 8)
    assert "bits" not in plain.to_json()
    assert ImageSpec.from_dict({"bits": 0, **plain.to_dict()}).digest == plain.digest
    twelve = EmbedSpec(BACKBONE, ImageSpec(8, 8, bits=12))
    assert twelve.digest != EmbedSpec(BACKBONE, plain).digest
    assert EmbedSpec.from_dict(twelve.to_dict()) == twelve
    with pytest.raises(UsageError, match="bits is 99; it must be 8 to 15"):
        ImageSpec.from_dict({**plain.to_dict(), "bits": 99})


def test_a_crop_changes_a_digest_only_where_it_is_set():
    plain = ImageSpec(8, 8, "crop")
    assert "crop" not in plain.to_dict()
    assert ImageSpec(8, 8, "crop", crop=1.0).digest == plain.digest
    cropped = ImageSpec(8, 8, "crop", crop=0.875)
    assert cropped.digest != plain.digest
    assert ImageSpec.from_dict(cropped.to_dict()) == cropped
    for values in ({"crop": 0.875, "resize": "pad"}, {"crop": 0.01}, {"crop": 1}, {"crop": float("nan")}):
        with pytest.raises(UsageError, match="crop is"):
            ImageSpec.from_dict({**plain.to_dict(), **values})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: values.pop("dtype"),
        lambda values: values.pop("image"),
        lambda values: values.update(colour="red"),
        lambda values: values["image"].update(depth=3),
        lambda values: values["backbone"].pop("layer"),
        lambda values: values.update(image="large"),
    ],
)
def test_fields_that_are_missing_or_unknown_are_refused(spoil):
    values = SPEC.to_dict()
    spoil(values)
    with pytest.raises(ValueError, match="missing or unknown: "):
        EmbedSpec.from_dict(values)


def test_specs_cannot_be_changed():
    with pytest.raises(AttributeError):
        SPEC.dtype = "float16"
    assert len({SPEC, EmbedSpec.from_dict(SPEC.to_dict())}) == 1


def test_the_fields_of_a_wide_spec_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        FineTuneSpec(HeadSpec("logreg"))
    assert FineTuneSpec(epochs=3).epochs == 3
