import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from featx.errors import SourceError
from featx.items import Columns, Item, read_table, tables


@pytest.fixture
def make(tmp_path):
    """Write a table, and the files `a.jpg`, `b.jpg` and `sub/c.jpg` next to it."""
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (tmp_path / name).write_bytes(name.encode())

    def make_table(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make_table


@pytest.fixture
def make_parquet(make):
    def write(columns):
        path = make("", "table.parquet")
        parquet.write_table(pa.table(columns), path)
        return path

    return write


def test_rows_become_items_in_their_order(make):
    manifest = read_table(make("path,label,split,group\nsub/c.jpg,x,test,p2\na.jpg,y,Training,p1\nb.jpg,,,\n"))
    assert manifest.items == (
        Item("sub/c.jpg", "x", "test", "p2"),
        Item("a.jpg", "y", "train", "p1"),
        Item("b.jpg"),
    )
    assert manifest.reader.read("sub/c.jpg") == b"sub/c.jpg"
    assert not manifest.junk


@pytest.mark.parametrize(
    "path", ["path", "FILE", "file name", "File_Name", "filename", "image", "Image Path", "filepath"]
)
@pytest.mark.parametrize("label", ["label", "Class", "TARGET", "category"])
def test_usual_column_names_are_recognised(make, path, label):
    assert read_table(make(f"id,{label},{path}\n7,cat,a.jpg\n")).items == (Item("a.jpg", "cat"),)


@pytest.mark.parametrize("group", ["group", "Patient", "patient_id", "Subject"])
def test_usual_group_names_are_recognised(make, group):
    assert read_table(make(f"file,{group}\na.jpg,p1\n")).items[0].group == "p1"


@pytest.mark.parametrize("split", ["split", "Subset", "fold"])
def test_a_column_is_a_split_only_if_its_values_are(make, split):
    assert read_table(make(f"file,{split}\na.jpg,train\nb.jpg,VAL\n")).count_splits() == {"train": 1, "val": 1}
    assert read_table(make(f"file,{split}\na.jpg,1\nb.jpg,2\n")).count_splits() == {}


def test_columns_may_be_named(make):
    content = "path,label,Frame,Sex,side\nwrong,wrong,a.jpg,f,L\n"
    manifest = read_table(make(content), columns=Columns(path="frame", label="Sex", group="side"))
    assert manifest.items == (Item("a.jpg", "f", "", "L"),)


def test_a_named_split_with_other_values_is_refused(make):
    with pytest.raises(SourceError, match=r"line 3 of .* has the split 'later'"):
        read_table(make("path,when\na.jpg,train\nb.jpg,later\n"), columns=Columns(split="when"))


@pytest.mark.parametrize("columns", [Columns(), Columns(path="picture"), Columns(label="Finding")])
def test_a_missing_column_lists_the_existing_ones(make, columns):
    with pytest.raises(SourceError, match="its columns are 'bild', 'Art'"):
        read_table(make("bild,Art\na.jpg,x\n"), columns=columns)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_separators_are_found(make, mark):
    content = f"path{mark}label\n\n" + f'a.jpg{mark} "one, two; three|four"\n'
    assert read_table(make(content)).items == (Item("a.jpg", "one, two; three|four"),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends(make, encoding, end):
    content = f"path,label{end}a.jpg,B\u00e4r{end}".encode(encoding)
    assert read_table(make(content)).items == (Item("a.jpg", "B\u00e4r"),)


def test_one_column_is_enough_and_tabs_separate_a_tsv(make):
    assert read_table(make("path\na.jpg\n")).items == (Item("a.jpg"),)
    assert read_table(make("path\tlabel, long\na.jpg\tx\n", "t.tsv")).items == (Item("a.jpg"),)


def test_bytes_that_are_not_utf8_are_kept_in_paths(make):
    manifest = read_table(make(b"path,label\na.jpg,x\nb\xe4r.jpg,B\xe4r\n"))
    assert manifest.items[1] == Item("b\udce4r.jpg", "B\\udce4r")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["3.0", "10.0", ""], ["3", "10", ""]),
        (["3", "10.0", "1"], ["3", "10", "1"]),
        (["3.5", "3.0", "1"], ["3.5", "3.0", "1"]),
        (["003", "3", "x"], ["003", "3", "x"]),
        ([" cat ", "v1.0", "1.0"], ["cat", "v1.0", "1.0"]),
    ],
)
def test_labels_that_are_numbers(make, written, expected):
    rows = "".join(f"{name},{label}\n" for name, label in zip(("a.jpg", "b.jpg", "sub/c.jpg"), written, strict=True))
    assert [item.label for item in read_table(make("path,label\n" + rows)).items] == expected


