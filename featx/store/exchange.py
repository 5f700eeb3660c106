r"""Features in files that other tools read: NumPy's npz, Parquet and CSV, written from a store and read back.

Each format holds the features and the same columns. Text is valid Unicode: a byte NN of a name
that is not UTF-8 is spelled `\udcNN`, as in every file that featx writes.
"""

import csv
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError, StoreFormatError, UsageError
from featx.files import write_atomically, write_member
from featx.reporting import Progress
from featx.specs import DTYPES, EmbedSpec
from featx.store.feature_store import FeatureStore
from featx.store.layout import ITEM_COLUMNS, TEXT, choose_block_rows
from featx.store.verification import count_on, refuse_damage
from featx.wording import to_text

#: In this order. Sizes and times of files are left out: they serve only to embed again.
_COLUMNS = ("id", "label", "split", "group", "sha256", "width", "height")

#: Checksum blocks in one row group of a Parquet file, about 1 MiB: each group costs a kilobyte of the index.
_BLOCKS_PER_GROUP = 16

#: Formats with enough digits to read back the same number.
_SPELLINGS = {"float32": "%.9g", "float16": "%.5g"}

_SPEC = "spec"

#: What the readers raise on files that are damaged or not exports.
_DAMAGES = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(csv.Error, zipfile.BadZipFile, zlib.error),
)

_Items = Mapping[str, NDArray[Any]]
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Export:
    """The content of a file that `export_store` wrote.

    Attributes:
        features: float32 or float16 `(n_items, dim)`, bit for bit those of the store.
        items: `id`, `label`, `split`, `group`, `sha256` (text), `width`, `height` (px), each `(n_items,)`.
        spec: Spec of the features; None for CSV, which has no place for it.
    """

    features: NDArray[np.floating]
    items: _Items
    spec: EmbedSpec | None


def export_store(
    store: FeatureStore,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    r"""Write a store's features and items to a file that can be read without featx.

    The file is there whole or not at all. Writing it needs no memory for the features.

    - `.npz`: arrays `features`, one for each column, and `spec` (JSON); `np.load` reads them without pickle.
    - `.parquet`: `features` are lists of fixed size; the schema's metadata hold the `spec`.
    - `.csv`: UTF-8, lines end in CRLF; the features are called `f0`, `f1` and so on if they are float32,
      and `e0`, `e1` if they are float16, after NumPy's type letters.

    Args:
        store: The store.
        path: The file; its suffix selects the format.
        overwrite: Replace an existing file.
        progress: Called with the rows read and written so far, and twice the rows of the store.

    Returns:
        The path.

    Raises:
        UsageError: If no format has that suffix.
        StoreFormatError: If the store is damaged; nothing is written.
        StoreError: If the file exists or cannot be written.

    Examples:
        >>> import featx
        >>> store = featx.FeatureStore("features/colour.h5")
        >>> featx.export_store(store, "colour.parquet")
        PosixPath('colour.parquet')
        >>> import pandas as pd
        >>> pd.read_parquet("colour.parquet").shape
        (400, 8)
    """
    target = Path(path)
    write = _choose(_WRITERS, target)
    if target.exists() and not overwrite:
        msg = f"{target} exists; name another file, or replace it with --overwrite"
        raise StoreError(msg)
    if not target.parent.is_dir():
        msg = f"there is no folder {target.parent} to write {target.name} into; create it, or name another one"
        raise StoreError(msg)
    n_items = len(store)
    refuse_damage([store], count_on(progress, 0, 2 * n_items))
    try:
        with write_atomically(target) as temporary, temporary.open("xb") as file:
            write(file, store, _read_items(store), count_on(progress, n_items, 2 * n_items))
    except OSError as error:
        msg = f"{target} cannot be written: {error.strerror or error}; make room, or name another file"
        raise StoreError(msg) from error
    return target


def read_export(path: str | os.PathLike[str]) -> Export:
    """Read a file that `export_store` wrote.

    Args:
        path: The file; its suffix selects the format.

    Raises:
        UsageError: If no format has that suffix.
        StoreError: If there is no such file.
        StoreFormatError: If it is not an export of featx, or is damaged.

    Examples:
        >>> import featx
        >>> store = featx.FeatureStore("features/colour.h5")
        >>> export = featx.read_export(featx.export_store(store, "colour.npz"))
        >>> export.features.shape, export.items["label"][:2].tolist()
        ((400, 240), ['0', '0'])
    """
    source = Path(path)
    read = _choose(_READERS, source)
    if not source.is_file():
        msg = f"there is no file {source}; `featx export STORE {source}` writes one"
        raise StoreError(msg)
    try:
        export = read(source)
        _check_shapes(export)
    except _DAMAGES as error:
        reason = " ".join(str(error).split())
        msg = f"{source} is damaged or not an export of featx: {reason}; export the store again"
        raise StoreFormatError(msg) from error
    return export


def _choose(functions: Mapping[str, _Function], path: Path) -> _Function:
    if path.suffix.lower() not in functions:
        msg = f"{path} ends in {path.suffix or 'nothing'!r}; name a file that ends in {', '.join(functions)}"
        raise UsageError(msg)
    return functions[path.suffix.lower()]


def _read_items(store: FeatureStore) -> dict[str, NDArray[Any]]:
    return {
        name: np.array([to_text(text) for text in store.columns[name].tolist()], np.str_)
        if ITEM_COLUMNS[name] == TEXT
        else store.columns[name]
        for name in _COLUMNS
    }


def _write_npz(file: IO[bytes], store: FeatureStore, items: _Items, note: Progress) -> None:
    def iterate_blocks() -> Iterator[slice]:
        for first, past in _list_groups(store):
            yield slice(first, past)
            note(past, len(store))

    with zipfile.ZipFile(file, "w") as archive:  # as `np.savez`, which would read all features of an index at once
        write_member(archive, "features.npy", store.features, iterate_blocks())
        for name, values in {**items, _SPEC: np.array(store.spec.to_json())}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)


