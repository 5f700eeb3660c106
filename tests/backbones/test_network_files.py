"""Networks in ONNX, OpenVINO and TensorFlow Lite files, compared with NumPy."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import onnx_models as made
import pytest
from bounded import get_refusals
from photos import check_rows

import featx
from featx.backbones import describe_layers, load_backbone
from featx.backbones.openvino import openvino
from featx.backbones.running import choose_runtime
from featx.completion import slim_bundle
from featx.errors import BackboneError, BundleError, UnknownNameError, UsageError, WeightsError
from featx.testing import BackboneContract

DATA = Path(__file__).parents[1] / "data" / "networks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of this module, by name."""
    path = tmp_path_factory.mktemp("networks")
    fixed = made.value("x", [3, 3, made.SIDE, made.SIDE])
    for name, data in {
        "classifier": made.make_classifier(),
        "fixed": made.make_classifier(fixed),
        "transformer": made.make_transformer(),
        "open": made.make_classifier(made.value("x", ["n", 3, "h", "w"])),
        "bgr": made.make_classifier(metadata={"featx.recipe": "mean=10&std=2&scale=1&channels=bgr"}),
        "processor": made.make_classifier(
            metadata={"config": json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})}
        ),
    }.items():
        (path / f"{name}.onnx").write_bytes(data)
    return path


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, made.SIDE, made.SIDE, 3), dtype=np.uint8)


def average(pixels):
    return np.maximum(made.embed_patches(pixels), 0).mean(axis=(1, 2))


load = functools.cache(load_backbone)  # once for all tests of a class


class TestOpenBatch(BackboneContract):
    @pytest.fixture
    def backbone(self, folder):
        return load(f"onnx:{folder}/transformer.onnx?recipe=imagenet", pooling="avg")


class TestFixedBatch(BackboneContract):
    @pytest.fixture
    def backbone(self, folder):
        return load(f"onnx:{folder}/fixed.onnx?recipe=imagenet")


