import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import featx
from featx.backbones import cache
from featx.backbones.converted import ConvertedBackbone
from featx.backbones.loading import find_backbone, parse_uri
from featx.backbones.protocol import LayerInfo, Output
from featx.testing import BackboneContract

DESCRIBED = {
    "request": "mobilenet",
    "uri": "mobilenet",
    "weights": "imagenet",
    "weights_digest": "ab" * 32,
    "source_file": "",
    "height": 32,
    "width": 48,
    "outputs": [{"layer": "top", "pooling": "avg", "dim": 8, "feature_shape": [8]}],
    "layers": [
        {
            "index": 0,
            "name": "top",
            "kind": "ReLU",
            "output_shape": [1, 1, 8],
            "parameters": 0,
            "bytes_per_item": 32,
            "bytes_per_map": 32,
        }
    ],
    "drift": 1e-6,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "networks"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"some weights")
    return path


def save(path):
    path.write_text("<net/>")
    path.with_suffix(".bin").write_bytes(bytes(1000))


def write(weights="", name="a"):
    cache.write_entry(name, DESCRIBED, str(weights), save)


def test_an_entry_comes_back_as_it_was_written(folder):
    write()
    entry = cache.read_entry("a")
    assert entry.network == folder / "a" / "network.xml"
    assert entry.outputs == (Output("top", "avg", 8, (8,)),)
    assert entry.layers == (LayerInfo(0, "top", "ReLU", (1, 1, 8), 0, 32, 32),)
    assert (entry.uri, entry.height, entry.width, entry.drift) == ("mobilenet", 32, 48, 1e-6)
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_what_was_never_written_is_not_there(folder):
    assert cache.read_entry("a") is None
    assert not folder.exists()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: flip(entry / "network.bin"),
        lambda entry: flip(entry / "network.xml"),
        lambda entry: (entry / "network.bin").unlink(),
        lambda entry: (entry / "entry.json").unlink(),
        lambda entry: (entry / "entry.json").write_text("{"),
        lambda entry: (entry / "entry.json").write_text("[]"),
        lambda entry: (entry / "entry.json").write_bytes(b"\xff"),
        lambda entry: (entry / "entry.json").write_text(json.dumps({"weights_file": None, "files": {}})),
    ],
)
def test_a_damaged_entry_is_dropped_and_can_be_made_again(damage, folder, caplog):
    write()
    damage(folder / "a")
    assert cache.read_entry("a") is None
    assert "is damaged" in caplog.text
    assert not (folder / "a").exists()
    write()
    assert cache.read_entry("a") is not None


def test_changed_weights_make_an_entry_stale(weights):
    write(weights)
    weights.write_bytes(b"new weights!")
    assert cache.read_entry("a") is None


def test_weights_of_another_size_make_an_entry_stale(weights):
    write(weights)
    before = weights.stat()
    weights.write_bytes(b"more weights than before")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.read_entry("a") is None


def test_weights_that_were_only_touched_or_deleted_do_not(weights):
    write(weights)
    os.utime(weights, (1, 1))
    assert cache.read_entry("a") is not None
    weights.unlink()
    assert cache.read_entry("a") is not None


