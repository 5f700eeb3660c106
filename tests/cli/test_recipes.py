"""The flags for networks in files."""

import json

import onnx_models as made
import pytest


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(made.make_classifier())
    return f"onnx:{path}"


def test_the_flags_become_part_of_the_spec(featx_command, network, pictures):
    given = ("--mean", "0.5", "--std", "0.25,0.5,1", "--scale", "1/255", "--channels", "bgr", "--crop", "0.875")
    result = featx_command("embed", pictures, "--backbone", network, *given, "--name", "mine", "--json")
    assert result.code == 0, result.err
    about = json.loads(featx_command("info", json.loads(result.out)["store"], "--json").out)["spec"]
    assert about["backbone"]["uri"].endswith("?channels=bgr&mean=0.5&scale=0.00392156862745098&std=0.25%2C0.5%2C1")
    assert (about["image"]["resize"], about["image"]["crop"]) == ("crop", 0.875)
    result = featx_command("embed", pictures, "--backbone", network, "--recipe", "dinov2", "--resize", "stretch")
    assert result.code == 0, result.err
    assert "16x16 px, stretch, bicubic" in featx_command("info", "features/mine-recipe-imagenet-stretch.h5").out
    assert "images       16x16 px, crop 0.875, bilinear" in featx_command("info", "features/mine.h5").out


def test_the_tensors_of_a_file_are_listed_with_their_depth(featx_command, network):
    lines = featx_command("layers", network).out.splitlines()
    assert lines[0].split() == [
        "index",
        "from",
        "end",
        "name",
        "kind",
        "depth",
        "shape",
        "parameters",
        "bytes/item",
        "unpooled",
    ]
    assert lines[-1].split() == ["4", "-1", "logits", "MatMul", "2", "5", "30", "20", "B", "20", "B"]


def test_what_scales_its_own_pixels_takes_no_recipe(featx_command, network, pictures):
    result = featx_command("embed", pictures, "--backbone", "colour", "--mean", "0.5")
    assert result.code == 2
    assert "colour scales its own pixels; leave out --mean" in result.err
    result = featx_command("embed", pictures, "--backbone", network)
    assert (result.code, "Add --recipe imagenet" in result.err) == (1, True)