@settings(deadline=None)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_whole_numbers_read_the_same_however_they_are_written(numbers):
    assert tables._clean([f"{number}.0" for number in numbers]) == tables._clean([str(number) for number in numbers])


def test_rows_without_a_file_stay_items(make):
    manifest = read_table(make("path\na.jpg\nlost.jpg\n"))
    assert [item.id for item in manifest.items] == ["a.jpg", "lost.jpg"]
    with pytest.raises(FileNotFoundError):
        manifest.reader.read("lost.jpg")


def test_a_table_none_of_whose_files_exists_asks_for_the_root(make, tmp_path):
    with pytest.raises(SourceError, match=r"none of the 2 files .* exists.*x\.jpg.*; pass the folder .* with --root"):
        read_table(make("path\nx.jpg\ny.jpg\n"), root=tmp_path / "sub")


def test_paths_are_relative_to_the_root_and_may_leave_it(make, tmp_path):
    content = f"path\nc.jpg\n../a.jpg\n{tmp_path}/sub/d.jpg\n./x/../e.jpg\n"
    manifest = read_table(make(content), root=tmp_path / "sub")
    assert [item.id for item in manifest.items] == ["c.jpg", (tmp_path / "a.jpg").as_posix(), "d.jpg", "e.jpg"]
    assert manifest.reader.read(manifest.items[1].id) == b"a.jpg"


def test_a_missing_root_is_an_error(make, tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        read_table(make("path\na.jpg\n"), root=tmp_path / "none")


def test_identical_rows_count_once_and_different_ones_are_refused(make):
    manifest = read_table(make("path,label\na.jpg,x\n./a.jpg,x\nb.jpg,y\n"))
    assert len(manifest) == 2
    assert manifest.junk == {"rows that repeat another": 1}
    with pytest.raises(SourceError, match=r"line 2 and line 4 of .* name 'a.jpg' with different values"):
        read_table(make("path,label\na.jpg,x\nb.jpg,x\na.jpg,y\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column for the path"),
        ("path,label\n", "has no rows"),
        ("path,label\na.jpg,x\n,y\n", "line 3 of .* has no path"),
        ("path,label\na.jpg,x\nb.jpg, one, two\n", "line 3 of .* has 3 fields and the header has 2"),
        (b"\xff\xfep", "cannot be read"),
        ("path\n" + "x" * 200_000, "cannot be read: field larger"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_table(make, content, message):
    with pytest.raises(SourceError, match=message):
        read_table(make(content))


def test_parquet_rows_become_items(make_parquet):
    columns = {
        "image": ["a.jpg", "b.jpg", "sub/c.jpg"],
        "class": [1.0, math.nan, 3.0],
        "patient": [7, None, 9],
        "subset": ["train", None, "test"],
    }
    assert read_table(make_parquet(columns)).items == (
        Item("a.jpg", "1", "train", "7"),
        Item("b.jpg"),
        Item("sub/c.jpg", "3", "test", "9"),
    )


def test_parquet_categories_and_booleans_are_labels(make_parquet):
    columns = {"file": ["a.jpg"], "label": pa.array(["x"]).dictionary_encode(), "sick": [True]}
    assert read_table(make_parquet(columns)).items == (Item("a.jpg", "x"),)
    assert read_table(make_parquet(columns), columns=Columns(label="sick")).items[0].label == "True"


def test_images_inside_a_parquet_table_are_not_paths(make_parquet):
    with pytest.raises(SourceError, match="no column for the path; its columns are 'label'"):
        read_table(make_parquet({"image": [{"bytes": b"x", "path": "a.jpg"}], "file": [b"\xff\xd8"], "label": ["x"]}))


def test_a_file_that_is_not_parquet_is_an_error(make):
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        read_table(make("path\na.jpg\n", "x.parquet"))