def test_the_first_of_two_writers_wins(folder):
    write()
    before = (folder / "a" / "network.bin").stat().st_ino
    write()
    assert (folder / "a" / "network.bin").stat().st_ino == before
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_failed_write_leaves_nothing_and_is_said(folder, caplog):
    def fail(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    cache.write_entry("a", DESCRIBED, "", fail)
    assert "No space left on device" in caplog.text
    assert "FEATX_CACHE" in caplog.text
    assert list(folder.iterdir()) == []


def test_pruning_removes_what_was_not_used_for_so_long(folder):
    write(name="old")
    write(name="new")
    week_ago = time.time() - 7 * 86_400
    os.utime(folder / "old" / "entry.json", (week_ago, week_ago))
    assert [usage.folder.name for usage in cache.list_entries()] == ["new", "old"]
    assert [usage.folder.name for usage in cache.prune(5)] == ["old"]
    assert [(usage.folder.name, usage.request) for usage in cache.list_entries()] == [("new", "mobilenet")]
    (folder / ".unfinished-abc").mkdir()
    cache.prune(0)
    assert list(folder.iterdir()) == []


def test_reading_an_entry_counts_as_using_it(folder):
    write()
    os.utime(folder / "a" / "entry.json", (1, 1))
    cache.read_entry("a")
    assert cache.prune(1) == []


def test_the_name_depends_on_all_that_decides_the_network(monkeypatch):
    request = parse_uri("mobilenet?alpha=0.25")
    others = [
        parse_uri("mobilenet"),
        replace(request, layers=("top",)),
        replace(request, pooling="max"),
        replace(request, weights="none"),
        replace(request, height=64, width=96),
        replace(request, height=96, width=64),
    ]
    names = [cache.name_entry(one, "") for one in (request, *others)] + [cache.name_entry(request, "elsewhere")]
    monkeypatch.setattr(cache, "read_versions", lambda: {"keras": "9"})
    names.append(cache.name_entry(request, ""))
    assert len(set(names)) == len(names)
    assert cache.name_entry(parse_uri("mobilenet?alpha=0.25"), "") == names[-1]


# --- with a real network

POISONED = """
import sys
for name in ("tensorflow", "keras", "sklearn", "skops", "matplotlib", "pandas"):
    sys.modules[name] = None
from featx.__main__ import main
sys.argv = ["featx", *{arguments!r}]
main()
"""


def run_poisoned(*arguments, **options):
    """Run the command line where TensorFlow, Keras and scikit-learn cannot be imported."""
    code = POISONED.format(arguments=list(map(str, arguments)))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


@pytest.mark.keras
def test_the_second_run_needs_neither_tensorflow_nor_keras(pictures, tmp_path, folder):
    backbone = ("mobilenet?alpha=0.25", "--weights", "none", "--image-size", "64")
    arguments = ("embed", pictures, "--backbone", *backbone)
    first = featx.embed(
        pictures, backbone[0], weights="none", image={"height": 64, "width": 64}, folder=tmp_path / "f1"
    )
    assert len(list(folder.iterdir())) == 1
    done = run_poisoned(*arguments, "--features", tmp_path / "f2")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "f2").glob("*.h5")
    second = featx.FeatureStore(path)
    assert second.spec == first.store.spec
    assert np.allclose(second.features, first.store.features, rtol=1e-4, atol=1e-6)
    assert second.runtime == "openvino"
    assert 0 < second.drift < 1e-4
    again = run_poisoned(*arguments, "--features", tmp_path / "f2", "--json")
    assert json.loads(again.stdout)["new"] == 0


@pytest.mark.keras
class TestConverted(BackboneContract):
    @pytest.fixture
    def backbone(self):
        wanted = {"weights": "none", "image_size": (48, 64), "layers": ("conv_pw_2_relu", -1)}
        built = find_backbone("mobilenet?alpha=0.25", **wanted)
        found = find_backbone("mobilenet?alpha=0.25", **wanted)
        assert isinstance(found, ConvertedBackbone)
        assert not isinstance(built, ConvertedBackbone)
        return found


@pytest.mark.keras
def test_keras_by_name_goes_round_the_cache(pictures, tmp_path, folder):
    options = featx.EmbedOptions(runtime="keras")
    size = {"height": 32, "width": 32}
    result = featx.embed(pictures, "mobilenet?alpha=0.25", weights="none", image=size, folder=tmp_path, options=options)
    assert result.store.runtime == "keras"
    assert not folder.exists()


@pytest.mark.keras
def test_a_file_that_changes_is_converted_again(pictures, tmp_path, folder):
    from tiny import save_network

    path = save_network(tmp_path / "mine.keras")
    first = featx.embed(pictures, f"file:{path}", folder=tmp_path / "f1").store
    again = featx.embed(pictures, f"file:{path}", folder=tmp_path / "f2").store
    assert again.spec == first.spec
    assert again.backbone_file == first.backbone_file
    from featx.frameworks import keras

    network = keras.models.load_model(path)
    layer = network.get_layer("top")
    layer.set_weights([2 * values for values in layer.get_weights()])
    network.save(path)
    changed = featx.embed(pictures, f"file:{path}", folder=tmp_path / "f3").store
    assert changed.spec != first.spec
    assert len(list(folder.iterdir())) == 1
