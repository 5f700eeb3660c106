import resource
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from featx.errors import DataError, StoreError, StoreFormatError, StoreLockedError
from featx.store import journal
from featx.store.journal import Journal
from featx.store.layout import decode_text


@pytest.fixture
def open_journal(maker):
    maker.path.parent.mkdir()
    return lambda **changed: Journal(maker.path, maker.make_spec(**changed), maker.dim, lambda: None, maker.golden)


def read_rows(opened):
    opened._found.clear()
    shards = list(opened.read_shards())
    return [sha256.decode() for shard in shards for sha256 in shard.sha256], [shard.load() for shard in shards]


def test_rows_come_back_as_they_were_committed(open_journal, maker, list_files):
    opened = open_journal()
    maker.append(opened, [3, 1])
    assert list_files() == []
    opened.commit()
    maker.append(opened, [2])
    opened.commit()
    folder, *shards = list_files()
    assert folder == "made.h5.parts"
    assert [shard[:21] for shard in shards] == ["made.h5.parts/000001-", "made.h5.parts/000002-"]
    first, second = open_journal().read_shards()
    assert decode_text(first.sha256).tolist() == [maker.make_sha256(3), maker.make_sha256(1)]
    assert first.sizes.tolist() == [[13, 20], [11, 20]]
    assert np.array_equal(first.load(), maker.make_rows([3, 1]))
    assert decode_text(second.sha256).tolist() == [maker.make_sha256(2)]


def test_nothing_is_written_for_nothing(open_journal, list_files):
    opened = open_journal()
    opened.commit()
    opened.discard()
    assert list_files() == []
    assert list(opened.read_shards()) == []


def test_a_full_shard_commits_itself(open_journal, maker, monkeypatch):
    monkeypatch.setattr(journal, "SHARD_BYTES", 3 * 4 * maker.dim)
    opened = open_journal()
    maker.append(opened, range(7))
    assert [len(shard.sha256) for shard in opened.read_shards()] == [3, 3]


def test_an_old_shard_commits_itself(open_journal, maker, monkeypatch):
    monkeypatch.setattr(journal, "SHARD_SECONDS", 0.0)
    opened = open_journal()
    maker.append(opened, range(3))
    assert [len(shard.sha256) for shard in opened.read_shards()] == [1, 1, 1]


def test_a_pending_row_is_a_copy(open_journal, maker):
    opened = open_journal()
    batch = maker.make_rows([1])
    opened.append(maker.make_sha256(1), 1, 1, batch[0])
    assert opened._pending.rows[0].base is None  # else it would keep its whole batch in memory
    batch[:] = 0
    opened.commit()
    assert np.array_equal(read_rows(opened)[1][0], maker.make_rows([1]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_non_finite_rows_are_refused_and_the_others_kept(open_journal, maker, value, dtype):
    opened = open_journal(dtype=dtype)
    maker.append(opened, [1])
    row = maker.make_row(2)
    row[3] = value
    with pytest.raises(DataError, match="returned non-finite values"):
        opened.append(maker.make_sha256(2), 1, 1, row)
    opened.commit()
    assert read_rows(opened)[0] == [maker.make_sha256(1)]


def test_float16_rounds_to_the_nearest_and_refuses_what_does_not_fit(open_journal, maker):
    opened = open_journal(dtype="float16")
    row = np.array([0.1, 1 / 3, 65504, -65504, 2049, 1e-8], np.float32)
    opened.append(maker.make_sha256(1), 1, 1, row)
    for value in (65505, -70000):
        with pytest.raises(StoreError, match=r"a feature of (65505|70000) does not fit float16.*--dtype float32"):
            opened.append(maker.make_sha256(2), 1, 1, np.full(6, value, np.float32))
    opened.commit()
    contents, (rows,) = read_rows(opened)
    assert contents == [maker.make_sha256(1)]
    assert rows.dtype == np.float16
    assert np.array_equal(rows[0], row.astype(np.float16))
    assert rows[0, 4] == 2048


def test_shards_of_another_spec_are_refused(open_journal, maker):
    opened = open_journal(height=8)
    maker.append(opened, [1])
    opened.commit()
    with pytest.raises(StoreError, match=r"made.h5.parts holds unfinished work of another spec; .* --name"):
        list(open_journal(height=9).read_shards())


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"no HDF5"])
def test_a_damaged_shard_is_named(open_journal, maker, spoil):
    opened = open_journal()
    maker.append(opened, [1])
    opened.commit()
    (path,) = opened.folder.iterdir()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(StoreFormatError, match=r"000001-\w+.h5 is damaged: .*; delete it"):
        list(opened.read_shards())


def test_a_shard_without_its_columns_is_named(open_journal, maker):
    opened = open_journal()
    maker.append(opened, [1])
    opened.commit()
    (path,) = opened.folder.iterdir()
    with h5py.File(path, "r+") as file:
        del file["sizes"]
    with pytest.raises(StoreFormatError, match=r"000001-\w+.h5 is damaged"):
        list(opened.read_shards())