RECIPES = {
    "recipe=imagenet": lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "recipe=inception": lambda x: x / 127.5 - 1,
    "recipe=caffe": lambda x: x[..., ::-1] - [103.939, 116.779, 123.68],
    "recipe=none": lambda x: x,
    "mean=1,2,3&std=2&scale=0.5": lambda x: (x * 0.5 - [1, 2, 3]) / 2,
    "recipe=unit&channels=bgr": lambda x: x[..., ::-1] / 255,
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_decides_what_pixels_become(folder, images, recipe):
    network = load_backbone(f"onnx:{folder}/classifier.onnx?{recipe}")
    (found,) = network.embed(images)
    check_rows(found, average(RECIPES[recipe](images.astype(float))), 1e-5)
    again = load_backbone(f"onnx:{folder}/classifier.onnx?{network.uri.partition('?')[2]}")
    assert again.uri == network.uri  # what is in a spec means the same when it is read


def test_a_file_without_a_recipe_is_refused_with_what_it_suggests(folder):
    with pytest.raises(BackboneError, match=r"float32 \(n, 3, 16, 16\), was written by tests.*--recipe imagenet if"):
        load_backbone(f"onnx:{folder}/classifier.onnx")
    (folder / "preprocessor_config.json").touch()
    try:
        with pytest.raises(BackboneError, match=r"Add --recipe \S+preprocessor_config.json if"):
            load_backbone(f"onnx:{folder}/classifier.onnx")
    finally:
        (folder / "preprocessor_config.json").unlink()


def test_a_recipe_inside_the_file_is_used_and_said(folder, images, notes):
    network = load_backbone(f"onnx:{folder}/bgr.onnx")
    check_rows(network.embed(images)[0], average((images[..., ::-1].astype(float) - 10) / 2), 1e-5)
    assert network.uri.endswith("?channels=bgr&mean=10&scale=1&std=2")
    assert any(
        "bgr.onnx says how its pixels are scaled: (pixel * 1 - (10, 10, 10)) / (2, 2, 2), BGR" in n for n in notes()
    )
    assert load_backbone(f"onnx:{folder}/processor.onnx").uri.endswith("?recipe=inception")


def test_a_classifier_is_cut_before_its_last_product_and_this_is_said(folder, images, notes):
    uri = f"onnx:{folder}/classifier.onnx?recipe=none"
    assert load_backbone(uri).outputs == (featx.backbones.Output("vector", "none", 6, (6,)),)
    assert any("cut at vector (6,), the input of its last matrix product" in note for note in notes())
    (logits,) = load_backbone(uri, layers=[-1]).embed(images)
    check_rows(logits, average(images) @ made.CLASSIFIER, 1e-5)
    maps = load_backbone(uri, layers=["active", "mean"], pooling="none")
    assert [output.feature_shape for output in maps.outputs] == [(4, 4, 6), (1, 1, 6)]  # channels last, as in Keras
    found = maps.embed(images)[0].reshape(-1, 4, 4, 6)
    np.testing.assert_allclose(found, np.maximum(made.embed_patches(images), 0), rtol=1e-4, atol=1e-3)
    with pytest.raises(UnknownNameError, match="no tensor called 'vectr'; did you mean vector"):
        load_backbone(uri, layers=["vectr"])
    with pytest.raises(UnknownNameError, match="has 5 tensors; there is no tensor -6"):
        load_backbone(uri, layers=[-6])


def test_the_tensors_are_listed_without_a_recipe(folder):
    rows = describe_layers(f"onnx:{folder}/classifier.onnx")
    assert [(row.name, row.output_shape, row.bytes_per_item, row.depth) for row in rows] == [
        ("patches", (6, 4, 4), 24, 1),
        ("active", (6, 4, 4), 24, 1),
        ("mean", (6, 1, 1), 24, 1),
        ("vector", (6,), 24, 1),
        ("logits", (5,), 20, 2),
    ]


POOLINGS = {
    "cls": lambda tokens: tokens[:, 0],
    "mean-patch": lambda tokens: tokens[:, 3:].mean(axis=1),
    "cls+mean": lambda tokens: np.concatenate([tokens[:, 0], tokens[:, 3:].mean(axis=1)], axis=1),
    "avg": lambda tokens: tokens.mean(axis=1),
    "none": lambda tokens: tokens.reshape(len(tokens), -1),
}


def test_tokens_are_pooled_without_registers(folder, images, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path))  # which keeps in mind that the file can be read
    own = np.repeat(made.TOKENS, len(images), axis=0)
    tokens = np.concatenate([own, made.embed_patches(images / 255).reshape(len(images), -1, 6)], axis=1)
    for pooling, reduce in POOLINGS.items():
        network = load_backbone(f"onnx:{folder}/transformer.onnx?recipe=unit&registers=2", pooling=pooling)
        check_rows(network.embed(images)[0], reduce(tokens), 1e-5)
        assert network.uri.endswith("?recipe=unit&registers=2")


@pytest.mark.parametrize(("layer", "what"), [("vector", "vectors"), ("active", r"maps of shape \(6, 4, 4\)")])
def test_poolings_of_tokens_are_refused_elsewhere(folder, layer, what):
    with pytest.raises(BackboneError, match=f"layer '{layer}' returns {what}, which have no class token"):
        load_backbone(f"onnx:{folder}/classifier.onnx?recipe=none", layers=[layer], pooling="cls")


def test_open_sizes_are_set_and_fixed_ones_respected(folder):
    uri = f"onnx:{folder}/open.onnx?recipe=none"
    with pytest.raises(BackboneError, match="takes images of any size; choose one with --image-size"):
        load_backbone(uri)
    network = load_backbone(uri, image_size=(16, 24), layers=["patches"], pooling="none")
    assert network.outputs[0].feature_shape == (4, 6, 6)
    with pytest.raises(BackboneError, match="takes images of 16x16 px"):
        load_backbone(f"onnx:{folder}/classifier.onnx?recipe=none", image_size=(32, 32))


def test_layouts_are_told_apart(tmp_path, images):
    convolution = made.node("Conv", ["turned", "kernel"], ["patches"], kernel_shape=[4, 4], strides=[4, 4])
    nodes = [made.node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]), convolution]
    path = tmp_path / "last.onnx"
    path.write_bytes(made.make_classifier(made.value("x", ["n", 16, 16, 3]), nodes=nodes))
    check_rows(load_backbone(f"onnx:{path}?recipe=none").embed(images)[0], average(images), 1e-5)
    path.write_bytes(made.make_classifier(made.value("x", ["n", "c", "h", "w"])))
    with pytest.raises(BackboneError, match=r"\?layout=nchw or \?layout=nhwc"):
        load_backbone(f"onnx:{path}?recipe=none", image_size=(16, 16))
    network = load_backbone(f"onnx:{path}?recipe=none&layout=nchw", image_size=(16, 16))
    check_rows(network.embed(images)[0], average(images), 1e-5)


