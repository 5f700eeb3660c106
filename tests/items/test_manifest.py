import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featx.errors import SourceError
from featx.items import Columns, Item, Manifest, read_folder, read_table
from featx.items.folders import FolderReader
from featx.items.sources import read_source_again

ITEMS = (
    Item("a.jpg", "1", "train", "p1"),
    Item("sub/c.jpg", "2", "test", ""),
    Item("b.jpg"),
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "sub").mkdir()
    for item in ITEMS:
        (tmp_path / item.id).write_bytes(item.id.encode())
    return tmp_path


def make_manifest(items, junk=None):
    return Manifest(tuple(items), reader=None, source="data", junk=junk or {})


def make_frame(**columns):
    return pd.DataFrame({"path": [item.id for item in ITEMS], **columns})


def test_a_manifest_describes_itself():
    items = [Item(f"{n}.jpg", f"c{n % 2}", "train", f"p{n % 3}") for n in range(1200)]
    items += [Item("x.jpg", "c0", "val"), Item("y.jpg", "odd", "test"), Item("z.jpg")]
    assert make_manifest(items, {"hidden files": 3, "broken links": 1}).describe() == [
        "data: 1,203 images",
        "classes: 3 (c0 601, c1 600, odd 1)",
        "without a class: 1",
        "splits: train 1,200, val 1, test 1, none 1",
        "test has classes that train lacks: odd",
        "groups: 3",
        "left out: broken links (1), hidden files (3)",
    ]


def test_many_classes_are_counted_and_twelve_named():
    lines = make_manifest(Item(f"{n}.jpg", f"c{n:03}") for n in range(100)).describe()
    assert lines[1].startswith("classes: 100 (c000 1, c001 1, ")
    assert lines[1].endswith("c011 1 and 88 more)")
    assert len(lines) == 2


def test_a_manifest_without_classes_says_where_they_may_be():
    assert make_manifest([Item("1.jpg")]).describe() == [
        "data: 1 image",
        "classes: 0; if file names contain them, add --label-pattern",
    ]


def test_classes_are_counted_by_split():
    manifest = make_manifest([Item("1", "b", "train"), Item("2", "a", "val"), Item("3", "a", "train"), Item("4")])
    assert manifest.count_classes() == {"a": 2, "b": 1}
    assert manifest.count_classes("val") == {"a": 1}


def test_a_frame_has_a_row_for_each_item(root):
    frame = Manifest(ITEMS, None, "x").to_frame()
    assert list(frame.columns) == ["path", "label", "split", "group"]
    assert frame.to_numpy().tolist() == [[item.id, item.label, item.split, item.group] for item in ITEMS]
    assert Manifest((), None, "x").to_frame().shape == (0, 4)


def test_a_manifest_comes_back_from_its_frame(root):
    frame = Manifest(ITEMS, None, "x").to_frame()
    manifest = Manifest.from_frame(frame, root=root)
    assert manifest.items == ITEMS
    assert manifest.reader.read("sub/c.jpg") == b"sub/c.jpg"
    assert manifest.to_frame().equals(frame)
    assert manifest.source == str(root / "DataFrame")


def test_a_frame_and_the_table_that_it_writes_give_the_same_items(root):
    frame = make_frame(label=[3.0, None, 10.0], split=["Training", pd.NA, np.nan], patient=[7, 8, 7])
    frame.to_csv(root / "table.csv", index=False)
    frame.to_parquet(root / "table.parquet")
    manifest = Manifest.from_frame(frame, root=root)
    assert [(item.label, item.split, item.group) for item in manifest.items] == [
        ("3", "train", "7"),
        ("", "", "8"),
        ("10", "", "7"),
    ]
    assert manifest.items == read_table(root / "table.csv").items == read_table(root / "table.parquet").items


def test_columns_may_be_of_any_kind(root):
    frame = make_frame(
        label=pd.Categorical(["cat", None, "dog"]),
        split=pd.array(["train", None, "val"], dtype="string"),
        pixels=[np.zeros(3), [1, 2], {}],
    )
    frame["path"] = [root / name for name in frame["path"]]
    frame[5] = "number"
    items = Manifest.from_frame(frame, root=root, columns=Columns(group="5")).items
    assert items == (
        Item("a.jpg", "cat", "train", "number"),
        Item("sub/c.jpg", "", "", "number"),
        Item("b.jpg", "dog", "val", "number"),
    )


