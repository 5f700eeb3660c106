import contextlib
import itertools
import math
import sys

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from featx.errors import SourceError
from featx.items import Columns, Item, Manifest, columns, read_table
from featx.items.sources import read_source_again


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
    assert read_table(make(f"file,{split}\na.jpg,3\nb.jpg,4\n")).count_splits() == {}


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows names of any bytes")
def test_bytes_that_are_not_utf8_are_kept_in_paths(make, tmp_path):
    (tmp_path / "b\udce4r.jpg").touch()
    manifest = read_table(make(b"path,label\na.jpg,x\nb\xe4r.jpg,B\xe4r\n"))
    assert manifest.items[1] == Item("b\udce4r.jpg", "B\u00e4r")
    assert any("it is read as cp1252 ('b\u00e4r.jpg')" in note for note in manifest.notes)


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
    assert columns._clean([f"{number}.0" for number in numbers]) == columns._clean([str(number) for number in numbers])


def test_rows_without_a_file_stay_items(make):
    manifest = read_table(make("path\na.jpg\nlost.jpg\n"))
    assert [item.id for item in manifest.items] == ["a.jpg", "lost.jpg"]
    with pytest.raises(FileNotFoundError):
        manifest.reader.read("lost.jpg")


def test_a_table_none_of_whose_files_exists_asks_for_the_root(make, tmp_path):
    with pytest.raises(SourceError, match=r"none of the 2 files .* exists.*x\.jpg.*; pass the folder .* with --root"):
        read_table(make("path\nx.jpg\ny.jpg\n"), root=tmp_path / "sub")


def test_a_table_of_one_file_that_does_not_exist_says_so(make):
    with pytest.raises(SourceError, match=r"the only file in the table .* does not exist; it should be '.*x\.jpg'"):
        read_table(make("path\nx.jpg\n"))


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
        ("", "the table .* is empty; write the names of the columns in the first line"),
        ("\ufeff", "is empty"),
        ("\n\r\n", "is empty"),
        ("sep=;\n", "is empty"),
        ("# a\n\n# b\n", "is empty"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("'path','label'\n'a.jpg','x'\n", "the columns of .*, such as 'path', are in single quotes; remove these"),
        ("path,label\n'a.jpg',x\n'b.jpg',y\n", "each path in .*, such as 'a.jpg', is in single quotes; remove these"),
        ("path;label\na.jpg;'x'\nb.jpg;'y z'\n", "each label in .*, such as 'x', is in single quotes"),
        ("sep=;\npath,label\na.jpg,x\n", "line 1 of .* is 'sep=;', but the header is separated by ','; correct"),
        ("sep=,\npath\tlabel\na.jpg\tx\n", r"line 1 of .* is 'sep=,', but .* is separated by '\\t'; correct"),
        ("path label\na.jpg x\n", "if it has several columns, put commas between them, or .* such as sep=:"),
        ("path:label\na.jpg:x\n", "if it has several columns, put commas between them"),
        ("path,split\na.jpg,train\nb.jpg,NaN\n", "has the split 'NaN' in the column .*, or empty for an image without"),
        ("path,split\na.jpg,train\nb.jpg,none\n", "has the split 'none' in the column .*, or empty for an image"),
    ],
)
def test_the_error_says_what_to_change_in_a_table(make, content, message):
    with pytest.raises(SourceError, match=message):
        read_table(make(content))


@pytest.mark.parametrize(
    "content", ["sep=;\npath\na.jpg\n", "path,label\na.jpg,'x\nb.jpg,'y'\n", "path,label\na.jpg,\n"]
)
def test_tables_that_only_look_odd_are_read(make, content):
    assert read_table(make(content)).items[0].id == "a.jpg"


def test_a_missing_value_that_became_a_class_is_pointed_out(make):
    notes = read_table(make("path,label\na.jpg,x\nb.jpg,nan\n")).notes
    assert "the label 'nan' is a class of its own; leave the field empty where the class is not known" in notes
    assert not any("of its own" in note for note in read_table(make("path,label\na.jpg,None\n")).notes)


