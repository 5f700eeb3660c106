"""Files for other tools: reading them back returns the content of the store, bit for bit."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from featx import export_store, read_export
from featx.errors import StoreError, StoreFormatError, UsageError
from featx.golden import Golden
from featx.store import FeatureStore
from featx.store.layout import ITEM_COLUMNS
from featx.store.sealing import Provenance, Row, seal

ENDINGS = (".npz", ".parquet", ".csv")
LARGEST = {"float32": 3.4028235e38, "float16": 65504.0}
NAMES = ('a "quoted".png', "one,\ntwo\r\n.png", "return\r.png", " blank ", "café 中文 🙂.png", "'=1+1", "\\udce9.png")


@pytest.fixture
def write(maker, tmp_path):
    """Write a store of given features, with ids and labels that are hard to write."""

    def write(features, names=None):
        n_items, dim = features.shape
        names = names or [f"{number} {NAMES[number % len(NAMES)]}" for number in range(n_items)]
        items = maker.make_columns(range(n_items), id=names, label=[f"{name}, a label" for name in names])
        items |= {"width": list(range(1, n_items + 1)), "height": [2**31 - 1] * n_items}
        golden = Golden((b"picture",), np.ones((1, dim), np.float32))
        provenance = Provenance("/pictures", {"numpy": "1.0"}, "numpy", 0.0, (dim,), "", golden)
        rows = [Row(lambda: features, index) for index in range(n_items)]
        spec = maker.make_spec(dtype=features.dtype.name)
        path = tmp_path / "store.h5"
        seal(path, spec, provenance, items, rows, {"id": [], "sha256": [], "reason": []}, confirm=lambda: None)
        return FeatureStore(path)

    return write


def make_features(dtype, n_items=7, dim=5):
    """Any finite bit pattern, including those that are hard to write."""
    kind = {"float32": np.uint32, "float16": np.uint16}[dtype]
    bits = np.random.default_rng(3).integers(0, np.iinfo(kind).max, (n_items, dim), dtype=kind, endpoint=True)
    features = bits.view(dtype)
    features[~np.isfinite(features)] = 0
    tiny = np.array([1], kind).view(dtype)[0]
    features[0] = [0.0, -0.0, LARGEST[dtype], -tiny, np.nextafter(features.dtype.type(1), features.dtype.type(2))]
    return features


def check_same(export, store):
    assert export.features.dtype == store.features.dtype
    assert export.features.shape == store.features.shape
    assert export.features.tobytes() == store.features.tobytes()
    for name, values in export.items.items():
        assert values.tolist() == store.columns[name].tolist()
    assert set(export.items) < set(ITEM_COLUMNS)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_everything_comes_back_to_the_last_bit(write, tmp_path, ending, dtype):
    store = write(make_features(dtype, n_items=len(NAMES)))
    path = export_store(store, tmp_path / f"out{ending}")
    export = read_export(path)
    check_same(export, store)
    assert export.spec == (None if ending == ".csv" else store.spec)


@settings(max_examples=200)
@given(bits=st.integers(0, 2**32 - 1))
def test_any_float32_reads_back_from_its_text(bits):
    from featx.store.exchange import _SPELLINGS

    for dtype, kind in (("float32", np.uint32), ("float16", np.uint16)):
        value = np.array([bits], np.uint64).astype(kind).view(dtype)
        if np.isfinite(value[0]):
            assert np.array([float(_SPELLINGS[dtype] % value.tolist()[0])], dtype).tobytes() == value.tobytes()


def test_every_float16_reads_back_from_its_text(write, tmp_path):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    store = write(every[np.isfinite(every)].reshape(-1, 992))
    check_same(read_export(export_store(store, tmp_path / "out.csv")), store)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_store_without_items_is_exported_too(write, tmp_path, ending):
    store = write(np.empty((0, 4), np.float16))
    check_same(read_export(export_store(store, tmp_path / f"out{ending}")), store)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_name_that_is_not_utf8_is_written_as_an_escape(write, tmp_path, ending):
    store = write(make_features("float32", n_items=1), names=["caf\udce9.png"])
    items = read_export(export_store(store, tmp_path / f"out{ending}")).items
    assert items["id"].tolist() == [r"caf\udce9.png"]
    assert items["label"].tolist() == [r"caf\udce9.png, a label"]


def test_numpy_alone_reads_npz(write, tmp_path):
    store = write(make_features("float32"))
    with np.load(export_store(store, tmp_path / "out.npz")) as arrays:
        assert set(arrays) == {"features", "id", "label", "split", "group", "sha256", "width", "height", "spec"}
        assert arrays["features"].tobytes() == store.features.tobytes()
        assert arrays["id"].tolist() == store.ids.tolist()
        assert json.loads(str(arrays["spec"])) == store.spec.to_dict()


def test_pandas_reads_parquet_and_csv(write, tmp_path):
    store = write(make_features("float32"))
    frame = pd.read_parquet(export_store(store, tmp_path / "out.parquet"))
    assert np.stack(frame["features"]).tobytes() == store.features.tobytes()
    assert frame["id"].tolist() == store.ids.tolist()
    frame = pd.read_csv(export_store(store, tmp_path / "out.csv"))
    assert list(frame)[:8] == ["id", "label", "split", "group", "sha256", "width", "height", "f0"]
    assert frame.filter(regex=r"^f\d").to_numpy(np.float32).tobytes() == store.features.tobytes()


def test_parquet_is_written_by_groups_of_rows(write, tmp_path, monkeypatch):
    store = write(make_features("float32", n_items=100))
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 2 * 5 * 4)
    path = export_store(store, tmp_path / "out.parquet")
    with parquet.ParquetFile(path) as file:
        assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [32, 32, 32, 4]
    check_same(read_export(path), store)


@pytest.mark.parametrize("ending", ENDINGS)
def test_progress_counts_reading_and_writing(write, tmp_path, ending):
    seen = []
    export_store(write(make_features("float32")), tmp_path / f"o{ending}", progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == (14, 14)


def test_a_damaged_store_is_refused_before_anything_is_written(write, tmp_path):
    store = write(make_features("float32"))
    data = bytearray(store.path.read_bytes())
    data[data.index(store.features[3].tobytes())] ^= 1
    store.path.write_bytes(data)
    with pytest.raises(
        StoreFormatError, match=r"rows 0 to 6 of /features of .*store.h5 are damaged; run `featx repair"
    ):
        export_store(FeatureStore(store.path), tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]


def test_an_existing_file_is_kept_unless_it_may_be_replaced(write, tmp_path):
    store = write(make_features("float32"))
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(StoreError, match=r"out.csv exists; .*--overwrite"):
        export_store(store, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"
    check_same(read_export(export_store(store, tmp_path / "out.csv", overwrite=True)), store)


def test_an_unknown_ending_lists_the_known_ones(write, tmp_path):
    store = write(make_features("float32"))
    with pytest.raises(UsageError, match=r"out.xlsx ends in '.xlsx'; .* \.npz, \.parquet, \.csv"):
        export_store(store, tmp_path / "out.xlsx")
    with pytest.raises(UsageError, match="ends in 'nothing'"):
        read_export(tmp_path / "out")
    check_same(read_export(export_store(store, tmp_path / "OUT.NPZ")), store)


def test_a_missing_folder_and_a_file_for_a_folder_are_named(write, tmp_path):
    store = write(make_features("float32"))
    for parent in (tmp_path / "none", store.path):
        with pytest.raises(StoreError, match=rf"there is no folder {parent} to write out.csv into"):
            export_store(store, parent / "out.csv")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("room", [0, 4096, 60_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(write, tmp_path, full_disk, ending, room):
    store = write(make_features("float32", n_items=200, dim=5).repeat(100, axis=1))
    (tmp_path / f"out{ending}").write_text("mine")
    with full_disk(room), pytest.raises(StoreError, match=rf"out\{ending} cannot be written: .*[Ff]ile too large"):
        export_store(store, tmp_path / f"out{ending}", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"out{ending}", "store.h5"]
    assert (tmp_path / f"out{ending}").read_text() == "mine"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_not_an_export_is_refused(write, tmp_path, ending):
    path = tmp_path / f"out{ending}"
    with pytest.raises(StoreError, match=r"there is no file .*`featx export STORE"):
        read_export(path)
    whole = export_store(write(make_features("float32")), tmp_path / f"whole{ending}").read_bytes()
    for data in (b"", b"\x93NUMPY", b"id,label\nx,y\n", b"<html></html>", whole[: len(whole) // 2], whole[:-3]):
        path.write_bytes(data)
        with pytest.raises(StoreFormatError, match=rf"out\{ending} is damaged or not an export of featx"):
            read_export(path)


def test_tables_of_other_tools_are_refused(tmp_path):
    np.savez(tmp_path / "out.npz", features=np.ones((2, 2), np.float32))
    pd.DataFrame({"features": [1, 2]}).to_parquet(tmp_path / "out.parquet")
    pd.DataFrame({"id": ["a"], "f0": [1.0]}).to_csv(tmp_path / "out.csv")
    for ending in ENDINGS:
        with pytest.raises(StoreFormatError, match="not an export of featx"):
            read_export(tmp_path / f"out{ending}")


MEASURE = """
import os, sys, threading
from featx import FeatureStore, export_store

def read_own():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

store = FeatureStore(sys.argv[1])
_ = store.ids, store.sha256, store.labels, store.splits, store.groups  # decoded when they are first asked for
before, peak, done = read_own(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, read_own())

import pandas, pyarrow.parquet
before = read_own()
thread = threading.Thread(target=watch)
thread.start()
export_store(store, sys.argv[2])
done.set()
thread.join()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory that is a process's own from /proc")
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_features_are_never_in_memory_as_a_whole(write, tmp_path, ending):
    n_items = 10_000 if ending == ".csv" else 40_000  # CSV takes ten times as long
    store = write(np.random.default_rng(0).random((n_items, 512), dtype=np.float32))
    arguments = [sys.executable, "-c", MEASURE, store.path, tmp_path / f"out{ending}"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert 0 < int(result.stdout) * 1024 < 0.75 * store.features.nbytes, result.stdout
