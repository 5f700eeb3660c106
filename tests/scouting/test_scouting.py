"""Scouting, on scanned digits and backbones that need no framework."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from pictures import write_digits
from reporters import Recorder

import featx
from featx import EmbedOptions, HeadSpec, ScoutOptions, embed, load_backbone, read_source, scout
from featx.backbones import LayerInfo, Output
from featx.errors import DataError, SourceError, UnknownNameError, UsageError
from featx.fitting.dataset import load_dataset, split_dataset
from featx.items.folders import FolderReader
from featx.testing import BackboneContract

SIDE = 8


class Grids:
    """Means of the pixels in a grid of 2 and of 8 cells a side: one layer that says little, and one that says much."""

    uri = "grids"
    weights = "computed"
    weights_digest = "3" * 64
    source_file = ""
    layers = (LayerInfo(0, "coarse", "grid", (4,), 0, 16, 16), LayerInfo(1, "fine", "grid", (64,), 0, 256, 256))
    outputs = (Output("coarse", "none", 4, (4,)), Output("fine", "none", 64, (64,)))
    height = width = SIDE

    def __init__(self, stop_at=None):
        self.images = 0
        self.stop_at = stop_at

    def embed(self, images):
        from featx.backbones.protocol import check_images

        check_images(images, SIDE, SIDE)
        self.images += len(images)
        if self.stop_at is not None and self.images > self.stop_at:
            raise KeyboardInterrupt
        grey = images.mean(axis=3, dtype=np.float32)
        cells = [grey.reshape(len(images), n, SIDE // n, n, SIDE // n).mean(axis=(2, 4)) for n in (2, 8)]
        return tuple(cell.reshape(len(images), 4 ** (1 + 2 * at)) for at, cell in enumerate(cells))


class TestGrids(BackboneContract):
    @pytest.fixture
    def backbone(self):
        return Grids()


def load_colour():
    return load_backbone("colour", image_size=(SIDE, SIDE))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """150 digits of five classes."""
    return write_digits(tmp_path_factory.mktemp("photos"), per_class=30, classes=5)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Rates that are measured in no time."""
    monkeypatch.setattr(featx.backbones.running, "_TRIAL_SECONDS", 0.0)


@pytest.fixture
def options(tmp_path):
    return ScoutOptions(features=tmp_path / "features", folder=None, folds=3)


@pytest.fixture
def decoded(monkeypatch):
    """The ids of decoded images."""
    names = []
    examine = featx.items.reading._Examiner._decode

    def note(self, item, stamp, data):
        names.append(item.id)
        return examine(self, item, stamp, data)

    monkeypatch.setattr(featx.items.reading._Examiner, "_decode", note)
    return names


def test_the_table_and_what_it_recommends(photos, options, decoded):
    recorder = Recorder()
    result = scout(photos, [Grids(), load_colour()], options=replace(options, reporter=recorder))
    assert len(decoded) == result.n_items == result.n_train < 150
    assert [row.name for row in result.rows] == ["grids fine", "colour", "grids coarse"]
    assert (result.head.name, result.head.scaling) == ("lda", "standard")
    best, colour, coarse = result.rows
    assert best is result.best
    assert best.verdict == "best"
    assert coarse.verdict == "worse"
    assert coarse.p_value < 0.05
    assert (coarse.dim, coarse.bytes_per_item, best.dim) == (4, 16, 64)
    assert best.accuracy_low < best.accuracy < best.accuracy_high
    assert min(row.images_per_second for row in result.rows) > 0
    assert best.seconds > 0
    assert result.choice in {row for row in (best, colour) if row.verdict != "worse"}
    assert recorder.phases == ["reading", "embedding", "measuring rates", "probing"]
    assert result.to_frame()["verdict"].tolist() == [row.verdict for row in result.rows]
    assert "| grids coarse | " in result.to_markdown()


