import hashlib
import operator
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.files import forget_pages
from featx.store.layout import (
    ATTRIBUTES_SHA256,
    TEXT,
    choose_block_rows,
    decode_text,
    digest_attributes,
    digest_block,
    digest_columns,
    encode_text,
    map_dataset,
    open_dataset,
    open_group,
    read_column,
    read_numbers,
    read_text,
    write_columns,
    write_text,
)

unicode_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
file_names = st.binary().map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


@given(st.lists(unicode_text | file_names))
def test_text_comes_back_as_it_was(values):
    assert decode_text(encode_text(values)).tolist() == values


def test_bytes_that_are_not_utf_8_are_kept_as_they_are():
    assert encode_text(["caf\udce9", "caf\u00e9"]).tolist() == [b"caf\xe9", b"caf\xc3\xa9"]


def test_text_is_as_wide_as_the_longest_and_never_empty():
    assert encode_text(["a", "\u00e9\u00e9"]).dtype == "S4"
    assert encode_text([]).dtype == "S1"
    assert encode_text(["", ""]).dtype == "S1"


def test_a_block_holds_about_64_kib_and_at_least_a_row():
    assert choose_block_rows(2048, "float32") == 8
    assert choose_block_rows(2048, "float16") == 16
    assert choose_block_rows(10**7, "float32") == 1


def test_the_checksum_of_a_block_depends_on_every_bit_and_not_on_strides():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert digest_block(rows) == digest_block(np.asfortranarray(rows))
    changed = rows.copy()
    changed.view(np.uint8)[2, 5] ^= 1
    assert digest_block(changed) != digest_block(rows)


def test_the_checksum_of_columns_sees_every_value_and_only_the_rows_asked_for(tmp_path):
    kinds = {"name": TEXT, "size": "<i8"}
    columns = []
    for number, sizes in enumerate([[1, 2], [1, 2], [1, 3]]):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            columns.append(write_columns(file, {"name": ["a", "bc"], "size": sizes}, kinds))
            assert read_column(file, "name", TEXT).tolist() == [b"a", b"bc"]
    first, same, other = columns
    assert digest_columns(first) == digest_columns(same) == digest_columns(first, 2) != digest_columns(other)
    assert [*map(operator.eq, digest_columns(first, 1), digest_columns(other, 1))] == [True, False]


def test_the_checksum_of_columns_follows_the_format():
    columns = {"name": encode_text(["a", "bc"]), "sizes": np.array([[1, 2], [3, 4]], "<i4")}
    header = b"name:|S2;sizes:<i4;"
    rows = [b"a\0" + struct.pack("<ii", 1, 2), b"bc" + struct.pack("<ii", 3, 4)]
    assert digest_columns(columns, 1) == [hashlib.sha256(header + row).hexdigest() for row in rows]
    assert digest_columns(columns) == [hashlib.sha256(header + rows[0] + rows[1]).hexdigest()]
    nothing = {name: values[:0] for name, values in columns.items()}
    assert digest_columns(nothing) == [hashlib.sha256(header).hexdigest()]
    assert digest_columns(nothing, 3) == []


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "any.h5", "w") as file:
        yield file


def test_attributes_of_text_have_a_fixed_width(file):
    for text in ("", "caf\u00e9", "x" * 5000):
        write_text(file.attrs, "text", text)
        assert read_text(file.attrs, "text") == text
        assert file.attrs.get_id("text").dtype.kind == "S"
    file.attrs["text"] = "of variable width"
    with pytest.raises(ValueError, match="has the wrong type"):
        read_text(file.attrs, "text")
    with pytest.raises(KeyError):
        read_text(file.attrs, "nothing")


def test_attributes_of_numbers(file):
    file.attrs["count"] = 3
    file.attrs["shape"] = [2, 3]
    assert read_numbers(file.attrs, "count") == 3
    assert read_numbers(file.attrs, "shape").tolist() == [2, 3]
    for value in (b"3", "3", True):
        file.attrs["count"] = value
        with pytest.raises(ValueError, match="has the wrong type"):
            read_numbers(file.attrs, "count")


def test_the_checksum_of_attributes_sees_each_of_them_but_itself(file):
    file.attrs["count"] = 3
    write_text(file.attrs, "text", "abc")
    before = digest_attributes(file.attrs)
    write_text(file.attrs, ATTRIBUTES_SHA256, before)
    assert digest_attributes(file.attrs) == before
    for name, value in (("count", 4), ("text", np.bytes_(b"abd")), ("more", 1), ("count", np.float64(3))):
        kept = file.attrs.get(name)
        file.attrs[name] = value
        assert digest_attributes(file.attrs) != before
        del file.attrs[name]
        assert digest_attributes(file.attrs) != before or kept is None
        if kept is not None:
            file.attrs[name] = kept
        assert digest_attributes(file.attrs) == before