def test_an_ir_and_a_tflite_file_give_the_same(folder, tmp_path, images):
    model = openvino.Core().read_model(folder / "classifier.onnx")
    model.set_rt_info("10 20 30", ["model_info", "mean_values"])
    model.set_rt_info("True", ["model_info", "reverse_input_channels"])
    openvino.save_model(model, tmp_path / "model.xml")  # with half of the precision, as converters do
    network = load_backbone(f"ir:{tmp_path / 'model.xml'}", layers=["vector"])
    check_rows(network.embed(images)[0], average(images - np.array([10.0, 20, 30])), 1e-3)
    network = load_backbone(f"tflite:{DATA / 'patches.tflite'}?recipe=none")  # for one image at a time
    check_rows(network.embed(images)[0], average(images), 1e-5)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(BackboneError, match="its weights are missing"):
        load_backbone(f"ir:{tmp_path / 'model.xml'}")


def test_weights_in_another_file_are_part_of_its_identity(tmp_path, images):
    kernel = made.external("kernel", made.KERNEL.shape, "weights/kernel.bin", offset=64)
    nodes, inputs = [made.CONV], [made.IMAGES]
    data = made.model(nodes, [kernel], inputs, [made.value("patches", ["n", 6, 4, 4])])
    (tmp_path / "m.onnx").write_bytes(data)
    (tmp_path / "weights").mkdir()
    digests = set()
    for factor in (1, 2):
        (tmp_path / "weights/kernel.bin").write_bytes(bytes(64) + (factor * made.KERNEL).tobytes())
        network = load_backbone(f"onnx:{tmp_path / 'm.onnx'}?recipe=none")
        check_rows(network.embed(images)[0], factor * made.embed_patches(images).mean(axis=(1, 2)), 1e-5)
        digests.add(network.weights_digest)
    assert len(digests) == 2


