import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.backbones.colour import load_colour
from featx.backbones.protocol import BackboneRequest
from featx.errors import BackboneError, UnknownNameError
from featx.testing import BackboneContract


class TestColour(BackboneContract):
    tolerance = 0.0

    @pytest.fixture
    def backbone(self):
        return load_colour(BackboneRequest("colour"))


class TestColourOfAnotherSize(BackboneContract):
    tolerance = 0.0

    @pytest.fixture
    def backbone(self):
        return load_colour(BackboneRequest("colour", layers=("colour", -1), pooling="none", height=16, width=40))


@given(colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_a_plain_image_has_its_colour_in_every_cell_and_one_full_bin_per_channel(colour):
    image = np.full((1, 64, 64, 3), colour, np.uint8)
    (features,) = load_colour(BackboneRequest("colour")).embed(image)
    means, shares = features[0, :192].reshape(8, 8, 3), features[0, 192:].reshape(3, 16)
    assert np.array_equal(means, np.broadcast_to(np.float32(np.divide(colour, 255)), (8, 8, 3)))
    assert np.array_equal(shares, np.eye(16)[np.floor_divide(colour, 16)])


def test_a_mean_belongs_to_its_cell():
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[0, 8:16, 56:64, 1] = 255
    (features,) = load_colour(BackboneRequest("colour")).embed(image)
    means = features[0, :192].reshape(8, 8, 3)
    assert means[1, 7, 1] == 1
    assert means.sum() == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (BackboneRequest("colour", {"bins": "8"}), "takes no arguments; leave out bins"),
        (BackboneRequest("colour", weights="imagenet"), "are computed"),
        (BackboneRequest("colour", pooling="avg"), "use none"),
        (BackboneRequest("colour", height=60), "multiples of 8 px, not 60x64"),
    ],
)
def test_unsupported_requests_are_refused(request_, message):
    with pytest.raises(BackboneError, match=message):
        load_colour(request_)


@pytest.mark.parametrize("layer", ["color", 1])
def test_another_layer_is_unknown(layer):
    with pytest.raises(UnknownNameError, match="nown: colour"):
        load_colour(BackboneRequest("colour", layers=(layer,)))


def test_it_runs_without_a_framework(tmp_path):
    for name in ("keras", "tensorflow", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a framework was imported')\n")
    code = (
        "import numpy as np\n"
        "from featx.backbones.colour import load_colour\n"
        "from featx.backbones.protocol import BackboneRequest\n"
        "print(load_colour(BackboneRequest('colour')).embed(np.zeros((2, 64, 64, 3), np.uint8))[0].shape)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(2, 240)", done.stderr
