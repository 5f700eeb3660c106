"""Embedding, on small pictures and backbones that need no framework."""

import os
import re
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from reporters import Recorder
from runs import (
    AN_HOUR_AGO,
    SIDE,
    Patches,
    age,
    count,
    draw,
    identify,
    list_names,
    load_counter,
    make_folder,
    read_rows,
    run,
)

from featx import (
    EmbedOptions,
    FeatureStore,
    Item,
    Manifest,
    embed,
    embed_layers,
    load_backbone,
    read_folder,
    read_table,
)
from featx.errors import (
    SourceError,
    SpecMismatchError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
    UsageError,
)
from featx.golden import make_golden_files
from featx.items.folders import FolderReader
from featx.testing import BackboneContract

PIXELS = {"height": SIDE, "width": SIDE}


class TestPatches(BackboneContract):
    @pytest.fixture
    def backbone(self):
        return Patches("pixels", "means")


# Counts and caching


def test_every_item_is_new_once_and_cached_afterwards(pictures, features):
    backbone = load_counter()
    first = run(pictures, features, backbone)
    assert count(first) == (10, 0, 0)
    assert backbone.images == 2 + 10
    before = identify(first.store)
    backbone = load_counter()
    again = run(pictures, features, backbone)
    assert count(again) == (0, 10, 0)
    assert backbone.images == 0  # not even golden pictures
    assert identify(again.store) == before
    assert list_names(features) == ["colour.h5"]


def test_the_result_matches_the_output_of_the_command(pictures, features):
    result = run(pictures, features)
    about = result.to_dict()
    assert {name: about[name] for name in ("items", "new", "cached", "quarantined", "dim")} == {
        "items": 10,
        "new": 10,
        "cached": 0,
        "quarantined": 0,
        "dim": 240,
    }
    assert about["store"] == str(features / "colour.h5")
    assert about["images_per_second"] == pytest.approx(10 / about["seconds"])


def test_rows_are_the_features_of_each_image(pictures, features):
    store = run(pictures, features).store
    backbone = load_backbone("colour", image_size=(SIDE, SIDE))
    for name, row in zip(store.ids.tolist(), store.features, strict=True):
        pixels = np.asarray(Image.open(pictures / name))
        assert np.array_equal(backbone.embed(pixels[None])[0][0], row)
    assert store.labels.tolist() == [name.split("/")[0] for name in store.ids.tolist()]
    assert store.sizes_px.tolist() == [[SIDE, SIDE]] * 10


def test_an_added_file_is_embedded_alone(pictures, features):
    first = run(pictures, features)
    draw(pictures / "dog" / "new.png", 99)
    backbone = load_counter()
    second = run(pictures, features, backbone)
    assert count(second) == (1, 10, 0)
    assert backbone.images == 2 + 1
    rows = read_rows(second.store)
    assert rows | read_rows(first.store) == rows


def test_a_changed_file_is_embedded_alone(pictures, features):
    first = run(pictures, features)
    draw(pictures / "dog" / "4.png", 99)
    age(pictures / "dog" / "4.png", AN_HOUR_AGO + 1)
    second = run(pictures, features)
    assert count(second) == (1, 9, 0)
    changed = {name for name, row in read_rows(second.store).items() if row != read_rows(first.store)[name]}
    assert changed == {"dog/4.png"}


def test_a_removed_file_leaves(pictures, features):
    run(pictures, features)
    (pictures / "dog" / "4.png").unlink()
    backbone = load_counter()
    second = run(pictures, features, backbone)
    assert count(second) == (0, 9, 0)
    assert backbone.images == 0
    assert "dog/4.png" not in second.store.ids
    assert len(second.store.features) == 9


def test_a_renamed_file_is_not_embedded_again(pictures, features):
    first = run(pictures, features)
    (pictures / "dog" / "4.png").rename(pictures / "dog" / "renamed.png")
    second = run(pictures, features)
    assert count(second) == (0, 10, 0)
    assert read_rows(second.store)["dog/renamed.png"] == read_rows(first.store)["dog/4.png"]


