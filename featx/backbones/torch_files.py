"""Reading a table of tensors from a file of PyTorch's old format (`torch.save` before version 1.6), without PyTorch.

Such a file is a sequence of pickles: a magic number, the version of the format, the sizes of types, the table, and the
list of its storages. After them come the storages: for each, its length as an int64 and its values, little-endian.

A pickle is a program. This module does not run it with Python's `pickle`: it follows the few instructions that such a
table needs, so nothing in a file is imported or called, and every other instruction is refused.
"""

import io
import itertools
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What `torch.save` wrote first (torch/serialization.py, MAGIC_NUMBER and PROTOCOL_VERSION).
_MAGIC, _FORMAT = 0x1950A86A20F9469CFC6C, 1001

#: Values of a storage, by its class.
_DTYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}

_TABLE, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"

#: ResNet-152 has 60 million parameters; a table of EfficientNet-Lite2 takes some 14,000 instructions.
_MOST_BYTES, _MOST_INSTRUCTIONS = 2**28, 200_000

#: Convolutions have four.
_MOST_SIDES = 8

_MARK = object()


@dataclass(frozen=True, slots=True)
class _Global:
    """The name of a class or a function, which is never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    length: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read the tensors of a file by name; they are read-only views of its bytes.

    Raises:
        ValueError: If it is not such a file, is truncated, or has instructions that a table of tensors does not need.
        OSError: If it cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        msg = f"it has {path.stat().st_size:,} bytes; the limit is {_MOST_BYTES:,}"
        raise ValueError(msg)
    return parse_tensors(path.read_bytes())


def parse_tensors(data: bytes) -> dict[str, NDArray[Any]]:
    """Parse the bytes of a file; see `read_tensors`.

    Raises:
        ValueError: As in `read_tensors`.
    """
    if data.startswith(b"PK"):
        msg = "it is in PyTorch's new format; torch.save(..., _use_new_zipfile_serialization=False) writes the old one"
        raise ValueError(msg)
    stream = io.BytesIO(data)
    try:
        magic, version, sizes, table, keys = (_follow(stream) for _ in range(5))
    except (IndexError, KeyError, TypeError) as error:
        msg = f"it is not a table of tensors ({type(error).__name__} in a pickle)"
        raise ValueError(msg) from error
    if (magic, version) != (_MAGIC, _FORMAT) or not isinstance(sizes, dict) or not sizes.get("little_endian"):
        msg = "it does not begin as little-endian files of PyTorch's old format do"
        raise ValueError(msg)
    if not isinstance(table, dict) or not all(isinstance(tensor, _Tensor) for tensor in table.values()):
        msg = "it holds something other than a table of tensors"
        raise ValueError(msg)
    storages = _read_storages(data, stream.tell(), keys, [tensor.storage for tensor in table.values()])
    return {name: _cut(storages[tensor.storage.key], tensor) for name, tensor in table.items()}


def _follow(stream: io.BytesIO) -> Any:  # noqa: ANN401 - numbers, names and tables
    """Follow the instructions of one pickle, and return what it describes."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    instruction: Any
    argument: Any
    for instruction, argument, _ in itertools.islice(pickletools.genops(stream), _MOST_INSTRUCTIONS):
        name = instruction.name
        if name in {"BINPUT", "LONG_BINPUT"}:
            memo[argument] = stack[-1]
        elif name in {"BINGET", "LONG_BINGET"}:
            stack.append(memo[argument])
        elif name in {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}:
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](stack)
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            msg = f"it has the instruction {name}, which a table of tensors does not need"
            raise ValueError(msg)
    msg = f"it has more than {_MOST_INSTRUCTIONS:,} instructions"
    raise ValueError(msg)


def _pop_marked(stack: list[Any]) -> list[Any]:
    """Take everything above the last mark, and the mark."""
    values = []
    while (value := stack.pop()) is not _MARK:
        values.append(value)
    return values[::-1]


def _pop_tuple(stack: list[Any], count: int) -> None:
    values = tuple(stack[-count:])
    del stack[-count:]
    stack.append(values)


def _set_items(stack: list[Any], values: list[Any]) -> None:
    table, names = stack[-1], values[::2]
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in names):
        msg = "it has a table whose keys are not names"
        raise ValueError(msg)
    table.update(zip(names, values[1::2], strict=True))


def _extend(stack: list[Any], values: list[Any]) -> None:
    grown: list[Any] = stack[-1]
    list.extend(grown, values)  # a TypeError for anything but a list


