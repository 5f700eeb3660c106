"""Repair, on real pictures and the backbone that needs no framework."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from featx import (
    Columns,
    FeatureStore,
    Manifest,
    SourceOptions,
    embed,
    read_folder,
    read_source,
    read_table,
    repair_store,
    verify_store,
)
from featx.errors import SourceError, StoreError, StoreFormatError, StoreLockedError
from featx.store.lock import StoreLock


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 3 * 4 * 240)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for number in range(10):
        path = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
    return folder


@pytest.fixture
def store(pictures, tmp_path):
    result = embed(pictures, "colour", folder=tmp_path / "features", image={"height": 8, "width": 8, "resize": "crop"})
    return result.store


def damage(store, pattern):
    data = bytearray(store.path.read_bytes())
    data[data.index(pattern)] ^= 1
    store.path.unlink()  # what was opened stays as it was
    store.path.write_bytes(data)


def damage_row(store, row):
    damage(store, store.features[row].tobytes())


def assert_equal(path, store):
    found = FeatureStore(path)
    assert found.find_damage() == []
    assert found.ids.tolist() == store.ids.tolist()
    assert found.labels.tolist() == store.labels.tolist()
    assert found.features.tobytes() == store.features.tobytes()
    assert found.spec == store.spec


def test_a_damaged_block_is_embedded_again_and_nothing_else(store):
    damage_row(store, 4)
    repair = repair_store(store.path)
    assert (repair.result.new, repair.result.cached) == (3, 7)
    assert repair.to_dict() | {"damage": None} == {
        "store": str(store.path),
        "items": 10,
        "sound": False,
        "lost": 3,
        "damage": None,
        "restored": 3,
        "items_now": 10,
    }
    assert_equal(store.path, store)


def test_damaged_items_are_read_from_the_source_again(store):
    damage(store, store.sha256[5].encode())
    assert repair_store(store.path).result.new == 3
    assert_equal(store.path, store)


@pytest.mark.parametrize("part", ["golden", "rows"])
def test_a_store_without_a_sound_part_is_made_again(store, part):
    if part == "golden":
        damage(store, store.golden.features.tobytes())
    else:
        for row in (0, 3, 6, 9):
            damage_row(FeatureStore(store.path), row)
    assert repair_store(store.path).result.new == 10
    assert_equal(store.path, store)
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


@pytest.mark.parametrize(
    "options",
    [
        {"label_pattern": r"(\d)\.png$"},
        {"layout": "flat", "only": "folder=cat"},
        {"map_labels": ["c.t=feline"], "except_": ["class=dog"]},
    ],
)
def test_the_source_is_read_again_with_its_options(pictures, tmp_path, options):
    manifest = read_source(pictures, options=SourceOptions(**options))
    store = embed(manifest, "colour", folder=tmp_path / "chosen", image={"height": 8, "width": 8}).store
    damage_row(store, 3)
    damage(FeatureStore(store.path), store.sha256[1].encode())
    assert repair_store(store.path).result.new >= 2
    again = FeatureStore(store.path)
    assert again.labels.tolist() == store.labels.tolist() == [item.label for item in manifest.items]
    assert again.reading == store.reading == manifest.reading


def test_a_file_that_a_store_names_for_its_classes_is_not_opened(pictures, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("the password is 1234\n")
    reading = {"options": {"map_labels": [str(secret)]}}
    store = embed(replace(read_source(pictures), reading=reading), "colour", folder=tmp_path / "strange").store
    damage_row(store, 3)
    with pytest.raises(SourceError, match=r"holds rules for the names of classes.*--drop") as caught:
        repair_store(store.path)
    assert "1234" not in str(caught.value)


def test_dropping_needs_no_images(store, pictures):
    damage_row(store, 9)
    shutil.rmtree(pictures)
    before = store.path.read_bytes()
    with pytest.raises(SourceError, match="does not exist"):
        repair_store(store.path)
    assert store.path.read_bytes() == before
    repair = repair_store(store.path, drop=True)
    assert repair.result is None
    assert repair.verification.lost.sum() == 1
    assert np.array_equal(FeatureStore(store.path).features, store.features[:9])


def test_the_images_of_a_frame_are_not_asked_for(pictures, tmp_path):
    frame = read_folder(pictures).to_frame()
    manifest = Manifest.from_frame(frame, root=pictures)
    store = embed(manifest, "colour", folder=tmp_path / "frames").store
    damage_row(store, 4)
    with pytest.raises(
        SourceError, match=r"with to_csv, and embed that table; or remove only the damaged rows"
    ) as caught:
        repair_store(store.path)
    assert "bring them back" not in str(caught.value)


def test_a_sound_store_is_left_alone(store):
    before = store.path.stat()
    for drop in (False, True):
        assert repair_store(store.path, drop=drop).verification.damage == ()
    assert store.path.stat() == before


def test_a_table_is_read_as_it_was(pictures, tmp_path):
    table = tmp_path / "lists" / "table.csv"
    table.parent.mkdir()
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}!" for path in sorted(pictures.rglob("*.png"))]
    table.write_text("\n".join(["where,what", *rows]))
    manifest = read_table(table, root=pictures, columns=Columns(path="where", label="what"))
    result = embed(manifest, "colour", folder=tmp_path / "features")
    assert result.store.labels[0] == "cat!"
    damage_row(result.store, 2)
    assert repair_store(result.store.path).result.new == 3
    assert_equal(result.store.path, result.store)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, StoreError])
def test_a_repair_that_breaks_off_leaves_the_store_and_can_be_repeated(store, monkeypatch, failure):
    damage_row(store, 4)
    before = store.path.read_bytes()

    def fail(*_, **__):
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr("featx.store.writing.seal", fail)
        with pytest.raises(failure):
            repair_store(store.path)
    assert store.path.read_bytes() == before
    assert repair_store(store.path).result.new == 0  # they were committed by then
    assert_equal(store.path, store)


@pytest.mark.parametrize("part", ["row", "golden"])
def test_a_store_that_is_being_written_is_left_alone(store, part):
    damage(store, store.golden.features.tobytes()) if part == "golden" else damage_row(store, 4)
    before = store.path.read_bytes()
    with StoreLock(store.path), pytest.raises(StoreLockedError):
        repair_store(store.path)
    assert store.path.read_bytes() == before
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


def test_sound_rows_are_kept_although_their_images_are_gone(store, pictures):
    damage_row(store, 9)
    (pictures / "cat" / "1.png").unlink()
    before = store.path.read_bytes()
    with pytest.raises(SourceError, match=r"1 items of .* are no longer in .*'cat/1.png'.*--drop"):
        repair_store(store.path)
    assert store.path.read_bytes() == before


def test_new_images_are_left_to_embed(store, pictures):
    damage_row(store, 4)
    shutil.copy(pictures / "cat" / "1.png", pictures / "cat" / "new.png")
    repair_store(store.path)
    assert_equal(store.path, store)


def test_a_store_of_another_name_is_left_alone(store):
    damage_row(store, 4)
    path = store.path.rename(store.path.with_suffix(".hdf5"))
    with pytest.raises(StoreError, match=r"does not end in \.h5"):
        repair_store(path)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_store_that_cannot_be_opened_cannot_be_repaired(store):
    damage(store, b'"layer"')
    with pytest.raises(StoreFormatError, match=r"colour.*h5 is damaged or not a feature store"):
        repair_store(store.path)
    with pytest.raises(StoreError, match="there is no store"):
        verify_store(store.path.with_name("gone.h5"))
