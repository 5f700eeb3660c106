import json

import pytest

from featx.errors import StoreError
from featx.files import (
    Result,
    publish_file,
    remove_leftovers,
    sync_folder,
    write_atomically,
    write_json,
    write_result,
)


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_publishing_replaces_the_old_file_by_the_whole_new_one(tmp_path):
    new, path = tmp_path / "new.tmp", tmp_path / "store"
    path.write_text("old")
    with path.open() as reader:
        new.write_text("new")
        publish_file(new, path)
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert list_names(tmp_path) == ["store"]


def write_and_fail(path, error):
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(error):
        write_and_fail(path, error)
    assert list_names(tmp_path) == ["a.csv"]
    assert path.read_text() == "old"


def test_a_file_gets_its_name_after_the_block_and_the_confirmation(tmp_path):
    path = tmp_path / "a.csv"
    seen = []
    with write_atomically(path, lambda: seen.append(list_names(tmp_path))) as temporary:
        temporary.write_text("new")
    assert seen == [[temporary.name]]
    assert list_names(tmp_path) == ["a.csv"]
    assert path.read_text() == "new"


def test_a_refused_confirmation_leaves_the_old_file_and_nothing_else(tmp_path):
    def refuse():
        msg = "not any more"
        raise StoreError(msg)

    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(StoreError, match=r"^not any more$"), write_atomically(path, refuse) as temporary:
        temporary.write_text("new")
    assert list_names(tmp_path) == ["a.csv"]
    assert path.read_text() == "old"


def test_a_full_disk_leaves_the_old_result_and_nothing_else(tmp_path, full_disk):
    path = tmp_path / "a.npz"
    write_result(path, Result({"a": 1}))
    old = path.read_bytes()
    with full_disk(100), pytest.raises(StoreError, match=r"a.npz cannot be written: File too large; make room"):
        write_result(path, Result({"a": 2}))
    assert list_names(tmp_path) == ["a.npz"]
    assert path.read_bytes() == old


def test_a_folder_that_is_gone_cannot_be_synced(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "gone")


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    kept = ["[a].h5", ".b.h5.12.tmp", ".[a].h5.tmp", "a.h5"]
    for name in [*kept, ".[a].h5.12.tmp", ".[a].h5.999.tmp"]:
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path, "[a].h5.")
    assert list_names(tmp_path) == sorted(kept)


@pytest.mark.parametrize("name", ["features.h5", "table with spaces.csv", "names\u00e9.json"])
def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, name):
    path = tmp_path / "gone" / name
    with pytest.raises(FileNotFoundError) as caught, write_atomically(path) as temporary:
        temporary.write_text("new")
    assert caught.value.filename == str(path)


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, write_atomically(tmp_path / "a.csv"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


def test_json_holds_names_that_are_not_utf8(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_json({"id": name}, tmp_path / "audit.json")
    assert json.loads((tmp_path / "audit.json").read_text(encoding="utf-8")) == {"id": name}
