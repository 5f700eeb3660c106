"""Files of PyTorch's old format, written here byte by byte: what is read, and what is refused."""

import os
import pickle
import struct

import numpy as np
import pytest

from featx.backbones.torch_files import parse_tensors, read_tensors

START = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {"short": 2}})
)
DICT = b"ccollections\nOrderedDict\n)R"
VALUES = np.arange(24, dtype=np.float32)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def counts(*values):
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def tensor(key="a", shape=(2, 12), strides=(12, 1), offset=0, length=24, kind="torch\nFloatStorage"):
    storage = b"(" + text("storage") + f"c{kind}\n".encode() + text(key) + text("cpu")
    storage += b"J" + struct.pack("<i", length) + b"NtQ"
    arguments = storage + b"J" + struct.pack("<i", offset) + counts(*shape) + counts(*strides) + b"\x89" + DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def make_file(*tensors, table=None, keys=("a",), storages=(VALUES,), end=b""):
    named = b"".join(text(f"w{number}") + one for number, one in enumerate(tensors))
    body = b"\x80\x02" + (DICT + b"(" + named + b"u." if table is None else table)
    data = b"".join(struct.pack("<q", len(values)) + values.tobytes() for values in storages)
    return START + body + pickle.dumps(list(keys), protocol=2) + data + end


def test_tensors_are_read_with_their_strides(tmp_path):
    long = tensor("b", (), (), 1, 2, "torch\nLongStorage")
    turned = tensor(shape=(3, 2, 4), strides=(1, 12, 3))
    storages = (VALUES, np.array([5, 7]))
    path = tmp_path / "file.pth"
    path.write_bytes(make_file(tensor(), turned, long, keys=("a", "b"), storages=storages))
    found = read_tensors(path)
    assert np.array_equal(found["w0"], VALUES.reshape(2, 12))
    assert np.array_equal(found["w1"], VALUES.reshape(2, 4, 3).transpose(2, 0, 1))
    assert found["w2"] == 7
    with pytest.raises(ValueError, match="read-only"):
        found["w0"][0] = 1


def test_a_file_that_is_cut_anywhere_is_refused():
    whole = make_file(tensor(), tensor(offset=12, shape=(12,), strides=(1,)))
    assert len(parse_tensors(whole)) == 2
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"\w"):
            parse_tensors(whole[:end])


def test_a_file_with_a_changed_byte_is_refused_or_stays_within_its_storage():
    whole = make_file(tensor(), tensor(shape=(3, 8), strides=(8, 1)))
    refused = 0
    for at in range(len(whole)):
        for mask in (1, 128, 255):
            changed = bytes([*whole[:at], whole[at] ^ mask, *whole[at + 1 :]])
            try:
                found = parse_tensors(changed)
            except ValueError:
                refused += 1
                continue
            for values in found.values():
                assert values.size <= len(VALUES)
                assert values.tobytes()  # reads every value
    assert refused > len(whole)


HOSTILE = {
    "a call": (make_file(table=b"cos\nmkdir\n(" + text("made") + b"tR."), "calls os mkdir"),
    "an evaluation": (make_file(table=b"cbuiltins\neval\n(" + text("1") + b"tR."), "calls builtins eval"),
    "a call of an object": (make_file(table=b"}(" + text("w") + b"}tR."), "calls something"),
    "an old instance": (make_file(table=b"(ios\nsystem\n."), "instruction INST"),
    "a new instance": (make_file(table=b"cos\nsystem\n)\x81."), "instruction NEWOBJ"),
    "a name from the stack": (make_file(table=text("os") + text("system") + b"\x93."), "instruction STACK_GLOBAL"),
    "a class as a tensor": (make_file(b"cos\nsystem\n"), "something other than a table"),
    "a list as a table": (make_file(table=b"]."), "something other than a table"),
    "a key that is not a name": (make_file(table=b"}))s."), "keys are not names"),
    "an unknown storage": (make_file(tensor(kind="torch\nHalfStorage")), "neither float32 nor int64"),
    "a row too many": (make_file(tensor(shape=(3, 12))), "3x12 values, which its storage does not hold"),
    "a step too far": (make_file(tensor(strides=(13, 1))), "which its storage does not hold"),
    "a start too late": (make_file(tensor(offset=1)), "which its storage does not hold"),
    "repeated values": (make_file(tensor(shape=(2**20, 2**8), strides=(0, 0))), "which its storage does not hold"),
    "a negative side": (make_file(tensor(shape=(-2, 12))), "not made of whole numbers"),
    "no values": (make_file(tensor(shape=(0, 12))), "which its storage does not hold"),
    "one key for two lengths": (make_file(tensor(), tensor(length=2**27, offset=2**26)), "two storages with one key"),
    "one key for two types": (make_file(tensor(), tensor(kind="torch\nLongStorage")), "two storages with one key"),
    "a longer storage": (make_file(tensor(length=2**27)), "it is truncated"),
    "a shorter storage": (make_file(tensor(shape=(2,), strides=(1,), length=23)), "another length"),
    "a storage too many": (make_file(tensor(), keys=("a", "b")), "list of storages"),
    "nested keys": (make_file(tensor(), keys=[("a",)]), "list of storages"),
    "bytes after the end": (make_file(tensor(), end=b"\0"), "1 bytes after its last storage"),
    "many instructions": (make_file(table=b"N0" * 100_001), "instruction POP"),
    "more instructions": (make_file(table=b"N" * 200_001), "more than 200,000 instructions"),
    "big-endian": (pickle.dumps(1, 2) * 3 + make_file(tensor())[len(START) :], "does not begin as little-endian"),
    "a zip": (b"PK\x03\x04" + bytes(100), "in PyTorch's new format"),
    "text": (b"not a pickle", "not a table|opcode|exhausted"),
    "nothing": (b"", "STOP"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_nothing_in_them_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, words = HOSTILE[name]
    with pytest.raises(ValueError, match=words):
        parse_tensors(data)
    assert os.listdir() == []  # noqa: PTH208 - of the working folder


def test_a_chain_of_doubled_tuples_takes_no_time():
    """With Python's pickle, such a key would be hashed for longer than the universe is old."""
    doubled = b")" + b"q\x00h\x00\x86" * 200
    with pytest.raises(ValueError, match="keys are not names"):
        parse_tensors(make_file(table=b"}" + doubled + b"Ns."))


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)  # a hole, which takes no disk
    with pytest.raises(ValueError, match="268,435,457 bytes; the limit is 268,435,456"):
        read_tensors(path)