def _read_npz(path: Path) -> Export:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        items = {name: arrays[name] for name in _COLUMNS}
        return Export(arrays["features"], items, _read_spec(str(arrays[_SPEC])))


def _write_parquet(file: IO[bytes], store: FeatureStore, items: _Items, note: Progress) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = [pa.string() if ITEM_COLUMNS[name] == TEXT else pa.int32() for name in _COLUMNS]
    rows = pa.list_(pa.from_numpy_dtype(store.features.dtype), store.dim)
    fields = [*zip(_COLUMNS, kinds, strict=True), ("features", rows)]
    schema = pa.schema([pa.field(*field, nullable=False) for field in fields], {_SPEC: store.spec.to_json()})
    # Dense features hardly ever repeat: neither a dictionary nor compression makes them smaller.
    layout = {"compression": "none", "use_dictionary": ["label", "split", "group"]}
    with parquet.ParquetWriter(file, schema, **layout) as writer:
        for first, past in _list_groups(store):
            arrays = [
                pa.array(items[name][first:past].tolist(), kind) for name, kind in zip(_COLUMNS, kinds, strict=True)
            ]
            values = pa.array(store.features[first:past].reshape(-1))
            writer.write_batch(pa.record_batch([*arrays, pa.FixedSizeListArray.from_arrays(values, type=rows)], schema))
            note(past, len(store))


def _list_groups(store: FeatureStore) -> Iterator[tuple[int, int]]:
    step = _BLOCKS_PER_GROUP * choose_block_rows(store.dim, store.spec.dtype)
    for first in range(0, len(store), step):
        yield first, min(first + step, len(store))


def _read_parquet(path: Path) -> Export:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        kind = file.schema_arrow.field("features").type
        spec = _read_spec(file.schema_arrow.metadata[_SPEC.encode()].decode())
        table = file.read()
    chunks = [chunk.flatten().to_numpy() for chunk in table["features"].chunks]
    flat = np.concatenate(chunks) if chunks else np.empty(0, kind.value_type.to_pandas_dtype())
    items = {
        name: np.array(table[name].to_pylist(), np.str_ if ITEM_COLUMNS[name] == TEXT else ITEM_COLUMNS[name])
        for name in _COLUMNS
    }
    return Export(flat.reshape(-1, kind.list_size), items, spec)


def _write_csv(file: IO[bytes], store: FeatureStore, items: _Items, note: Progress) -> None:
    spell = _SPELLINGS[store.spec.dtype].__mod__
    columns = zip(*(items[name].tolist() for name in _COLUMNS), strict=True)
    with io.TextIOWrapper(file, "utf-8", newline="") as text:
        writer = csv.writer(text)  # lines must end in CRLF, or a lone CR in a name would not be quoted
        writer.writerow([*_COLUMNS, *_name_features(store.features.dtype.char, store.dim)])
        for done, (cells, row) in enumerate(zip(columns, store.features, strict=True), 1):
            writer.writerow([*cells, *map(spell, row.tolist())])
            note(done, len(store))


def _name_features(letter: str, dim: int) -> list[str]:
    return [f"{letter}{number}" for number in range(dim)]


def _read_csv(path: Path) -> Export:
    n_columns = len(_COLUMNS)
    _refuse_cut(path)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        letter, dim = header[n_columns][0], len(header) - n_columns
        if header != [*_COLUMNS, *_name_features(letter, dim)]:
            msg = f"its columns are not {', '.join(_COLUMNS)} and {letter}0 to {letter}{dim - 1}"
            raise ValueError(msg)
        cells, rows = [], []
        for row in reader:
            cells.append(row[:n_columns])
            rows.append(np.array([float(cell) for cell in row[n_columns:]], np.dtype(letter)))
    columns = zip(*cells, strict=True) if cells else [()] * n_columns
    items = {
        name: np.array(values, np.str_) if ITEM_COLUMNS[name] == TEXT else np.array(values, ITEM_COLUMNS[name])
        for name, values in zip(_COLUMNS, columns, strict=True)
    }
    return Export(np.array(rows, np.dtype(letter)).reshape(len(rows), dim), items, None)


def _refuse_cut(path: Path) -> None:
    """Refuse a file that ends within a line: its last number may lack digits and still be valid."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        if file.read() != b"\n":
            msg = "its last line is incomplete"
            raise ValueError(msg)


def _read_spec(text: str) -> EmbedSpec:
    return EmbedSpec.from_dict(json.loads(text))


def _check_shapes(export: Export) -> None:
    features = export.features
    if features.ndim != 2 or features.dtype.name not in DTYPES:  # noqa: PLR2004 - rows and columns
        msg = f"{features.dtype} {features.shape} cannot be features"
        raise ValueError(msg)
    if {values.shape for values in export.items.values()} != {(len(features),)}:
        msg = f"its columns do not all have {len(features)} rows"
        raise ValueError(msg)


_WRITERS: Mapping[str, Callable[[IO[bytes], FeatureStore, _Items, Progress], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}
_READERS: Mapping[str, Callable[[Path], Export]] = {".npz": _read_npz, ".parquet": _read_parquet, ".csv": _read_csv}
