import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import write_digits
from PIL import Image
from reporters import Recorder

import featx
from featx.errors import DataError, SourceError, UsageError
from featx.fitting.dataset import load_dataset, split_dataset
from featx.items import Columns, read_folder, read_source
from featx.options import FitOptions, SplitOptions


def write_images(root, names, first=0):
    """Write a different picture for each name; names with the same number in brackets share a picture."""
    for number, name in enumerate(names, first):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shared = re.search(r"\[(\d+)\]", name)
        pixels = np.random.default_rng(int(shared[1]) + 10**6 if shared else number).integers(0, 256, (4, 4, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path, "png")
    return root


def name_images(per_class, classes="ab"):
    return [f"{label}/{number}.png" for label in classes for number in range(per_class)]


def read_splits(table):
    return {Path(item.id).name: item.split for item in read_source(table.path).items}


def list_files(root):
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_files_stay_and_a_table_appears_next_to_the_source(tmp_path):
    root = write_images(tmp_path / "photos", name_images(50))
    before = list_files(root)
    table = featx.split_source(root)
    assert list_files(root) == before
    assert table.path == tmp_path / "photos-splits.csv"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos-splits.csv"]
    rows = list(csv.DictReader(table.path.read_text().splitlines()))
    assert list(rows[0]) == ["path", "label", "split", "group"]
    assert rows[0]["path"] == "photos/a/0.png"
    assert read_source(table.path).count_splits() == table.count_splits()
    assert all(0 < table.count_classes()[label][split] < 45 for label in "ab" for split in ("train", "val", "test"))


def test_items_of_a_frame_need_a_named_table(tmp_path):
    root = write_images(tmp_path / "photos", name_images(20))
    manifest = featx.Manifest.from_frame(read_folder(root).to_frame(), root=root)
    with pytest.raises(UsageError, match=r"came from a DataFrame, which has no file .*; name the table with out="):
        featx.split_source(manifest)
    table = featx.split_source(manifest, out=tmp_path / "splits.csv")
    assert read_source(table.path).count_splits() == table.count_splits()


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("group", ["", r"digit-(\d{3})"])
def test_the_test_is_that_of_fit(tmp_path, digits, seed, group):
    """`embed` + `fit` and `split` + `embed` + `fit` report on the same items."""
    options = FitOptions(test_size=0.3, seed=seed, group=group, folder=None)
    plain = featx.embed(digits, "colour", folder=tmp_path / "plain").store
    split = SplitOptions(test_size=0.3, seed=seed, group=group)
    table = featx.split_source(digits, out=tmp_path / "t.csv", options=split)
    listed = featx.embed(table.path, "colour", folder=tmp_path / "listed").store
    runs = [featx.fit(plain, "centroid", options=options), featx.fit(listed, "centroid", options=options)]
    assert runs[0].test_name == runs[1].test_name
    assert runs[0].test.n_items == runs[1].test.n_items == table.count_splits()["test"]
    assert (
        runs[1].n_train == runs[0].n_train == len(table.items) - runs[0].test.n_items
    )  # val chooses, then is trained on
    tested = []
    for store in (plain, listed):
        dataset = load_dataset(store, group=group)
        held = split_dataset(dataset, test_size=0.3, seed=seed).test.members
        tested.append({Path(name).name for name in store.ids[dataset.rows[held]]})
    assert tested[0] == tested[1] == {name for name, split in read_splits(table).items() if split == "test"}


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 99), st.integers(20, 60), st.integers(1, 30))
def test_added_images_move_none_of_the_old_ones(tmp_path_factory, seed, n_before, n_added):
    root = tmp_path_factory.mktemp("s") / "photos"
    write_images(root, [f"{at % 2}/{at}.png" for at in range(n_before)])
    before = featx.split_source(root, options=SplitOptions(seed=seed))
    write_images(root, [f"{at % 2}/{at}.png" for at in range(n_before, n_before + n_added)], n_before)
    after = featx.split_source(root, options=SplitOptions(seed=seed, force=True))
    if not before.notes:
        assert read_splits(before).items() <= read_splits(after).items()


