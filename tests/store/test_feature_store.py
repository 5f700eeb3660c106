import contextlib
import os
import re

import h5py
import numpy as np
import pytest

from featx.errors import StoreError, StoreFormatError
from featx.store import FeatureStore
from featx.store.feature_store import Damage
from featx.store.layout import ATTRIBUTES_SHA256, digest_attributes, write_text


@pytest.fixture
def store(maker):
    return maker.seal(range(6), quarantine=[("bad.jpg", "", "cannot be read: gone")])


def flip(path, pattern, offset=0):
    """Flip a bit of the byte at `offset` after a pattern that occurs once in the file."""
    data = bytearray(path.read_bytes())
    assert data.count(pattern) == 1
    data[data.index(pattern) + offset] ^= 1
    path.write_bytes(data)


NO_QUARANTINE = {"id": [], "sha256": [], "reason": []}


def test_a_store_returns_the_sealed_content(store, maker):
    assert len(store) == 6
    assert store.spec == maker.make_spec()
    assert (store.dim, store.feature_shape) == (6, (2, 3))
    assert store.ids.tolist() == [f"{number}.png" for number in range(6)]
    assert store.sha256.tolist() == [maker.make_sha256(number) for number in range(6)]
    assert store.labels.tolist() == ["even", "odd"] * 3
    assert store.classes == ["even", "odd"]
    assert store.quarantine == [("bad.jpg", "", "cannot be read: gone")]
    assert store.columns["bytes"].tolist() == [100, 101, 102, 103, 104, 105]
    assert (store.source, store.runtime, store.drift, store.started_ns) == ("/pictures", "numpy", 0.0, 7)
    assert store.created_with == {"numpy": "1.0"}
    assert store.golden.files == (b"one picture", b"another")
    assert np.array_equal(store.golden.features, np.ones((2, 6), np.float32))
    assert repr(store) == f"FeatureStore('{store.path}', items=6, dim=6, dtype='float32')"


def test_features_are_mapped_read_only_and_equal_to_what_h5py_reads(store, maker):
    assert isinstance(store.features, np.memmap)
    assert not store.features.flags.writeable
    with h5py.File(store.path) as file:
        assert np.array_equal(store.features, file["features"][:])
    assert np.array_equal(store.features[[4, 1]], maker.make_rows([4, 1]))


def test_no_file_stays_open(store):
    FeatureStore(store.path).find_damage()
    (store.path.parent / "bad.h5").write_bytes(store.path.read_bytes()[:2000])
    with pytest.raises(StoreFormatError):
        FeatureStore(store.path.parent / "bad.h5")
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0


def test_the_description_for_a_user(store):
    about = store.describe()
    assert about["classes"] == {"even": 3, "odd": 3}
    assert about["splits"] == {}
    assert about["quarantined"] == [{"id": "bad.jpg", "reason": "cannot be read: gone"}]
    assert about["spec_digest"] == store.spec.digest
    assert {"format_version", "spec", "items", "dim", "dtype"} <= set(about)
    assert about["file_bytes"] == store.path.stat().st_size


def test_items_are_a_frame_in_the_order_of_the_rows(store):
    items = store.items
    assert items.columns.tolist() == ["id", "label", "split", "group", "sha256", "width", "height", "bytes", "mtime_ns"]
    assert all(items[name].tolist() == store.columns[name].tolist() for name in items.columns)
    items["label"] = "changed"
    assert store.items["label"].tolist() == store.labels.tolist() == ["even", "odd"] * 3


def test_a_frame_has_the_features_as_columns_on_request(store):
    assert store.to_frame().equals(store.items)
    frame = store.to_frame(features=True)
    assert frame.columns.tolist() == [*store.items.columns, *(f"f{number}" for number in range(6))]
    assert np.array_equal(frame[[f"f{number}" for number in range(6)]].to_numpy(), store.features)
    assert (frame["f0"].dtype, frame["width"].dtype) == (np.float32, np.int32)


def test_a_frame_keeps_names_that_are_not_utf8(maker):
    with maker.open_writer() as writer:
        maker.append(writer, [0])
        store = writer.seal(maker.make_columns([0], id=["caf\udce9.png"]), NO_QUARANTINE)
    assert store.items["id"].tolist() == ["caf\udce9.png"]


def test_a_notebook_shows_a_store_without_running_its_names(maker):
    names = ["<script>alert(1)</script>", "a&b", "caf\udce9", "two\nlines", *map(str, range(8))]
    numbers = range(len(names))
    with maker.open_writer(maker.make_spec(layer="<b>top")) as writer:
        maker.append(writer, numbers)
        store = writer.seal(maker.make_columns(numbers, label=names), NO_QUARANTINE)
    shown = store._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 1" in shown
    assert "layer &lt;b&gt;top" in shown
    assert "and 2 more" in shown
    assert ">items</td>" in shown
    assert ">12</td>" in shown
    assert "splits" not in shown
    assert shown.encode()


