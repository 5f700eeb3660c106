"""The networks of a scout: how they are named, cut and pooled."""

import pytest
from pictures import write_digits
from tiny import save_network

from featx import ScoutOptions, load_backbone, scout
from featx.errors import UsageError
from featx.scouting.networks import build_networks, parse_backbone


def test_layers_after_an_at_sign(tmp_path):
    assert parse_backbone("mobilenet?alpha=0.25") == ("mobilenet?alpha=0.25", [])
    assert parse_backbone("mobilenet@conv_pw_11_relu, -1,3") == ("mobilenet", ["conv_pw_11_relu", -1, 3])
    path = tmp_path / "net@work.keras"
    assert parse_backbone(f"file:{path}@top") == (f"file:{path}", ["top"])
    path.touch()
    assert parse_backbone(f"file:{path}") == (f"file:{path}", [])


def test_an_object_brings_its_layers(tmp_path):
    (network,) = build_networks([load_backbone("colour")], [], [], {}, "auto")
    assert (network.list_flags("colour"), network.name("colour")) == (("--backbone", "colour"), "colour")
    with pytest.raises(UsageError, match="fixed when it is built"):
        build_networks([load_backbone("colour")], [-1], [], {}, "auto")


@pytest.mark.keras
def test_layers_and_poolings_of_a_network_of_ones_own(tmp_path):
    photos = write_digits(tmp_path / "photos", per_class=12, classes=2)
    path = save_network(tmp_path / "own.keras")
    options = ScoutOptions(features=tmp_path / "features", folder=None, folds=3, runtime="keras")
    result = scout(photos, f"file:{path}@left,-1", layers=["stem"], poolings=["avg", "max"], options=options)
    assert {(row.layer, row.pooling, row.dim) for row in result.rows} == {
        (layer, pooling, dim) for layer, dim in (("left", 8), ("top_relu", 16)) for pooling in ("avg", "max")
    }
    choice = result.choice
    assert choice.name == f"file:{path} {choice.layer} {choice.pooling}"
    assert result.command == (
        f"featx embed {photos} --backbone file:{path} --layer {choice.layer} --pooling {choice.pooling} "
        f"--features {options.features} --runtime keras"
    )
