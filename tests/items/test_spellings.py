import os
import subprocess
import sys
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from featx.errors import SourceError
from featx.items import Manifest, read_source, read_table
from featx.items.sources import read_source_again

NAMES = [f"images/{at}.png" for at in range(4)]


@pytest.fixture
def make(tmp_path):
    """Write empty files and a table with a class for each path; return the table's path."""

    def write(files, paths, encoding="utf-8"):
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        table = tmp_path / "t.csv"
        rows = "".join(f'"{path}",{"ab"[at % 2]}\n' for at, path in enumerate(paths))
        table.write_text(f"path,label\n{rows}", encoding=encoding, newline="")
        return table

    return write


def list_ids(manifest):
    return [item.id for item in manifest.items]


@pytest.mark.parametrize(
    ("spell", "note"),
    [
        (lambda name: name.replace("/", "\\"), "with / instead of \\ in their paths"),
        (lambda name: ".\\" + name.replace("/", "\\"), "with / instead of \\ in their paths"),
        (lambda name: f" {name} ", "without blanks at the ends"),
        (lambda name: f"{name}\t", "without blanks at the ends"),
        (lambda name: f"{name}\u00a0", "without blanks at the ends"),
        (lambda name: name.replace(".png", ""), "with .png at the end"),
        (lambda name: name.replace(".png", ".PNG"), "with .png instead of .PNG"),
        (lambda name: name.replace(".png", ".jpg"), "with .png instead of .jpg"),
        (lambda name: name.replace("images", "Images"), "in another case"),
        (lambda name: name.upper(), "in another case and with .png instead of .PNG"),
        (lambda name: f"/mnt/other/project/{name}", "without '/mnt/other/project/' at the start"),
        (lambda name: f"/{name}", "without '/' at the start"),
        (
            lambda name: "D:\\photos\\" + name.replace("/", "\\"),
            "with / instead of \\ in their paths and without 'D:/photos/' at the start",
        ),
        (lambda name: f"file:{name}", "as file: URLs"),
        (lambda name: f"file:///data/{name}", "as file: URLs and without '/data/' at the start"),
        (lambda name: name.replace("/", "%2F"), "with % codes decoded"),
    ],
)
def test_files_under_other_spellings_are_found_and_reported(make, spell, note):
    table = make(NAMES, [spell(name) for name in NAMES])
    manifest = read_table(table)
    assert list_ids(manifest) == NAMES
    assert f"4 of 4 files exist {note}; they are used" in manifest.describe()
    assert manifest.reading == {"spellings": [note]}
    again = read_source_again(str(table), manifest.reading)
    assert again.items == manifest.items


def test_a_single_file_under_another_spelling_is_reported_in_the_singular(make):
    manifest = read_table(make(["a.png", "b.png"], ["a.PNG", "b.png"]))
    assert "1 of 2 files exists with .png instead of .PNG; it is used" in manifest.describe()


def test_only_files_that_are_missing_are_searched_for(make):
    files = ["a.png", "A.png", "b\\c.png", "b/c.png", " d.png", "d.png"]
    manifest = read_table(make(files, ["a.png", "A.png", "b\\c.png", "b/c.png"]))
    assert list_ids(manifest) == ["a.png", "A.png", "b\\c.png", "b/c.png"]
    assert manifest.reading == {}


