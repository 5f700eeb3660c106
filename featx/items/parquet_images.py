"""Images inside Parquet files, as Hugging Face writes data sets: a struct of bytes and path, or bytes alone.

Planning reads the small columns only. Images are read by row group, a few at a time; one that is
missing, empty or in a row group that cannot be read is an item that fails, and the others follow.
"""

import contextlib
import errno
import functools
import io
import json
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from featx.errors import SourceError
from featx.items.columns import Columns, Table, advise, choose_columns, normalise_title
from featx.items.manifest import MAX_FILE_BYTES, UNKNOWN_SIZE, FileStat, Item, Manifest
from featx.items.shards import ShardFile, ShardReader, Shards
from featx.items.tables import open_reader, to_cell
from featx.prefetching import prefetch
from featx.urls import find_parent
from featx.wording import join_first

if TYPE_CHECKING:
    from featx.remote import RangeFile

_USUAL = ("image", "img")
_BYTES = frozenset({"binary", "large_binary", "binary_view"})

#: Bytes of images that are read at once; and what is kept for threads that are behind, of the last groups and files.
_READ_BYTES, _KEPT_BATCHES, _KEPT_GROUPS, _KEPT_FILES = 8 * 2**20, 8, 2, 2

#: Rows that are read at once where an image that occurs again may be stored once: sizes say nothing then.
_REPEATED_ROWS = 16

#: Files at URLs that are opened at one time.
_AT_ONCE = 8

_NAMED_COLUMNS = 12


@dataclass(slots=True)
class _Group:
    """A row group that is read from its start; the last images are kept.

    Attributes:
        row: Row of the file that is read next.
        batches: The images that follow, as Arrow record batches.
        kept: The last of them, each with its first row.
        reason: Why the rest cannot be read; empty if it can.
    """

    row: int
    batches: Iterator[Any]
    kept: deque[tuple[int, Any]]
    reason: str = ""

    def find(self, row: int) -> tuple[bytes | None, str]:
        """Return the bytes of an image and its path, either of which may be missing. Raises OSError."""
        while row >= self.row and not self.reason:
            self._read_on()
        for first, cells in self.kept:
            if first <= row < first + len(cells):
                cell = cells[row - first].as_py()
                return (cell.get("bytes"), cell.get("path") or "") if isinstance(cell, dict) else (cell, "")
        raise OSError(self.reason)

    def _read_on(self) -> None:
        import pyarrow as pa

        try:
            batch = next(self.batches)
        except (OSError, pa.ArrowException, StopIteration) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk, which may be gone in the next run
            self.reason = f"its row group is damaged from row {self.row} ({' '.join(str(error).split())[:120]})"
        else:
            self.kept.append((self.row, batch.column(0)))
            self.row += len(batch)