def test_new_labels_and_splits_are_taken_without_embedding(pictures, features, tmp_path):
    table = tmp_path / "table.csv"
    names = sorted(str(path.relative_to(tmp_path)) for path in pictures.rglob("*.png"))
    table.write_text("path,label,split\n" + "".join(f"{name},a,train\n" for name in names))
    run(read_table(table), features)
    table.write_text("path,label,split,group\n" + "".join(f"{name},b{at},test,g\n" for at, name in enumerate(names)))
    backbone = load_counter()
    second = run(read_table(table), features, backbone)
    assert count(second) == (0, 10, 0)
    assert backbone.images == 0
    assert second.store.labels.tolist() == [f"b{at}" for at in range(10)]
    assert set(second.store.splits.tolist()) == {"test"}
    assert set(second.store.groups.tolist()) == {"g"}


def test_the_same_bytes_under_five_names_are_embedded_once(pictures, features):
    for number in range(4):
        shutil.copy(pictures / "dog" / "0.png", pictures / "cat" / f"copy {number}.png")
    backbone = load_counter()
    result = run(pictures, features, backbone)
    assert backbone.images == 2 + 10
    assert count(result) == (14, 0, 0)
    rows = read_rows(result.store)
    assert {rows[f"cat/copy {number}.png"] for number in range(4)} == {rows["dog/0.png"]}


# What changed, and what may have


def pad(path, size_bytes):
    """Pad a file to a length; bytes after the end of a PNG are not read."""
    path.write_bytes(path.read_bytes().ljust(size_bytes, b"\0"))


def test_a_file_that_changes_right_after_the_run_is_seen_although_its_size_and_time_are_the_same(pictures, features):
    path, now = pictures / "dog" / "0.png", time.time()
    pad(path, 600)
    age(path, now)
    first = run(pictures, features)
    draw(path, 99)
    pad(path, 600)
    age(path, now)
    second = run(pictures, features)
    assert count(second) == (1, 9, 0)
    assert read_rows(second.store)["dog/0.png"] != read_rows(first.store)["dog/0.png"]


def test_a_file_that_changes_during_a_long_run_is_seen_although_its_size_and_time_are_the_same(
    pictures, features, monkeypatch
):
    """The time that counts is when the files were read, not when the store was written, perhaps hours later."""
    path, now = pictures / "dog" / "0.png", time.time()
    pad(path, 600)
    age(path, now)
    first = run(pictures, features)
    age(first.store.path, now + 3600)
    draw(path, 99)
    pad(path, 600)
    age(path, now)
    assert count(run(pictures, features)) == (1, 9, 0)


def test_rehash_finds_changes_that_kept_size_and_time(pictures, features):
    path = pictures / "dog" / "0.png"
    pad(path, 600)
    age(path)
    run(pictures, features)
    draw(path, 99)
    pad(path, 600)
    age(path)
    assert count(run(pictures, features)) == (0, 10, 0)
    assert count(run(pictures, features, options=EmbedOptions(rehash=True))) == (1, 9, 0)


def test_old_files_are_not_read_again(pictures, features):
    class Closed(FolderReader):
        def read(self, item_id):
            pytest.fail(f"read {item_id}")

    manifest = read_folder(pictures)
    run(manifest, features)
    assert count(run(Manifest(manifest.items, Closed(pictures), manifest.source), features)) == (0, 10, 0)


def test_a_time_that_no_store_can_hold_does_not_end_the_run(pictures, features):
    far = 2**63 // 10**9 + 3600
    age(pictures / "dog" / "0.png", far)
    if (pictures / "dog" / "0.png").stat().st_mtime < far:
        pytest.skip("this file system has no such time either")
    assert count(run(pictures, features)) == (10, 0, 0)
    assert count(run(pictures, features)) == (0, 10, 0)


# Items that cannot be embedded


@pytest.fixture
def mixed(pictures):
    """Ten good pictures and six bad items, two of them with the same bytes; folders list no pipes or missing files."""
    (pictures / "dog" / "page.jpg").write_text("<html>")
    (pictures / "cat" / "same page.jpg").write_text("<html>")
    Image.new("RGB", (400, 400), "teal").save(pictures / "dog" / "cut.jpg")
    os.truncate(pictures / "dog" / "cut.jpg", 1500)
    (pictures / "dog" / "empty.png").touch()
    os.mkfifo(pictures / "dog" / "pipe.png")
    manifest = read_folder(pictures)
    extra = (Item("dog/gone.png", "dog"), Item("dog/pipe.png", "dog"))
    return Manifest(manifest.items + extra, manifest.reader, manifest.source)


