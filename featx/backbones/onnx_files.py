"""What an ONNX file declares, read before OpenVINO sees any of it.

The file is walked as its wire format has it (protobuf.dev/programming-guides/encoding), with the numbers of fields from
onnx.proto. Values are skipped where they are, so that memory does not depend on the size of the file, and every tensor
must be there in full: a description of a few bytes can declare an array of any size.
"""

import itertools
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Bytes of one value, by `TensorProto.DataType`; types that no network of images has are left out.
_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}

#: The fields of `TensorProto` with values, and the least bytes that one value takes there.
_VALUES = {4: 4, 5: 1, 7: 1, 10: 8, 11: 1}

#: Operations with inputs that say how large their output is: of all of these, the second and later ones, or all.
_SIZED = frozenset(
    {
        *("Reshape", "Expand", "Tile", "Slice", "Pad", "Resize", "Upsample", "Unsqueeze", "Squeeze", "Split", "OneHot"),
        *("TopK", "CenterCropPad", "Col2Im", "MaxUnpool", "Trilu", "EyeLike", "ConstantOfShape", "Range"),
        *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"),
    }
)
_SIZED_BY_ALL = frozenset({"ConstantOfShape", "Range", "EyeLike"})
_NESTED = frozenset({"Loop", "Scan", "If", "SequenceMap"})

_RAW, _EXTERNAL_DATA, _LOCATION = 9, 13, 14
#: Domains of operators that OpenVINO has; the file's own functions are of others.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "org.openvinotoolkit", "pkg.onnxscript.torch_lib"})

_DEPTH = 8
_MOST_MESSAGES = 2_000_000
_MOST_TEXT = 2**20
_VARINT_BITS = 63


