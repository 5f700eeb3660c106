"""Tables that list images, one row for each file: CSV, Parquet or a DataFrame of pandas."""

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.errors import SourceError
from featx.items.folders import FolderReader
from featx.items.layouts import SPLIT_NAMES
from featx.items.manifest import Item, Manifest
from featx.wording import to_text

if TYPE_CHECKING:
    import pandas as pd

#: Column names that are recognised; the first one that a table has wins.
#: Case, spaces, underscores, dots and hyphens do not matter.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "filepath", "imagepath", "file", "filename", "image"),
    "label": ("label", "class", "target", "category"),
    "split": ("split", "subset", "set", "partition", "fold"),
    "group": ("group", "patient", "patientid", "subject", "subjectid"),
}

_WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns; None looks for the usual spellings.

    Attributes:
        path: Column of the files.
        label: Column of the classes.
        split: Column of `train`, `val` and `test`.
        group: Column of what must stay together, such as the patient.
    """

    path: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None


def read_table(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
) -> Manifest:
    """List the images of a CSV, TSV or Parquet file.

    Rows that repeat another are counted and left out. A row whose file does not exist
    stays an item, and reading it reports why. A column with a usual name is taken for
    the split only if all of its values are splits.

    Args:
        source: The table. Text is UTF-8 (other bytes are kept in paths). Its separator is
            the one of `,`, `;`, tab and `|` that the header has most of.
        root: Folder that the paths are relative to; the table's own by default.
        columns: Names of the columns, where they are not the usual ones.

    Returns:
        The manifest, in the order of the rows. Ids are relative to the root, or
        absolute for files outside it.

    Raises:
        SourceError: If the table cannot be read, lacks a column, is empty, names a
            file twice with different values, or if none of its files exists.
    """
    name = os.fspath(source)
    title = f"the table {name!r}"
    base = _find_base(Path(source).parent if root is None else root, title)
    read = _read_parquet if Path(name).suffix.lower() == ".parquet" else _read_csv
    reading = {"root": base} if root is not None else {}
    return _make_manifest(read(name, title), base, columns or Columns(), name, reading)


def read_frame(
    frame: "pd.DataFrame", *, root: str | os.PathLike[str] = ".", columns: Columns | None = None
) -> Manifest:
    """List the images of a DataFrame, by the rules of `read_table`; see `Manifest.from_frame`."""
    title = "the DataFrame"
    base = _find_base(root, title)
    positions: dict[str, int] = {}
    for position, column in enumerate(frame.columns):
        positions.setdefault(str(column), position)

    def read(column: str) -> list[str]:
        cells = frame.iloc[:, positions[column]]
        return ["" if is_missing else str(cell) for cell, is_missing in zip(cells, cells.isna(), strict=True)]

    table = _Table(title, list(positions), read, [f"row {label!r}" for label in frame.index.tolist()])
    # Stores tell their sources apart by this name: frames with different roots are different sources.
    return _make_manifest(table, base, columns or Columns(), str(Path(base, "DataFrame")), {"frame": True})


def _find_base(root: str | os.PathLike[str], title: str) -> str:
    base = os.path.normpath(Path(root).absolute())
    if not Path(base).is_dir():
        msg = f"the folder {base!r}, which the paths in {title} are relative to, does not exist; name another root"
        raise SourceError(msg)
    return base


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of text, and how messages name it and its rows.

    Attributes:
        title: The table's name.
        columns: The columns' names, each once.
        read: Returns the cells of a column.
        rows: The rows' names.
    """

    title: str
    columns: Sequence[str]
    read: Callable[[str], Sequence[str]]
    rows: Sequence[str]

    def list_columns(self) -> str:
        return ", ".join(map(repr, self.columns))


def _make_manifest(table: _Table, base: str, columns: Columns, source: str, reading: Mapping[str, Any]) -> Manifest:
    items, n_repeated = _collect_items(_choose_columns(table, columns), base, table)
    reader = FolderReader(base)
    if not any(_exists(item.id, reader) for item in items):
        msg = (
            f"none of the {len(items):,} files in {table.title} exists; the first one should be "
            f"{str(Path(base, items[0].id))!r}; pass the folder that the paths are relative to with --root "
            "(root= in Python)"
        )
        raise SourceError(msg)
    junk = {"rows that repeat another": n_repeated} if n_repeated else {}
    named = {role: title for role, title in asdict(columns).items() if title is not None}
    return Manifest(items, reader, source, junk, {**reading, "columns": named} if named else reading)