def _reduce(stack: list[Any]) -> None:
    """Describe the one object and the one call that a table of tensors has."""
    arguments, called = stack.pop(), stack.pop()
    name = called.name if isinstance(called, _Global) else ""
    if name == _TABLE and arguments == ():
        stack.append({})
    elif name == _TENSOR and isinstance(arguments, tuple):
        storage, offset, shape, strides, *_ = arguments
        stack.append(_describe_tensor(storage, offset, shape, strides))
    else:
        msg = f"it calls {name[:100] or 'something'}, which a table of tensors does not need"
        raise ValueError(msg)


def _describe_tensor(storage: object, offset: object, shape: object, strides: object) -> _Tensor:
    sides, steps = _read_counts(shape), _read_counts(strides)
    (start,) = _read_counts((offset,))
    if not isinstance(storage, _Storage) or len(sides) != len(steps) or len(sides) > _MOST_SIDES:
        msg = "it has a tensor without a storage, or without a stride for each side"
        raise ValueError(msg)
    # Of a tensor without values, nothing is read; repeated values (a stride of 0) would declare more than there is.
    end = start + sum((side - 1) * step for side, step in zip(sides, steps, strict=True)) + 1
    if min(sides, default=1) == 0 or max(end, math.prod(sides)) > storage.length:
        msg = f"it has a tensor of {'x'.join(map(str, sides))} values, which its storage does not hold"
        raise ValueError(msg)
    return _Tensor(storage, start, sides, steps)


def _read_counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int and 0 <= value < _MOST_BYTES for value in values):
        msg = "it has a tensor whose shape is not made of whole numbers"
        raise ValueError(msg)
    return values


def _name_storage(stack: list[Any]) -> None:
    kind, storage_class, key, _, length, view = stack.pop()
    dtype = _DTYPES.get(storage_class.name) if isinstance(storage_class, _Global) else None
    if kind != "storage" or dtype is None or not isinstance(key, str) or view is not None:
        msg = "it has a storage that holds neither float32 nor int64 values"
        raise ValueError(msg)
    stack.append(_Storage(key, dtype, *_read_counts((length,))))


#: What is pushed by the instructions that have no argument.
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "MARK": lambda: _MARK,
}

_ACTIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": lambda stack: stack.append(tuple(_pop_marked(stack))),
    "TUPLE1": lambda stack: _pop_tuple(stack, 1),
    "TUPLE2": lambda stack: _pop_tuple(stack, 2),
    "TUPLE3": lambda stack: _pop_tuple(stack, 3),
    "SETITEM": lambda stack: _set_items(stack, [stack.pop(-2), stack.pop()]),
    "SETITEMS": lambda stack: _set_items(stack, _pop_marked(stack)),
    "APPEND": lambda stack: _extend(stack, [stack.pop()]),
    "APPENDS": lambda stack: _extend(stack, _pop_marked(stack)),
    "BUILD": lambda stack: stack.pop() and None,  # attributes of the table: the versions of its modules
    "BINPERSID": _name_storage,
    "REDUCE": _reduce,
}


def _read_storages(data: bytes, start: int, keys: object, wanted: list[_Storage]) -> dict[str, NDArray[Any]]:
    """Read the storages behind the last pickle, which must be all that is there."""
    described = {storage.key: storage for storage in wanted}
    if any(described[storage.key] != storage for storage in wanted):
        msg = "it has two storages with one key"
        raise ValueError(msg)
    names = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
    if sorted(described) != sorted(names):
        msg = "its list of storages is not that of its tensors"
        raise ValueError(msg)
    found = {}
    for storage in (described[name] for name in names):
        size = np.dtype(storage.dtype).itemsize * storage.length
        if start + 8 + size > len(data):
            msg = "it is truncated"
            raise ValueError(msg)
        if int.from_bytes(data[start : start + 8], "little") != storage.length:
            msg = "it has a storage of another length than its tensors say"
            raise ValueError(msg)
        found[storage.key] = np.frombuffer(data, storage.dtype, storage.length, start + 8)
        start += 8 + size
    if start != len(data):
        msg = f"it has {len(data) - start:,} bytes after its last storage"
        raise ValueError(msg)
    return found


def _cut(values: NDArray[Any], tensor: _Tensor) -> NDArray[Any]:
    steps = tuple(values.itemsize * step for step in tensor.strides)
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps, writeable=False)
