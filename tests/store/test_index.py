"""An index is read as the plain store of the same rows, and is refused where it could not be."""

import logging
import os
import shutil
from pathlib import Path

import h5py
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from featx import FeatureStore, export_store, merge_stores, pack_store, read_export, verify_store
from featx.errors import StoreError, StoreFormatError, UsageError
from featx.store import sharding
from featx.store.index import PIECE_COLUMNS, SHARD_COLUMNS, ShardedFeatures
from featx.store.layout import ATTRIBUTES_SHA256, digest_attributes, digest_columns, write_text
from featx.store.shards import ShardFile, name_shards
from featx.store.verification import drop_damage
from featx.store.writing import check_space

NONE = {"id": [], "sha256": [], "reason": []}
BAD = [("bad.jpg", "", "truncated")]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Let runs of four rows be long, and copies go into files of eight."""
    monkeypatch.setattr(sharding, "LEAST_RUN", 4)
    monkeypatch.setattr(sharding, "SHARD_BYTES", 8 * 4 * 6)
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 3 * 4 * 6)


@pytest.fixture
def make(maker):
    """Write an index, with new rows in shards of ten."""

    def make(numbers, new=None, *, above=0, quarantine=BAD):
        numbers = list(numbers)
        columns = {name: [row[at] for row in quarantine] for at, name in enumerate(NONE)}
        with maker.open_writer(index_above=above) as writer:
            new = numbers if new is None else list(new)
            for start in range(0, len(new), 10):
                maker.append(writer, new[start : start + 10])
                writer._journal.commit()
            return writer.seal(maker.make_columns(numbers), columns)

    return make


def check(store, maker, numbers):
    """Compare a store with its rows, as featx reads it and as HDF5 does."""
    rows = maker.make_rows(numbers)
    assert np.array_equal(store.features, rows)
    assert store.find_damage() == []
    with h5py.File(store.path) as file:
        assert np.array_equal(file["features"][:], rows)
    found = sorted(path.name for path in store.path.parent.glob("made.h5.shards/*"))
    assert found == sorted(set(store.list_shards()))


def list_inodes(store):
    return {path.stat().st_ino for path in name_shards(store.path).iterdir()}


def test_an_index_has_the_files_of_its_run(make, maker, list_files, caplog):
    with caplog.at_level(logging.WARNING):
        store = make(range(30))
        make(range(30), [], quarantine=[])
    assert [record.getMessage().count("becomes an index") for record in caplog.records] == [1]
    assert (store.is_index, store.format_version, len(store.list_shards())) == (True, 2, 3)
    assert list_files()[:2] == ["made.h5", "made.h5.shards"]
    assert store.describe()["shards"] == 3
    assert store.describe()["file_bytes"] == sum(
        path.stat().st_size for path in maker.path.parent.rglob("*") if path.is_file()
    )
    check(store, maker, range(30))


def test_a_store_of_no_more_bytes_is_one_file(make):
    assert not make(range(30), above=30 * 4 * 6).is_index
    assert make(range(31), [30], above=30 * 4 * 6).is_index


def test_rows_that_stay_in_order_are_not_copied(make, maker):
    before = list_inodes(make(range(30)))
    numbers = [*range(14), 100, 101, *range(14, 25)]
    store = make(numbers, [100, 101])
    check(store, maker, numbers)
    assert before < list_inodes(store)
    assert len(store.list_shards()) == 4


def test_a_shard_in_its_place_is_not_linked_again(make, maker, tmp_path, monkeypatch):
    make(range(30))
    (tmp_path / "link").symlink_to(maker.path.parent, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    maker.path = Path("link/made.h5")
    linked = []
    monkeypatch.setattr(sharding, "_link", lambda file, path: linked.append((file, path)))
    assert len(make(range(20), []).list_shards()) == 2
    assert linked == []


def test_an_index_needs_room_for_new_rows_only(maker, monkeypatch):
    monkeypatch.setattr("featx.store.writing._SPARE_BYTES", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(999, 0, 10 * 4 * 6))
    with maker.open_writer(index_above=0) as writer:
        check_space([writer], 10, 10)
    with maker.open_writer() as writer, pytest.raises(StoreError, match="480 bytes during writing, but only 240 bytes"):
        check_space([writer], 10, 10)


def test_an_index_at_a_url_is_refused(make, maker, monkeypatch, tmp_path):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    url, fsspec = "memory://index/made.h5", pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/index/made.h5", make(range(30)).path.read_bytes())
    with pytest.raises(
        StoreFormatError, match=r"made.h5 is an index without its shards; publish what `featx pack` makes"
    ):
        FeatureStore(url)
    with pytest.raises(UsageError, match="is not on this machine; pack the original"):
        pack_store(url)


def test_short_runs_and_mostly_unused_files_are_copied(make, maker):
    make(range(30))
    numbers = [*range(0, 20, 2), *range(26, 30)]
    store = make(numbers, [])
    check(store, maker, numbers)
    assert len(store.list_shards()) == 2  # of eight rows, and six


def test_a_plain_store_becomes_the_shard_of_an_index(make, maker):
    plain = make(range(20), above=10**9)
    inode = plain.path.stat().st_ino
    store = make(range(26), range(20, 26))
    check(store, maker, range(26))
    assert inode in list_inodes(store)
    assert np.array_equal(plain.features, maker.make_rows(range(20)))


def test_an_index_stays_one_until_it_is_packed(make, maker, list_files):
    make(range(30))
    assert make(range(20), [], above=10**9).is_index
    packed = pack_store(maker.path)
    assert list_files() == ["made.h5"]
    assert verify_store(maker.path).damage == ()
    found = maker.path.read_bytes()
    maker.path.unlink()
    make(range(20), above=10**9)
    assert found == maker.path.read_bytes()
    assert (packed.is_index, pack_store(maker.path).is_index) == (False, False)


def test_nothing_is_packed_from_a_damaged_index_or_onto_a_full_disk(make, maker, monkeypatch):
    store = make(range(30))
    before = maker.path.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(StoreError, match=r"as one file, but only 9 B is free; make room"):
        pack_store(maker.path)
    flip(store.index.shards[1])
    with pytest.raises(StoreFormatError, match=r"rows 13 to 15 of /features of .* are damaged; run `featx repair"):
        pack_store(maker.path)
    assert maker.path.read_bytes() == before
    assert len(list_inodes(store)) == 3


def flip(shard, row=4):
    with h5py.File(shard.path, "r+") as file:
        file["features"][row] += 1


def test_damage_is_named_by_its_rows_and_repaired(make, maker):
    numbers = [*range(14), 100, 101, 102, 103, *range(14, 30)]
    make(range(30))
    store = make(numbers, [100, 101, 102, 103])
    flip(store.index.shards[1])  # of rows 10 to 19, of which a block has 13 to 15
    found = verify_store(maker.path)
    assert [(damage.first, damage.past) for damage in found.damage] == [(13, 14), (18, 20)]
    assert found.store.ids[found.lost].tolist() == ["13.png", "14.png", "15.png"]
    with maker.open_writer(salvage=True) as writer:
        maker.append(writer, [13, 14, 15])
        again = writer.seal(maker.make_columns(numbers), NONE)
    assert again.is_index
    check(again, maker, numbers)


@pytest.mark.parametrize("damage", ["unlink", "cut", "link"])
def test_a_missing_shard_is_refused_and_its_rows_are_dropped(make, maker, tmp_path, damage):
    store = make(range(30))
    path = store.index.shards[1].path
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.rename(tmp_path / "elsewhere.h5")
    if damage == "link":
        path.symlink_to(tmp_path / "elsewhere.h5")
    words = (
        rf"made.h5 is an index, and 1 of its 3 shards are missing or cut off, such as .*{path.name}; bring them back"
    )
    with pytest.raises(StoreFormatError, match=words):
        FeatureStore(maker.path)
    with pytest.raises(StoreFormatError, match=words):
        make(range(31), [30])
    found = drop_damage(maker.path)
    assert np.flatnonzero(found.lost).tolist() == list(range(10, 20))
    check(FeatureStore(maker.path), maker, [*range(10), *range(20, 30)])


def test_a_shard_that_is_gone_while_the_store_is_open_is_not_read_as_zeros(make, maker):
    store = make(range(30))
    with h5py.File(maker.path) as file:
        store.index.shards[1].path.unlink()
        assert np.isnan(file["features"][10:20]).all()
    with pytest.raises(
        StoreFormatError,
        match=r"a shard of the index .*made.h5, cannot be read: No such file or directory; if the store was written",
    ):
        store.features[8:12]
    assert np.array_equal(store.features[20:], maker.make_rows(range(20, 30)))


def test_both_move_together_under_any_name(make, maker, tmp_path, monkeypatch):
    make(range(30))
    folder = tmp_path / "moved"
    shutil.move(maker.path.parent, folder)
    monkeypatch.chdir(tmp_path)
    with h5py.File(folder / "made.h5") as file:
        assert np.array_equal(file["features"][:], maker.make_rows(range(30)))
    (folder / "made.h5").rename(folder / "50%b.h5")
    with pytest.raises(StoreFormatError, match=r"3 of its 3 shards are missing"):
        FeatureStore(folder / "50%b.h5")
    (folder / "made.h5.shards").rename(folder / "50%b.h5.shards")
    assert np.array_equal(FeatureStore("moved/50%b.h5").features, maker.make_rows(range(30)))
    (tmp_path / "link.h5").symlink_to(folder / "50%b.h5")
    assert np.array_equal(FeatureStore(tmp_path / "link.h5").features, maker.make_rows(range(30)))


def test_hdf5_reads_the_shards_of_a_store_whose_name_has_a_pattern(maker, make):
    maker.path = maker.path.with_name("50%b é.h5")
    store = make(range(30))
    with h5py.File(store.path) as file:
        assert np.array_equal(file["features"][:], maker.make_rows(range(30)))


def test_exports(make, maker, tmp_path, monkeypatch):
    """None reads all features at once."""
    store = make(range(30))
    monkeypatch.setattr(ShardedFeatures, "__array__", lambda *_, **__: pytest.fail("all features were read at once"))
    for suffix in (".npz", ".csv"):
        export = read_export(export_store(store, tmp_path / f"out{suffix}"))
        assert np.array_equal(export.features, maker.make_rows(range(30)))
    assert store.nearest(maker.make_rows([7]), k=1)[0].tolist() == [[7]]
    assert not store.describe_uniform()


def test_merging_links_the_files_of_the_stores(make, maker):
    make(range(20))
    first, maker.path = maker.path, maker.path.with_name("second.h5")
    plain = make(range(20, 40), above=10**9)
    merged = merge_stores([first, maker.path], maker.path.with_name("made2.h5"), index_above=0)
    order = sorted(range(40), key=lambda number: f"{number}.png")
    assert np.array_equal(merged.features, maker.make_rows(order))
    assert merged.find_damage() == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "LEAST_RUN", 1)
        kept = merge_stores([first, plain], maker.path.with_name("made3.h5"), index_above=0)
    assert list_inodes(kept) == {plain.path.stat().st_ino, *list_inodes(FeatureStore(first))}
    assert kept.find_damage() == []


def test_a_file_that_was_replaced_meanwhile_is_not_linked(make, maker, monkeypatch):
    plain = make(range(20), above=10**9)
    target = maker.path.with_name("merged.h5")
    maker.path = maker.path.with_name("other.h5")
    other = make(range(20, 40), above=10**9)
    monkeypatch.setattr(sharding, "LEAST_RUN", 1)
    shutil.copy(plain.path, plain.path.with_name("copy"))
    plain.path.with_name("copy").replace(plain.path)
    with pytest.raises(StoreError, match=r"made.h5 was written anew meanwhile; run the command again"):
        merge_stores([plain, other], target, index_above=0)
    assert not target.exists()


def test_files_are_copied_where_there_are_no_hard_links(make, maker, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    with maker.open_writer(index_above=0) as writer:  # the lock needs a hard link
        maker.append(writer, range(10))
        monkeypatch.setattr(os, "link", refuse)
        store = writer.seal(maker.make_columns(range(10)), NONE)
    check(store, maker, range(10))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Return a matrix, and the features of an index that has the same rows, some of them twice."""
    rng = np.random.default_rng(3)
    files = [rng.normal(size=(n_rows, 6)).astype("<f2") for n_rows in (9, 1, 14)]
    shards = [ShardFile(tmp_path_factory.getbasetemp(), lambda at=at: files[at], len(files[at])) for at in range(3)]
    pieces = np.array([[2, 3, 5], [0, 0, 9], [1, 0, 1], [2, 0, 14], [0, 8, 1]])
    matrix = np.concatenate([files[shard][first : first + rows] for shard, first, rows in pieces])
    table = dict(zip(("shard", "first", "rows"), pieces.T, strict=True))
    return matrix, ShardedFeatures(shards, table, matrix.shape, matrix.dtype)