def test_a_column_of_another_kind_is_refused(file):
    file["text"] = encode_text(["a", "b"])
    file["number"] = np.arange(2, dtype="<i8")
    file["scalar"] = np.int64(1)
    assert read_column(file, "text", TEXT).tolist() == [b"a", b"b"]
    assert read_column(file, "number", "<i8").tolist() == [0, 1]
    for name, kind in (("text", "<i8"), ("number", TEXT), ("number", "<i4"), ("scalar", "<i8")):
        with pytest.raises(ValueError, match=f"/{name} is"):
            read_column(file, name, kind)


class TestWhatIsNotStoredHere:
    """Untrusted files that try to read another file, exhaust the memory or stall; see also tests/faults."""

    def test_chunks(self, file):
        file.create_dataset("huge", shape=(2**42,), dtype="<i8", chunks=(1024,))
        self.refuse(file, "huge", "not stored contiguously")

    def test_more_than_the_file_holds(self, file):
        """HDF5 allocates space when the first byte is written, but declares it before."""
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        space = h5py.h5s.create_simple((2**42,))
        h5py.h5d.create(file.id, b"huge", h5py.h5t.STD_I64LE, space, layout)
        self.refuse(file, "huge", "which the file does not hold")

    def test_text_of_variable_width(self, file):
        file.create_dataset("text", data=["a", "b"], dtype=h5py.string_dtype())
        with pytest.raises(ValueError, match="/text is object"):
            read_column(file, "text", TEXT)

    def test_another_file(self, file, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(bytes(80))
        file.create_dataset("outside", shape=(10,), dtype="<i8", external=[(str(secret), 0, 80)])
        self.refuse(file, "outside", "not stored contiguously")
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["rows"] = np.arange(3)
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/rows")
        self.refuse(file, "link", "a link to elsewhere")
        layout = h5py.VirtualLayout(shape=(3,), dtype="<i8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "rows", shape=(3,))
        file.create_virtual_dataset("virtual", layout)
        self.refuse(file, "virtual", "not stored contiguously")

    def test_links_that_lead_round(self, file):
        file["round"] = h5py.SoftLink("/round")
        self.refuse(file, "round", "a link to elsewhere")
        group = file.create_group("group")
        group["itself"] = group
        self.refuse(file, "group", "group is not a dataset", TypeError)
        assert open_group(file, "group") == group
        file["rows"] = np.arange(3)
        with pytest.raises(TypeError, match="rows is not a group"):
            open_group(file, "rows")

    def refuse(self, file, name, reason, error=ValueError):
        with pytest.raises(error, match=reason):
            open_dataset(file, name)


def test_features_are_mapped_and_not_writable(tmp_path):
    path = tmp_path / "any.h5"
    rows = np.arange(12, dtype="<f4").reshape(3, 4)
    with h5py.File(path, "w") as file:
        file["rows"] = rows
        file.create_dataset("empty", shape=(0, 4), dtype="<f4")
    with h5py.File(path) as file:
        mapped = map_dataset(open_dataset(file, "rows"))
        assert map_dataset(open_dataset(file, "empty")).shape == (0, 4)
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, rows)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path):
    path = tmp_path / "any.h5"
    for name, value in (("old.h5", 1), ("new.h5", 2)):
        with h5py.File(tmp_path / name, "w") as file:
            file["rows"] = np.full(3, value, "<f4")
    (tmp_path / "old.h5").rename(path)
    with h5py.File(path, "r", locking=False) as file:
        dataset = open_dataset(file, "rows")
        (tmp_path / "new.h5").rename(path)
        assert map_dataset(dataset).tolist() == [1, 1, 1]


def read_resident_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux reports which pages are in memory")
def test_forgotten_pages_leave_the_memory_and_can_be_read_again(tmp_path):
    features = np.arange(1 << 24, dtype=np.float32).reshape(-1, 64)  # 64 MiB
    with h5py.File(tmp_path / "a.h5", "w") as file:
        matrix = map_dataset(file.create_dataset("features", data=features))
        file.flush()
    total = features.sum(dtype=np.float64)
    del features
    before = read_resident_bytes()
    assert matrix.sum(dtype=np.float64) == total
    assert read_resident_bytes() - before > 60 << 20
    forget_pages(matrix)
    assert read_resident_bytes() - before < 8 << 20
    assert matrix.sum(dtype=np.float64) == total


def test_an_array_that_is_not_mapped_has_no_pages_to_forget():
    forget_pages(np.zeros(3))
