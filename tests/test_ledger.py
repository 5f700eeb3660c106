"""Items that cannot be embedded, or not at the moment, and how a run reports them."""

import os
import sys
import time

import numpy as np
import pytest
from image_files import make_png, make_tiff
from PIL import Image
from runs import AN_HOUR_AGO, SIDE, Patches, age, count, draw, list_names, load_counter, make_folder, read_rows, run

from featx import EmbedOptions, FeatureStore, Item, Manifest, embed, embed_layers, read_folder, read_table
from featx.errors import SourceError, UsageError

FAIL = EmbedOptions(on_bad="fail")


def spoil(pictures, how_many):
    for number in range(how_many):
        (pictures / "dog" / f"page {number:02}.jpg").write_text(f"<html>{number}")


def make_unreadable(path):
    """Replace a file by one whose every read is an input/output error."""
    if sys.platform != "linux":
        pytest.skip("only Linux has a file of which every read fails, its own memory's first page")
    path.unlink()
    path.symlink_to("/proc/self/mem")


# When bad images end a run


def test_a_run_that_allows_no_failures_lists_them_and_keeps_finished_work(pictures, features):
    spoil(pictures, 12)
    with pytest.raises(SourceError) as caught:
        run(pictures, features, options=FAIL)
    message = str(caught.value)
    assert message.startswith(f"12 of the 22 images of {pictures} could not be embedded")
    assert [f"page {number:02}.jpg': not an image: it starts with" in message for number in range(12)] == [
        True
    ] * 10 + [False] * 2
    assert "; and 2 more; fix or remove them" in message
    assert "--on-bad quarantine" in message
    assert "\n" not in message
    assert list_names(features) == ["colour.h5.parts"]
    backbone = load_counter()
    assert count(run(pictures, features, backbone)) == (0, 10, 12)
    assert backbone.images == 2


def test_a_run_that_may_not_fail_and_does_not_is_sealed(pictures, features):
    assert count(run(pictures, features, options=FAIL)) == (10, 0, 0)


def test_an_old_store_survives_a_run_that_may_not_fail(pictures, features):
    before = run(pictures, features).store.path.read_bytes()
    spoil(pictures, 1)
    with pytest.raises(SourceError, match=r"1 of the 11 images .*'dog/page 00.jpg': not an image"):
        run(pictures, features, options=FAIL)
    assert (features / "colour.h5").read_bytes() == before


def test_non_finite_features_count_as_bad(tmp_path, features):
    shade(tmp_path / "p", bright=200, dark=9)
    with pytest.raises(SourceError, match=r"1 of the 2 images .*'dark.png': the backbone returned non-finite values"):
        embed_layers(tmp_path / "p", Patches("means", "ratios"), folder=features, options=FAIL)


@pytest.mark.parametrize(("n_bad", "refused"), [(0, False), (9, False), (10, False), (11, True)])
def test_a_share_of_bad_images_is_accepted_up_to_the_limit(pictures, features, n_bad, refused):
    spoil(pictures, n_bad)
    result = run(pictures, features, options=EmbedOptions(max_bad=0.5))
    assert count(result) == (10, 0, n_bad)
    assert len(FeatureStore(features / "colour.h5")) == 10
    if refused:
        with pytest.raises(
            SourceError, match=r"^52.4% of the images .* than the 50.0% allowed.*colour.h5`.*--max-bad 53%$"
        ):
            result.check()
    else:
        result.check()


@pytest.mark.parametrize("option", [{"on_bad": "skip"}, {"max_bad": -0.1}, {"max_bad": 5}, {"max_bad": float("nan")}])
def test_options_that_mean_nothing_are_refused(option):
    (name,) = option
    with pytest.raises(UsageError, match=f"^{name} is "):
        EmbedOptions(**option)


# Files that cannot be read at the moment


def test_a_file_that_cannot_be_read_for_the_moment_keeps_its_row(pictures, features, notes):
    first = run(pictures, features)
    make_unreadable(pictures / "dog" / "0.png")
    make_unreadable(pictures / "cat" / "1.png")
    second = run(pictures, features)
    assert count(second) == (0, 10, 0)
    assert second.store.ids.tolist() == first.store.ids.tolist()
    assert read_rows(second.store) == read_rows(first.store)
    (note,) = notes()
    assert note.startswith("the store keeps the features of 2 images that cannot be read at the moment; the first")
    assert "'cat/1.png': cannot be read: " in note


def test_a_file_that_could_not_be_read_at_first_is_quarantined_until_it_can(pictures, features, notes):
    make_unreadable(pictures / "dog" / "0.png")
    assert count(run(pictures, features)) == (9, 0, 1)
    assert notes() == []
    (pictures / "dog" / "0.png").unlink()
    draw(pictures / "dog" / "0.png", 0)
    assert count(run(pictures, features)) == (1, 9, 0)