def test_names_of_all_kinds_come_back(maker):
    names = ["caf\u00e9/\u4e2d.png", "caf\udce9.png", "two\nlines.png", "a" * 300, " spaces ", "'\"\\"]
    numbers = range(len(names))
    columns = maker.make_columns(numbers, id=names, label=["", "\u00e9", "a b", "", "x\ny", "7"])
    with maker.open_writer() as writer:
        maker.append(writer, numbers)
        writer.seal(columns, {"id": ["\udcff"], "sha256": [""], "reason": ["\u00bfqu\u00e9?"]})
    store = FeatureStore(maker.path)
    assert store.ids.tolist() == names
    assert store.labels.tolist() == columns["label"]
    assert store.classes == ["7", "a b", "x\ny", "\u00e9"]
    assert store.quarantine == [("\udcff", "", "\u00bfqu\u00e9?")]


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"there is no store .*a.h5; `featx embed SOURCE` makes one"):
        FeatureStore(tmp_path / "a.h5")


@pytest.mark.parametrize("content", [b"", b"id,label\n", b"\x89HDF\r\n\x1a", b"PK\x03\x04" * 500])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(StoreFormatError, match=r"a.h5 is not a feature store \(not an HDF5 file\)"):
        FeatureStore(tmp_path / "a.h5")


def test_a_folder_is_not_a_store(tmp_path):
    with pytest.raises(StoreFormatError, match="not an HDF5 file"):
        FeatureStore(tmp_path)


def test_an_hdf5_file_that_is_not_of_featx_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((3, 4))
    with pytest.raises(StoreFormatError, match=r"a.h5 is an HDF5 file, but not a feature store of featx"):
        FeatureStore(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["format"] = "something-else"
    with pytest.raises(StoreFormatError, match="not a feature store of featx"):
        FeatureStore(tmp_path / "a.h5")


def test_a_newer_format_asks_for_a_newer_featx(store):
    change(store.path, lambda file: file.attrs.__setitem__("format_version", 3))
    with pytest.raises(StoreFormatError, match=r"made.h5 has format version 3, .* up to 2; upgrade featx"):
        FeatureStore(store.path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_store_is_refused_with_a_way_out(store, share):
    os.truncate(store.path, int(store.path.stat().st_size * share))
    with pytest.raises(StoreFormatError, match=r"made.h5 .*(delet|name another)") as caught:
        FeatureStore(store.path)
    assert "\n" not in str(caught.value)


def flip_first(path, pattern):
    data = path.read_bytes()
    at = data.index(pattern)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        (b"3.png", "rows 0 to 5 of /items"),
        (b"even", "rows 0 to 5 of /items"),
        (b"cannot be read", "rows 0 to 0 of /quarantine"),
        (b"one picture", "rows 0 to 1 of /golden"),
    ],
)
def test_a_flipped_bit_outside_the_features_is_refused_unless_damage_is_allowed(store, pattern, place):
    flip_first(store.path, pattern)
    with pytest.raises(StoreFormatError, match=rf"made.h5 is damaged: {place} differ .*; run `featx repair .*made.h5`"):
        FeatureStore(store.path)
    assert [str(damage) for damage in FeatureStore(store.path, allow_damage=True).find_damage()] == [place]


@pytest.mark.parametrize("pattern", [b'"layer"', b"/pictures", b'"numpy"'])
def test_a_flipped_bit_in_the_attributes_is_never_let_through(store, pattern):
    flip_first(store.path, pattern)
    with pytest.raises(StoreFormatError, match=r"made.h5 is damaged .* deleting it"):
        FeatureStore(store.path, allow_damage=True)


def test_damaged_items_are_named_by_their_rows(maker, monkeypatch):
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 3 * 4 * maker.dim)
    path = maker.seal(range(10)).path
    flip_first(path, b"7.png")
    flip(path, maker.make_row(4).tobytes(), 7)
    damage = FeatureStore(path, allow_damage=True).find_damage()
    assert damage == [Damage("items", 6, 9), Damage("features", 3, 6)]


def test_a_flipped_bit_in_the_features_is_found_and_its_rows_named(maker, monkeypatch):
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 3 * 4 * maker.dim)
    store = maker.seal(range(10))
    assert store.find_damage() == []
    flip(store.path, maker.make_row(4).tobytes(), 7)
    flip(store.path, maker.make_row(9).tobytes())
    assert FeatureStore(store.path).find_damage() == [Damage("features", 3, 6), Damage("features", 9, 10)]