def test_bad_items_are_quarantined_with_their_reasons_and_the_others_unharmed(mixed, pictures, features, tmp_path):
    result = run(mixed, features)
    assert count(result) == (10, 0, 6)
    assert len(mixed) == 16
    reasons = {name: reason for name, _, reason in result.store.quarantine}
    for name, pattern in {
        "dog/page.jpg": "not an image: it starts with b'<html>'",
        "cat/same page.jpg": "not an image: it starts with b'<html>'",
        "dog/cut.jpg": "truncated or damaged JPEG",
        "dog/empty.png": "the file is empty",
        "dog/gone.png": "cannot be read: No such file",
        "dog/pipe.png": "cannot be read: not a regular file",
    }.items():
        assert pattern in reasons.pop(name)
    assert not reasons
    assert [name for name, _, _ in result.store.quarantine] == sorted(name for name, _, _ in result.store.quarantine)
    shutil.copytree(pictures, tmp_path / "good", ignore=shutil.ignore_patterns("*.jpg", "empty*", "pipe*"))
    assert read_rows(result.store) == read_rows(run(tmp_path / "good", tmp_path / "other").store)


def test_bad_items_stay_bad_without_the_store_being_written_again(mixed, features):
    before = identify(run(mixed, features).store)
    again = run(mixed, features)
    assert count(again) == (0, 10, 6)
    assert identify(again.store) == before


def test_a_bad_item_is_tried_again_when_its_file_changes(mixed, pictures, features):
    run(mixed, features)
    draw(pictures / "dog" / "page.jpg", 50)
    draw(pictures / "dog" / "gone.png", 51)
    result = run(mixed, features)
    assert count(result) == (2, 10, 4)
    assert {"dog/page.jpg", "dog/gone.png"} <= set(result.store.ids.tolist())


def test_a_good_item_that_turns_bad_leaves_for_the_quarantine(pictures, features):
    run(pictures, features)
    (pictures / "dog" / "0.png").write_bytes(b"")
    result = run(pictures, features)
    assert count(result) == (0, 9, 1)
    assert result.store.quarantine == [
        (
            "dog/0.png",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "the file is empty; download or copy it again",
        )
    ]


def test_no_store_is_written_without_a_valid_item(tmp_path, features):
    (tmp_path / "bad" / "dog").mkdir(parents=True)
    (tmp_path / "bad" / "dog" / "two\nlines.jpg").write_text("<html>")
    with pytest.raises(SourceError, match=r"none of the 1 images of .*bad could .*'dog/two\\nlines.jpg': not an image"):
        run(tmp_path / "bad", features)
    assert list_names(features) == []


def test_a_store_survives_a_run_without_a_single_good_item(pictures, features):
    before = identify(run(pictures, features).store)
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="none of the 10 images"):
        run(pictures, features)
    assert identify(FeatureStore(features / "colour.h5")) == before


def test_an_item_with_non_finite_features_is_quarantined(tmp_path, features):
    Image.new("RGB", (SIDE, SIDE), (200, 200, 200)).save(make_folder(tmp_path / "p") / "bright.png")
    Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(tmp_path / "p" / "dark.png")
    result = run(tmp_path / "p", features, Patches("ratios"))
    assert count(result) == (1, 0, 1)
    assert [(name, reason) for name, _, reason in result.store.quarantine] == [
        ("dark.png", "the backbone returned non-finite values")
    ]
    assert result.store.features.tolist() == [[1.0, 1.0, 1.0]]


