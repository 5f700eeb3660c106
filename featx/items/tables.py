"""Tables that list images, one row for each file: CSV, Parquet or a DataFrame of pandas."""

import functools
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.errors import SourceError
from featx.items.columns import Columns, Table, choose_columns
from featx.items.delimited import read_delimited
from featx.items.folders import FolderReader
from featx.items.manifest import Item, Manifest, Reader
from featx.items.names import normalise_label, note_url
from featx.items.spellings import Found, find_cause, find_files, make_id
from featx.urls import find_parent, find_path, find_url, hide_secrets, make_remote_id
from featx.wording import agree

if TYPE_CHECKING:
    import pandas as pd


class MissingFilesError(SourceError):
    """None of the files of a table exists.

    Attributes:
        fact: What is missing, without what to do: not every command has the option `--root`.
    """

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(f"{fact}; {advice}")
        self.fact = fact


def read_table(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
) -> Manifest:
    """List the images of a CSV, TSV or Parquet file.

    Rows that repeat another are counted and left out. A file that does not exist is searched
    for under other spellings of its path; if it is not found, the row stays an item, and reading
    it reports why. `Manifest.notes` lists the columns that are used and the spellings.

    Args:
        source: The table. Text is UTF-8, UTF-16 or in a single-byte encoding that is recognised.
            Its separator is the one of `,`, `;`, tab and `|` that the header has most of, or that
            of a first line such as `sep=;`.
        root: Folder or URL that the paths are relative to; the table's own by default. A path may also be a URL.
        columns: Names of the columns, where they are not the usual ones.

    Returns:
        The manifest, in the order of the rows. Ids are relative to the root, or
        absolute for files outside it.

    Raises:
        SourceError: If the table cannot be read, lacks a column, is empty, names a
            file twice with different values, or if none of its files exists; also if only some
            values of a column are splits, or several columns may be the label.
    """
    url = find_url(source)
    name = hide_secrets(url) or os.fspath(find_path(source))
    title, local = f"the table {name!r}", name
    if url:
        from featx.remote import fetch_file

        local = str(fetch_file(url, SourceError))
    base = _find_base(find_parent(source) if root is None else root, title)
    read = read_parquet if Path(local).suffix.lower() == ".parquet" else read_delimited
    reading = {"root": hide_secrets(base)} if root is not None else {}
    return _make_manifest(read(local, title), base, columns or Columns(), name, reading)


def read_frame(
    frame: "pd.DataFrame", *, root: str | os.PathLike[str] = ".", columns: Columns | None = None
) -> Manifest:
    """List the images of a DataFrame, by the rules of `read_table`; see `Manifest.from_frame`."""
    title = "the DataFrame"
    base = _find_base(root, title)
    positions: dict[str, int] = {}
    for position, column in enumerate(frame.columns):
        positions.setdefault(str(column), position)

    @functools.cache
    def read(column: str) -> list[str]:
        cells = frame.iloc[:, positions[column]]
        return ["" if is_missing else str(cell) for cell, is_missing in zip(cells, cells.isna(), strict=True)]

    names = [str(column) for column in frame.columns]
    table = Table(
        title,
        list(positions),
        len(frame),
        read,
        lambda row: f"row {frame.index[row]!r}",
        repeated={name for name in names if names.count(name) > 1},
    )
    # Stores tell their sources apart by this name: frames with different roots are different sources.
    return _make_manifest(table, base, columns or Columns(), str(Path(base, "DataFrame")), {"frame": True})


def _find_base(root: str | os.PathLike[str], title: str) -> str:
    if url := find_url(root):
        return url.rstrip("/")
    base = os.path.normpath(Path(find_path(root)).absolute())
    if not Path(base).is_dir():
        msg = f"the folder {base!r}, which the paths in {title} are relative to, does not exist; name another root"
        raise SourceError(msg)
    return base


def _make_manifest(table: Table, base: str, columns: Columns, source: str, reading: Mapping[str, Any]) -> Manifest:
    chosen = choose_columns(table, columns)
    paths = chosen.cells["path"]
    _check_paths(paths, table)
    found, urls = _find_remote(paths, base, table) if find_url(base) else _find_local(paths, base, table)
    _check_lines(found.ids, chosen.cells["label"], found.missing, table)
    items, n_repeated = _collect_items(found.ids, chosen.cells, table)
    reader = open_reader(base, found.ids, urls)
    # At URLs, nothing is asked for before it is read.
    if isinstance(reader, FolderReader) and not any(_exists(item.id, reader) for item in items):
        one = f"the only file in {table.title} does not exist; it"
        many = f"none of the {len(items):,} files in {table.title} exists; the first one"
        fact = f"{agree(len(items), one, many)} should be {str(Path(base, items[0].id))!r}"
        cause = find_cause(items[0].id, base)
        raise MissingFilesError(
            fact, f"{cause}pass the folder that the paths are relative to with --root (root= in Python)"
        )
    junk = {"rows that repeat another": n_repeated} if n_repeated else {}
    named = {role: title for role, title in asdict(columns).items() if title is not None}
    reading = {**reading, **({"columns": named} if named else {})}
    if found.spellings:
        reading["spellings"] = sorted(found.spellings)
    lost = [found.ids[at] for at in sorted(found.missing)]
    do = agree(len(lost), "does not exist:", "do not exist, such as")
    gone = [f"{len(lost):,} of {len(found.ids):,} files {do} {lost[0]!r}"] if lost else []
    return Manifest(items, reader, source, junk, reading, (*table.notes, *chosen.notes, *found.notes, *gone))