def test_val_does_not_move_the_test_and_is_a_fraction_of_all(tmp_path):
    root = write_images(tmp_path / "photos", name_images(300))
    small, large = (
        featx.split_source(root, out=tmp_path / f"{val}.csv", options=SplitOptions(val_size=val)) for val in (0.1, 0.4)
    )
    names = [{name for name, split in read_splits(table).items() if split == "test"} for table in (small, large)]
    assert names[0] == names[1]
    assert small.count_splits()["val"] / 600 == pytest.approx(0.1, abs=0.04)
    assert large.count_splits()["val"] / 600 == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize(("val", "test"), [(0, 0.3), (0.3, 0)])
def test_val_or_test_may_be_left_out(tmp_path, val, test):
    root = write_images(tmp_path / "photos", name_images(20))
    counts = featx.split_source(root, options=SplitOptions(val_size=val, test_size=test)).count_splits()
    assert [bool(counts["val"]), bool(counts["test"])] == [bool(val), bool(test)]


@pytest.mark.parametrize(("val", "test"), [(0, 0), (0.5, 0.5), (-0.1, 0.2), (0.1, 1), (float("nan"), 0.2)])
def test_sizes_that_leave_nothing_are_refused(val, test):
    with pytest.raises(UsageError, match=r"together they must be above 0 and|it must be at least 0 and below 1"):
        SplitOptions(val_size=val, test_size=test)


def test_identical_files_and_one_group_are_never_in_two_splits(tmp_path):
    names = [f"{label}/p{at // 5}-{at}{f'[{at % 9}]' if at % 4 == 0 else ''}.png" for label in "ab" for at in range(80)]
    root = write_images(tmp_path / "photos", names)
    alone = featx.split_source(root, out=tmp_path / "1.csv")
    copies = {}
    for item in alone.items:
        copies.setdefault((root / item.id).read_bytes(), set()).add(item.split)
    assert len(copies) < len(names)
    assert all(len(splits) == 1 for splits in copies.values())

    write_images(root := tmp_path / "patients", [f"{label}/p{at // 5}-{at}.png" for label in "ab" for at in range(80)])
    table = featx.split_source(root, options=SplitOptions(group=r"(p\d+)-"))
    groups = {}
    for item in read_source(table.path).items:
        groups.setdefault(item.group, set()).add(item.split)
    assert set(groups) == {f"p{at}" for at in range(16)}
    assert all(len(splits) == 1 for splits in groups.values())


def test_a_tables_columns_and_root_are_read_and_the_new_one_needs_none(tmp_path):
    write_images(tmp_path / "images", [f"{at}.png" for at in range(40)])
    rows = "".join(f"{at}.png,{at % 2 + 1}.0,{at // 4},x\n" for at in range(40))
    (tmp_path / "labels.csv").write_text("File Name,Finding,Case,other\n" + rows)
    manifest = read_source(tmp_path / "labels.csv", root=tmp_path / "images", columns=Columns(label="Finding"))
    before = (tmp_path / "labels.csv").read_bytes()
    table = featx.split_source(manifest, options=SplitOptions(group="Case"))
    assert (tmp_path / "labels.csv").read_bytes() == before
    assert table.path == tmp_path / "labels-splits.csv"
    read = read_source(table.path)
    assert read.count_classes() == {"1": 20, "2": 20}
    assert read.count_groups() == 10
    assert {item.id.partition("/")[0] for item in read.items} == {"images"}
    with pytest.raises(UsageError, match="is the source itself, which is never overwritten"):
        featx.split_source(manifest, out=tmp_path / "labels.csv", options=SplitOptions(force=True))