def test_float16_rounds_and_refuses_what_does_not_fit(tmp_path, features):
    Image.new("RGB", (SIDE, SIDE), (101, 3, 7)).save(make_folder(tmp_path / "p") / "fits.png")
    result = run(tmp_path / "p", features, Patches("huge"), dtype="float16")
    assert result.store.features.dtype == np.float16
    assert np.array_equal(result.store.features[0], np.array([60600, 1800, 4200], np.float16))
    Image.new("RGB", (SIDE, SIDE), (200, 3, 7)).save(tmp_path / "p" / "too bright.png")
    # Leaving out the brightest images alone would bias the data set, so the run ends.
    with pytest.raises(StoreError, match=r"a feature of 120000 does not fit float16.*--dtype float32"):
        run(tmp_path / "p", features, Patches("huge"), dtype="float16")
    assert FeatureStore(result.store.path).ids.tolist() == ["fits.png"]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_utf_8_or_span_lines(tmp_path, features):
    source = tmp_path / os.fsdecode(b"so\xffurce")
    names = ["dog/" + os.fsdecode(name) for name in (b"caf\xe9.png", b"two\nlines.png", "\u4e2d.png".encode())]
    for number, name in enumerate(names):
        draw(tmp_path / "one.png", number)
        (source / "dog").mkdir(parents=True, exist_ok=True)
        (tmp_path / "one.png").rename(source / name)
    bad = "dog/" + os.fsdecode(b"bad\xff.jpg")
    (source / bad).write_text("<html>")
    result = run(source, features)
    assert count(result) == (3, 0, 1)
    assert sorted(result.store.ids.tolist()) == sorted(names)
    assert result.store.quarantine[0][0] == bad
    (source / bad).unlink()
    (source / names[0]).unlink()
    again = run(source, features)  # it is the same source, so files may leave
    assert count(again) == (0, 2, 0)
    before = identify(again.store)
    assert identify(run(source, features).store) == before


# Options change no number


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (7, 4), (32, 1), (32, 4)])
def test_batches_and_workers_change_no_bit(pictures, tmp_path, batch_size, workers):
    for number in range(40):
        draw(pictures / "cat" / f"more {number}.png", 100 + number)
    reference = run(pictures, tmp_path / "reference", options=EmbedOptions(batch_size=5, workers=2))
    result = run(pictures, tmp_path / "other", options=EmbedOptions(batch_size=batch_size, workers=workers))
    assert list(read_rows(result.store).items()) == list(read_rows(reference.store).items())
    assert count(result) == (50, 0, 0)


def test_progress_counts_every_item(mixed, features):
    first, second = Recorder(), Recorder()
    run(mixed, features, options=EmbedOptions(batch_size=4, workers=2, reporter=first))
    assert first.counts == sorted(first.counts)
    assert first.counts[-1] == (16, 16)
    assert first.phases == ["embedding"]
    run(mixed, features, options=EmbedOptions(batch_size=4, workers=2, reporter=second))
    assert {done for done, _ in second.counts} >= set(range(1, 17))


def test_an_item_that_is_only_decoded_is_not_done(pictures, features):
    backbone, calls = load_counter(), []

    def note(done, _):
        calls.append((done, backbone.images - 2))

    run(pictures, features, backbone, options=EmbedOptions(batch_size=3, reporter=Recorder(note)))
    assert [done for done, _ in calls] == [3, 6, 9, 10, 10]
    assert all(done <= embedded for done, embedded in calls)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -3}, {"workers": 0}])
def test_options_that_cannot_be_are_refused(options):
    (name,) = options
    with pytest.raises(UsageError, match=f"{name} is .*at least 1"):
        EmbedOptions(**options)


# Interruption


@pytest.mark.parametrize("stop_at", [3, 4])  # the first call of all is for the golden pictures
def test_an_interrupted_run_is_finished_by_the_next_with_the_same_store(pictures, tmp_path, stop_at):
    whole = run(pictures, tmp_path / "whole").store
    options = EmbedOptions(batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "features", load_counter(stop_at=stop_at), options=options)
    assert list_names(tmp_path / "features") == ["colour.h5.parts"]
    done = 3 * (stop_at - 2)
    backbone = load_counter()
    result = run(pictures, tmp_path / "features", backbone, options=options)
    assert backbone.images == 2 + 10 - done
    assert count(result) == (10 - done, done, 0)
    assert list_names(tmp_path / "features") == ["colour.h5"]
    with h5py.File(result.store.path) as ours, h5py.File(whole.path) as theirs:
        for name in ["features", "blocks/features", "blocks/items", *(f"items/{column}" for column in theirs["items"])]:
            assert ours[name][:].tobytes() == theirs[name][:].tobytes()
            assert ours[name].dtype == theirs[name].dtype


def test_an_interruption_while_adding_leaves_the_old_store(pictures, features):
    before = identify(run(pictures, features).store)
    for number in range(6):
        draw(pictures / "cat" / f"new {number}.png", 50 + number)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, features, load_counter(stop_at=3), options=EmbedOptions(batch_size=3))
    assert identify(FeatureStore(features / "colour.h5")) == before
    assert count(run(pictures, features)) == (3, 13, 0)