def test_absolute_urls_and_the_home_folder(make, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    files = ["images/a b.png", "home/pictures/c.png"]
    folder = (tmp_path / "images").as_uri()
    table = make(files, [f"{folder}/a%20b.png", "~/pictures/c.png"])
    assert list_ids(read_table(table)) == files
    assert (
        list_ids(read_table(make(files, [f"{folder}/a%20b.png".replace("file://", "FILE://localhost")]))) == files[:1]
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes both forms for one name")
@pytest.mark.parametrize(("written", "real"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_tried_in_the_other_unicode_form(make, written, real):
    names = ["Bär/größe.png", "Bär/été.png", "Á/ñ.png"]
    files = [unicodedata.normalize(real, name) for name in names]
    manifest = read_table(make(files, [unicodedata.normalize(written, name) for name in names]))
    assert list_ids(manifest) == files
    assert manifest.reading == {"spellings": ["in another Unicode form"]}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows names of any bytes")
@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman", "cp850"])
def test_names_that_are_in_the_encoding_of_the_table(make, encoding):
    names = ["Bär.png", "größe.png"]
    files = [os.fsdecode(name.encode(encoding)) for name in names]
    manifest = read_table(make([*files, "x.png"], [*names, "x.png"], encoding=encoding))
    assert list_ids(manifest) == [*files, "x.png"]
    assert "2 of 3 files exist with the bytes of the table; they are used" in manifest.describe()


@pytest.mark.parametrize(
    ("files", "paths", "note"),
    [
        (
            ["a.png", "a.jpg", "b.png"],
            ["a", "b.png"],
            "1 of 2 paths fits no single file: 'a' may be 'a.jpg' or 'a.png'",
        ),
        (["A.png", "a.PNG", "b.png"], ["a.png", "b.png"], "'a.png' may be 'A.png' or 'a.PNG'"),
        (
            ["a.png", "b.png"],
            ["a.png", "a.jpg"],
            "'a.jpg' may be 'a.png', to which another path of the table leads too",
        ),
        (
            ["0.png", "b.png"],
            ["/x/cat/0.png", "/x/dog/0.png", "b.png"],
            "'/x/cat/0.png' may be '0.png', to which another",
        ),
    ],
)
def test_a_spelling_that_fits_several_files_is_not_used(make, files, paths, note):
    manifest = read_table(make(files, paths))
    assert list_ids(manifest) == paths
    assert any(note in line for line in manifest.describe())
    assert manifest.reading == {}


def test_a_table_may_have_several_spellings_and_missing_files(make):
    names = [f"images/{at}.png" for at in range(80)]
    paths = [name.replace("/", "\\") if at < 37 else name for at, name in enumerate(names)]
    lines = read_table(make(names, [*paths, "images/lost.png"])).describe()
    assert "37 of 81 files exist with / instead of \\ in their paths; they are used" in lines
    assert "1 of 81 files does not exist: 'images/lost.png'" in lines


@pytest.mark.parametrize("prefix", ["images\\", "/mnt/other/images/", "C:\\data\\images\\"])
def test_the_id_of_a_file_stays_the_same_when_it_is_deleted(make, tmp_path, prefix):
    table = make(NAMES, [f"{prefix}{at}.png" for at in range(4)])
    before = list_ids(read_table(table))
    (tmp_path / NAMES[2]).unlink()
    assert list_ids(read_table(table)) == before == NAMES


def test_the_same_file_in_two_spellings_is_one_item(make):
    manifest = read_table(make(NAMES, ["images/0.png", "images/1.png", "images\\0.png"]))
    assert list_ids(manifest) == NAMES[:2]
    assert manifest.junk == {"rows that repeat another": 1}
    with pytest.raises(SourceError, match=r"line 2 and line 3 of .* name 'images/0.png' with different values"):
        read_table(make(NAMES, ["images/0.png", "images\\0.png"]))


def test_a_folder_that_cannot_be_listed_is_read_anyway(make, tmp_path):
    make(NAMES, NAMES)
    paths = [*NAMES, "images/none/0.png", "\0.png"]
    (tmp_path / "images").chmod(0o100)
    try:
        assert list_ids(Manifest.from_frame(pd.DataFrame({"path": paths}), root=tmp_path)) == paths
    finally:
        (tmp_path / "images").chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="the locale of Linux")
@pytest.mark.parametrize("source", ["t.csv", "photos", "photos.tar"])
def test_ids_and_labels_are_the_same_in_a_c_locale(make, tmp_path, source):
    names = [f"photos/{label}/{name}.png" for label in ("Bär", "猫") for name in ("ü", "x")]
    make(names, [name.replace("/", "\\") for name in names])
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "photos", "photos")
    code = (
        "import sys; from featx.items import read_source; m = read_source(sys.argv[1])\n"
        "print(ascii([(item.id, item.label, m.reader.read(item.id)) for item in m.items]), sys.getfilesystemencoding())"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / source],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for env in ({"PYTHONUTF8": "1"}, {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})
    ]
    assert [words.pop() for words in printed] == ["utf-8", "ascii"]
    assert printed[0] == printed[1]
    assert len(read_source(Path(tmp_path, source))) == len(names)


def test_each_folder_is_listed_once(make, monkeypatch):
    table = make(NAMES, [name.upper() for name in NAMES] * 5 + NAMES)
    listed = Counter()
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.update([path]) or scandir(path))
    read_table(table)
    assert set(listed.values()) == {1}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["0.png", "1.png"], r"it is in the folder '.*images': pass the folder .* with --root"),
        (
            ["data/images/0.png", "data/images/1.png"],
            r"there is 'images/0.png': remove 'data/' from the paths, or pass",
        ),
        (["x/y.png", "x/z.png"], r"should be '.*/x/y.png'; pass the folder"),
    ],
)
def test_a_table_none_of_whose_files_exists_says_where_they_are(make, paths, message):
    with pytest.raises(SourceError, match=message):
        read_table(make(NAMES, paths))