WRONG = {
    "recipe=imagnet": (UsageError, "no recipe or file called 'imagnet'; did you mean imagenet"),
    "mean=0.5": (UsageError, "--scale 1/255"),
    "scale=1&std=0": (UsageError, "must be finite and above 0"),
    "scale=1&mean=a": (UsageError, "mean is 'a'; write a number"),
    "recipe=none&channels=gbr": (UsageError, "it must be rgb or bgr"),
    "recipe=none&registers=x": (UsageError, "registers is 'x'"),
    "recipe=none&sdt=1": (BackboneError, "not sdt; did you mean std"),
    "recipe=none&layout=nhwc": (BackboneError, "takes input of shape"),
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments_are_refused(folder, arguments):
    error, words = WRONG[arguments]
    with pytest.raises(error, match=words):
        load_backbone(f"onnx:{folder}/classifier.onnx?{arguments}")


def test_what_only_keras_has_is_refused(folder):
    uri = f"onnx:{folder}/classifier.onnx?recipe=none"
    with pytest.raises(WeightsError, match="has its own weights"):
        load_backbone(uri, weights="none")
    with pytest.raises(UsageError, match="run by OpenVINO alone; leave out --runtime keras"):
        choose_runtime(load_backbone(uri), "keras")
    with pytest.raises(UnknownNameError, match=r"has a scheme: onnx:model\.onnx"):
        load_backbone("model.onnx")


def make_hostile(folder):
    """Write files that must be refused, each in little memory, and what must be said of them."""
    large = made.tensor("sides", np.array([3 * 2**28]))
    turned = made.node("Conv", ["turned", "kernel"], ["patches"], kernel_shape=[4, 4], strides=[4, 4])
    filled = made.node("ConstantOfShape", ["sides"], ["filled"])
    one = made.tensor("one", np.array([1]))
    small = made.tensor("big", np.zeros(4, np.float32), [30000, 30000])
    shaped = [
        made.node("Expand", ["one", "sides"], ["filled"]),
        made.node("ReduceSum", ["filled"], ["sum"], keepdims=1),
        made.node("Concat", ["sum", "sides"], ["shape"], axis=0),
        made.node("Reshape", ["x", "shape"], ["turned"]),
        turned,
    ]
    summed = [
        filled,
        made.node("ReduceSum", ["filled"], ["sum"], keepdims=0),
        made.node("Add", ["x", "sum"], ["turned"]),
        turned,
    ]
    two = [made.CONV, made.node("Add", ["patches", "y"], ["z"])]
    outputs = [made.value("z", ["n", 6, 4, 4])]
    files = {
        "truncated.onnx": (made.make_classifier()[:-200], "truncated or damaged at byte"),
        "page.onnx": (b"<html>not found</html>" * 9, "not an ONNX file"),
        "empty.onnx": (b"", "it is empty"),
        "integers.onnx": (made.make_classifier(made.value("x", ["n", 3, 16, 16], made.INT32)), "not float32"),
        "two.onnx": (
            made.model(two, [made.tensor("kernel", made.KERNEL)], [made.IMAGES, made.value("y", ["n", 1])], outputs),
            r"takes 2 inputs \(x, y\)",
        ),
        "rank.onnx": (made.make_classifier(made.value("x", None)), "an input of any rank"),
        "table.onnx": (made.make_classifier(made.value("x", ["n", 3]), nodes=[]), "."),
        "custom.onnx": (
            made.make_classifier(nodes=[made.node("Magic", ["x"], ["turned"], "my.ops"), turned]),
            "the custom operator Magic of my.ops",
        ),
        "outside.onnx": (made.make_classifier(extra=[made.external("big", [4], "../../big.bin")]), "lie outside its"),
        "absent.onnx": (
            made.make_classifier(extra=[made.external("big", [4], "big.bin")]),
            "big.bin, which is missing",
        ),
        "declared.onnx": (
            made.make_classifier(extra=[small]),
            "should have 3,600,000,000 bytes, but the file holds 16",
        ),
        "filled.onnx": (made.make_classifier(nodes=summed, extra=[large]), "computes arrays of 3,221,225,"),
        "shaped.onnx": (made.make_classifier(nodes=shaped, extra=[large, one]), "takes too much memory to be read"),
        "cut.tflite": ((DATA / "patches.tflite").read_bytes()[:900], "OpenVINO cannot run"),
        "page.tflite": (b"<html>", "does not begin as a TensorFlow Lite file"),
        "page.xml": (b"<html>not found</html>", "."),
    }
    (folder / "page.bin").touch()
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {folder / name: words for name, (_, words) in files.items()}


def test_hostile_files_are_refused_in_little_memory(tmp_path):
    expected = make_hostile(tmp_path)
    schemes = {".onnx": "onnx", ".tflite": "tflite", ".xml": "ir"}
    statement = (
        "from featx.backbones import load_backbone\n"
        f"        load_backbone({schemes!r}[path[path.rindex('.'):]] + ':' + path + '?recipe=none')"
    )
    for words, message in zip(expected.values(), get_refusals(statement, expected), strict=True):
        assert re.search(words, message), message


def test_a_bundle_runs_without_the_file(folder, pictures, tmp_path):
    file = tmp_path / "mine.onnx"
    file.write_bytes((folder / "transformer.onnx").read_bytes())
    result = featx.embed(pictures, f"onnx:{file}?recipe=clip", pooling="cls+mean", folder=tmp_path / "f")
    store = result.store
    assert store.path.stem == "mine-recipe-clip-cls+mean"
    assert (store.spec.image.resize, store.spec.image.interpolation) == ("crop", "bicubic")
    options = featx.FitOptions(folder=tmp_path / "runs", test_size=0.3)
    bundle = featx.fit(store, "centroid", options=options).bundle
    file.unlink()
    assert not list(Path(bundle).glob("backbone*"))
    predictor = featx.Predictor.load(bundle)
    (answer,) = predictor.predict([next((pictures / "cat").iterdir())])
    assert answer.label in {"cat", "dog"}
    with pytest.raises(UsageError, match="its network must stay"):
        slim_bundle(bundle)
    with pytest.raises(BundleError, match="run by OpenVINO alone"):
        featx.Predictor.load(bundle, runtime="keras")
    with pytest.raises(BackboneError, match=r"there is no file \S+mine.onnx"):
        featx.fit(store, "centroid", options=options)