def test_no_thread_keeps_running_after_an_interruption(pictures, features):
    reads = []

    class Slow(FolderReader):
        def read(self, item_id):
            reads.append(item_id)
            time.sleep(0.01)
            return super().read(item_id)

    manifest = read_folder(pictures)
    manifest = Manifest(manifest.items, Slow(pictures), manifest.source)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(manifest, features, load_counter(stop_at=2), options=EmbedOptions(batch_size=1, workers=1))
    so_far = len(reads)
    time.sleep(0.1)
    assert len(reads) == so_far < 10
    assert caught.value is not None  # its traceback keeps the frames of the run alive


def test_a_run_that_fails_on_the_way_frees_its_lock_and_keeps_its_rows(pictures, features, monkeypatch):
    def stumble(done, _):
        if done == 6:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(pictures, features, options=EmbedOptions(batch_size=3, reporter=Recorder(stumble)))
    assert list_names(features) == ["colour.h5.parts"]
    assert count(run(pictures, features)) == (4, 6, 0)


# Specs and sources


def test_another_spec_is_refused_and_its_fields_named(pictures, features):
    run(pictures, features, name="mine")
    pattern = r"mine.h5 holds features of another spec \(image.resize: asked 'crop', found 'stretch'\); .*--name NAME"
    with pytest.raises(SpecMismatchError, match=pattern):
        run(pictures, features, name="mine", image={"resize": "crop"})
    with pytest.raises(SpecMismatchError, match=r"dtype: asked 'float16', found 'float32'"):
        run(pictures, features, name="mine", dtype="float16")


def test_another_question_gets_another_store_by_itself(pictures, features):
    names = [
        run(pictures, features, "colour").store.path.name,
        run(pictures, features, "colour", image=PIXELS).store.path.name,
        run(pictures, features, "colour", image={**PIXELS, "resize": "crop"}).store.path.name,
        run(pictures, features, "colour", pooling="none").store.path.name,
        run(pictures, features, "colour", layers=[-1]).store.path.name,
        run(pictures, features, "colour", name="mine").store.path.name,
        run(pictures, features, "colour", name="its.h5").store.path.name,
    ]
    assert names == [
        "colour.h5",
        "colour-8x8.h5",
        "colour-8x8-crop.h5",
        "colour-none.h5",
        "colour-colour.h5",
        "mine.h5",
        "its.h5",
    ]


def test_another_source_that_lacks_items_is_refused(pictures, features, tmp_path):
    run(pictures, features)
    draw(tmp_path / "others" / "dog" / "0.png", 0)
    pattern = (
        r"colour.h5 holds 10 items of .*pictures; embedding .*others into it would drop 9 of them "
        r"\(such as 'cat/1.png'\): write another store with --name NAME, or delete this one"
    )
    with pytest.raises(StoreError, match=pattern):
        run(tmp_path / "others", features)
    assert len(FeatureStore(features / "colour.h5")) == 10
    assert count(run(tmp_path / "others", features, name="others")) == (0, 1, 0)


def test_another_source_with_other_files_of_the_same_names_is_refused(pictures, features, tmp_path):
    run(pictures, features)
    shutil.copytree(pictures, tmp_path / "others")
    pad(tmp_path / "others" / "dog" / "0.png", 700)
    with pytest.raises(StoreError, match=r"would drop 1 of them \(such as 'dog/0.png'\)"):
        run(tmp_path / "others", features)


def test_a_source_that_was_moved_or_has_grown_elsewhere_goes_on(pictures, features, tmp_path):
    run(pictures, features)
    pictures.rename(tmp_path / "moved")
    draw(tmp_path / "moved" / "cat" / "new.png", 99)
    backbone = load_counter()
    result = run(tmp_path / "moved", features, backbone)
    assert count(result) == (1, 10, 0)
    assert backbone.images == 2 + 1
    assert result.store.source == str(tmp_path / "moved")