def test_other_files_in_the_folder_are_not_read_as_shards(open_journal, maker, list_files):
    opened = open_journal()
    maker.append(opened, [1])
    opened.commit()
    (opened.folder / ".000002-0.h5.999-0.tmp").write_bytes(b"of a writer that was killed")
    (opened.folder / "._000001-0.h5").write_bytes(b"of macOS on a foreign file system")
    maker.append(opened, [2])
    opened.commit()
    assert read_rows(opened)[0] == [maker.make_sha256(1), maker.make_sha256(2)]
    opened.discard()
    assert [name[14:] for name in list_files()] == ["", ".000002-0.h5.999-0.tmp", "._000001-0.h5"]


def test_only_shards_that_were_read_are_discarded(open_journal, maker):
    """A writer that was stopped must not remove the shards of the next one."""
    opened, other = open_journal(), open_journal()
    maker.append(opened, [1])
    opened.commit()
    assert len(list(opened.read_shards())) == 1
    maker.append(other, [2])
    other.commit()
    opened.discard()
    assert read_rows(other)[0] == [maker.make_sha256(2)]


def test_a_writer_that_may_not_go_on_commits_and_discards_nothing(maker):
    def refuse():
        msg = "not any more"
        raise StoreLockedError(msg)

    opened = Journal(maker.path, maker.make_spec(), maker.dim, refuse, maker.golden)
    maker.append(opened, [1])
    with pytest.raises(StoreLockedError):
        opened.commit()
    assert list(opened.folder.iterdir()) == []
    opened._confirm = lambda: None
    maker.append(opened, [1])
    opened.commit()
    opened._confirm = refuse
    assert len(list(opened.read_shards())) == 1
    with pytest.raises(StoreLockedError):
        opened.discard()
    assert len(list(opened.folder.iterdir())) == 1


def test_an_interrupted_commit_keeps_its_rows_pending(open_journal, maker, monkeypatch):
    opened = open_journal()
    maker.append(opened, [1, 2])

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as pressed:
        pressed.setattr("featx.files.sync_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opened.commit()
    opened.commit()  # as leaving the writer does
    assert read_rows(opened)[0] == [maker.make_sha256(1), maker.make_sha256(2)]


def test_a_slow_batch_is_committed_when_it_is_done(open_journal, maker, monkeypatch):
    opened = open_journal()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + journal.SHARD_SECONDS - 1)
    maker.append(opened, [1])
    opened.commit_in_time()
    assert read_rows(opened)[0] == []
    monkeypatch.setattr(time, "monotonic", lambda: now + journal.SHARD_SECONDS + 1)
    opened.commit_in_time()
    assert read_rows(opened)[0] == [maker.make_sha256(1)]


def test_a_journal_for_reading_commits_nothing(maker):
    opened = Journal(maker.path, maker.make_spec(), maker.dim, lambda: None)
    maker.append(opened, [1])
    with pytest.raises(StoreError, match="was opened for reading"):
        opened.commit()


@pytest.mark.parametrize("part", ["features", "sha256", "sizes", "golden/0"])
def test_a_flipped_bit_in_a_shard_is_refused(open_journal, maker, part):
    opened = open_journal()
    maker.append(opened, [1, 2])
    opened.commit()
    (path,) = opened.folder.iterdir()
    with h5py.File(path, "r+") as file:
        values = file[part][:]
        values.reshape(-1).view(np.uint8)[3] ^= 1
        file[part][:] = values
    with pytest.raises(StoreFormatError, match="is damaged: its bytes differ from their checksum"):
        read_rows(opened)


def test_a_damaged_matrix_is_named(open_journal, maker):
    opened = open_journal()
    maker.append(opened, [1, 2])
    opened.commit()
    (path,) = opened.folder.iterdir()
    with h5py.File(path, "r+") as file:
        del file["features"]
        file["features"] = maker.make_rows([1])
    with pytest.raises(
        StoreFormatError, match=r"000001-\w+.h5 is damaged: float32 \(1, 6\) cannot be the features of 2 images"
    ):
        list(open_journal().read_shards())


def test_thousands_of_shards_need_few_open_files(maker, monkeypatch):
    """A run of a day leaves as many, and a process may often open no more than 1,024 files."""
    monkeypatch.setattr(journal, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(journal, "MAPPED_SHARDS", 8)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, limits[1]))
    try:
        store = maker.seal(range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert np.array_equal(store.features, maker.make_rows(range(100)))


def test_a_full_disk_leaves_the_finished_shards_and_nothing_else(open_journal, maker, full_disk, list_files):
    opened = open_journal()
    maker.append(opened, [1])
    opened.commit()
    before = list_files()
    maker.append(opened, range(1000))
    with full_disk(), pytest.raises(StoreError, match=r"000002-\w+.h5 cannot be written: File too large; make room"):
        opened.commit()
    assert list_files() == before
    assert read_rows(opened)[0] == [maker.make_sha256(1)]
    maker.append(opened, range(1000))
    opened.commit()
    assert len(read_rows(opened)[0]) == 1001
