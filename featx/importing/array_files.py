"""Features in NumPy's files: plain `.npy` and `.npz`, and what thingsvision and clip-retrieval write.

- thingsvision: `features.npy`, or numbered parts of it, and `file_names.txt`, a line for each row;
  `thingsvision/utils/storing/helpers.py` and `utils/data/helpers.py` in its repository.
- clip-retrieval: `img_emb/img_emb_N.npy`, and the same rows in `metadata/metadata_N.parquet`;
  `clip_retrieval/clip_inference/writer.py` in its repository.
- npy and npz: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import itertools
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from featx.files import forget_pages, read_array_header
from featx.importing.parts import AGAIN, Part, check_matrix, check_size, cut_rows
from featx.items.tables import read_parquet, to_cell

#: Usual names of the features, of which a file must have one.
FEATURES = ("features", "embeddings", "embedding", "feats", "X", "x", "vectors", "arr_0")

#: Usual names of other arrays, where a table would have another name.
_COLUMNS = {"ids": "id", "names": "id", "filenames": "id", "paths": "id", "y": "label", "labels": "label"} | {
    "targets": "label",
    "splits": "split",
    "groups": "group",
}


def open_npy(path: Path, tool: str = "npy", columns: Mapping[str, Sequence[str]] | None = None) -> Part:
    """Open a `.npy` file, which is mapped into memory."""
    with path.open("rb") as stream:
        shape, _, dtype = _read_header(stream)
        declared, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - stream.tell()
    n_rows, dim = check_matrix(shape, dtype)
    if declared > held:
        msg = f"it is cut: it declares {dtype} {shape}, which takes {declared:,} bytes, and holds {held:,}; {AGAIN}"
        raise ValueError(msg)

    def read() -> Iterator[NDArray[Any]]:
        rows = np.lib.format.open_memmap(path, mode="r")
        for first, past in cut_rows(n_rows, dim, rows.dtype):
            yield rows[first:past].reshape(past - first, dim)
            forget_pages(rows)

    return Part(path, tool, n_rows, dim, dtype, read, columns or {})


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read what `read_array_header` reads, and check it. Raises ValueError."""
    try:
        shape, by_columns, dtype = read_array_header(stream)
    except ValueError as error:
        msg = f"it is not an array of NumPy, or cut or damaged at its start ({error}); {AGAIN}"
        raise ValueError(msg) from error
    if min(shape, default=0) < 0:
        msg = f"its array declares the shape {shape}; {AGAIN}"
        raise ValueError(msg)
    return shape, by_columns, dtype


def open_npz(path: Path) -> Part:
    """Open a `.npz` file: an array with one of the `FEATURES` names, and arrays of text or numbers beside it."""
    headers = _read_headers(path)
    name, *others = [name for name in FEATURES if name in headers] or [""]
    if not name or others:
        what = f"{name} and {others[0]} may both be the features" if others else f"its arrays are {', '.join(headers)}"
        msg = f"{what}; call the features {FEATURES[0]}, and save no other array under such a name"
        raise ValueError(msg)
    shape, by_columns, dtype = headers[name]
    n_rows, dim = check_matrix(shape, dtype, name)
    if by_columns:
        msg = f"{name} is stored by columns; save np.ascontiguousarray({name})"
        raise ValueError(msg)

    def read() -> Iterator[NDArray[Any]]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            _read_header(stream)
            for first, past in cut_rows(n_rows, dim, dtype):
                data = stream.read((past - first) * dim * dtype.itemsize)
                yield np.frombuffer(data, dtype).reshape(past - first, dim)

    columns = {}
    with zipfile.ZipFile(path) as archive:
        for other, (sides, _, kind) in headers.items():
            if other in {*_COLUMNS, *_COLUMNS.values()} and sides != (n_rows,):
                advice = f"save {other}.argmax(axis=1)" if sides[:1] == (n_rows,) else "save one for each row"
                msg = f"{other} has the shape {sides}, and the features have {n_rows:,} rows; {advice}"
                raise ValueError(msg)
            if sides == (n_rows,) and kind.hasobject:
                msg = f"{other} holds Python objects, which may run code when they are read; save it as text"
                raise ValueError(msg)
            if sides == (n_rows,):
                with archive.open(f"{other}.npy") as stream:
                    values = np.lib.format.read_array(stream, allow_pickle=False)
                text = np.strings.decode(values, "utf-8") if kind.kind == "S" else values
                columns[_COLUMNS.get(other, other)] = [to_cell(value) for value in text.tolist()]
    return Part(path, "featx" if "spec" in headers else "npz", n_rows, dim, dtype, read, columns)


def _read_headers(path: Path) -> dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]]:
    """Read the shape, order and type of each array, without its values."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_size(sum(member.file_size for member in members), path.stat().st_size)
        for member in members:
            with archive.open(member) as stream:
                shape, by_columns, dtype = _read_header(stream)
                held = member.file_size - stream.tell()
            if not (dtype.hasobject or math.prod(shape) * dtype.itemsize == held):
                msg = f"{member.filename} declares {dtype} {shape} and holds {held:,} bytes"
                raise ValueError(msg)
            headers[member.filename.removesuffix(".npy")] = shape, by_columns, dtype
    return headers


def open_thingsvision(folder: Path) -> list[Part]:
    """Open the folder that thingsvision wrote, which must have `file_names.txt`."""
    names = (folder / "file_names.txt").read_text("utf-8", "surrogateescape").rstrip("\n").split("\n")
    opened = [open_npy(path) for path in _sort_by_number(folder.glob("features*.npy"))]
    if not opened:
        msg = "it has no features.npy; save the features in that format (pt, mat and txt files are not read)"
        raise ValueError(msg)
    if len(names) != sum(part.n_rows for part in opened):
        msg = f"file_names.txt has {len(names):,} lines for {sum(part.n_rows for part in opened):,} rows"
        raise ValueError(msg)
    left = iter(names)
    return [
        replace(part, tool="thingsvision", columns={"id": list(itertools.islice(left, part.n_rows))}) for part in opened
    ]


def open_clip_retrieval(folder: Path) -> list[Part]:
    """Open the folder that `clip-retrieval inference` wrote."""
    parts = []
    for path in _sort_by_number((folder / "img_emb").glob("img_emb_*.npy")):
        metadata = folder / "metadata" / f"metadata_{path.stem.removeprefix('img_emb_')}.parquet"
        if not metadata.is_file():
            msg = f"{path.name} has no {metadata.relative_to(folder)}, which names its rows"
            raise ValueError(msg)
        table = read_parquet(str(metadata), f"the table {str(metadata)!r}")
        parts.append(open_npy(path, "clip-retrieval", {name: table.read(name) for name in table.columns}))
    return parts


def _sort_by_number(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])
