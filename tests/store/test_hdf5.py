import os
import stat
import subprocess
import sys

import h5py
import numpy as np
import pytest

from featx.errors import StoreError, StoreLockedError
from featx.files import remove_leftovers
from featx.store.hdf5 import write_file


def go_on():
    """Confirm that the file may be written."""


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_data_is_synced_before_the_name_and_the_folder_after_it(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    synced, fsync = [], os.fsync

    def note(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_rows(path)
    assert synced == [(False, False), (True, True)]


def test_a_refused_confirmation_gives_the_file_no_name(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("old")

    def refuse():
        assert len(list_names(tmp_path)) == 2  # everything is written
        msg = "not any more"
        raise StoreLockedError(msg)

    with pytest.raises(StoreLockedError, match=r"^not any more$"), write_file(path, refuse) as file:
        file["rows"] = np.arange(3)
    assert list_names(tmp_path) == ["a.h5"]
    assert path.read_text() == "old"


def test_a_file_removed_by_others_before_it_was_named_is_an_error(tmp_path):
    path = tmp_path / "a.h5"
    with (
        pytest.raises(StoreError, match=r"a.h5 cannot be written: No such file"),
        write_file(path, lambda: remove_leftovers(tmp_path, "a.h5.")) as file,
    ):
        file["rows"] = np.arange(3)
    assert list_names(tmp_path) == []


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.h5"
    with write_file(path, go_on) as file:
        file["rows"] = np.arange(3)
        assert not path.exists()
    assert list_names(tmp_path) == ["a.h5"]
    with h5py.File(path) as file:
        assert file["rows"][:].tolist() == [0, 1, 2]


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_file(path, go_on):
        raise KeyboardInterrupt
    assert list_names(tmp_path) == ["a.h5"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("limit_bytes", [0, 100, 2048, 3000, 20_000, 60_000])
def test_a_full_disk_is_reported_in_one_line_and_leaves_the_old_file(tmp_path, full_disk, limit_bytes):
    path = tmp_path / "a.h5"
    path.write_text("old")
    with full_disk(limit_bytes), pytest.raises(StoreError, match=r"a.h5 cannot be written: File too large; make room"):
        write_rows(path)
    assert list_names(tmp_path) == ["a.h5"]
    assert path.read_text() == "old"
    assert count_open_files() == 0
    write_rows(path)
    assert h5py.is_hdf5(path)


def write_rows(path):
    with write_file(path, go_on) as file:
        for name in "abc":
            file[name] = np.ones(10_000, np.uint16)


def count_open_files():
    return h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)


def test_a_process_ends_well_after_a_full_disk(tmp_path):
    """HDF5's own driver ends it in a segmentation fault."""
    result = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path / "a.h5")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "StoreError\n"


FILL = """
import resource
import sys
from pathlib import Path
import numpy as np
from featx.errors import StoreError
from featx.store.hdf5 import write_file

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with write_file(Path(sys.argv[1]), lambda: None) as file:
        file["rows"] = np.ones(10_000)
except StoreError as error:
    print(type(error).__name__)
"""