@dataclass(slots=True)
class OnnxFile:
    """What an ONNX file declares.

    Attributes:
        producer: What wrote it.
        inputs: The names of its inputs that are not weights.
        n_bytes: Bytes of all its weights.
        external: The files of its other weights, in the order of their names.
        metadata: Its `metadata_props`.
        input_type: `TensorProto.DataType` of its input.
        has_rank: Whether the input's number of axes is known.
        custom: An operator that is not one of ONNX's own; empty if there is none.
        computes_shapes: Whether the size of a layer is computed from other values than constants.
    """

    producer: str = ""
    inputs: list[str] = field(default_factory=list)
    n_bytes: int = 0
    external: tuple[Path, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    input_type: int = 0
    has_rank: bool = False
    custom: str = ""
    computes_shapes: bool = False


def inspect_onnx(path: Path) -> OnnxFile:
    """Read what an ONNX file declares, and check that all of its weights are there.

    Args:
        path: The file.

    Raises:
        ValueError: If it is not a complete ONNX file, or its external data lie outside its folder.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            msg = "it is empty"
            raise ValueError(msg)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            return _Walk(path, data).walk()


class _Walk:
    """One walk over the messages of a file."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self._folder = path.parent.resolve()
        self._data = data
        self._n_messages = 0
        self._external: dict[str, Path] = {}
        self._weights: set[str] = set()
        self._inputs: dict[str, tuple[int, bool]] = {}
        self._constants: set[str] = set()
        self._sizes: set[str] = set()
        self._found = OnnxFile()

    def walk(self) -> OnnxFile:
        """Walk over the model and its graphs."""
        found, graphs, functions = self._found, 0, False
        for number, start, end in self._read(0, len(self._data)):
            if number == 2:  # noqa: PLR2004 - producer_name; the numbers below are of onnx.proto too
                found.producer = self._read_text(start, end)
            elif number == 7:  # noqa: PLR2004
                graphs += 1
                self._walk_graph(start, end, 0)
            elif number == 14:  # noqa: PLR2004
                key, value = self._read_pair(start, end)
                found.metadata[key] = value
            elif number == 25:  # noqa: PLR2004 - a function, whose operations are its field 7
                for begin, past in self._find(start, end, 7):
                    self._walk_node(begin, past, 1)
                functions = True
        if graphs != 1:
            msg = "it has no graph" if not graphs else "it has several graphs"
            raise ValueError(msg)
        found.custom = "" if functions else found.custom
        found.computes_shapes |= not self._sizes <= self._weights | self._constants
        found.inputs = [name for name in self._inputs if name not in self._weights]
        if found.inputs:
            found.input_type, found.has_rank = self._inputs[found.inputs[0]]
        found.external = tuple(self._external[name] for name in sorted(self._external))
        return found

    def _walk_graph(self, start: int, end: int, depth: int) -> None:
        if depth > _DEPTH:
            msg = "its graphs are nested too deeply"
            raise ValueError(msg)
        for number, begin, past in self._read(start, end):
            if number == 1:
                self._walk_node(begin, past, depth)
            elif number == 5:  # noqa: PLR2004
                self._weights.add(self._check_tensor(begin, past))
            elif number == 11 and not depth:  # noqa: PLR2004
                self._walk_input(begin, past)
            elif number == 15:  # noqa: PLR2004
                msg = "it has sparse weights, which featx does not read"
                raise ValueError(msg)

    def _walk_input(self, start: int, end: int) -> None:
        """Read the name, the type and whether there is a shape."""
        name = self._read_name(start, end, 1)
        self._inputs[name] = (0, False)
        for path in self._find(start, end, 2, 1):
            fields = {number: begin for number, begin, _ in self._read(*path)}
            self._inputs[name] = (fields.get(1, 0), 2 in fields)  # noqa: PLR2004

    def _find(self, start: int, end: int, *numbers: int) -> Iterator[tuple[int, int]]:
        """Yield where the messages lie that are reached by these numbers, one inside the other."""
        for number, begin, past in self._read(start, end):
            if number == numbers[0]:
                yield from self._find(begin, past, *numbers[1:]) if numbers[1:] else [(begin, past)]

    def _walk_node(self, start: int, end: int, depth: int) -> None:
        """Walk over the attributes of an operation, in which tensors and graphs may be."""
        parts: dict[int, list[tuple[int, int]]] = {}
        for number, begin, past in self._read(start, end):
            parts.setdefault(number, []).append((begin, past))
            if number != 5:  # noqa: PLR2004
                continue
            for kind, first, last in self._read(begin, past):
                if kind in {5, 10}:
                    self._check_tensor(first, last)
                elif kind in {6, 11}:
                    self._walk_graph(first, last, depth + 1)
        texts = {number: [self._read_text(*part) for part in found] for number, found in parts.items() if number != 5}  # noqa: PLR2004
        name, domain = "".join(texts.get(4, ())), "".join(texts.get(7, ()))
        if domain not in _DOMAINS:
            self._found.custom = self._found.custom or f"{name} of {domain}"
        self._found.computes_shapes |= name in _NESTED
        if name == "Constant":
            self._constants |= set(texts.get(2, ()))
        elif name in _SIZED | _SIZED_BY_ALL:
            inputs = texts.get(1, [])
            self._sizes |= set(inputs if name in _SIZED_BY_ALL else inputs[1:]) - {""}

    def _check_tensor(self, start: int, end: int) -> str:
        """Check that the values of a tensor are there, and return its name."""
        parts: dict[int, list[tuple[int, int]]] = {}
        for number, begin, past in self._read(start, end, packed=(1,)):
            parts.setdefault(number, []).append((begin, past))
        name = "".join(self._read_text(*part) for part in parts.get(8, ()))
        kind = parts.get(2, [(0, 0)])[-1][0]
        if kind not in _SIZES:
            msg = f"its tensor {name[:60]!r} has values of type {kind}, which featx does not read"
            raise ValueError(msg)
        wanted = math.prod([_SIZES[kind], *itertools.chain(*(self._read_numbers(*part) for part in parts.get(1, ())))])
        held = sum(past - begin for begin, past in parts.get(_RAW, ()))
        for number, least in _VALUES.items():
            held += sum((past - begin) // least for begin, past in parts.get(number, ())) * _SIZES[kind]
        if parts.get(_LOCATION, [(0, 0)])[-1][0] == 1:
            held = self._find_external(dict(self._read_pair(*part) for part in parts.get(_EXTERNAL_DATA, ())), wanted)
        if held < wanted:
            msg = f"its tensor {name[:60]!r} should have {wanted:,} bytes, but the file holds {held:,} of them"
            raise ValueError(msg)
        self._found.n_bytes += wanted
        return name

    def _find_external(self, entry: dict[str, str], wanted: int) -> int:
        """Return how many bytes of a tensor lie in another file of the folder."""
        location, offset = entry.get("location", ""), int(entry.get("offset", "0"))
        path = (self._folder / location).resolve()
        if not location or not path.is_relative_to(self._folder):
            msg = f"its weights lie outside its folder, in {location[:100]!r}"
            raise ValueError(msg)
        if not path.is_file():
            msg = f"its weights lie in {location[:100]}, which is missing; copy it to {self._folder}"
            raise ValueError(msg)
        self._external[location] = path
        length = int(entry.get("length", wanted))
        return max(0, min(length, path.stat().st_size - offset)) if offset >= 0 else 0

    def _read(self, start: int, end: int, packed: tuple[int, ...] = ()) -> Iterator[tuple[int, int, int]]:
        """Yield the number of each field, and where it lies; for a number, its value twice.

        Args:
            start: Where the message begins.
            end: Where it ends.
            packed: The numbers of fields that hold numbers, packed or not: for these, always where they lie.
        """
        at = start
        while at < end:
            self._n_messages += 1
            if self._n_messages > _MOST_MESSAGES:
                msg = f"it has more than {_MOST_MESSAGES:,} parts"
                raise ValueError(msg)
            begun, (key, at) = at, self._read_varint(at, end)
            number, kind = key >> 3, key & 7
            if kind == 0:
                begun = at
                value, at = self._read_varint(at, end)
                yield (number, begun, at) if number in packed else (number, value, value)
                continue
            length, at = self._read_varint(at, end) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)  # noqa: PLR2004
            if length < 0 or at + length > end:
                what = "is truncated or damaged" if begun else "is not an ONNX file"
                msg = f"it {what} at byte {begun:,}"
                raise ValueError(msg)
            yield number, at, at + length
            at += length

    def _read_varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift <= _VARINT_BITS:
            byte = self._data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:  # noqa: PLR2004 - the last byte
                return value, at
        msg = f"it is truncated or damaged at byte {at:,}"
        raise ValueError(msg)

    def _read_numbers(self, start: int, end: int) -> list[int]:
        numbers = []
        while start < end:
            number, start = self._read_varint(start, end)
            numbers.append(number)
        return numbers

    def _read_text(self, start: int, end: int) -> str:
        return bytes(self._data[start : min(end, start + _MOST_TEXT)]).decode("utf-8", "replace")

    def _read_name(self, start: int, end: int, wanted: int) -> str:
        return next((self._read_text(a, b) for number, a, b in self._read(start, end) if number == wanted), "")

    def _read_pair(self, start: int, end: int) -> tuple[str, str]:
        return self._read_name(start, end, 1), self._read_name(start, end, 2)
