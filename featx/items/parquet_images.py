"""Images inside Parquet files, as Hugging Face writes data sets: a struct of bytes and path, or bytes alone.

Planning reads the small columns only. Images are read by row group, a few at a time; one that is
missing, empty or in a row group that cannot be read is an item that fails, and the others follow.
"""

import errno
import functools
import json
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from featx.errors import SourceError
from featx.items.columns import Columns, Table, advise, choose_columns, normalise_title
from featx.items.folders import FolderReader
from featx.items.manifest import MAX_FILE_BYTES, UNKNOWN_SIZE, FileStat, Item, Manifest
from featx.items.shards import Shards
from featx.items.tables import to_cell
from featx.items.tar_shards import split_id
from featx.wording import format_plural, join_first

_USUAL = ("image", "img")

#: Bytes of images that are read at once, and that are kept for threads that are a few items behind.
_READ_BYTES, _KEPT_BYTES = 8 * 2**20, 128 * 2**20

_NAMED_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class _Rows:
    """Consecutive images of a file; `cells` is an Arrow array."""

    shard: str
    start: int
    cells: Any

    def holds(self, shard: str, row: int) -> bool:
        return shard == self.shard and self.start <= row < self.start + len(self.cells)


@dataclass(slots=True)
class _Stream:
    """A row group that is read from its start: the rows that follow `row` are in `batches`."""

    shard: str
    group: int
    row: int
    batches: Iterator[Any]


@dataclass(frozen=True, slots=True)
class _Groups:
    """The row groups of a file.

    Attributes:
        mtime_ns: Time of the file.
        starts: First row of each, and the number of all rows.
        sizes: Rows of each that are read at once.
        complete: Whether each is known to hold the bytes of all its images.
    """

    mtime_ns: int
    starts: Sequence[int]
    sizes: Sequence[int]
    complete: Sequence[bool]