def test_a_file_is_kept_in_the_stores_that_have_it_and_missing_in_the_others(pictures, features):
    embed(pictures, Patches("means"), name="patches-means", folder=features)
    make_unreadable(pictures / "dog" / "0.png")
    means, pixels = embed_layers(pictures, Patches("means", "pixels"), folder=features)
    assert [count(means), count(pixels)] == [(0, 10, 0), (9, 0, 1)]


def test_a_file_that_may_have_changed_is_read_as_soon_as_it_can_be_again(pictures, features, monkeypatch):
    """It was modified just before the first run, so size and time alone never prove that it is unchanged."""
    path, now = pictures / "dog" / "0.bmp", time.time()
    Image.new("RGB", (SIDE, SIDE), "teal").save(path)
    age(path, now)
    first = run(pictures, features)
    make_unreadable(path)
    monkeypatch.setattr(time, "time_ns", lambda: int((now + 3600) * 1e9))
    assert count(run(pictures, features)) == (0, 11, 0)
    path.unlink()
    Image.new("RGB", (SIDE, SIDE), "navy").save(path)
    age(path, now)
    second = run(pictures, features)
    assert count(second) == (1, 10, 0)
    assert read_rows(second.store)["dog/0.bmp"] != read_rows(first.store)["dog/0.bmp"]


def test_a_file_that_a_table_lists_and_is_gone_leaves(pictures, features, tmp_path):
    names = sorted(str(path.relative_to(tmp_path)) for path in pictures.rglob("*.png"))
    (tmp_path / "table.csv").write_text("path,label\n" + "".join(f"{name},a\n" for name in names))
    run(read_table(tmp_path / "table.csv"), features)
    (tmp_path / names[3]).unlink()
    result = run(read_table(tmp_path / "table.csv"), features)
    assert count(result) == (0, 9, 1)
    assert result.store.quarantine[0][0] == names[3]
    assert result.removed == 0  # it is in the manifest, and counted there


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names there")
def test_a_file_that_has_become_something_else_leaves(pictures, features):
    manifest = read_folder(pictures)
    run(manifest, features)
    (pictures / "dog" / "0.png").unlink()
    os.mkfifo(pictures / "dog" / "0.png")
    assert count(run(manifest, features)) == (0, 9, 1)


# Bad in one store only


def shade(folder, **greys):
    """Plain pictures; the ratios of dark ones are not finite."""
    make_folder(folder)
    for name, grey in greys.items():
        Image.new("RGB", (SIDE, SIDE), (grey,) * 3).save(folder / f"{name}.png")
        age(folder / f"{name}.png")


def test_an_item_that_is_bad_in_one_layer_is_missing_in_that_store_alone(tmp_path, features):
    shade(tmp_path / "p", bright=200, dark=9)
    means, ratios = embed_layers(tmp_path / "p", Patches("means", "ratios"), folder=features)
    assert [count(means), count(ratios)] == [(2, 0, 0), (1, 0, 1)]
    assert means.store.ids.tolist() == ["bright.png", "dark.png"]
    assert ratios.store.ids.tolist() == ["bright.png"]
    assert [row[0] for row in ratios.store.quarantine] == ["dark.png"]
    again = embed_layers(tmp_path / "p", Patches("means", "ratios"), folder=features)
    assert [count(result) for result in again] == [(0, 2, 0), (0, 1, 1)]


def test_a_new_layer_in_which_an_item_is_bad_takes_no_row_from_the_old_store(tmp_path, features):
    shade(tmp_path / "p", bright=200, dark=9)
    first = embed(tmp_path / "p", Patches("means"), name="patches-means", folder=features)
    before = first.store.path.read_bytes()
    means, ratios = embed_layers(tmp_path / "p", Patches("means", "ratios"), folder=features)
    assert [count(means), count(ratios)] == [(0, 2, 0), (1, 0, 1)]
    assert first.store.path.read_bytes() == before


def test_a_layer_that_holds_nothing_good_is_named_and_the_others_keep_their_rows(tmp_path, features):
    shade(tmp_path / "p", dark=9, darker=3)
    with pytest.raises(SourceError, match=r"none of the 2 images .* into .*patches-ratios.h5; the first, 'dark.png'"):
        embed_layers(tmp_path / "p", Patches("means", "ratios"), folder=features)
    network = Patches("means")
    means = embed(tmp_path / "p", network, name="patches-means", folder=features)
    assert count(means) == (0, 2, 0)
    assert network.calls == 1


# What a run reports


def test_removed_items_are_counted(pictures, features):
    assert run(pictures, features).removed == 0
    (pictures / "dog" / "0.png").unlink()
    (pictures / "dog" / "2.png").unlink()
    (pictures / "dog" / "4.png").write_text("<html>")
    result = run(pictures, features)
    assert (*count(result), result.removed) == (0, 7, 1, 2)
    assert result.to_dict()["removed"] == 2
    assert run(pictures, features).removed == 0