def test_a_stack_that_computes_other_numbers_may_not_add_to_a_store(pictures, features):
    run(pictures, features, Patches("means"))
    pattern = (
        r"patches.h5 holds features, or unfinished work, .* differ by 1.0e-02 of their range .*featx info.*--name NAME"
    )
    draw(pictures / "dog" / "new.png", 99)
    with pytest.raises(SpecMismatchError, match=pattern):
        run(pictures, features, Patches("means", scale=1.01))
    assert count(run(pictures, features, Patches("means", scale=1.000001))) == (1, 10, 0)


def test_the_golden_pictures_of_the_first_run_stay(pictures, features):
    first = run(pictures, features, Patches("means")).store
    draw(pictures / "dog" / "new.png", 99)
    second = run(pictures, features, Patches("means", scale=1.0009)).store
    assert np.array_equal(second.golden.features, first.golden.features)
    draw(pictures / "dog" / "newer.png", 98)
    with pytest.raises(
        SpecMismatchError, match="that this machine does not reproduce"
    ):  # otherwise small steps would add up
        run(pictures, features, Patches("means", scale=1.0018))


@pytest.mark.parametrize(
    "options", [{"layers": [-1]}, {"pooling": "avg"}, {"weights": "none"}, {"image": {"height": 8, "width": 8}}]
)
def test_a_backbone_that_is_built_cannot_be_built_otherwise(pictures, features, options):
    with pytest.raises(UsageError, match="load_backbone"):
        run(pictures, features, **options)


def test_a_dtype_that_no_store_holds_is_refused(pictures, features):
    with pytest.raises(UsageError, match="float32, float16"):
        run(pictures, features, dtype="bfloat16")


def test_a_file_in_the_way_is_not_overwritten(pictures, features):
    make_folder(features)
    (features / "colour.h5").write_text("my notes")
    with pytest.raises(
        StoreFormatError, match=r"colour.h5 is not a feature store \(not an HDF5 file\); name another one"
    ):
        run(pictures, features)
    assert (features / "colour.h5").read_text() == "my notes"


def test_a_run_during_another_is_refused(pictures, features):
    with pytest.raises(StoreLockedError, match=f"is being written by process {os.getpid()} on .* for 0 s"):
        run(pictures, features, options=EmbedOptions(reporter=Recorder(lambda *_: run(pictures, features))))


# Several layers


def test_several_layers_take_one_forward_pass_and_get_a_store_each(pictures, features):
    network = Patches("pixels", "means")
    pixels, means = embed_layers(pictures, network, folder=features, options=EmbedOptions(batch_size=4))
    assert network.calls == 1 + 3
    assert [count(pixels), count(means)] == [(10, 0, 0), (10, 0, 0)]
    assert [result.store.path.name for result in (pixels, means)] == ["patches-pixels.h5", "patches-means.h5"]
    assert pixels.store.feature_shape == (SIDE, SIDE, 3)
    assert means.store.spec.backbone.layer == "means"
    expected = np.asarray(pixels.store.features).reshape(-1, SIDE * SIDE, 3).mean(axis=1)
    assert np.allclose(means.store.features, expected)


def test_a_second_layer_joins_a_store_that_has_one(pictures, features):
    first = embed(pictures, Patches("means"), name="patches-means", folder=features)
    before = identify(first.store)
    network = Patches("means", "pixels")
    means, pixels = embed_layers(pictures, network, folder=features)
    assert [count(means), count(pixels)] == [(0, 10, 0), (10, 0, 0)]
    assert identify(means.store) == before
    assert len(pixels.store) == 10
    again = embed_layers(pictures, Patches("means", "pixels"), folder=features)
    assert [count(result) for result in again] == [(0, 10, 0), (0, 10, 0)]


def test_two_layers_that_would_share_a_store_are_refused(pictures, features):
    with pytest.raises(UsageError, match="the layers means, means would be written to the same store"):
        embed_layers(pictures, Patches("means", "means"), folder=features)


def test_one_locked_store_stops_the_run_and_frees_the_other(pictures, features):
    lock = make_folder(features) / "patches-pixels.h5.lock"
    lock.write_text('{"pid": 1, "host": "elsewhere", "started": 1, "nonce": "0"}')
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere"):
        embed_layers(pictures, Patches("means", "pixels"), folder=features)
    assert list_names(features) == ["patches-pixels.h5.lock"]


# Provenance