class ParquetReader:
    """Reads the images of a file by their rows, with or without a name after it: `17` or `17/cat.jpg`."""

    def __init__(self, shard: ShardFile, column: str | None) -> None:
        self._file, self._mtime_ns = _open(shard)
        self._shard = shard
        self._column = _choose_image_column(shard, self._file.schema_arrow, column) or ""
        self._starts, self._sizes, self._complete = [0], list[int](), list[bool]()
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            names = {self._column, f"{self._column}.bytes"}
            chunk = next(one for one in map(group.column, range(group.num_columns)) if one.path_in_schema in names)
            self._starts.append(self._starts[-1] + group.num_rows)
            size = max(1, _READ_BYTES * group.num_rows // max(1, chunk.total_uncompressed_size))
            is_repeated = any("DICTIONARY" in encoding for encoding in chunk.encodings)
            self._sizes.append(min(size, _REPEATED_ROWS) if is_repeated else size)
            counts = chunk.statistics
            self._complete.append(counts is not None and counts.has_null_count and not counts.null_count)
        self._groups: dict[int, _Group] = {}
        self._lock = threading.Lock()

    def stat(self, item_id: str) -> FileStat:
        """Return the time of the file without a size; the time now, if images may lie in files of their own.

        Raises:
            OSError: If there is no such row.
        """
        _, group = self._find(item_id)
        return FileStat(UNKNOWN_SIZE, self._mtime_ns if self._complete[group] else time.time_ns())

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of the image, or all of them if `n_bytes` is None.

        Raises:
            OSError: If there is no such row, it has no image, or its row group is damaged.
        """
        row, group = self._find(item_id)
        with self._lock:
            data, path = self._fetch(row, group)
        if data is None and path:
            return open_reader(find_parent(self._shard.where), [path]).read(path, n_bytes)
        if data is None:
            msg = "the row has no image"
            raise OSError(msg)
        if len(data) > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES:,} bytes", item_id)
        return data if n_bytes is None else data[:n_bytes]

    def _find(self, item_id: str) -> tuple[int, int]:
        number = item_id.partition("/")[0]
        if not number.isdecimal() or int(number) >= self._starts[-1]:
            msg = f"the file has no row {number!r}"
            raise FileNotFoundError(msg)
        return int(number), bisect_right(self._starts, int(number)) - 1

    def _fetch(self, row: int, number: int) -> tuple[bytes | None, str]:
        group = self._groups.get(number)
        if group is None or (group.kept and row < group.kept[0][0]):  # it is before those that are kept
            size, columns = self._sizes[number], [self._column]
            batches = self._file.iter_batches(size, row_groups=[number], columns=columns, use_threads=False)
            group = _Group(self._starts[number], batches, deque(maxlen=_KEPT_BATCHES))
            self._groups[number] = group
            if len(self._groups) > _KEPT_GROUPS:
                del self._groups[next(iter(self._groups))]
        try:
            return group.find(row)
        except OSError as error:
            if error.errno is not None:  # of the disk, which may be gone next time; its batches are not
                self._groups.pop(number, None)
            raise


def _open(shard: ShardFile, *, is_planning: bool = False) -> tuple[Any, int]:
    """Open a Parquet file, for its small columns in planning, or for its images; return its time or version too.

    Raises:
        SourceError: If it cannot be read.
    """
    from pyarrow import parquet

    source: Any
    source, _, version = shard.open()
    if isinstance(source, io.RawIOBase):
        source = cast("RangeFile", source).share()
    else:  # pyarrow reads those on disk faster by itself
        source.close()
        source = shard.where
    with _translate_errors(shard):
        # With a buffer, pyarrow reads page by page; without one, a column of a whole row group at once. To buffer
        # before is to read small columns that lie side by side together.
        return parquet.ParquetFile(source, buffer_size=2**20, pre_buffer=is_planning), version


@contextlib.contextmanager
def _translate_errors(shard: ShardFile) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{shard.name!r} cannot be read as Parquet: {reason}; download it again, or name the other files"
        raise SourceError(msg) from error


def _is_struct(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    return str(kind).startswith("struct") and kind.get_field_index("bytes") >= 0


def _holds_images(kind: Any) -> bool:  # noqa: ANN401 - as above
    return str(kind.field("bytes").type if _is_struct(kind) else kind) in _BYTES


def find_image_column(shard: ShardFile, named: str | None = None) -> str | None:
    """Find the column of a Parquet file that holds images; None if there is none.

    Args:
        shard: The file.
        named: The column that the user named.

    Raises:
        SourceError: If the file cannot be read, or several columns may hold the images.
    """
    with _open(shard)[0] as file:
        return _choose_image_column(shard, file.schema_arrow, named)


def _choose_image_column(shard: ShardFile, schema: Any, named: str | None) -> str | None:  # noqa: ANN401 - pyarrow has no types
    found = [one.name for one in schema if _holds_images(one.type)]
    if named:
        return named if named in found else None
    features = _read_features(schema)
    marked = [name for name in found if features.get(name, {}).get("_type") == "Image"]
    structs = [name for name in found if _is_struct(schema.field(name).type)]
    usual = [name for name in found if normalise_title(name) in _USUAL]
    some = marked or structs or usual
    chosen = [name for name in some if name in usual] or some
    if len(chosen) > 1:
        names = join_first(list(map(repr, chosen)), _NAMED_COLUMNS)
        msg = f"several columns of {shard.name!r} hold images: {names}; choose one with {advise('path', chosen[0])}"
        raise SourceError(msg)
    return chosen[0] if chosen else None


def _read_features(schema: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401 - pyarrow has no types
    """Return what Hugging Face's metadata say of each column; nothing where they are not of the usual form."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: about for name, about in features.items() if isinstance(about, dict)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # other programs write Parquet without them


def _list_classes(feature: Mapping[str, Any]) -> list[str]:
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


class _Part:
    """A file: its name, where it is, its schema, small columns and number of rows, and its classes by column."""

    def __init__(self, name: str, shard: ShardFile, named: str | None) -> None:
        self.name, self.shard = name, shard
        with _translate_errors(shard), _open(shard, is_planning=True)[0] as file:
            self.schema, self.n_rows = file.schema_arrow, file.metadata.num_rows
            self.column = _choose_image_column(shard, self.schema, named)
            self.plain = [one.name for one in self.schema if not one.type.num_fields and str(one.type) not in _BYTES]
            kind: Any = self.schema.field(self.column).type if self.column else None
            has_names = _is_struct(kind) and kind.get_field_index("path") >= 0
            self._table = file.read(columns=[*self.plain, *[f"{self.column}.path"] * has_names])
        features = _read_features(self.schema).items()
        self.classes = {name: found for name, about in features if (found := _list_classes(about))}

    def read(self, column: str) -> list[str]:
        """Read a column as text; the numbers of classes become their names, and -1 none. Raises SourceError."""
        if column not in self.plain:
            return [""] * self.n_rows
        values = self._table.column(column).to_pylist()
        if not (names := self.classes.get(column)):
            return list(map(to_cell, values))
        labels: dict[int | None, str] = {**dict(enumerate(names)), -1: "", None: ""}
        if unknown := [value for value in values if value not in labels]:
            msg = (
                f"{self.name} has the class {unknown[0]!r} in the column {column!r}, whose metadata name "
                f"{len(names):,} classes; correct it, or choose another column with {advise('label')}"
            )
            raise SourceError(msg)
        return [labels[value] for value in values]

    def list_ids(self, column: str) -> list[str]:
        """Return the ids of the rows, with the names that the files of the images had. Raises SourceError."""
        ids = [f"{self.name}/{row}" for row in range(self.n_rows)]
        if column not in self._table.column_names:
            return ids
        paths = [path for chunk in self._table.column(column).chunks for path in chunk.field("path").to_pylist()]
        names = (PurePosixPath(str(path or "").replace("\\", "/")).name for path in paths)
        return [f"{one}/{name}" if name else one for one, name in zip(ids, names, strict=True)]


def make_parquet_reader(shards: Shards, column: str | None) -> ShardReader:
    """Make the reader of Parquet files with images; few are open at once, since each keeps some images."""
    return ShardReader(shards, functools.partial(ParquetReader, column=column), _KEPT_FILES)


def read_parquet_images(shards: Shards, columns: Columns) -> Manifest:
    """List the images inside Parquet files.

    Args:
        shards: The files.
        columns: Names of the columns, where they are not the usual ones; `path` is that of the images.

    Raises:
        SourceError: If a file cannot be read, has no images, or a column is missing.
    """
    (name, shard), *others = shards.files.items()
    parts = [_Part(name, shard, columns.path)]
    column, at_once = parts[0].column, _AT_ONCE if shards.is_remote else 1
    parts += prefetch(lambda one: _Part(*one, column), others, workers=at_once, ahead=at_once)
    for part in parts:
        if part.column is None:
            names = join_first(list(map(repr, part.schema.names)), _NAMED_COLUMNS)
            msg = (
                f"{part.shard.name!r} has no column {f'{column!r} ' * bool(column)}of images; its columns are {names}; "
                f"name that of the bytes with {advise('path')}, or a table of paths alone"
            )
            raise SourceError(msg)
    splits = {} if columns.split else shards.find_splits()
    own = [splits.get(part.name, "") for part in parts for _ in range(part.n_rows)]
    if not own:
        msg = f"{shards.source!r} has no rows; name files with images"
        raise SourceError(msg)
    named = {name for part in parts for name in part.classes}
    label = named.pop() if columns.label is None and len(named) == 1 else columns.label
    wanted = replace(columns, path=column, label=label, split="" if splits else columns.split)
    chosen = choose_columns(_make_table(parts, str(column), shards.source), wanted)
    rows = zip(*(chosen.cells[role] for role in ("path", "label", "split", "group")), own, strict=True)
    items = tuple(Item(item_id, label, split or other, group) for item_id, label, other, group, split in rows)
    reading = {role: name for role, name in asdict(columns).items() if name is not None}
    notes = (f"Parquet files with images: {len(parts):,}", *chosen.notes)
    reader = make_parquet_reader(shards, column)
    return Manifest(items, reader, shards.source, {}, {"columns": reading} if reading else {}, notes)


def _make_table(parts: Sequence[_Part], column: str, source: str) -> Table:
    """Make a table of all files, whose column of images holds the ids, and whose others are those without images."""
    plain = dict.fromkeys(name for part in parts for name in part.plain)

    @functools.cache
    def read(name: str) -> list[str]:
        return [cell for part in parts for cell in (part.list_ids if name == column else part.read)(name)]

    return Table(
        f"the data set {source!r}", [column, *plain], sum(part.n_rows for part in parts), read, lambda row: f"row {row}"
    )