@pytest.mark.skipif(os.name != "posix", reason="only there may names be any bytes")
def test_names_that_are_not_utf8_survive_the_round_trip(tmp_path):
    try:
        Path(tmp_path, "b\udce4r.jpg").write_bytes(b"\xff\xd8\xff")
    except OSError:
        pytest.skip("this file system refuses such names")
    manifest = read_folder(tmp_path)
    assert Manifest.from_frame(manifest.to_frame(), root=tmp_path).items == manifest.items
    assert "b\\udce4r.jpg" in manifest._repr_html_()


def test_paths_are_relative_to_the_current_folder_by_default(root, monkeypatch):
    monkeypatch.chdir(root / "sub")
    assert Manifest.from_frame(pd.DataFrame({"file": ["c.jpg"]})).items == (Item("c.jpg"),)


@pytest.mark.parametrize(
    ("frame", "columns", "message"),
    [
        (pd.DataFrame({"bild": ["a.jpg"]}), None, r"the DataFrame has no column for the path; its columns are 'bild'"),
        (make_frame(), Columns(label="Art"), r"the DataFrame has no column 'Art'.*name the column of the label"),
        (
            make_frame(when=["train", "later", ""]),
            Columns(split="when"),
            r"row 1 of the DataFrame has the split 'later'",
        ),
        (make_frame().set_index(pd.Index(["x", "y", "z"])).replace("b.jpg", None), None, r"row 'z' of the DataFrame"),
        (make_frame().iloc[:0], None, "the DataFrame has no rows"),
        (pd.DataFrame({"path": ["none.jpg"]}), None, r"the only file in the DataFrame does not exist"),
        (pd.DataFrame({"path": ["a.jpg"] * 2, "label": ["x", "y"]}), None, r"row 0 and row 1 of the DataFrame"),
    ],
)
def test_a_frame_that_cannot_be_read_says_why(root, frame, columns, message):
    with pytest.raises(SourceError, match=message) as caught:
        Manifest.from_frame(frame, root=root, columns=columns)
    assert "\n" not in str(caught.value)


def test_a_frame_cannot_be_read_again(root):
    manifest = Manifest.from_frame(make_frame(), root=root)
    with pytest.raises(SourceError, match=r"came from a DataFrame, which is not kept; write it with to_csv"):
        read_source_again(manifest.source, manifest.reading)


GONE = FolderReader("gone")


def strip_styles(html):
    return re.sub(r' style="[^"]*"', "", html)


def test_a_notebook_shows_counts_and_the_first_rows():
    items = [Item(f"{n}.jpg", f"c{n % 2}", ("train", "val")[n % 3 == 0], f"p{n % 5}") for n in range(1200)]
    html = strip_styles(Manifest((*items, Item("last.jpg")), GONE, "photos", {"hidden files": 2})._repr_html_())
    assert "1,201 images" in html
    assert "<td>c0</td><td>400</td><td>200</td><td>0</td><td>600</td>" in html
    assert "<td>none</td><td>0</td><td>0</td><td>1</td><td>1</td>" in html
    assert "0.jpg" in html
    assert "last.jpg" not in html
    assert "hidden files (2)" in html
    assert len(html) < 4000


def test_a_notebook_names_twelve_of_many_classes():
    html = strip_styles(Manifest(tuple(Item(f"{n}", f"c{n:03}") for n in range(100)), GONE, "x")._repr_html_())
    assert "<td>c011</td>" in html
    assert "c012" not in html
    assert "88 more classes" in html
    assert "<th>class</th><th>images</th></tr></thead><tbody><tr><td>c000</td><td>1</td></tr>" in html
    assert len(html) < 4000


def test_a_notebook_runs_nothing_that_a_name_holds():
    evil = '<script>alert("1")</script>'
    html = strip_styles(Manifest((Item(f"{evil}.jpg", evil, "train", evil),), GONE, evil, {evil: 1})._repr_html_())
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 4
    assert '"1"' not in html
    assert set(re.findall(r"</?(\w+)", html)) <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_notebook_shows_pictures_of_every_class_and_leaves_out_what_is_gone(digits):
    manifest = read_folder(digits)
    html = manifest._repr_html_()
    assert html.count("data:image/jpeg;base64,") == 12
    assert len(set(re.findall(r"<figcaption>(\w+)</figcaption>", html))) == 10
    assert len(html) < 60_000
    gone = Manifest((Item("gone.png", "0"), *manifest.items[:1]), manifest.reader, "photos")
    assert gone._repr_html_().count("<img") == 1
