"""Every runtime, batch size and number of workers makes the same store."""

import json
import os

import h5py
import numpy as np
import pytest
from PIL import Image
from reporters import Recorder
from runs import age

import featx
from featx import EmbedOptions
from featx.embedding import embed_layers
from featx.store.journal import Journal

openvino = pytest.importorskip("featx.backbones.openvino", reason="OpenVINO is not installed")
pytestmark = pytest.mark.keras

BACKBONE = "mobilenet?alpha=0.25"
LAYERS = ("conv_pw_6_relu", -1)
SIDE = 64
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """25 smooth pictures of several sizes, one of them twice, and one file that is not a picture."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(3)
    for number in range(25):
        path = folder / ("even" if number % 2 == 0 else "odd") / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = generator.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((80 + number, 120), Image.Resampling.BICUBIC).save(path)
        age(path)
    (folder / "odd" / "page.jpg").write_bytes(b"<html>")
    (folder / "odd" / "copy.jpg").write_bytes((folder / "even" / "00.jpg").read_bytes())
    return folder


def run(photos, folder, network=None, **options):
    network = network or load()
    return embed_layers(photos, network, folder=folder, options=EmbedOptions(max_bad=1, **options))


def load():
    return featx.load_backbone(BACKBONE, weights="none", layers=LAYERS, image_size=(SIDE, SIDE))


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """The stores that Keras computes, image by image."""
    return run(photos, tmp_path_factory.mktemp("reference"), runtime="keras", batch_size=1, workers=1)


def check_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.new, ours.cached, ours.quarantined) == (26, 0, 1)
        for name in ("ids", "sha256", "labels", "sizes_px"):
            assert np.array_equal(getattr(ours.store, name), getattr(theirs.store, name))
        assert ours.store.quarantine == theirs.store.quarantine
        assert ours.store.spec.digest == theirs.store.spec.digest
        scale = np.abs(theirs.store.features).max(axis=1, keepdims=True)
        assert (np.abs(ours.store.features - theirs.store.features) <= TOLERANCE * scale).all()


@pytest.mark.parametrize("runtime", ["keras", "openvino", "auto"])
@pytest.mark.parametrize(("batch_size", "workers"), [(None, None), (1, 1), (7, 4), (32, 1)])
def test_options_change_no_row(photos, reference, tmp_path, runtime, batch_size, workers):
    check_same(run(photos, tmp_path, runtime=runtime, batch_size=batch_size, workers=workers), reference)


def test_a_store_records_the_runtime_and_its_difference_from_keras(photos, reference, tmp_path):
    for result in reference:
        assert (result.runtime, result.store.runtime, result.store.drift) == ("keras", "keras", 0)
    for result in run(photos, tmp_path):
        assert (result.runtime, result.store.runtime) == ("openvino", "openvino")
        assert 0 < result.store.drift < 1e-5
        assert result.store.created_with["openvino"]


def test_two_runtimes_in_one_store_are_both_named(photos, tmp_path):
    few = featx.read_folder(photos)
    few = featx.Manifest(few.items[:10], few.reader, few.source)
    run(few, tmp_path, runtime="keras")
    both = run(photos, tmp_path)
    assert [(result.new, result.cached) for result in both] == [(15, 11), (15, 11)]  # the copy has its bytes
    assert {result.store.runtime for result in both} == {"keras, openvino"}
    again = run(photos, tmp_path)
    assert {(result.runtime, result.store.runtime) for result in again} == {("", "keras, openvino")}


def test_shards_remember_their_runtime(photos, reference, tmp_path, monkeypatch):
    network = load()

    def stumble(done, _):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path, network, reporter=Recorder(stumble))
    (shard, _) = tmp_path.glob("*.parts/*.h5")
    with h5py.File(shard) as file:
        assert file.attrs["runtime"] == b"openvino"
        assert 0 < file.attrs["drift"] < 1e-5
    finished = run(photos, tmp_path, network, runtime="keras")
    assert {result.store.runtime for result in finished} == {"keras, openvino"}
    assert all(result.store.drift > 0 for result in finished)
    for ours, theirs in zip(finished, reference, strict=True):
        assert np.allclose(ours.store.features, theirs.store.features, rtol=1e-4, atol=1e-5)


class Wrong(openvino.OpenVino):
    """OpenVINO with one operation changed, as by a broken kernel."""

    def embed(self, images):
        return tuple(matrix + np.float32(0.01) * matrix.max() for matrix in super().embed(images))


def test_a_runtime_that_differs_leaves_no_row(photos, reference, tmp_path, monkeypatch, notes):
    monkeypatch.setattr(openvino, "OpenVino", Wrong)
    committed = []
    monkeypatch.setattr(Journal, "commit", lambda own: (committed.append(own.runtime), commit(own))[1])
    found = run(photos, tmp_path)
    check_same(found, reference)
    assert set(committed) <= {"keras", ""}
    for result in found:
        assert (result.runtime, result.store.runtime) == ("keras", "keras")
        assert 1e-4 < result.store.drift < 1
    assert sum("differs from Keras by" in note for note in notes()) == 1


commit = Journal.commit


def test_the_command_prints_the_runtime(photos, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from featx.cli.app import app

    monkeypatch.chdir(tmp_path)
    arguments = [
        "embed",
        os.fspath(photos),
        "--backbone",
        BACKBONE,
        "--weights",
        "none",
        "--image-size",
        "64",
        "--json",
    ]
    found = CliRunner().invoke(app, [*arguments, "--runtime", "keras"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout.splitlines()[-1])["runtime"] == "keras"
    assert "runtime is 'tensorrt'; it must be one of auto, keras, openvino" in str(
        CliRunner().invoke(app, [*arguments, "--runtime", "tensorrt"]).exception
    )