ROWS = st.one_of(
    st.slices(30),
    st.integers(-30, 29),
    st.lists(st.integers(-30, 29), max_size=40).map(lambda rows: np.array(rows, np.intp)),
    st.lists(st.booleans(), min_size=30, max_size=30).map(np.array),
)


@hypothesis.given(key=ROWS, parts=st.sampled_from([1, 2, 3]))
def test_any_selection_of_rows_is_that_of_the_matrix(sharded, key, parts):
    matrix, features = sharded
    assert matrix.shape == (30, 6)
    if parts > 1 and isinstance(key, np.ndarray) and key.dtype == bool:
        key = np.repeat(key, parts)
    expected = matrix.reshape(30 * parts, -1)[key]
    found = features.reshape(30 * parts, -1)[key]
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert not np.shares_memory(found, matrix)


@pytest.mark.parametrize(
    "key", [30, -31, [0, 30], 1.5, [[0, 1]], np.ones(29, bool), (slice(None), 0), ["a"], None], ids=repr
)
def test_what_does_not_select_rows_is_refused(sharded, key):
    with pytest.raises(IndexError):
        sharded[1][key]


def test_an_index_is_an_array_like_any_other(sharded):
    matrix, features = sharded
    assert np.array_equal(np.asarray(features, np.float32), matrix.astype(np.float32))
    assert np.array_equal(list(features), matrix)
    with pytest.raises(ValueError, match="is a copy"):
        np.array(features, copy=False)
    with pytest.raises(ValueError, match="only be cut into equal parts"):
        features.reshape(40, -1)