def test_no_flipped_byte_is_overlooked_hangs_or_ends_in_another_error(store, tmp_path):
    data, path = store.path.read_bytes(), tmp_path / "flipped.h5"
    generator = np.random.default_rng(0)
    outcomes = {"refused": 0, "damaged": 0, "same": 0}
    for at in generator.choice(len(data), 200, replace=False):
        path.unlink(missing_ok=True)  # an old file may still be mapped
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            found = FeatureStore(path)
        except StoreFormatError:
            outcomes["refused"] += 1
            continue
        if found.find_damage():
            outcomes["damaged"] += 1
            continue
        outcomes["same"] += 1
        assert found.spec == store.spec
        assert np.array_equal(found.features, store.features)
        assert all(np.array_equal(found.columns[name], column) for name, column in store.columns.items())
        assert found.quarantine == store.quarantine
        assert found.golden.files == store.golden.files
    assert outcomes["refused"] > 50


def change(path, edit):
    """Change a store as an attacker who knows its format would: the attributes get a matching checksum."""
    with h5py.File(path, "r+") as file:
        edit(file)
        with contextlib.suppress(ValueError):  # of a kind that the format does not know
            write_text(file.attrs, ATTRIBUTES_SHA256, digest_attributes(file.attrs))


def replace(file, name, values, **options):
    del file[name]
    file.create_dataset(name, data=values, **options)


@pytest.mark.parametrize(
    "edit",
    [
        lambda file: file.__delitem__("features"),
        lambda file: file.__delitem__("items/label"),
        lambda file: file.__delitem__("golden"),
        lambda file: file.attrs.__delitem__("spec"),
        lambda file: file.attrs.__setitem__("spec", np.bytes_(b"{}")),
        lambda file: file.attrs.__setitem__("spec", np.bytes_(b"[1")),
        lambda file: file.attrs.__setitem__("spec", "of variable width"),
        lambda file: replace(file, "items/id", [b"0"] * 6),
        lambda file: replace(file, "items/bytes", np.arange(6.0)),
        lambda file: replace(file, "features", np.ones((6, 5), np.float32)),
        lambda file: replace(file, "blocks/features", np.array([], "S64")),
        lambda file: replace(file, "blocks/items", np.array([b"0"] * 2)),
        lambda file: replace(file, "items/width", np.arange(5, dtype="<i4")),
        lambda file: file.attrs.__setitem__("rows_per_block", 0),
        lambda file: file.attrs.__setitem__("rows_per_block", 1),
        lambda file: file.attrs.__setitem__("rows_per_block", -7),
        lambda file: file.attrs.__setitem__("feature_shape", [7]),
        lambda file: file.attrs.__setitem__("feature_shape", 6.5),
        lambda file: file.attrs.__setitem__("reading", np.bytes_(b"3")),
        lambda file: file.attrs.__setitem__("reading", np.bytes_(b"[" * 60_000)),
        lambda file: file.attrs.__setitem__("drift", "none"),
        lambda file: file.attrs.__setitem__("embed_seconds", -1.0),
        lambda file: file.attrs.__setitem__("embed_seconds", float("nan")),
        lambda file: file.attrs.__setitem__("embed_seconds", float("inf")),
        lambda file: file.attrs.__setitem__("embed_seconds", [1.0, 2.0]),
        lambda file: file.attrs.__setitem__("embed_seconds", h5py.Empty("f8")),
        lambda file: file.attrs.__setitem__("embed_seconds", np.bytes_(b"long")),
    ],
)
def test_a_store_that_lacks_a_part_or_has_another_is_refused(store, edit):
    change(store.path, edit)
    with pytest.raises(StoreFormatError, match=r"made.h5 is damaged or not a feature store of featx: .*; embed again"):
        FeatureStore(store.path)


@pytest.mark.parametrize(
    "options", [{"chunks": (2, 6)}, {"compression": "gzip"}, {"dtype": "<f8"}, {"dtype": ">f4"}, {"shape": (6, 6, 1)}]
)
def test_features_of_another_kind_are_refused(store, maker, options):
    def edit(file):
        del file["features"]
        rows = maker.make_rows(range(6)).reshape(options.get("shape", (6, 6)))
        file.create_dataset("features", data=rows, **options)

    change(store.path, edit)
    with pytest.raises(StoreFormatError, match="features"):
        FeatureStore(store.path)


def test_the_newest_store_of_a_folder(maker):
    older = maker.seal([1])
    newer = older.path.with_name("another.h5")
    newer.write_bytes(older.path.read_bytes())
    os.utime(older.path, (1000, 1000))
    assert FeatureStore.find_newest(maker.path.parent).path == newer
    os.utime(newer, (999, 999))
    assert FeatureStore.find_newest(maker.path.parent).path == older.path


def test_hidden_files_and_shards_are_not_the_newest_store(maker):
    maker.seal([1])
    with maker.open_writer() as writer:
        maker.append(writer, [2])
    (maker.path.parent / "._made.h5").write_bytes(b"of macOS")
    assert FeatureStore.find_newest(maker.path.parent).path == maker.path


def test_a_folder_without_stores(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(StoreError, match=re.escape(f"no feature store in {folder}/; make one with `featx embed")):
            FeatureStore.find_newest(folder)