def test_labels_that_differ_in_case_are_pointed_out(make):
    notes = read_table(make("path,label\na.jpg,Cat\nb.jpg,cat\nc.jpg,dog\n")).notes
    assert "the labels 'Cat' and 'cat' are classes of their own; write them alike if they are one class" in notes
    assert not any("own" in note for note in read_table(make("path,label\na.jpg,Cat\nb.jpg,dog\n")).notes)


@pytest.mark.parametrize(("column", "quoted"), [("Finding Labels", "'Finding Labels'"), ("a'b", "'a'\"'\"'b'")])
def test_a_suggested_column_can_be_typed_as_it_is_shown(make, column, quoted):
    content = f'path,"{column}"\na.jpg,x\nb.jpg,x\n'
    assert any(f"add --label-column {quoted} (" in note for note in read_table(make(content)).notes)


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


ROWS = "0.png,a\n1.png,b\n2.png,a\n3.png,b\n"


@pytest.fixture
def images(tmp_path):
    """The files `0.png` to `9.png`."""
    for at in range(10):
        (tmp_path / f"{at}.png").write_bytes(b"x")
    return tmp_path


def write(folder, content, name="t.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('path,label\n0.png,a\n1.png,"b\n2.png,a\n', "a quote in line 3 of .* is not closed in that line"),
        ('path,label\n0.png,a\n1.png,b\n2.png,"a', "a quote in line 4 of .* is not closed in that line"),
        ('path,label\n0.png,"a\n1.png,b\n2.png,"a\n', "a quote in line 2 of .* is not closed in that line"),
        ('path,label\n0.png,"a\n1.png,b"\n2.png,a\n', r"a quote in line 2 of .*has another row \('1.png,b'\)"),
        ('path,label\n"0.png,a\n1.png",b\n2.png,a\n', "line 2 of .* has a line break in the path"),
        ('path,label\n0.png,"a\nb"\n', r"line 2 of .* has a line break in the label 'a\\nb'; remove it"),
        ('path,label\n0.png,"a"b\n', "line 2 of .* has text after a closing quote"),
        ('path,label\n0.png,a"b\n', "line 2 of .* has a quote inside the label 'a\"b', which is not quoted"),
        ('path,label,text\n0.png,a,"x\n1.png,b,y"\n2.png,a,z\n', "a quote in line 2 of .* is not closed in that line"),
        ('split,label,text,path\ntrain,a,"q, r"",5.png\ntest,b,x y",6.png\n', "a quote in line 2 of .* is not closed"),
        ('text,path,label\n"x,0.png,a\ny",1.png,b\n', "a quote in line 2 of .* is not closed in that line"),
        ('path,label\n0.png,"' + "a,b\n" * 50_000, "a quote in line 2 of .* is not closed in that line"),
        ('path\tlabel\n0.png\t"a\n1.png\tb\n', "a quote in line 2 of .* is not closed in that line"),
    ],
)
def test_no_quote_swallows_rows(images, content, message):
    with pytest.raises(SourceError, match=message):
        read_table(write(images, content))


@pytest.mark.parametrize("order", [("path", "label", "text"), ("text", "path", "label"), ("label", "text", "path")])
def test_no_two_quotes_anywhere_lose_a_row(images, order):
    rows = [{"path": f"{at}.png", "label": "ab"[at % 2], "text": "x y"} for at in range(3)]
    lines = [",".join(order), *(",".join(row[name] for name in order) for row in rows)]
    text = "\n".join(lines) + "\n"
    expected = read_table(write(images, text)).items
    n_read = 0
    for first, second in itertools.combinations_with_replacement(range(len(lines[0]) + 1, len(text) + 1), 2):
        quoted = f'{text[:first]}"{text[first:second]}"{text[second:]}'
        with contextlib.suppress(SourceError):
            assert read_table(write(images, quoted)).items == expected
            n_read += 1
    assert n_read > 9  # each field may be in quotes