def attack(path, change):
    """Change the tables of an index, and sign them anew."""
    with h5py.File(path, "r+") as file:
        for table, kinds in (("shards", SHARD_COLUMNS), ("pieces", PIECE_COLUMNS)):
            columns = {name: file[table][name][:] for name in kinds}
            change(table, columns)
            for name, values in columns.items():
                del file[table][name]
                file[table][name] = values
            write_text(file.attrs, f"{table}_sha256", *digest_columns(columns))
        write_text(file.attrs, ATTRIBUTES_SHA256, digest_attributes(file.attrs))


def rename(name):
    def change(table, columns):
        if table == "shards":
            columns["name"] = np.array([name.encode(), *columns["name"][1:]])

    return change


def put(of, column, value):
    def change(table, columns):
        if table == of:
            columns[column][0] = value

    return change


HOSTILE = [
    *(
        (rename(name), "is not the name of a shard")
        for name in ("../made.h5", "/etc/passwd", "", "a/b.h5", "..", "x.h5")
    ),
    (rename("0" * 32 + ".h5\n"), "is not the name of a shard"),
    (rename("0" * 32 + ".h5"), "1 of its 3 shards are missing"),
    (put("shards", "bytes", 2**60), "1 of its 3 shards are missing"),
    (put("shards", "rows", 2**60), "a shard has fewer bytes than its rows"),
    (put("shards", "rows", 0), "a shard has fewer bytes than its rows"),
    (put("shards", "rows", 20), "the number of checksums"),
    (put("shards", "bytes", -1), "a shard has fewer bytes than its rows"),
    (put("shards", "offset", -1), "a shard has fewer bytes than its rows"),
    (put("shards", "offset", 2**63 - 1), "a shard has fewer bytes than its rows"),
    (put("pieces", "shard", 3), "a piece is not inside its shard"),
    (put("pieces", "shard", -1), "a piece is not inside its shard"),
    (put("pieces", "first", -1), "a piece is not inside its shard"),
    (put("pieces", "first", 2**63 - 1), "a piece is not inside its shard"),
    (put("pieces", "rows", 2**63 - 1), "a piece is not inside its shard"),
    (put("pieces", "rows", 9), "the pieces do not have 30 rows"),
]