class ParquetImageReader:
    """Reads images by ids such as `train-00000-of-00002.parquet/17/cat.jpg`, of which the number is the row."""

    def __init__(self, files: Mapping[str, Path], column: str) -> None:
        self._files, self._column = files, column
        self._groups: dict[str, _Groups] = {}
        self._opened: tuple[str, Any] = "", None
        self._kept: list[_Rows] = []
        self._stream: _Stream | None = None
        self._broken: dict[tuple[str, int], tuple[int, str]] = {}
        self._lock = threading.Lock()

    def stat(self, item_id: str) -> FileStat:
        """Return the time of the file, without a size; the time now, if the image may lie in a file of its own.

        Raises:
            OSError: If there is no such file or row.
        """
        shard, row = self._find(item_id)
        groups = self._groups[shard]
        is_complete = groups.complete[bisect_right(groups.starts, row) - 1]
        return FileStat(UNKNOWN_SIZE, groups.mtime_ns if is_complete else time.time_ns())

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of the image, or all of them if `n_bytes` is None.

        Raises:
            OSError: If there is no such row, it has no image, or its row group is damaged.
        """
        shard, row = self._find(item_id)
        with self._lock:
            data, path = self._fetch(shard, row)
        if data is None and path:
            return FolderReader(self._files[shard].parent).read(path, n_bytes)
        if data is None:
            msg = "the row has no image"
            raise OSError(msg)
        if len(data) > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES:,} bytes", item_id)
        return data if n_bytes is None else data[:n_bytes]

    def _find(self, item_id: str) -> tuple[str, int]:
        shard, rest = split_id(item_id, ".parquet")
        number = rest.partition("/")[0]
        if shard in self._files and number.isdecimal():
            with self._lock:
                if shard not in self._groups:
                    self._groups[shard] = self._inspect(shard)
            if int(number) < self._groups[shard].starts[-1]:
                return shard, int(number)
        msg = f"the source has no item {item_id!r}"
        raise FileNotFoundError(msg)

    def _open(self, shard: str) -> Any:  # noqa: ANN401 - pyarrow has no types
        import pyarrow as pa
        from pyarrow import parquet

        if self._opened[0] != shard:
            try:
                # With a buffer, pyarrow reads page by page; without one, a column of a whole row group at once.
                self._opened = shard, parquet.ParquetFile(self._files[shard], buffer_size=2**20, pre_buffer=False)
            except pa.ArrowException as error:
                raise OSError(str(error)) from error
        return self._opened[1]

    def _inspect(self, shard: str) -> _Groups:
        mtime_ns, metadata = self._files[shard].stat().st_mtime_ns, self._open(shard).metadata
        starts, sizes, complete = [0], list[int](), list[bool]()
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = map(group.column, range(group.num_columns))
            column = next(one for one in columns if one.path_in_schema in {self._column, f"{self._column}.bytes"})
            statistics = column.statistics
            starts.append(starts[-1] + group.num_rows)
            sizes.append(max(1, _READ_BYTES * group.num_rows // max(1, column.total_uncompressed_size)))
            complete.append(statistics is not None and statistics.has_null_count and not statistics.null_count)
        return _Groups(mtime_ns, starts, sizes, complete)

    def _fetch(self, shard: str, row: int) -> tuple[bytes | None, str]:
        """Return the bytes of an image and its path, either of which may be missing. Raises OSError."""
        group = bisect_right(self._groups[shard].starts, row) - 1
        while not (rows := next((rows for rows in reversed(self._kept) if rows.holds(shard, row)), None)):
            first, reason = self._broken.get((shard, group), (row + 1, ""))
            if row >= first:
                raise OSError(reason)
            self._read_on(shard, group, row)
        cells, at = rows.cells, row - rows.start
        try:
            if not _is_struct(cells.type):
                return cells[at].as_py(), ""
            has_path = cells.type.get_field_index("path") >= 0
            return cells.field("bytes")[at].as_py(), (has_path and cells.field("path")[at].as_py()) or ""
        except UnicodeError as error:
            msg = f"its path is not text: {error}"
            raise OSError(msg) from error

    def _read_on(self, shard: str, group: int, row: int) -> None:
        """Read the next images of a row group, from its start if they are not ahead of the last ones."""
        import pyarrow as pa

        groups, stream = self._groups[shard], self._stream
        if stream is None or (stream.shard, stream.group) != (shard, group) or stream.row > row:
            stream = self._stream = _Stream(shard, group, groups.starts[group], self._start(shard, group))
        try:
            batch = next(stream.batches, None)
        except (OSError, pa.ArrowException) as error:
            self._stream = None
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk, which may be gone in the next run
            batch, reason = None, f": {' '.join(str(error).split())[:120]}"
        else:
            reason = ""
        if batch is None or not len(batch):
            self._stream = None
            where = f"row group {group} of {shard} is damaged from row {stream.row}"
            self._broken[shard, group] = (stream.row, f"{where}{reason}")
            return
        self._kept.append(_Rows(shard, stream.row, batch.column(0)))
        stream.row += len(batch)
        while len(self._kept) > 1 and sum(rows.cells.nbytes for rows in self._kept) > _KEPT_BYTES:
            self._kept.pop(0)

    def _start(self, shard: str, group: int) -> Iterator[Any]:
        size = self._groups[shard].sizes[group]
        # A generator: what opening the row group raises is raised where the rows are read.
        yield from self._open(shard).iter_batches(size, row_groups=[group], columns=[self._column], use_threads=False)


def _is_struct(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa

    return bool(pa.types.is_struct(kind))


def _is_bytes(kind: Any) -> bool:  # noqa: ANN401 - as above
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_images(kind: Any) -> bool:  # noqa: ANN401 - as above
    if not _is_struct(kind):
        return _is_bytes(kind)
    at = kind.get_field_index("bytes")
    return at >= 0 and _is_bytes(kind.field(at).type)


def find_image_column(path: Path, named: str | None = None) -> str | None:
    """Find the column of a Parquet file that holds images; None if there is none.

    Args:
        path: The file.
        named: The column that the user named.

    Raises:
        SourceError: If the file cannot be read, or several columns may hold the images.
    """
    schema = _read_schema(path)
    found = [one.name for one in schema if _holds_images(one.type)]
    if named:
        return named if named in found else None
    features = _read_features(schema)
    structs = [name for name in found if _is_struct(schema.field(name).type)]
    marked = [name for name in found if features.get(name, {}).get("_type") == "Image"]
    usual = [name for name in found if normalise_title(name) in _USUAL]
    for some in (marked, structs, usual):
        chosen = [name for name in some if name in usual] or some
        if len(chosen) > 1:
            names = join_first(list(map(repr, chosen)), _NAMED_COLUMNS)
            msg = f"several columns of {str(path)!r} hold images: {names}; choose one with {advise('path', chosen[0])}"
            raise SourceError(msg)
        if chosen:
            return str(chosen[0])
    return None


def _read_schema(path: Path) -> Any:  # noqa: ANN401 - pyarrow has no types
    return _read(path, lambda file: file.schema_arrow)


def _read(path: Path, get: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as above
    """Return what a function gets from a Parquet file.

    Raises:
        SourceError: If it cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return get(file)
    except (OSError, pa.ArrowException) as error:
        msg = f"{str(path)!r} cannot be read as Parquet: {error}; download it again, or name the other files"
        raise SourceError(msg) from error