def test_paths_resolve_from_wherever_the_table_is(tmp_path):
    root = write_images(tmp_path / "data" / "photos", name_images(8))
    table = featx.split_source(root, out=tmp_path / "tables" / "new" / "t.csv")
    assert table.path.read_text().splitlines()[1].startswith("../../data/photos/a/")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("data", "tables"):
        (tmp_path / name).rename(moved / name)
    assert featx.embed(moved / "tables/new/t.csv", "colour", folder=tmp_path / "features").new == 16


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    root = write_images(tmp_path / "photos", name_images(8))
    monkeypatch.chdir(root)
    assert featx.split_source(".").path == tmp_path / "photos-splits.csv"


ODD = [
    "größe",
    "日本",
    "a,b",
    'say "x"',
    "semi;colon",
    "=1+1",
    "-x",
    "tab\there",
    "new\nline",
    "r\rr",
    " ahead",
    "behind ",
]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_odd_names_come_back(tmp_path):
    root = write_images(tmp_path / "ph, ötos", [f"{label}/{ODD[at]}{at}.png" for label in ODD for at in range(12)])
    table = featx.split_source(root)
    read = read_source(table.path)
    assert [Path(item.id).name for item in read.items] == [Path(item.id).name for item in table.items]
    assert [item.split for item in read.items] == [item.split for item in table.items]
    assert {item.label for item in read.items} == {label.strip() for label in ODD}
    assert all(read.reader.stat(item.id).size_bytes for item in read.items)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows names of any bytes")
def test_names_that_are_not_utf8_come_back(tmp_path):
    root = write_images(
        tmp_path / "photos", [f"{label}/b\udce4r{at}.png" for label in ("x", "\udcff") for at in range(9)]
    )
    read = read_source(featx.split_source(root).path)
    assert {Path(item.id).name for item in read.items} == {f"b\udce4r{at}.png" for at in range(9)}
    assert set(read.count_classes()) == {"x", "\\udcff"}


@pytest.mark.parametrize("labels", [("0", "1"), ("007", "10"), ("-1", "2.5")])
def test_labels_that_are_numbers_stay_what_they_are(tmp_path, labels):
    root = write_images(tmp_path / "photos", [f"{label}/{at}.png" for label in labels for at in range(6)])
    assert set(read_source(featx.split_source(root).path).count_classes()) == set(labels)


@pytest.mark.parametrize("labels", [("1", "1.0"), ("cat", "cat ")])
def test_classes_that_would_be_the_same_in_a_table_are_refused(tmp_path, labels):
    root = write_images(tmp_path / "photos", [f"{label}/{at}.png" for label in labels for at in range(6)])
    with pytest.raises(DataError, match=r"in a table, the label .* would be the same as"):
        featx.split_source(root)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_two_images_and_one_class(tmp_path):
    two = featx.split_source(write_images(tmp_path / "two", ["a/1.png", "b/2.png"]))
    assert two.count_splits() == {"train": 2, "val": 0, "test": 0}
    assert "each of the classes 'a', 'b' has a single image or group, which is trained on and not tested" in two.notes
    one = featx.split_source(write_images(tmp_path / "one", [f"a/{at}.png" for at in range(30)]))
    assert one.notes == (
        "there is only one class (a); a classifier needs at least two",
        "test has 6.7% of class 'a' instead of 20%; --stratify exact evens the shares out",
    )
    assert all(one.count_splits().values())
    featx.split_source(write_images(tmp_path / "single", ["a/1.png"]))


def test_unreadable_images_are_listed_without_a_split(tmp_path):
    root = write_images(tmp_path / "photos", name_images(10))
    (root / "a/page.jpg").write_bytes(b"<html></html>")
    (root / "b/empty.png").touch()
    table = featx.split_source(root)
    assert set(table.unread) == {"a/page.jpg", "b/empty.png"}
    assert {item.split for item in table.items if item.id in table.unread} == {""}
    result = featx.embed(table.path, "colour", folder=tmp_path / "features")
    assert (result.new, result.quarantined) == (20, 2)
    assert {Path(name).name for name, *_ in result.store.quarantine} == {"page.jpg", "empty.png"}


