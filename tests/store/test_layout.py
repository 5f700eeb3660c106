import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.store.layout import (
    TEXT,
    choose_block_rows,
    decode_text,
    digest_block,
    encode_text,
    map_dataset,
    read_column,
    read_text,
    write_columns,
    write_text,
)

unicode_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
file_names = st.binary().map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


@given(st.lists(unicode_text | file_names))
def test_text_comes_back_as_it_was(values):
    assert decode_text(encode_text(values)).tolist() == values


def test_bytes_that_are_no_utf_8_are_kept_as_they_are():
    assert encode_text(["caf\udce9", "caf\u00e9"]).tolist() == [b"caf\xe9", b"caf\xc3\xa9"]


def test_text_is_as_wide_as_the_longest_and_never_empty():
    assert encode_text(["a", "\u00e9\u00e9"]).dtype == "S4"
    assert encode_text([]).dtype == "S1"
    assert encode_text(["", ""]).dtype == "S1"


def test_a_block_holds_about_a_mebibyte_and_at_least_a_row():
    assert choose_block_rows(2048, "float32") == 128
    assert choose_block_rows(2048, "float16") == 256
    assert choose_block_rows(10**7, "float32") == 1


def test_the_checksum_of_a_block_sees_every_bit_and_no_strides():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert digest_block(rows) == digest_block(np.asfortranarray(rows))
    changed = rows.copy()
    changed.view(np.uint8)[2, 5] ^= 1
    assert digest_block(changed) != digest_block(rows)


def test_columns_have_one_checksum_over_all(tmp_path):
    kinds = {"name": TEXT, "size": "<i8"}
    digests = []
    for number, sizes in enumerate([[1, 2], [1, 2], [1, 3]]):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            digests.append(write_columns(file, {"name": ["a", "bc"], "size": sizes}, kinds))
    assert digests[0] == digests[1] != digests[2]


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
    with pytest.raises(ValueError, match="fixed width"):
        read_text(file.attrs, "text")
    with pytest.raises(KeyError):
        read_text(file.attrs, "nothing")


def test_a_column_of_another_kind_is_refused(file):
    file["text"] = encode_text(["a", "b"])
    file["number"] = np.arange(2, dtype="<i8")
    file.create_dataset("object", data=["a", "b"], dtype=h5py.string_dtype())
    assert read_column(file, "text", TEXT).tolist() == [b"a", b"b"]
    assert read_column(file, "number", "<i8").tolist() == [0, 1]
    for name, kind in (("text", "<i8"), ("number", TEXT), ("number", "<i4"), ("object", TEXT)):
        with pytest.raises(ValueError, match=f"/{name} is"):
            read_column(file, name, kind)


def test_a_column_that_declares_more_than_it_holds_is_refused_before_it_is_read(file):
    file.create_dataset("huge", shape=(2**42,), dtype="<i8", chunks=(1024,))
    with pytest.raises(ValueError, match="/huge is"):
        read_column(file, "huge", "<i8")


def test_features_are_mapped_and_not_writable(tmp_path):
    path = tmp_path / "any.h5"
    rows = np.arange(12, dtype="<f4").reshape(3, 4)
    with h5py.File(path, "w") as file:
        file["rows"] = rows
        file.create_dataset("chunked", data=rows, chunks=(1, 4))
        file.create_dataset("empty", shape=(0, 4), dtype="<f4")
    with h5py.File(path) as file:
        mapped = map_dataset(path, file["rows"])
        assert map_dataset(path, file["empty"]).shape == (0, 4)
        with pytest.raises(ValueError, match="not contiguous"):
            map_dataset(path, file["chunked"])
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, rows)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1
