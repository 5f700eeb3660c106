import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.backbones import BackboneRequest, describe_layers, list_backbones, load_backbone, parse_uri
from featx.backbones.catalogue import BUILT_IN, PRETRAINED
from featx.backbones.protocol import OWN_SCHEMES
from featx.errors import BackboneError, UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("uri", "name", "arguments"),
    [
        ("inceptionv3", "inceptionv3", {}),
        ("InceptionV3", "inceptionv3", {}),
        ("mobilenet?", "mobilenet", {}),
        ("MobileNet?alpha=0.75", "mobilenet", {"alpha": "0.75"}),
        ("mobilenet?dropout=0&alpha=.5", "mobilenet", {"dropout": "0", "alpha": ".5"}),
        ("scattering?J=2&colour=rgb", "scattering", {"J": "2", "colour": "rgb"}),
        ("file:Models/My Net.keras", "file:Models/My Net.keras", {}),
        ("FILE:/a/B.keras?preprocess=tf", "file:/a/B.keras", {"preprocess": "tf"}),
        ("net?name=", "net", {"name": ""}),
    ],
)
def test_a_uri_is_a_name_in_any_case_and_arguments(uri, name, arguments):
    request = parse_uri(uri)
    assert (request.name, request.arguments) == (name, arguments)


@pytest.mark.parametrize("uri", ["mobilenet?alpha", "mobilenet?alpha=1&&dropout=0", "mobilenet?0.75"])
def test_arguments_that_are_not_pairs_are_refused(uri):
    with pytest.raises(BackboneError, match="are not name=value pairs joined by &"):
        parse_uri(uri)


@given(arguments=st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_the_canonical_uri_names_the_same_request(arguments):
    request = BackboneRequest("mobilenet", arguments)
    parsed = parse_uri(request.uri)
    assert (parsed.name, parsed.arguments) == ("mobilenet", arguments)
    assert parsed.uri == request.uri


def test_the_order_of_the_arguments_does_not_change_the_uri():
    assert parse_uri("mobilenet?dropout=0&alpha=1").uri == parse_uri("mobilenet?alpha=1&dropout=0").uri


def test_every_name_is_listed_once_without_those_of_providers():
    names = list_backbones()
    assert len(names) == len(set(names))
    assert set(names) == {*BUILT_IN, *PRETRAINED}


@pytest.mark.parametrize(
    ("uri", "closest"),
    [
        ("inceptionv4", "inceptionv3"),
        ("MobileNet_V2?alpha=1", "mobilenetv2"),
        ("resnet5", "resnet50"),
        ("scatering", "scattering"),
        ("color", "colour"),
    ],
)
def test_an_unknown_name_lists_the_known_ones_closest_first(uri, closest):
    with pytest.raises(UnknownNameError) as caught:
        load_backbone(uri)
    message = str(caught.value)
    assert f"did you mean {closest}" in message
    shown, _, advice = message.partition("Known: ")[2].partition(", ...; ")
    listed = shown.split(", ")
    assert listed[0] == closest
    assert len(listed) == 8
    known = {*list_backbones(), *(f"{scheme}PATH" for scheme in OWN_SCHEMES)}
    assert set(listed) < known
    assert advice == f"`featx backbones` lists all {len(known)}"


@pytest.mark.parametrize("uri", ["", "keras", "file", "nub:bert", "model.keras"])
def test_other_uris_are_unknown(uri):
    with pytest.raises(UnknownNameError, match="no backbone is called"):
        load_backbone(uri)
    with pytest.raises(UnknownNameError, match="no backbone is called"):
        describe_layers(uri)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "no pooling called 'median'; known: avg, max, avgmax, gem, flatten, none"),
        ({"image_size": (0, 64)}, "image size is 0x64 px; both must be whole numbers, at least 1"),
        ({"image_size": (64, -8)}, "image size is 64x-8 px"),
        ({"image_size": (64.0, 64.0)}, r"image size is 64\.0x64\.0 px"),
        ({"image_size": 64}, r"image_size is 64; it must be height and width, such as \(224, 224\)"),
        ({"image_size": (64, 64, 3)}, r"image_size is \(64, 64, 3\)"),
        ({"layers": "colour"}, r"layers is 'colour'; it must be a list: layers=\['colour'\]"),
        ({"layers": -1}, r"must be a list: layers=\[-1\]"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        load_backbone("colour", **options)


def test_a_built_in_is_loaded_by_its_name():
    backbone = load_backbone("Colour", layers=[-1], pooling="none", image_size=(16, 24))
    assert (backbone.uri, backbone.height, backbone.width) == ("colour", 16, 24)
    assert describe_layers("colour", image_size=(16, 24)) == backbone.layers


def run_python(code, folder):
    path = os.pathsep.join([str(folder), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_names_are_resolved_without_a_framework(tmp_path):
    for name in ("keras", "tensorflow", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a framework was imported')\n")
    code = (
        "import featx\n"
        "from featx.errors import UnknownNameError\n"
        "print(len(featx.list_backbones()), featx.backbones.parse_uri('MobileNet?alpha=0.75').uri)\n"
        "print(featx.load_backbone('colour').outputs[0].dim)\n"
        "try:\n"
        "    featx.load_backbone('inceptionv4')\n"
        "except UnknownNameError as error:\n"
        "    print('inceptionv3' in str(error))\n"
    )
    assert run_python(code, tmp_path) == ["45 mobilenet?alpha=0.75", "240", "True"]


def test_another_package_can_add_a_backbone(tmp_path):
    (tmp_path / "outside.py").write_text(
        "from featx.backbones.colour import ColourBackbone\n"
        "def load(request):\n"
        "    return ColourBackbone(uri=request.uri, height=request.height, width=8)\n"
    )
    entries = tmp_path / "outside-1.0.dist-info" / "entry_points.txt"
    entries.parent.mkdir()
    entries.write_text("[featx.backbones]\nsepia = outside:load\n")
    (entries.parent / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    code = (
        "import featx\n"
        "backbone = featx.load_backbone('Sepia?tone=3', image_size=(16, 16))\n"
        "print('sepia' in featx.list_backbones(), backbone.uri, backbone.height)\n"
    )
    assert run_python(code, tmp_path) == ["True sepia?tone=3 16"]


def test_a_plain_request_leaves_every_choice_to_the_provider():
    request = parse_uri("colour")
    assert (request.layers, request.pooling, request.weights, request.height, request.width) == ((), *[None] * 4)
    assert request.uri == "colour"
    images = np.zeros((1, 64, 64, 3), np.uint8)
    assert load_backbone("colour").embed(images)[0].shape == (1, 240)