def test_the_same_bytes_under_several_labels_are_reported_once(pictures, features, notes):
    for number in (0, 2):
        data = (pictures / "dog" / f"{number}.png").read_bytes()
        (pictures / "cat" / f"copy of {number}.png").write_bytes(data)
        (pictures / "dog" / f"copy of {number}.png").write_bytes(data)
    (pictures / "cat" / "page.jpg").write_text("<html>")
    (pictures / "dog" / "page.jpg").write_text("<html>")
    embed_layers(pictures, Patches("means", "pixels"), folder=features)
    (note,) = notes()
    assert note.startswith("the bytes of 2 images occur under several labels, such as 'cat/copy of 0.png' (cat)")
    assert note.endswith("and 'dog/0.png' (dog); keep one file of each")


def test_copies_with_one_label_or_none_do_not_contradict(pictures, features, notes):
    manifest = read_folder(pictures)
    (pictures / "copy.png").write_bytes((pictures / "dog" / "0.png").read_bytes())
    (pictures / "dog" / "copy.png").write_bytes((pictures / "dog" / "0.png").read_bytes())
    extra = (Item("copy.png"), Item("dog/copy.png", "dog"))
    assert count(run(Manifest(manifest.items + extra, manifest.reader, manifest.source), features)) == (12, 0, 0)
    assert notes() == []


# Files that change during the run


def test_a_file_that_changes_during_the_run_is_known_by_the_bytes_that_were_embedded(pictures, features):
    manifest = read_folder(pictures)
    reader = manifest.reader
    path = pictures / "dog" / "0.png"

    class Busy:
        """Change a picture between reading its time and its content, and again right after."""

        def stat(self, item_id):
            found = reader.stat(item_id)
            if item_id == "dog/0.png":
                draw(path, 98)
                age(path, AN_HOUR_AGO + 1)
            return found

        def read(self, item_id):
            data = reader.read(item_id)
            if item_id == "dog/0.png":
                draw(path, 99)
                age(path, AN_HOUR_AGO + 2)
            return data

    during = run(Manifest(manifest.items, Busy(), manifest.source), features).store
    draw(path, 98)
    age(path, AN_HOUR_AGO + 3)
    embedded = run(pictures, features, name="embedded").store
    assert during.sha256.tolist() == embedded.sha256.tolist()
    assert np.array_equal(during.features, embedded.features)
    draw(path, 99)
    age(path, AN_HOUR_AGO + 2)
    assert count(run(pictures, features)) == (1, 9, 0)


# Images that come out dark, or of which a part is ignored


def write_deep(folder, largest, *, colour=False):
    """Write three PNGs of 16 bits, the last with this largest sample."""
    for number, value in enumerate((largest // 3, 0, largest)):
        row = np.full((4, 4, 3 if colour else 1), value, ">u2").tobytes()
        rows = [row[at : at + len(row) // 4] for at in range(0, len(row), len(row) // 4)]
        (folder / f"{number}.png").write_bytes(make_png(4, 4, 16, 2 if colour else 0, rows))


@pytest.mark.parametrize(
    ("largest", "colour", "bits"),
    [(4095, False, 12), (4095, True, 12), (4096, False, 14), (16383, True, 14), (1000, False, 10), (200, False, 8)],
)
def test_samples_that_leave_the_upper_range_unused_are_noted_once(tmp_path, caplog, largest, colour, bits):
    (tmp_path / "deep").mkdir()
    write_deep(tmp_path / "deep", largest, colour=colour)
    dark = embed(tmp_path / "deep", "colour", folder=tmp_path, options=EmbedOptions(workers=3)).store
    assert caplog.text.count("come") == 1
    # An image that is black says nothing, so it is not counted.
    assert f"sample in 2 images with 16 bits is {largest:,}, so this looks like {bits}-bit data" in caplog.text
    assert f"embed again with --bits {bits}" in caplog.text
    caplog.clear()
    bright = embed(tmp_path / "deep", "colour", image={"bits": bits}, folder=tmp_path).store
    assert not caplog.text
    assert bright.path.name == f"colour-bits{bits}.h5"
    assert bright.spec.image.bits == bits
    assert not np.array_equal(bright.features, dark.features)


@pytest.mark.parametrize("largest", [16384, 65535])
def test_samples_that_use_the_upper_range_are_not_noted(tmp_path, caplog, largest):
    (tmp_path / "deep").mkdir()
    write_deep(tmp_path / "deep", largest)
    embed(tmp_path / "deep", "colour", folder=tmp_path)
    assert not caplog.text


def test_images_of_8_bits_are_not_noted(pictures, features, caplog):
    run(pictures, features)
    assert not caplog.text


def test_ignored_bands_are_noted_once(tmp_path, caplog):
    (tmp_path / "d").mkdir()
    for number in range(3):
        data = make_tiff(2, 1, 8, 4, 2, [bytes([number, 48, 64, 0] * 2)], more={338: 0} if number else {})
        (tmp_path / "d" / f"{number}.tif").write_bytes(data)
    embed(tmp_path / "d", "colour", folder=tmp_path)
    assert caplog.messages == ["bands that are neither colour nor alpha, such as infrared, are ignored in 3 images"]