def _read_csv(name: str, title: str) -> _Table:
    try:
        raw = Path(name).read_bytes()
        # Excel saves "Unicode text" as UTF-16, which begins with a mark.
        encoding = "utf-16" if raw[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
        text = raw.decode(encoding, "surrogateescape")
        header, rows = _parse_csv(text, name, title)
    except (OSError, UnicodeError, csv.Error) as error:
        msg = f"{title} cannot be read: {error}; save it as CSV in UTF-8"
        raise SourceError(msg) from error
    by_column = list(zip(*(row for _, row in rows), strict=True)) if rows else [()] * len(header)
    columns: dict[str, Sequence[str]] = {}
    for column, cells in zip(header, by_column, strict=True):
        columns.setdefault(column.strip(), cells)
    return _Table(title, list(columns), columns.__getitem__, [f"line {line}" for line, _ in rows])


def _parse_csv(text: str, name: str, title: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    first = next(filter(str.strip, text.splitlines()), "")
    delimiters = "\t" if name.lower().endswith(".tsv") else ",;\t|"
    # csv.Sniffer guesses quotes and separators from the letters of the paths; the header alone is clearer.
    delimiter = max(delimiters, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows = [(reader.line_num, row) for row in reader if any(row)]
    header = rows.pop(0)[1] if rows else []
    for line, row in rows:
        if len(row) != len(header):
            msg = (
                f"line {line} of {title} has {len(row)} fields and the header has {len(header)}; "
                f"quote the fields that contain {delimiter!r}"
            )
            raise SourceError(msg)
    return header, rows


def _read_parquet(name: str, title: str) -> _Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with Path(name).open("rb") as opened:
            file = parquet.ParquetFile(opened)
            # Lists, structs and images inside the table are not names, and may be large.
            names = [
                f.name for f in file.schema_arrow if not (pa.types.is_nested(f.type) or pa.types.is_binary(f.type))
            ]
            table = file.read(columns=names)
    except (OSError, pa.ArrowException) as error:
        msg = f"{title} cannot be read as Parquet: {error}; write it again"
        raise SourceError(msg) from error
    columns: dict[str, Sequence[str]] = {
        name: [_to_cell(value) for value in column.to_pylist()]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return _Table(
        title, list(columns), columns.__getitem__, [f"row {number}" for number in range(1, table.num_rows + 1)]
    )


def _to_cell(value: Any) -> str:  # noqa: ANN401 - whatever a Parquet file holds
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def _choose_columns(table: _Table, wanted: Columns) -> dict[str, Sequence[str]]:
    chosen: dict[str, Sequence[str]] = {}
    for role in (field.name for field in fields(Columns)):
        column = getattr(wanted, role)
        found = _find_named(table, column) if column else _find_usual(table, role)
        if found is None and (column or role == "path"):
            missing = f"no column {column!r}" if column else f"no column for the {role}"
            msg = f"{table.title} has {missing}; its columns are {table.list_columns()}; name the column of the {role}"
            raise SourceError(msg)
        cells = table.read(found) if found is not None else [""] * len(table.rows)
        chosen[role] = cells if role == "path" else _clean(cells)
    chosen["split"] = [
        _name_split(value, row, table.title) for value, row in zip(chosen["split"], table.rows, strict=True)
    ]
    return chosen


def _normalise(title: str) -> str:
    return re.sub(r"[\s_.-]+", "", title.casefold())


def _find_named(table: _Table, title: str) -> str | None:
    if title in table.columns:
        return title
    return next((column for column in table.columns if _normalise(column) == _normalise(title)), None)


def _find_usual(table: _Table, role: str) -> str | None:
    spelled = {_normalise(column): column for column in reversed(table.columns)}
    for spelling in SPELLINGS[role]:
        column = spelled.get(spelling)
        if column is None:
            continue
        if role != "split" or {value.strip().casefold() for value in table.read(column)} <= {*SPLIT_NAMES, ""}:
            return column
    return None


def _clean(cells: Sequence[str]) -> list[str]:
    stripped = [to_text(cell.strip()) for cell in cells]
    # Tools that store numbers as floats write a column of whole numbers with a gap as 3.0.
    if all(_WHOLE_NUMBER.fullmatch(cell) for cell in stripped if cell):
        return [cell.partition(".")[0] for cell in stripped]
    return stripped


def _name_split(value: str, row: str, title: str) -> str:
    if value and value.casefold() not in SPLIT_NAMES:
        msg = f"{row} of {title} has the split {value!r}; it must be one of {', '.join(SPLIT_NAMES)}"
        raise SourceError(msg)
    return SPLIT_NAMES[value.casefold()] if value else ""


def _collect_items(values: Mapping[str, Sequence[str]], base: str, table: _Table) -> tuple[tuple[Item, ...], int]:
    items: dict[str, tuple[Item, str]] = {}
    n_repeated = 0
    cells: Iterator[tuple[str, ...]] = zip(*(values[role] for role in ("path", "label", "split", "group")), strict=True)
    for row, (path, label, split, group) in zip(table.rows, cells, strict=True):
        if not path.strip():
            msg = f"{row} of {table.title} has no path; fill it in or remove the row"
            raise SourceError(msg)
        item = Item(_make_id(path, base), label=label, split=split, group=group)
        earlier, earlier_row = items.setdefault(item.id, (item, row))
        if earlier != item:
            msg = (
                f"{earlier_row} and {row} of {table.title} name {item.id!r} with different values; "
                "keep one row for each file"
            )
            raise SourceError(msg)
        n_repeated += earlier_row != row
    if not items:
        msg = f"{table.title} has no rows; its columns are {table.list_columns()}"
        raise SourceError(msg)
    return tuple(item for item, _ in items.values()), n_repeated


def _make_id(path: str, base: str) -> str:
    full = os.path.normpath(Path(base, path))
    return full.removeprefix(base if base.endswith(os.sep) else base + os.sep).replace(os.sep, "/")


def _exists(item_id: str, reader: FolderReader) -> bool:
    try:
        reader.stat(item_id)
    except OSError:
        return False
    return True
