"""Bundles as one model: each format answers as featx does, in a process without featx."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from onnx_models import SIDE, make_classifier, make_transformer, value
from pictures import write_digits
from PIL import Image
from tiny import save_network

import featx
from featx.bundle import Bundle
from featx.errors import DataError, MissingExtraError, SourceError, UsageError
from featx.exporting.exporting import export_bundle
from featx.exporting.model_card import write_model_card
from featx.exporting.parity import Parity, choose_pictures
from featx.options import FitOptions
from featx.prediction import Predictor
from featx.report.mistakes import find_pictures

#: What the app must not need.
POISON = ("featx", "tensorflow", "keras", "sklearn", "scipy", "h5py", "onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exporting")
    write_digits(folder / "digits", per_class=20, classes=3)
    return folder


def fit(folder, backbone, head="logreg"):
    store = featx.embed(folder / "digits", backbone, folder=folder / "features").store
    return featx.fit(store, head, options=FitOptions(folder=folder / "runs")).bundle


@pytest.fixture(scope="module")
def bundle(folder):
    """A bundle whose network needs no TensorFlow."""
    (folder / "own.onnx").write_bytes(make_classifier())
    return fit(folder, f"onnx:{folder / 'own.onnx'}?recipe=unit")


def test_openvino_takes_pictures_of_any_size_and_names_its_classes(bundle, folder):
    from featx.backbones.openvino import start

    made = export_bundle(bundle, "openvino", folder / "openvino")
    assert made.parity.pixels.images == 60
    assert made.parity.pixels.changed == ()
    assert made.parity.pixels.largest_difference < 1e-5
    assert made.parity.whole.largest_difference < 0.05
    model = start().read_model(made.model)
    assert json.loads(model.get_rt_info(["featx", "classes"]).astype(str)) == ["0", "1", "2"]
    answer = start().compile_model(model, "CPU")(np.zeros((1, 50, 31, 3), np.uint8))[0]
    assert answer.shape == (1, 3)
    assert json.loads((made.path / "parity.json").read_text())["pixels"]["images"] == 60
    assert "Trained on" in (made.path / "model_card.md").read_text()
    with pytest.raises(UsageError, match="exists already; add --overwrite"):
        export_bundle(bundle, "openvino", folder / "openvino")
    with pytest.raises(UsageError, match="not an export"):
        export_bundle(bundle, "openvino", folder / "digits", overwrite=True)
    (made.path / "mine.txt").write_text("notes")
    with pytest.raises(UsageError, match=r"no export wrote mine\.txt in it, so move that first"):
        export_bundle(bundle, "openvino", made.path, overwrite=True)
    (made.path / "mine.txt").rename(folder / "mine.txt")
    assert export_bundle(bundle, "openvino", folder / "openvino", overwrite=True).path == made.path


@pytest.fixture(scope="module")
def exported_app(bundle, folder):
    return export_bundle(bundle, "app", folder / "app").path


def test_the_app_runs_where_nothing_else_is_installed(exported_app, bundle, folder, tmp_path):
    for name in POISON:
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')\n")
    pictures = sorted((folder / "digits" / "1").iterdir())[:4]
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    program = [
        sys.executable,
        str(exported_app / "predict.py"),
        "--json",
        *map(str, [*pictures, tmp_path / "broken.jpg"]),
    ]
    done = subprocess.run(program, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    *rows, broken = map(json.loads, done.stdout.splitlines())
    assert "not a whole picture in a known format (JPEG, PNG" in broken["error"]
    for row, expected in zip(rows, Predictor.load(bundle).predict(list(map(str, pictures))), strict=True):
        assert row["label"] == expected.label
        assert abs(row["probability"] - expected.probability) < 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_the_app_says_of_each_file_what_is_wrong(exported_app, folder, tmp_path):
    app, pictures = shutil.copytree(exported_app, tmp_path / "app"), tmp_path / "pictures"
    about = json.loads((app / "model.json").read_text())
    (app / "model.json").write_text(json.dumps(about | {"classes": ["%(prog)s %d", "\x1b[2J", "\u4e00"]}))
    pictures.mkdir()
    with Image.open(next((folder / "digits" / "1").iterdir())) as picture:
        picture.save(os.fsencode(pictures) + b"/a\xff\n.png")
        picture.save(pictures / "b.avif")
        picture.save(pictures / "c.eps")
    (pictures / "b.avif").write_bytes((pictures / "b.avif").read_bytes().replace(b"iloc", b"jloc"))
    (pictures / "d.png").symlink_to("gone.png")
    environment = {"PYTHONIOENCODING": "ascii:strict"}
    program = [sys.executable, str(app / "predict.py")]
    done = subprocess.run([*program, pictures], env=environment, capture_output=True, text=True, check=False)
    first, avif, eps, link = done.stdout.splitlines()
    assert done.returncode == 1, done.stderr
    assert first.startswith(rf"{pictures}/a\udcff\n.png  ")
    assert "error: Failed to decode image" in avif
    assert "error: not a whole picture in a known format" in eps
    assert "error: [Errno 2] No such file" in link
    shown = subprocess.run([*program, "--help"], env=environment, capture_output=True, text=True, check=True).stdout
    assert r"Classes: %(prog)s %d, \x1b[2J, \u4e00" in shown
    assert len((app / "predict.py").read_text().splitlines()) < 100


@pytest.mark.parametrize(
    "record",
    [None, [], {"store": []}, {"store": {"path": 5, "items": "9\n# Evil\n<b>"}, "split": "half", "backbone": "own"}],
    ids=["missing", "list", "store", "words"],
)
def test_a_record_that_was_edited_is_not_trusted(bundle, tmp_path, record):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    content = json.loads((copy / "bundle.json").read_text())
    content.pop("record")
    (copy / "bundle.json").write_text(json.dumps(content if record is None else {**content, "record": record}))
    opened = Bundle.open(copy)
    with pytest.raises(SourceError, match="records no source of its pictures; name"):
        find_pictures(copy)
    assert choose_pictures(opened, None).source == "golden pictures of the bundle"
    about = {"to": "onnx", "bundle": "copy", "versions": {"featx": "1"}, "sizes": ""}
    card = write_model_card(opened, about, Parity("none"))
    assert "items of an unknown source" in card
    assert "<b>" not in card
    assert "\n# Evil" not in card
    with pytest.raises(DataError, match="not the metrics of an evaluation"):
        write_model_card(replace(opened, metrics={"test": {"items": "9"}}), about, Parity("none"))


def test_what_is_not_made_of_layers_is_refused(bundle, folder):
    with pytest.raises(UsageError, match=r"is knn, which is not made of layers.* logreg, ridge.* centroid or keras$"):
        export_bundle(fit(folder, f"onnx:{folder / 'own.onnx'}?recipe=unit", "knn"), "openvino", folder / "knn")
    with pytest.raises(UsageError, match="did you mean onnx"):
        export_bundle(bundle, "onxx")
    colour = fit(folder, "colour")
    with pytest.raises(UsageError, match="colour is not a network"):
        export_bundle(colour, "openvino", folder / "colour")
    assert not list(folder.glob(".unfinished-*"))


@pytest.mark.parametrize(
    ("make", "arguments", "layer", "pooling"),
    [
        (make_classifier, "mean=0.4,0.5,0.6&std=0.2&scale=1/255&channels=bgr", "active", "avgmax"),
        (make_classifier, "recipe=unit", "active", "gem"),
        (make_transformer, "recipe=unit&registers=2", "out", "cls+mean"),
    ],
    ids=["avgmax", "gem", "tokens"],
)
def test_an_onnx_file_gets_its_head_as_nodes_of_its_own_graph(folder, make, arguments, layer, pooling):
    onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    name, path = f"cut-{pooling}", folder / f"{make.__name__}.onnx"
    path.write_bytes(make())
    cut = {"layer": layer, "pooling": pooling}
    uri = f"onnx:{path}?{arguments}"
    store = featx.embed(folder / "digits", uri, name=name, folder=folder / "features", **cut).store
    run = featx.fit(store, "centroid", options=FitOptions(folder=folder / "runs", name=name))
    made = export_bundle(run.bundle, "onnx", folder / name)
    assert (made.parity.pixels.changed, made.parity.pixels.images) == ((), 60)
    assert made.parity.pixels.largest_difference < 1e-4
    model = onnx.load(made.model)
    assert json.loads({one.key: one.value for one in model.metadata_props}["classes"]) == ["0", "1", "2"]
    assert "classifier" not in {weight.name for weight in model.graph.initializer}  # behind the cut


def test_an_onnx_file_that_cannot_be_extended_is_refused(folder):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    path = folder / "single.onnx"
    path.write_bytes(make_classifier(value("x", [1, 3, SIDE, SIDE])))
    bundle = fit(folder, f"onnx:{path}?recipe=unit", "centroid")
    with pytest.raises(UsageError, match=r"it takes 1 images at a time.*use --to openvino"):
        export_bundle(bundle, "onnx", folder / "refused")
    path.write_bytes(make_classifier())
    with pytest.raises(UsageError, match=r"is another file now; put the one back.*use --to openvino"):
        export_bundle(bundle, "onnx", folder / "refused")


def test_a_missing_package_is_named_with_the_line_that_installs_it(bundle, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as where it is not installed
    with pytest.raises(MissingExtraError, match=r"onnx needs onnx: pip install 'featx\[export\]'") as raised:
        export_bundle(bundle, "onnx", tmp_path / "out")
    assert raised.value.exit_code == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.keras
@pytest.mark.slow
def test_formats_of_keras_answer_as_featx_does(folder, bundle):
    own = fit(folder, f"file:{save_network(folder / 'own.keras')}", "keras")
    with pytest.raises(UsageError, match="Keras does not run onnx:"):
        export_bundle(bundle, "keras", folder / "none")
    for package in ("tf2onnx", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package, reason="the extra `export` is not installed")
    for to in ("keras", "litert", "onnx"):  # each start of TensorFlow takes seconds, and Keras's is one of them
        made = export_bundle(own, to, folder / to)
        assert made.parity.pixels is not None, made.parity.reason
        assert made.parity.pixels.changed == ()
        assert made.parity.pixels.largest_difference < 1e-4
    import onnx

    properties = {one.key: one.value for one in onnx.load(made.model).metadata_props}
    assert json.loads(properties["classes"]) == ["0", "1", "2"]
