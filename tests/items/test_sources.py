import os
import subprocess
import sys
import zipfile

import pytest

from featx.errors import SourceError, UsageError
from featx.items import Columns, Item, read_source
from featx.items.sources import read_source_again

JPEG = b"\xff\xd8\xff\xe0 a picture by its first bytes"


@pytest.fixture
def folder(tmp_path):
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/3.jpg"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    return tmp_path / "data"


def test_folders_tables_and_archives_have_the_same_items(folder, tmp_path):
    expected = (Item("cat/1.jpg", "cat"), Item("cat/2.jpg", "cat"), Item("dog/3.jpg", "dog"))
    table = tmp_path / "table.CSV"
    table.write_text("path,label\ncat/1.jpg,cat\ncat/2.jpg,cat\ndog/3.jpg,dog\n")
    archive = tmp_path / "data.ZIP"
    with zipfile.ZipFile(archive, "w") as file:
        for item in expected:
            file.write(folder / item.id, item.id)
    for manifest in (read_source(folder), read_source(str(table), root=folder), read_source(archive)):
        assert manifest.items == expected
        assert [manifest.reader.read(item.id) for item in manifest.items] == [JPEG] * 3


def test_a_source_may_be_relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    manifest = read_source(".")
    monkeypatch.chdir(folder.parent)
    assert manifest.source == "."
    assert manifest.reader.read("cat/1.jpg") == JPEG


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"none' does not exist; name a folder, a table or an archive"),
        ("photo.JPG", "is a single image; name its folder, or use `featx predict`"),
        ("model.h5", r"is neither a folder nor one of .csv, .tsv, .parquet, .zip"),
        ("empty", "holds no images; name the folder"),
    ],
)
def test_wrong_sources_get_one_clear_line(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    for file in ("photo.JPG", "model.h5"):
        (tmp_path / file).write_bytes(JPEG)
    with pytest.raises(SourceError, match=message) as caught:
        read_source(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_a_source(tmp_path):
    for name in ("data.zip", "data.tar"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(SourceError, match="is neither a folder nor one of"):
            read_source(tmp_path / name)


def test_columns_and_roots_are_for_tables(folder):
    with pytest.raises(UsageError, match="is not a table; leave out the root"):
        read_source(folder, columns=Columns(label="class"))
    with pytest.raises(UsageError, match="is not a table; leave out the root"):
        read_source(folder, root=folder)
    assert len(read_source(folder, columns=Columns())) == 3


def test_reading_a_source_imports_nothing_heavy(folder):
    code = (
        "import sys; from featx.items import read_source; read_source(sys.argv[1]).describe()\n"
        "heavy = {'numpy', 'PIL', 'pyarrow', 'pandas', 'sklearn', 'scipy', 'tensorflow', 'keras', 'h5py', 'fsspec'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_table_that_is_read_again_without_its_files_does_not_advise_an_option(tmp_path, folder):
    (tmp_path / "list.csv").write_text("path\ngone.png\n")
    with pytest.raises(SourceError, match=r"gone\.png'$"):
        read_source_again(str(tmp_path / "list.csv"), {"root": str(folder)})