def read_parquet(name: str, title: str, without: Collection[str] = ()) -> Table:
    """Read the columns of a Parquet file that hold names or numbers, as text, but for some.

    Raises:
        SourceError: If it cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with Path(name).open("rb") as opened:
            file = parquet.ParquetFile(opened)
            # Lists, structs and images inside the table are not names, and may be large.
            names = [
                f.name
                for f in file.schema_arrow
                if not (pa.types.is_nested(f.type) or pa.types.is_binary(f.type) or f.name in without)
            ]
            table = file.read(columns=names)
    except (OSError, pa.ArrowException) as error:
        msg = f"{title} cannot be read as Parquet: {error}; write it again"
        raise SourceError(msg) from error
    columns: dict[str, Sequence[str]] = {
        name: [to_cell(value) for value in column.to_pylist()]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return Table(title, list(columns), table.num_rows, columns.__getitem__, lambda row: f"row {row + 1}")


def to_cell(value: Any) -> str:  # noqa: ANN401 - whatever a Parquet file holds
    """Return a value of a Parquet file as text; empty if it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def _check_paths(paths: Sequence[str], table: Table) -> None:
    if not paths:
        msg = f"{table.title} has no rows; its columns are {table.list_columns()}"
        raise SourceError(msg)
    blank = next((row for row, path in enumerate(paths) if not path.strip()), None)
    if blank is not None:
        msg = f"{table.name_row(blank)} of {table.title} has no path; fill it in or remove the row"
        raise SourceError(msg)


def open_reader(base: str, ids: Iterable[str], urls: Mapping[str, str] | None = None) -> Reader:
    """Return what reads items below a folder or a URL, or at URLs of their own.

    Args:
        base: The folder or the URL.
        ids: The items.
        urls: The URLs of items that have more than their ids say, such as a signature.
    """
    if not find_url(base) and not any(map(find_url, ids)):
        return FolderReader(find_path(base))
    from featx.items.remote import RemoteReader

    return RemoteReader(base, urls)


def _find_local(paths: Sequence[str], base: str, table: Table) -> tuple[Found, dict[str, str]]:
    """Find the files of a table on disk, and the URLs that it may name beside them."""
    urls = {at: url for at, path in enumerate(paths) if (url := find_url(path.strip()))}
    places = [at for at in range(len(paths)) if at not in urls]
    make = functools.partial(make_id, base=base)
    found = find_files([paths[at] for at in places], make, base, table.encoding)
    if not urls:
        return found, {}
    local = dict(zip(places, found.ids, strict=True))
    ids = [hide_secrets(urls[at]) if at in urls else local[at] for at in range(len(paths))]
    missing, respelled = ({places[at] for at in found_at} for found_at in (found.missing, found.respelled))
    named: dict[str, str] = {}
    for at, url in urls.items():
        note_url(named, ids[at], url)
    return replace(found, ids=ids, missing=missing, respelled=respelled), named


def _find_remote(paths: Sequence[str], base: str, table: Table) -> tuple[Found, dict[str, str]]:
    """Make the ids of a table whose paths are URLs, or relative to one."""
    ids, urls = [], dict[str, str]()
    for row, path in enumerate(map(str.strip, paths)):
        if not find_url(path) and (path.startswith("/") or Path(path).is_absolute()):
            msg = (
                f"{table.name_row(row)} of {table.title} has the path {path!r} of a disk, but its paths are relative "
                f"to {hide_secrets(base)}; write URLs, or name the folder with --root"
            )
            raise SourceError(msg)
        item_id = make_remote_id(path, base)
        ids.append(item_id)
        if url := find_url(path):
            note_url(urls, item_id, url)
    return Found(ids, set(), set(), [], {}), urls


def _check_lines(ids: Sequence[str], labels: Sequence[str], missing: set[int], table: Table) -> None:
    """Refuse line breaks in labels, and in the names of files that do not exist, and comments among the rows.

    A label with a line break is kept if it is the name of a folder in the path, as in the tables of `featx split`.
    """
    for row in sorted(missing):
        if ids[row].splitlines() != [ids[row]]:
            msg = (
                f"{table.name_row(row)} of {table.title} has a line break in the path {ids[row]!r}; is a quote missing?"
            )
            raise SourceError(msg)
        if ids[row].startswith("#"):
            msg = f"{table.name_row(row)} of {table.title} is a comment; remove comments that come after the header"
            raise SourceError(msg)
    broken = {label for label in set(labels) if "\n" in label or "\r" in label}
    for row, label in enumerate(labels) if broken else ():
        if label in broken and label not in map(normalise_label, ids[row].split("/")):
            msg = f"{table.name_row(row)} of {table.title} has a line break in the label {label!r}; remove it"
            raise SourceError(msg)


def _collect_items(
    ids: Sequence[str], cells: Mapping[str, Sequence[str]], table: Table
) -> tuple[tuple[Item, ...], int]:
    items: dict[str, tuple[Item, int]] = {}
    rows = zip(ids, cells["label"], cells["split"], cells["group"], strict=True)
    for row, (item_id, label, split, group) in enumerate(rows):
        item = Item(item_id, label=label, split=split, group=group)
        earlier, earlier_row = items.setdefault(item_id, (item, row))
        if earlier != item:
            msg = (
                f"{table.name_row(earlier_row)} and {table.name_row(row)} of {table.title} name {item_id!r} with "
                "different values; keep one row for each file"
            )
            raise SourceError(msg)
    return tuple(item for item, _ in items.values()), len(ids) - len(items)


def _exists(item_id: str, reader: FolderReader) -> bool:
    try:
        reader.stat(item_id)
    except OSError:
        return False
    return True