def _read_features(schema: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401 - as above
    """Return what Hugging Face's metadata say of each column; nothing where they are not of the usual form."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: about for name, about in features.items() if isinstance(about, dict)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # other programs write Parquet without them


def _list_classes(feature: Mapping[str, Any]) -> list[str]:
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


@dataclass(frozen=True, slots=True)
class _Part:
    """A file: its name, where it is, its schema and the number of its rows."""

    name: str
    path: Path
    schema: Any
    n_rows: int

    def read(self, column: str, source: str) -> list[str]:
        """Read a column as text; the numbers of classes become their names, and -1 none.

        Raises:
            SourceError: If it cannot be read, or a number is not that of a class.
        """
        if column not in self.schema.names:
            return [""] * self.n_rows
        values = _read(self.path, lambda file: file.read(columns=[column])).column(0).to_pylist()
        if not (names := _list_classes(_read_features(self.schema).get(column, {}))):
            return list(map(to_cell, values))
        labels: dict[int | None, str] = {**dict(enumerate(names)), -1: "", None: ""}
        if unknown := [value for value in values if value not in labels]:
            msg = (
                f"{self.name} of {source!r} has the class {unknown[0]!r} in the column {column!r}, whose metadata "
                f"name {len(names):,} classes; correct it, or choose another column with {advise('label')}"
            )
            raise SourceError(msg)
        return [labels[value] for value in values]

    def list_ids(self, column: str) -> list[str]:
        """Return the ids of the rows, with the names of the files that the images were, where these are known."""
        ids = [f"{self.name}/{row}" for row in range(self.n_rows)]
        kind = self.schema.field(column).type
        if not _is_struct(kind) or kind.get_field_index("path") < 0:
            return ids
        chunks = _read(self.path, lambda file: file.read(columns=[f"{column}.path"])).column(0).chunks
        paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
        names = (PurePosixPath(str(path or "").replace("\\", "/")).name for path in paths)
        return [f"{one}/{name}" if name else one for one, name in zip(ids, names, strict=True)]


def read_parquet_images(shards: Shards, columns: Columns) -> Manifest:
    """List the images inside Parquet files.

    Args:
        shards: The files.
        columns: Names of the columns, where they are not the usual ones; `path` is that of the images.

    Raises:
        SourceError: If a file cannot be read, has no images, or a column is missing.
    """
    parts = [_Part(name, path, *_read(path, _describe)) for name, path in shards.files.items()]
    column = find_image_column(parts[0].path, columns.path)
    for part in parts:
        if column is None or column not in part.schema.names or not _holds_images(part.schema.field(column).type):
            names = join_first(list(map(repr, part.schema.names)), _NAMED_COLUMNS)
            what = f"column {column!r} of images" if column else "column of images"
            msg = (
                f"{str(part.path)!r} has no {what}; its columns are {names}; name that of the bytes with "
                f"{advise('path')}, or the table of paths alone"
            )
            raise SourceError(msg)
    table = _make_table(parts, str(column), shards.source)
    if not table.n_rows:
        msg = f"{shards.source!r} has no rows; name files with images"
        raise SourceError(msg)
    splits = {} if columns.split else shards.find_splits()
    wanted = replace(columns, path=column, split="" if splits else columns.split)
    if columns.label is None and (label := _find_classes(parts)):
        wanted = replace(wanted, label=label)
    chosen = choose_columns(table, wanted)
    from_files = [splits.get(part.name, "") for part in parts for _ in range(part.n_rows)]
    rows = zip(*(chosen.cells[role] for role in ("path", "label", "split", "group")), from_files, strict=True)
    items = tuple(Item(item_id, label, own or split, group) for item_id, label, split, group, own in rows)
    named = {role: name for role, name in asdict(columns).items() if name is not None}
    notes = (f"Parquet files with images: {format_plural(len(parts), 'file')}", *chosen.notes)
    reader = ParquetImageReader(shards.files, str(column))
    return Manifest(items, reader, shards.source, reading={"columns": named} if named else {}, notes=notes)


def _describe(file: Any) -> tuple[Any, int]:  # noqa: ANN401 - pyarrow has no types
    return file.schema_arrow, file.metadata.num_rows


def _make_table(parts: Sequence[_Part], column: str, source: str) -> Table:
    """Make a table of all files, whose column of images holds the ids."""
    plain = [one.name for part in parts for one in part.schema if not (_is_nested(one.type) or _holds_images(one.type))]

    @functools.cache
    def read(name: str) -> list[str]:
        return [cell for part in parts for cell in (part.list_ids(name) if name == column else part.read(name, source))]

    n_rows = sum(part.n_rows for part in parts)
    return Table(f"the data set {source!r}", [column, *dict.fromkeys(plain)], n_rows, read, lambda row: f"row {row}")


def _is_nested(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa

    return bool(pa.types.is_nested(kind))


def _find_classes(parts: Sequence[_Part]) -> str | None:
    """Return the only column whose metadata name classes; None if there is none, or several."""
    found = Counter(
        name for part in parts for name, about in _read_features(part.schema).items() if _list_classes(about)
    )
    return next(iter(found)) if len(found) == 1 else None