@pytest.mark.parametrize(("change", "words"), HOSTILE, ids=[f"{number}" for number in range(len(HOSTILE))])
def test_a_hostile_index_is_refused(make, maker, change, words):
    make(range(30))
    attack(maker.path, change)
    with pytest.raises(StoreFormatError, match=words):
        FeatureStore(maker.path)


def test_a_hostile_shard_is_not_followed(make, maker, tmp_path):
    """A shard of another store is found by its checksums, and a link in a shard is not followed."""
    store = make(range(30))
    first, second = (shard.path for shard in store.index.shards[:2])
    shutil.copy(second, first)
    assert [(found.first, found.past) for found in verify_store(maker.path).damage] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    size = second.stat().st_size
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["features"] = maker.make_rows(range(10))
    second.unlink()
    with h5py.File(second, "w") as file:
        file["features"] = h5py.ExternalLink(tmp_path / "secret.h5", "/features")
    with second.open("ab") as file:
        file.truncate(size)
    assert not np.isin(FeatureStore(maker.path).features[10:20], maker.make_rows(range(10, 20))[:, 3:]).any()
    assert verify_store(maker.path).lost[10:20].all()


def test_the_virtual_dataset_is_not_followed(make, maker, tmp_path):
    make(range(30))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["features"] = np.ones((30, 6), "<f4")
    with h5py.File(maker.path, "r+", libver=("v110", "v110")) as file:
        del file["features"]
        layout = h5py.VirtualLayout((30, 6), "<f4")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "features", (30, 6))
        file.create_virtual_dataset("features", layout)
    assert np.array_equal(FeatureStore(maker.path).features, maker.make_rows(range(30)))


def test_an_older_featx_refuses_an_index_by_its_version(make, maker, monkeypatch):
    make(range(3))
    monkeypatch.setattr("featx.store.feature_store.FORMAT_VERSIONS", (1,))
    with pytest.raises(StoreFormatError, match="has format version 2, but this featx reads up to 1; upgrade featx"):
        FeatureStore(maker.path)