def test_a_store_notes_where_its_numbers_came_from(pictures, features):
    store = run(pictures, features).store
    assert store.source == str(pictures)
    assert {"featx", "numpy", "pillow", "python"} <= set(store.created_with)
    assert all(re.match(r"\d+\.", version) for version in store.created_with.values())
    assert (store.runtime, store.drift, store.backbone_file) == ("numpy", 0.0, "")
    assert abs(store.started_ns / 1e9 - time.time()) < 60


def test_no_file_stays_open(mixed, features):
    if not Path("/proc/self/fd").exists():
        pytest.skip("open files are counted in /proc")
    run(mixed, features)
    before = list_names(Path("/proc/self/fd"))
    results = [run(mixed, features, name=name) for name in "abc"]
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
    assert len(list_names(Path("/proc/self/fd"))) == len(before) + len(results)  # the features, mapped
    del results
    assert list_names(Path("/proc/self/fd")) == before


def test_files_of_another_source_with_the_same_names_sizes_and_times_are_hashed(tmp_path, features):
    for number, source in enumerate(("one", "two")):
        path = make_folder(tmp_path / source) / "a.bmp"
        Image.new("RGB", (SIDE, SIDE), (10 + 90 * number, 3, 7)).save(path)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    assert count(run(tmp_path / "one", features)) == (1, 0, 0)
    result = run(tmp_path / "two", features)
    assert count(result) == (1, 0, 0)
    other = embed(tmp_path / "two", Patches("means"), folder=features, name="other")
    assert result.store.sha256.tolist() == other.store.sha256.tolist()


def test_the_store_asked_for_last_is_the_newest(pictures, features):
    embed(pictures, Patches("means"), name="first", folder=features)
    embed(pictures, Patches("means"), name="second", folder=features)
    embed(pictures, Patches("means"), name="first", folder=features)
    assert FeatureStore.find_newest(features).path.name == "first.h5"


def test_fields_of_images_that_do_not_exist_are_refused(pictures, features):
    with pytest.raises(UsageError, match="not size"):
        embed(pictures, "colour", image={"size": 96}, folder=features)
    with pytest.raises(UsageError, match="height and width together"):
        embed(pictures, "colour", image={"width": 96}, folder=features)


def test_stores_are_named_after_settings_that_differ_from_the_defaults(pictures, features):
    def name(**options):
        return embed(pictures, "colour", folder=features, **options).store.path.name

    assert name() == name(image={"resize": "stretch"}) == name(image={"height": 64, "width": 64}) == "colour.h5"
    assert name(image={"height": 32, "width": 64}) == "colour-32x64.h5"
    assert name(image={"resize": "crop"}, dtype="float16") == "colour-crop-float16.h5"


def test_golden_pictures_of_another_encoder_are_embedded_as_well(pictures, features, monkeypatch):
    files = make_golden_files()[::-1]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("featx.embedding.make_golden_files", lambda: files)
        run(pictures, features)
    draw(pictures / "cat" / "new.png", 77)
    backbone = load_counter()
    assert run(pictures, features, backbone).store.golden.files == files
    assert backbone.images == 2 + 2 + 1


def test_unfinished_rows_of_a_stack_that_computes_other_numbers_are_not_used(pictures, features):
    class Stopped(Patches):
        def embed(self, images):
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().embed(images)

    options = EmbedOptions(batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, features, Stopped("means", scale=1.05), options=options)
    with pytest.raises(
        SpecMismatchError, match=r"patches.h5 holds features, or unfinished work, that this machine does not reproduce"
    ):
        run(pictures, features, Patches("means"), options=options)
    assert count(run(pictures, features, Patches("means", scale=1.05), options=options))[1] == 6


def test_each_store_of_a_run_records_the_time_of_the_run(pictures, features):
    results = embed_layers(pictures, Patches("pixels", "means"), folder=features)
    for result in results:
        assert 0 < result.store.embed_seconds <= result.start_seconds + result.seconds + 0.001
    draw(pictures / "cat" / "new.png", 99)
    again = embed_layers(pictures, Patches("pixels", "means"), folder=features)
    assert [result.new for result in again] == [1, 1]
    for before, after in zip(results, again, strict=True):
        took = after.start_seconds + after.seconds
        assert before.store.embed_seconds < after.store.embed_seconds <= before.store.embed_seconds + took + 0.002
