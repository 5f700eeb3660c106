import time

import h5py
import numpy as np
import pytest

from featx.errors import StoreError
from featx.store import FeatureStore
from featx.store.layout import FORMAT, ITEM_COLUMNS, QUARANTINE_COLUMNS


def test_rows_follow_the_items_wherever_they_come_from(maker):
    maker.seal([5, 3, 4])
    with maker.open_writer() as writer:
        maker.append(writer, [1])
        writer._journal.commit()
        maker.append(writer, [2])
    store = maker.seal([1, 5, 2, 4], new=[])
    assert store.ids.tolist() == ["1.png", "5.png", "2.png", "4.png"]
    assert np.array_equal(store.features, maker.make_rows([1, 5, 2, 4]))
    assert store.sizes_px.tolist() == [[11, 20], [15, 20], [12, 20], [14, 20]]


def test_names_with_the_same_bytes_share_one_row(maker):
    columns = maker.make_columns([1, 1, 2], id=["a", "b", "c"])
    with maker.open_writer() as writer:
        maker.append(writer, [1, 2])
        store = writer.seal(columns, {"id": [], "sha256": [], "reason": []})
    assert np.array_equal(store.features, maker.make_rows([1, 1, 2]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_five_lines_of_h5py_read_a_store(maker, dtype):
    with maker.open_writer(maker.make_spec(dtype=dtype)) as writer:
        maker.append(writer, [1, 2, 3])
        columns = maker.make_columns(
            [1, 2, 3], id=["1.png", "caf\u00e9.png", "caf\udce9.png"], label=["a", "", "\u4e2d"]
        )
        writer.seal(columns, {"id": [], "sha256": [], "reason": []})
    with h5py.File(maker.path) as file:
        features = file["features"][:]
        labels = file["items/label"].asstr()[:]
        ids = file["items/id"].asstr("utf-8", "surrogateescape")[:]
    assert np.array_equal(features, maker.make_rows([1, 2, 3]).astype(dtype))
    assert ids.tolist() == columns["id"]
    assert labels.tolist() == columns["label"]


def test_the_file_follows_its_specification(maker):
    spec = maker.make_spec()
    maker.seal([1, 2], quarantine=[("bad.png", "", "cannot be read")])
    with h5py.File(maker.path) as file:
        assert file.attrs["format"] == FORMAT.encode()
        assert file.attrs["format_version"] == 1
        assert file.attrs["spec"] == spec.to_json().encode()
        assert file.attrs["spec_digest"] == spec.digest.encode()
        assert file["features"].dtype == np.dtype("<f4")
        assert file["features"].chunks is None
        assert file["features"].id.get_offset() is not None
        assert file.attrs["feature_shape"].tolist() == [2, 3]
        assert list(file["items"]) == sorted(ITEM_COLUMNS)
        assert list(file["quarantine"]) == sorted(QUARANTINE_COLUMNS)
        assert [file["golden"][name][:].tobytes() for name in "01"] == [b"one picture", b"another"]
        kinds = []
        file.visititems(lambda _, found: kinds.append(found.dtype) if isinstance(found, h5py.Dataset) else None)
        kinds += [file.attrs.get_id(name).dtype for name in file.attrs]
        assert {kind.kind for kind in kinds} <= set("Sfiu")  # nothing of variable width, so no heap to damage


def test_many_blocks_are_all_written_and_checked(maker, monkeypatch):
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 3 * 4 * maker.dim)
    store = maker.seal(range(10))
    assert np.array_equal(store.features, maker.make_rows(range(10)))
    assert store.find_damage() == []
    with h5py.File(maker.path) as file:
        assert file.attrs["rows_per_block"] == 3
        assert (len(file["blocks/features"]), len(file["blocks/items"])) == (4, 4)


def test_a_full_disk_leaves_the_old_store_and_the_shards(maker, full_disk, list_files):
    maker.seal([1])
    before = maker.path.read_bytes()
    with maker.open_writer() as writer:
        maker.append(writer, [2])
        writer._journal.commit()
        with full_disk(), pytest.raises(StoreError, match=r"made.h5 cannot be written: File too large; make room"):
            writer.seal(maker.make_columns([1, 2]), {"id": [], "sha256": [], "reason": []})
    assert maker.path.read_bytes() == before
    assert [name[:21] for name in list_files()] == ["made.h5", "made.h5.parts", "made.h5.parts/000001-"]
    assert len(maker.seal([1, 2], new=[])) == 2
    assert list_files() == ["made.h5"]


def test_the_same_items_give_the_same_file(maker):
    maker.seal([1, 2, 3])
    first = maker.path.read_bytes()
    maker.path.unlink()
    time.sleep(1.1)  # HDF5 would note the second in which a group was made
    maker.seal([1, 2, 3])
    assert maker.path.read_bytes() == first
    assert FeatureStore(maker.path).find_damage() == []