def test_quotes_that_are_well_formed_are_read(images):
    content = 'path,label,text\n"0.png","a ""b"", c",5" long\n1.png, "d","two\nlines, of text"\n2.png,"e",\n'
    assert [item.label for item in read_table(write(images, content)).items] == ['a "b", c', "d", "e"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label,x\n0.png,a,1\n1.png\n", "line 3 of .* has 1 field and the header has 3; write ',' for each field"),
        ("path;label;x\n0.png;a\n1.png;b;\n", "line 2 of .* has 2 fields and the header has 3; write ';' for each"),
        (
            "path,label\n0.png,a\n1.png,b,\n",
            "line 3 of .* has 3 fields and the header has 2; remove the ',' at its end",
        ),
        (
            "path,label\n0.png,a\n1.png,b, c\n",
            "line 3 of .* has 3 fields and the header has 2; put the fields .* in double quotes",
        ),
        ("path,label\n0.png,a\n# others\n1.png,b\n", "line 3 of .* has 1 field .*; remove comments"),
        ("path,label\n0.png,a\n# 1.png,b\n", "line 3 of .* is a comment; remove comments"),
        ("path\n0.png\n# others\n", "line 3 of .* is a comment; remove comments"),
        ("path,label,label\n0.png,a,b\n", "has several columns 'label'; rename all but the one of the label"),
        ("sep=;;\npath;label\n0.png;a\n", "line 1 of .* is 'sep=;;'; the separator must be a single character"),
    ],
)
def test_rows_that_do_not_fit_the_header_are_refused_with_their_line(images, content, message):
    with pytest.raises(SourceError, match=message):
        read_table(write(images, content))


@pytest.mark.parametrize(
    "content",
    [
        "path,label,\n" + ROWS.replace("\n", ",\n"),
        "path,label\n" + ROWS.replace("\n", ",\n"),
        "path,label,\n" + ROWS,
        "path,label,,\n" + ROWS.replace("\n", ",,\n"),
        "# made by hand\n# in May\npath,label\n" + ROWS,
        "#path,label\n" + ROWS,
        "path,label\n\n" + ROWS.replace("\n", "\n,\n"),
    ],
)
def test_separators_at_the_ends_and_comments_ahead_are_left_out(images, content):
    assert [(item.id, item.label) for item in read_table(write(images, content)).items] == [
        ("0.png", "a"),
        ("1.png", "b"),
        ("2.png", "a"),
        ("3.png", "b"),
    ]


def test_a_tab_may_be_stated_as_an_escape(images):
    assert read_table(write(images, "sep=\\t\npath\tlabel\n0.png\ta\n")).items == (Item("0.png", "a"),)