def test_files(photos, options, tmp_path):
    result = scout(photos, [Grids()], options=replace(options, folder=tmp_path / "runs"))
    assert result.folder.name.endswith("-scout")
    written = json.loads((result.folder / "scout.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    with (result.folder / "scout.csv").open() as file:
        assert [row["layer"] for row in csv.DictReader(file)] == [row.layer for row in result.rows]
    for kind in ("png", "svg"):
        assert (result.folder / f"accuracy_against_cost.{kind}").stat().st_size > 1000


def test_the_test_split_is_neither_decoded_nor_used(photos, options, decoded):
    store = embed(photos, load_colour(), folder=options.features).store
    dataset = load_dataset(store)
    tested = set(store.ids[split_dataset(dataset, test_size=0.2, seed=0).test.members].tolist())
    decoded.clear()
    result = scout(photos, [Grids()], options=options)
    assert result.n_items == 150 - len(tested)
    assert not tested & set(decoded)
    assert not tested & set(result.embedded[0].store.ids.tolist())


def test_other_splits_are_not_decoded_and_only_read_where_they_may_be_copies(tmp_path, options, decoded, monkeypatch):
    folder = tmp_path / "photos"
    for split, skip in (("train", 0), ("val", 20), ("test", 40)):
        write_digits(folder / split, per_class=15, classes=3, skip=skip)
    copy = next((folder / "test" / "0").glob("*.png"))
    (folder / "train" / "0" / "copy.png").write_bytes(copy.read_bytes())
    read, plain = [], FolderReader.read

    def note(self, item_id, n_bytes=None):
        read.append(item_id)
        return plain(self, item_id, n_bytes)

    monkeypatch.setattr(FolderReader, "read", note)
    result = scout(folder, [Grids()], options=options)
    assert result.n_items == len(decoded) == 45  # all of train but the copy
    assert all(name.startswith("train/") for name in decoded)
    splits = {}
    for path in folder.rglob("*.png"):
        splits.setdefault(path.stat().st_size, set()).add(path.relative_to(folder).parts[0])
    others = [name for name in read if not name.startswith("train/")]
    assert all(len(splits[(folder / name).stat().st_size]) > 1 for name in others)


def test_a_sample_keeps_classes_and_groups(photos, options):
    by_ten = replace(options, sample=0.4, group=r"digit-\d*(\d)\.png")
    result = scout(photos, [Grids()], options=by_ten)
    ids = result.embedded[0].store.ids.tolist()
    assert 0.3 < len(ids) / result.n_train < 0.5
    assert {name[0] for name in ids} == set("01234")
    taken = {name[-5] for name in ids}
    assert len(taken) < 8  # whole groups
    assert result.embedded[0].store.path.name == f"grids-coarse-{len(ids)}-images.h5"
    counted = scout(photos, [Grids()], options=replace(options, sample=60))
    assert abs(counted.n_items - 60) <= 2  # the same share of each class
    assert scout(photos, [Grids()], options=replace(options, sample=500)).n_items == counted.n_train


def test_a_larger_sample_and_embed_reuse_the_features(photos, options):
    scout(photos, [Grids()], options=replace(options, sample=0.3))
    network = Grids()
    result = scout(photos, [network], options=options)
    assert [found.copied for found in result.embedded] == [round(0.3 * result.n_train)] * 2
    whole = featx.embed_layers(photos, Grids(), folder=options.features)
    assert [found.copied for found in whole] == [result.n_train] * 2
    assert [found.new for found in whole] == [150 - result.n_train] * 2


def test_an_interrupted_scout_continues(photos, options, monkeypatch):
    monkeypatch.setattr(featx.embedding, "limit_ahead", lambda *_: 32)
    with pytest.raises(KeyboardInterrupt):
        scout(photos, [load_colour(), Grids(stop_at=80)], options=options)
    network = Grids()
    result = scout(photos, [load_colour(), network], options=options)
    new = {found.store.path.stem: found.new for found in result.embedded}
    assert new["grids-fine"] < new["colour"] + 64 < result.n_train
    probes = list(options.features.glob("scout/*/.probes/*.npz"))
    assert len(probes) == 3
    times = [path.stat().st_mtime_ns for path in probes]
    again = scout(photos, [load_colour(), Grids()], options=options)
    assert [path.stat().st_mtime_ns for path in probes] == times
    assert [row.accuracy for row in again.rows] == [row.accuracy for row in result.rows]


def test_the_command_embeds_what_was_chosen(tmp_path, options):
    write_digits(tmp_path / "my photos", per_class=20, classes=2)
    manifest = read_source(tmp_path / "my photos", options=featx.SourceOptions(only=("class=0,1",)))
    settings = replace(options, out=tmp_path / "out")
    result = scout(manifest, ["colour@colour"], image={"height": 8, "width": 8, "resize": "crop"}, options=settings)
    assert result.command == (
        f"featx embed '{tmp_path}/my photos' --backbone colour --layer colour --image-size 8x8 --resize crop --only "
        f"class=0,1 --features {options.features}"
    )
    assert result.folder == tmp_path / "out"
    frame = featx.Manifest.from_frame(manifest.to_frame(), root=tmp_path / "my photos")
    unsaved = scout(frame, "colour", options=replace(options, folder=None))
    assert (unsaved.command, unsaved.folder) == ("", None)


def test_a_head_with_fixed_parameters(photos, options):
    result = scout(photos, [Grids()], head=HeadSpec("ridge", {"alpha": 1.0}), options=options)
    assert (result.head.name, result.head.scaling) == ("ridge", None)  # which is tuned
    assert {row.chosen.split()[0] for row in result.rows} == {"alpha=1"}


def test_bad_images_are_counted(photos, options, tmp_path):
    folder = write_digits(tmp_path / "photos", per_class=15, classes=2)
    for number in range(4):
        (folder / "0" / f"page {number}.png").write_text(f"<html>{number}")
    result = scout(folder, [Grids()], options=options)
    assert result.embedded[0].quarantined
    with pytest.raises(SourceError, match="of the images are quarantined"):
        result.check()


@pytest.mark.parametrize(
    ("backbones", "arguments", "error", "words"),
    [
        ([], {}, UsageError, "no backbone is named"),
        (["colour", "colour"], {}, UsageError, r"same features \(colour\)"),
        (["colour@nowhere"], {}, UnknownNameError, "no layer of colour is called .nowhere"),
        (["colour"], {"head": "fast"}, UsageError, "fast names"),
        (["colour"], {"options": EmbedOptions()}, UsageError, "ScoutOptions"),
        (["colour"], {"options": ScoutOptions(sample=3)}, DataError, "sample has .* raise --sample"),
    ],
)
def test_mistakes(photos, tmp_path, monkeypatch, backbones, arguments, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        scout(photos, backbones, **arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("values", [{"sample": 0.0}, {"sample": 2.5}, {"folds": 1}, {"jobs": 0}, {"max_bad": 2.0}])
def test_impossible_options(values):
    with pytest.raises(UsageError):
        ScoutOptions(**values)