def test_images_without_a_class_have_no_split(tmp_path):
    root = write_images(tmp_path / "photos", [*name_images(10), "loose.png"])
    table = featx.split_source(root)
    assert {item.id: item.split for item in table.items}["loose.png"] == ""
    assert set(table.count_classes()) == {"a", "b"}
    with pytest.raises(DataError, match="has no classes to split by"):
        featx.split_source(write_images(tmp_path / "plain", ["1.png", "2.png"]))


def test_a_source_with_splits_is_split_again_only_with_replace(tmp_path):
    names = [f"{split}/{label}/{at}.png" for split in ("train", "valid") for label in "ab" for at in range(20)]
    root = write_images(tmp_path / "photos", names)
    with pytest.raises(UsageError, match=r"has splits already \(train 40, val 40\).*--replace"):
        featx.split_source(root)
    table = featx.split_source(root, options=SplitOptions(replace=True))
    assert sum(table.count_splits().values()) == 80
    assert table.count_splits()["train"] > 45
    train = write_images(tmp_path / "only", [f"train/{label}/{at}.png" for label in "ab" for at in range(20)])
    assert featx.split_source(train).count_splits()["test"]


def test_an_older_table_is_overwritten_only_by_force_and_another_file_never(tmp_path):
    root = write_images(tmp_path / "photos", name_images(10))
    first = featx.split_source(root).path.read_bytes()
    with pytest.raises(UsageError, match="exists already; overwrite it with --force"):
        featx.split_source(root, options=SplitOptions(seed=3))
    assert (tmp_path / "photos-splits.csv").read_bytes() == first
    featx.split_source(root, options=SplitOptions(seed=3, force=True))
    assert (tmp_path / "photos-splits.csv").read_bytes() != first
    (tmp_path / "mine.csv").write_text("path,label\nprecious,work\n")
    for name in ("mine.csv", "photos", "notes.txt"):
        with pytest.raises(UsageError, match=r"was not written by|must end in \.csv"):
            featx.split_source(root, out=tmp_path / name, options=SplitOptions(force=True))
    assert (tmp_path / "mine.csv").read_text() == "path,label\nprecious,work\n"


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_appears_while_reading_stays(tmp_path, force):
    root, mine = write_images(tmp_path / "photos", name_images(5)), tmp_path / "photos-splits.csv"

    def take_place(done, total):
        if done == total:
            mine.write_text("precious work")

    with pytest.raises(UsageError, match="was not written by `featx split`"):
        featx.split_source(root, options=SplitOptions(force=force, reporter=Recorder(take_place)))
    assert mine.read_text() == "precious work"
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_broken_link_stays(tmp_path):
    root, link = write_images(tmp_path / "photos", name_images(5)), tmp_path / "table.csv"
    link.symlink_to("unplugged/table.csv")
    with pytest.raises(UsageError, match="was not written by `featx split`"):
        featx.split_source(root, out=link, options=SplitOptions(force=True))
    assert link.is_symlink()


def test_an_archive_is_refused_with_advice(tmp_path):
    import zipfile

    write_images(tmp_path / "photos", name_images(4))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    with pytest.raises(SourceError, match="unpack it and split the folder, or leave the split to `featx fit`"):
        featx.split_source(tmp_path / "photos.zip")


def test_a_table_that_cannot_be_written_is_an_error(tmp_path):
    root = write_images(tmp_path / "photos", name_images(4))
    with pytest.raises(SourceError, match=r"cannot be written: .*; name another path with --out"):
        featx.split_source(root, out=root / "a/0.png/t.csv")
    assert not list(root.rglob("*.tmp"))


def test_progress_counts_files(tmp_path):
    root = write_images(tmp_path / "photos", name_images(5))
    reporter = Recorder()
    featx.split_source(root, options=SplitOptions(reporter=reporter))
    assert reporter.counts == [(at, 10) for at in range(1, 11)]
    assert json.dumps(read_folder(root).reading) == "{}"


def test_real_digits_have_every_class_in_every_split(tmp_path):
    table = featx.split_source(write_digits(tmp_path / "digits", per_class=40))
    assert all(row["val"] and row["test"] for row in table.count_classes().values())