@pytest.mark.parametrize("mark", [";", ",", "\t", ":", "^", "|"])
@pytest.mark.parametrize("first", ["sep={}", "SEP={}", '"sep={}"'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_that_states_the_separator_is_obeyed(images, mark, first, encoding):
    content = "\r\n".join([first.format(mark), f"path{mark}label", f"0.png{mark}a,b", f"1.png{mark}c;d", ""])
    if mark in ",;":
        content = content.replace("a,b", "x").replace("c;d", "y")
    table = read_table(write(images, content.encode(encoding)))
    assert [item.id for item in table.items] == ["0.png", "1.png"]
    assert len(table.count_classes()) == 2


@pytest.mark.parametrize("column", ["split", "Subset", "set", "partition", "fold"])
@pytest.mark.parametrize(
    ("value", "hint"), [("tset", "did you mean 'test'"), ("trian", "did you mean 'train'"), ("7", "in the column")]
)
def test_a_column_that_is_nearly_the_split_is_refused(images, column, value, hint):
    splits = ["train", "TRAIN", value, "valid", "test"]
    content = f"path,label,{column}\n" + "".join(f"{at}.png,a,{split}\n" for at, split in enumerate(splits))
    message = rf"line 4 of .* has the split '{value}'.*{hint}.*--split-column NAME .*or use none with --split-column ''"
    with pytest.raises(SourceError, match=message):
        read_table(write(images, content))
    frame = pd.DataFrame({"path": [f"{at}.png" for at in range(5)], column: splits})
    with pytest.raises(SourceError, match=rf"row 2 of the DataFrame has the split '{value}'.*{hint}"):
        Manifest.from_frame(frame, root=images)
    without = read_table(write(images, content), columns=Columns(split=""))
    assert not without.count_splits()
    assert not any("is not used as the split" in note for note in without.notes)


@pytest.mark.parametrize("splits", [("tarin", "tset"), ("trian", "valdiation"), ("Traning", "tets")])
def test_a_split_column_of_misspelt_values_only_is_refused(images, splits):
    content = "path,label,split\n" + "".join(f"{at}.png,a,{split}\n" for at, split in enumerate(splits))
    with pytest.raises(SourceError, match=rf"line 2 of .* has the split '{splits[0]}' .did you mean"):
        read_table(write(images, content))


def test_a_column_of_splits_under_another_name_is_pointed_out_although_one_is_misspelt(images):
    content = "path,label,Dataset\n0.png,a,Traning\n1.png,b,train\n2.png,b,test\n"
    assert any("the values of 'Dataset' are splits" in line for line in read_table(write(images, content)).describe())


@pytest.mark.parametrize("splits", [("train_set", "Test-Set", "valid_set"), ("TrainImages", "test images", "VAL")])
def test_splits_with_affixes_are_splits(images, splits):
    content = "path,label,split\n" + "".join(f"{at}.png,a,{split}\n" for at, split in enumerate(splits))
    assert read_table(write(images, content)).count_splits() == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize(("column", "values"), [("fold", "0123"), ("set", "ABAC"), ("subset", ["new", "old"] * 2)])
def test_a_column_that_is_clearly_not_the_split_is_described(images, column, values):
    content = f"path,label,{column}\n" + "".join(f"{at}.png,a,{value}\n" for at, value in enumerate(values))
    manifest = read_table(write(images, content))
    assert not manifest.count_splits()
    assert f"columns: path 'path', label 'label'; not used: {column!r}" in manifest.describe()
    assert any(
        f"the column {column!r} is not used as the split; its values are" in line for line in manifest.describe()
    )


@pytest.mark.parametrize(
    ("column", "one", "zero"),
    [
        ("is_train", "train", "test"),
        ("train", "train", "test"),
        ("isTrain", "train", "test"),
        ("is_training_image", "train", "test"),
        ("trainset", "train", "test"),
        ("istest", "test", "train"),
        ("Is Test", "test", "train"),
        ("test_set", "test", "train"),
        ("is_val", "val", "train"),
        ("validation", "val", "train"),
    ],
)
@pytest.mark.parametrize("bits", [("1", "0"), ("True", "False"), ("1.0", "0.0"), ("yes", "no"), ("T", "F")])
def test_a_column_of_bits_that_is_named_after_a_split_is_the_split(images, column, one, zero, bits):
    content = f"path,label,{column}\n0.png,a,{bits[0]}\n1.png,b,{bits[1]}\n2.png,b,{bits[0]}\n"
    manifest = read_table(write(images, content))
    assert [item.split for item in manifest.items] == [one, zero, one]
    assert f"the column {column!r} is read as the split: 1 is {one}, 0 is {zero}" in manifest.notes
    frame = pd.DataFrame({"path": ["0.png", "1.png"], column: [True, False]})
    assert [item.split for item in Manifest.from_frame(frame, root=images).items] == [one, zero]
    assert not read_table(images / "t.csv", columns=Columns(split="")).count_splits()


@pytest.mark.parametrize("column", ["test", "Valid", "is_valid", "dev", "holdout"])
def test_a_column_of_bits_whose_name_has_another_meaning_too_asks(images, column):
    content = f"path,label,{column}\n0.png,a,1\n1.png,b,0\n"
    message = rf"{column}' of .* may be the split; if 1 is (val|test) and 0 is train, add --split-column {column} "
    with pytest.raises(SourceError, match=message):
        read_table(write(images, content))
    assert read_table(images / "t.csv", columns=Columns(split=column)).items[1].split == "train"
    assert not read_table(images / "t.csv", columns=Columns(split="")).count_splits()
    assert not read_source_again(str(images / "t.csv"), {}).count_splits()


@pytest.mark.parametrize("column", ["split", "Subset", "set", "partition", "train_test", "Train Val Test"])
@pytest.mark.parametrize("values", [("0", "1", "0"), ("True", "False", "True"), ("0", "1", "2"), ("1", "2", "")])
def test_a_split_column_of_numbers_asks_which_is_train(images, column, values):
    content = f"path,label,{column}\n" + "".join(f"{at}.png,a,{value}\n" for at, value in enumerate(values))
    with pytest.raises(SourceError, match=rf"{column}' of .* do not say which is train; write train, val and test"):
        read_table(write(images, content))
    assert not read_table(images / "t.csv", columns=Columns(split="")).count_splits()


@pytest.mark.parametrize("names", [("train", "test"), ("is_train", "is_val", "is_test")])
def test_a_column_of_bits_for_each_split_asks_for_one_column(images, names):
    rows = [[f"{at}.png", *("1" if at == k else "0" for k in range(len(names)))] for at in range(len(names))]
    content = "".join(",".join(row) + "\n" for row in [["path", *names], *rows])
    with pytest.raises(SourceError, match=r"several columns of 0 and 1 that are named after splits, .*a single column"):
        read_table(write(images, content))


@pytest.mark.parametrize("value", ["2", "", "maybe"])
def test_a_row_without_a_bit_is_refused(images, value):
    content = f"path,is_train\n0.png,1\n1.png,0\n2.png,{value}\n"
    with pytest.raises(SourceError, match=rf"line 4 of .* has '{value}' in the column 'is_train' of 0 and 1; correct"):
        read_table(write(images, content))


@pytest.mark.parametrize("column", ["train_station", "test_result", "contest", "island", "stain", "latest"])
def test_a_column_of_bits_with_another_name_is_not_the_split(images, column):
    assert not read_table(write(images, f"path,label,{column}\n0.png,a,1\n1.png,b,0\n")).count_splits()


@pytest.mark.parametrize("named", [Columns(label="is_train"), Columns(group="is_train")])
def test_a_column_of_bits_that_is_used_otherwise_is_not_the_split(images, named):
    assert not read_table(write(images, "path,is_train\n0.png,1\n1.png,0\n"), columns=named).count_splits()


@pytest.mark.parametrize("column", ["train", "test", "dev"])
def test_numbers_in_a_column_named_after_a_split_are_not_the_split(images, column):
    content = f"path,label,{column}\n0.png,a,7\n1.png,b,0.5\n2.png,b,1\n"
    assert not read_table(write(images, content)).count_splits()


def test_the_columns_that_are_used_and_those_that_are_not_are_described(images):
    content = "File,age,phase,Class,Patient\n0.png,40,train,a,p\n1.png,50,test,b,q\n"
    lines = read_table(write(images, content)).describe()
    assert "columns: path 'File', label 'Class', group 'Patient'; not used: 'age', 'phase'" in lines
    assert any("the values of 'phase' are splits; use them with --split-column phase" in line for line in lines)


@pytest.mark.parametrize("label", ["Species", "diagnosis", "y"])
def test_a_table_without_a_label_column_says_which_may_be_it(images, label):
    content = f"path,id,{label}\n" + "".join(f"{at}.png,{at},{'ab'[at % 2]}\n" for at in range(4))
    lines = read_table(write(images, content)).describe()
    assert any(
        f"no label column was found; if {label!r} holds the classes, add --label-column {label} (" in line
        for line in lines
    )
    named = read_table(write(images, content), columns=Columns(label=label))
    assert named.count_classes() == {"a": 2, "b": 2}
    assert not any("no label column" in note for note in named.notes)


@pytest.mark.parametrize(
    ("columns", "flag"),
    [
        (Columns(), r"--path-column NAME \(columns=Columns\(path='NAME'\) in Python\)"),
        (Columns(path="bild", label="class"), "--label-column NAME"),
        (Columns(path="bild", split="when"), "--split-column NAME"),
        (Columns(path="bild", group="case"), "--group NAME"),
    ],
)
def test_a_missing_column_names_the_flag(images, columns, flag):
    with pytest.raises(SourceError, match=flag):
        read_table(write(images, "bild,Art\n0.png,x\n"), columns=columns)


def test_a_table_without_a_header_is_refused(images):
    with pytest.raises(SourceError, match=r"has no column for the path.*or add a first line with the names of the col"):
        read_table(write(images, "0.png,a\n1.png,b\n"))


@pytest.mark.parametrize("one", ["1", "1.0", "True"])
@pytest.mark.parametrize("names", [("MEL", "NV"), ("cat", "dog", "bird"), ("0", "1", "2", "3")])
def test_one_hot_labels_are_refused_with_the_line_that_converts_them(images, one, names):
    zero = {"1": "0", "1.0": "0.0", "True": "False"}[one]
    rows = [[f"{at}.png", "0", *(one if at % len(names) == k else zero for k in range(len(names)))] for at in range(8)]
    content = "".join(",".join(row) + "\n" for row in [["image", "age", *names], *rows])
    with pytest.raises(SourceError, match=r"a column of 0 and 1 for each class: .*--label-column ''") as caught:
        read_table(write(images, content))
    code = str(caught.value).partition("pandas, ")[2].partition(", or embed")[0]
    table = pd.read_csv(images / "t.csv")
    exec(code, {"table": table})  # noqa: S102 - the line that the message tells the user to run
    assert table["label"].tolist() == [names[at % len(names)] for at in range(8)]
    assert not read_table(images / "t.csv", columns=Columns(label="")).count_classes()


def test_columns_of_several_labels_are_not_one_hot(images):
    content = "image,a,b,c\n0.png,1,1,0\n1.png,0,1,0\n2.png,0,0,1\n3.png,1,1,1\n"
    assert any(
        "if one of 'a', 'b', 'c' holds the classes" in line for line in read_table(write(images, content)).describe()
    )


@pytest.mark.parametrize("names", [("label", "class"), ("Class", "category"), ("target", "label")])
def test_several_columns_that_may_be_the_label_are_refused(images, names):
    content = f"path,{','.join(names)}\n0.png,0,cat\n1.png,1,dog\n"
    with pytest.raises(SourceError, match=r"has several columns that may be the label, .*--label-column") as caught:
        read_table(write(images, content))
    assert all(repr(name) in str(caught.value) for name in names)
    assert set(read_table(images / "t.csv", columns=Columns(label=names[1])).count_classes()) == {"cat", "dog"}


def test_labels_of_a_table_in_another_encoding_are_right(images):
    content = "path,label\n0.png,B\u00e4r\n1.png,Gr\u00f6\u00dfe\n"
    for encoding in ("cp1252", "mac_roman", "utf-16-le"):
        manifest = read_table(write(images, content.encode(encoding)))
        assert manifest.count_classes() == {"B\u00e4r": 1, "Gr\u00f6\u00dfe": 1}
        assert any(f"read as {encoding}" in note for note in manifest.notes) == (not encoding.startswith("utf"))


def test_labels_in_every_unicode_form_are_one_class(images):
    labels = ["B\u00e4r", "Ba\u0308r"]
    content = "path,label\n" + "".join(f"{at}.png,{label}\n" for at, label in enumerate(labels))
    assert read_table(write(images, content)).count_classes() == {"B\u00e4r": 2}
    frame = pd.DataFrame({"path": ["0.png", "1.png"], "label": labels})
    assert Manifest.from_frame(frame, root=images).count_classes() == {"B\u00e4r": 2}


@pytest.mark.parametrize("char", ["\u200b", "\ufeff", "\u200e", "\xad"])
def test_characters_that_are_not_seen_do_not_matter_in_a_table(images, char):
    content = f"{char}path{char},lab{char}el,split\n0.png{char},a{char},train\n{char}1.png,a,train{char}\n"
    manifest = read_table(write(images, f"{char}{content}"))
    assert manifest.items == (Item("0.png", "a", "train"), Item("1.png", "a", "train"))
    assert "2 of 2 files exist without invisible characters; they are used" in manifest.notes


@pytest.mark.parametrize(
    ("content", "labels", "splits"),
    [
        ("path,label,class\n0.png,x,1\n1.png,y,2\n", {"x": 1, "y": 1}, {}),
        ("path,x,y\n0.png,1,0\n1.png,0,1\n", {}, {}),
        ("path,label,split\n0.png,x,train\n1.png,y,tset\n", {"x": 1, "y": 1}, {}),
        (
            "path,label,class,split,set\n0.png,x,1,a,train\n1.png,y,2,test,test\n",
            {"x": 1, "y": 1},
            {"train": 1, "test": 1},
        ),
    ],
)
def test_a_table_that_was_read_before_its_columns_were_an_error_is_read_as_then(images, content, labels, splits):
    table = write(images, content)
    with pytest.raises(SourceError):
        read_table(table)
    again = read_source_again(str(table), {})
    assert (again.count_classes(), again.count_splits()) == (labels, splits)
