"""Embedding with views: one row for each item, first the image itself, then its augmented views."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from photos import check_rows
from runs import SIDE, Counter, count, draw, load_counter, read_rows

import featx
from featx import (
    EmbedOptions,
    FeatureStore,
    embed,
    embed_layers,
    load_backbone,
    merge_stores,
    repair_store,
    verify_store,
)
from featx.errors import SpecMismatchError, StoreError, UnknownNameError, UsageError
from featx.items.augmentation import parse_augmentation, view_image
from featx.specs import EmbedSpec, ViewSpec

TEXT = "flip,rotate:30,contrast:0.4"
PIXELS = {"height": SIDE, "width": SIDE}


def run(pictures, features, backbone=None, **arguments):
    arguments = {"views": 3, "augmentation": TEXT, "view_seed": 7, **arguments}
    return embed(pictures, backbone or load_counter(), folder=features, **arguments)


def embed_by_hand(store, pictures, backbone):
    """Compute the expected rows, image by image, from public functions."""
    views, augmentation = store.spec.views, parse_augmentation(store.spec.views.augmentation)
    rows = []
    for name, sha256 in zip(store.ids, store.sha256, strict=True):
        pixels = featx.decode((pictures / name).read_bytes(), store.spec.image).pixels
        images = [
            view_image(pixels, augmentation, seed=views.seed, sha256=sha256, number=number)
            for number in range(views.count + 1)
        ]
        rows.append(backbone.embed(np.stack(images))[0].reshape(-1))
    return np.stack(rows)


def test_a_row_is_the_image_and_then_its_views(pictures, features):
    result = run(pictures, features)
    store = result.store
    plain = embed(pictures, load_counter(), folder=features).store
    assert count(result) == (10, 0, 0)
    assert store.spec.views == ViewSpec(3, TEXT, 7)
    assert store.feature_shape == (4, *plain.feature_shape)
    assert store.dim == 4 * plain.dim
    assert np.array_equal(store.features[:, : plain.dim], plain.features)
    assert np.allclose(store.features, embed_by_hand(store, pictures, load_backbone("colour", image_size=(SIDE, SIDE))))
    assert store.golden.features.shape[1] == plain.dim
    assert plain.spec.views is None


@pytest.mark.parametrize("batch_size", [1, 3, 7, 32])
def test_neither_batches_nor_threads_change_a_number(pictures, features, batch_size):
    one = run(pictures, features, name="one", options=EmbedOptions(batch_size=4, workers=1)).store
    backbone = load_counter()
    elsewhere = features / "other"  # in one folder, its rows would be copied
    other = run(pictures, elsewhere, backbone, options=EmbedOptions(batch_size=batch_size, workers=3)).store
    assert np.array_equal(one.features, other.features)
    golden, *batches = backbone.batches
    assert golden == 2
    assert sum(batches) == 40
    assert max(batches) <= batch_size  # a batch counts images, not items
    assert batches[:-1] == [batch_size] * (len(batches) - 1)


def test_nothing_is_computed_twice(pictures, features):
    shutil.copy(pictures / "cat" / "1.png", pictures / "cat" / "copy.png")
    backbone = load_counter()
    assert count(run(pictures, features, backbone)) == (11, 0, 0)
    assert backbone.images == 2 + 4 * 10
    backbone = load_counter()
    assert count(run(pictures, features, backbone)) == (0, 11, 0)
    assert backbone.images == 0


def test_an_interrupted_run_goes_on_where_it_was(pictures, features):
    options = EmbedOptions(batch_size=6, workers=1)
    whole = run(pictures, features, name="whole", options=options).store
    with pytest.raises(KeyboardInterrupt):
        run(pictures, features / "cut", load_counter(stop_at=6), options=options)
    backbone = load_counter()
    again = run(pictures, features / "cut", backbone, options=options)
    assert backbone.images < 2 + 40
    assert np.array_equal(again.store.features, whole.features)


def test_an_image_that_cannot_be_decoded_is_quarantined_alone(pictures, features):
    (pictures / "cat" / "page.jpg").write_bytes(b"<html></html>")
    result = run(pictures, features, options=EmbedOptions(max_bad=1))
    assert count(result) == (10, 0, 1)
    assert np.allclose(result.store.features, embed_by_hand(result.store, pictures, load_counter()))


def test_several_layers_and_whole_maps_have_views(pictures, features):
    from runs import Patches

    stores = [
        one.store
        for one in embed_layers(pictures, Patches("pixels", "means"), folder=features, views=2, augmentation="flip")
    ]
    assert [store.feature_shape for store in stores] == [(3, SIDE, SIDE, 3), (3, 3)]
    maps = stores[0].features.reshape(-1, 3, SIDE, SIDE, 3)
    flips = [np.array_equal(view, item[0][:, ::-1]) for item in maps for view in item[1:]]
    same = [np.array_equal(view, item[0]) for item in maps for view in item[1:]]
    assert all(one != other for one, other in zip(flips, same, strict=True))
    assert any(flips)


def test_other_views_are_another_spec(pictures, features):
    run(pictures, features, name="one")
    with pytest.raises(SpecMismatchError, match=r"views\.count: asked 2, found 3"):
        run(pictures, features, name="one", views=2)
    with pytest.raises(SpecMismatchError, match=r"views\.augmentation: asked None, found 'flip"):
        run(pictures, features, name="one", views=0, augmentation="", view_seed=0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"views": 0, "augmentation": ""}, "colour"),
        ({}, "colour-views3-flip-rotate-30-contrast-0.4-seed7"),
        ({"augmentation": "medium", "view_seed": 0}, "colour-views3-medium"),
        ({"augmentation": "flip,zoom,crop:0.5", "view_seed": 0}, "colour-views3-flip-zoom-0.2-crop-0.5"),
    ],
)
def test_the_name_shows_the_views(pictures, features, arguments, name):
    assert run(pictures, features, "colour", **arguments).store.path.stem == name


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"augmentation": ""}, UsageError, "add one, such as --augment light"),
        ({"views": 0}, UsageError, "such as --views 4"),
        ({"views": -1}, UsageError, "1 to 1,000"),
        ({"views": 1001}, UsageError, "1 to 1,000"),
        ({"view_seed": -1}, UsageError, "seed of the views is -1"),
        ({"augmentation": "blur"}, UnknownNameError, "nown: .*flip"),
        ({"augmentation": "crop:0"}, UsageError, "from 0.01 to 1"),
    ],
)
def test_views_that_cannot_be_made_are_refused_before_anything_is_read(features, arguments, error, words):
    with pytest.raises(error, match=words):
        run("no such folder", features, **arguments)


# The spec


def test_a_spec_without_views_is_the_same_as_before_views_existed(store):
    values = store.spec.to_dict()
    assert set(values) == {"backbone", "image", "dtype"}
    assert EmbedSpec.from_dict(values) == store.spec
    assert EmbedSpec.from_dict({**values, "views": None}).digest == store.spec.digest


def test_a_spec_with_views_goes_through_json(pictures, features):
    spec = run(pictures, features).store.spec
    assert EmbedSpec.from_dict(json.loads(spec.to_json())) == spec
    assert spec.n_views == 4
    assert hash(spec) == hash(EmbedSpec.from_dict(spec.to_dict()))


# Other uses of stores


def test_stores_with_views_are_verified_and_repaired(pictures, features):
    store = run(pictures, features, "colour", image=PIXELS).store
    before = np.array(store.features)
    with store.path.open("r+b") as file:
        at = file.read().find(before[3].tobytes())
        file.seek(at)
        file.write(b"\xff\xff")
    assert [damage.part for damage in verify_store(store.path).damage] == ["features"]
    assert repair_store(store.path).result.new == 10  # a block is all ten rows
    again = FeatureStore(store.path)
    assert not verify_store(store.path).damage
    assert np.array_equal(again.features, before)
    assert again.spec == store.spec


def test_stores_with_views_are_merged_and_exported(pictures, features, tmp_path):
    other = tmp_path / "others"
    for number in range(20, 24):
        draw(other / "cat" / f"{number}.png", number)
    one, two = run(pictures, features, name="one").store, run(other, features, name="two").store
    merged = merge_stores([one.path, two.path], features / "both.h5")
    assert len(merged) == 14
    assert merged.feature_shape == one.feature_shape
    for name in merged.ids:
        source = one if name in one.ids else two
        assert np.array_equal(read_rows(merged)[name], read_rows(source)[name])
    for suffix in (".npz", ".parquet", ".csv"):
        path = tmp_path / f"both{suffix}"
        featx.export_store(merged, path)
        assert np.allclose(featx.read_export(path).features, merged.features)
    plain = run(other, features, name="plain", views=0, augmentation="", view_seed=0).store
    with pytest.raises(SpecMismatchError, match="views"):
        merge_stores([one.path, plain.path], features / "odd.h5")


# Room on the disk


@pytest.fixture
def disk(monkeypatch):
    usage = SimpleNamespace(free=10**12)
    monkeypatch.setattr("featx.store.writing.shutil.disk_usage", lambda _: usage)
    return usage


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(pictures, features, disk):
    disk.free = 1_000_000
    backbone = load_counter()
    with pytest.raises(StoreError, match=r"10 items of .* only 1\.0 MB is free: .* --dtype float16"):
        run(pictures, features, backbone)
    assert backbone.images == 0
    assert not list(features.glob("*.h5"))


def test_a_large_store_is_announced(pictures, features, disk, monkeypatch, notes):
    run(pictures, features, name="little")
    assert notes() == []
    monkeypatch.setattr("featx.store.writing._WORTH_SAYING_BYTES", 1000)
    run(pictures, features, name="much")
    (note,) = notes()
    assert "10 items of" in note
    assert "1,000.0 GB is free" in note
    disk.free = 0
    run(pictures, features, name="much")  # nothing is new, so nothing is needed


# Networks


@pytest.mark.keras
@pytest.mark.parametrize("runtime", ["keras", "openvino"])
def test_a_keras_network_embeds_views_by_every_runtime(pictures, features, runtime):
    network = load_backbone("mobilenet?alpha=0.25", weights="none", image_size=(32, 32))
    options = EmbedOptions(batch_size=8, runtime=runtime)
    store = run(pictures, features, Counter(network) if runtime == "keras" else network, options=options).store
    check_rows(np.array(store.features).reshape(40, -1), embed_by_hand(store, pictures, network).reshape(40, -1))
