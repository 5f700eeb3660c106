"""The ids, labels, splits and groups of imported rows: from the files themselves, and from a table of the user."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from featx.errors import SourceError
from featx.importing.parts import Part
from featx.items.columns import SPELLINGS, Columns, Table, choose_columns, normalise_title
from featx.items.delimited import read_delimited
from featx.items.tables import read_parquet
from featx.reporting import Reporter
from featx.wording import agree, join_first

#: Names of the column that identifies a row, in this order.
_IDS = ("id", *SPELLINGS["path"], "key", "url", "slideid", "slide")

#: No path is longer, and a store keeps this for each id.
_MOST_ID_BYTES = 4096

#: Ids that an error names.
_NAMED = 5

_ROLES = ("label", "split", "group")


def collect_items(
    parts: Sequence[Part], labels: Path | None, columns: Columns, reporter: Reporter
) -> dict[str, list[str]]:
    """Collect the columns `id`, `label`, `split` and `group` of all rows.

    Args:
        parts: The files; those without ids get the name of the file and the number of the row.
        labels: A table with the columns id and label, and perhaps split and group; labels and splits of the files are
            then left alone. An id may be that of a slide, for all its rows.
        columns: Names of columns, where they are not the usual ones: of the table, or of the files if there is none.
        reporter: Told how the table was read.

    Raises:
        SourceError: If two rows have the same id, or the table names an id that no row has.
    """
    items: dict[str, list[str]] = {role: [] for role in ("id", *_ROLES)}
    notes = dict[str, None]()  # each once, however many files say it
    for part in parts:
        own, said = _read_cells(_list_columns(part), Columns(label="", split="") if labels else columns)
        notes.update(dict.fromkeys(() if labels else said))
        for role, values in items.items():
            values.extend(own["path" if role == "id" else role])
    for note in notes:
        reporter.say(note)
    _check_ids(items["id"])
    if labels is not None:
        name = str(labels)
        read = read_parquet if labels.suffix.lower() == ".parquet" else read_delimited
        if not labels.is_file():
            msg = f"there is no table {name!r} of labels; write one with the columns id and label"
            raise SourceError(msg)
        _apply(items, read(name, f"the table {name!r}"), columns, reporter)
    return items


def _list_columns(part: Part) -> Table:
    columns = dict(part.columns)
    for name, values in columns.items():
        if len(values) != part.n_rows:
            msg = f"{part.path} has {part.n_rows:,} rows of features, and {len(values):,} values of {name}"
            raise SourceError(msg)
    if not any(normalise_title(name) in _IDS for name in columns):
        columns["id"] = [f"{part.path.stem}:{row}" for row in range(part.n_rows)]
    return Table(str(part.path), list(columns), part.n_rows, columns.__getitem__, lambda row: f"row {row}")


def _read_cells(table: Table, wanted: Columns) -> tuple[Mapping[str, Sequence[str]], Sequence[str]]:
    """Return the cells of a table by what they are, and how it was read."""
    known = {normalise_title(name): name for name in reversed(table.columns)}
    path = wanted.path or next((known[name] for name in _IDS if name in known), None)
    chosen = choose_columns(table, Columns(path, wanted.label, wanted.split, wanted.group))
    return chosen.cells, (*table.notes, *chosen.notes)


def _check_ids(ids: Sequence[str]) -> None:
    seen = set[str]()
    for name in ids:
        if not name or "\0" in name or len(name.encode("utf-8", "surrogateescape")) > _MOST_ID_BYTES:
            msg = f"a row has the id {name[:40]!r}; an id has 1 to {_MOST_ID_BYTES:,} bytes, and no zero byte"
            raise SourceError(msg)
        if name in seen:
            msg = f"two rows have the id {name!r}; name another column of ids with --path-column, or import fewer files"
            raise SourceError(msg)
        seen.add(name)


def _apply(items: dict[str, list[str]], table: Table, wanted: Columns, reporter: Reporter) -> None:
    """Take labels, splits and groups from a table, where it has them: first those of a slide, then those of its row."""
    cells, notes = _read_cells(table, wanted)
    for note in notes:
        reporter.say(note)
    given: dict[str, tuple[str, ...]] = {}
    for row, (name, *values) in enumerate(zip(cells["path"], *(cells[role] for role in _ROLES), strict=True)):
        if given.setdefault(name.strip(), tuple(values)) != tuple(values):
            msg = f"{table.name_row(row)} of {table.title} names {name!r} again, with other values; keep one row"
            raise SourceError(msg)
    slides = list(items["group"])
    unknown = sorted(given.keys() - set(items["id"]) - set(slides))
    if unknown:
        named = join_first(list(map(repr, unknown)), _NAMED)
        msg = f"{table.title} names {agree(len(unknown), 'an id', 'ids')} that no row of the features has: {named}; "
        raise SourceError(msg + f"an id of the features is {items['id'][0]!r}")
    for row, (name, slide) in enumerate(zip(items["id"], slides, strict=True)):
        for source in (slide, name):
            for role, value in zip(_ROLES, given.get(source, ()), strict=False):
                items[role][row] = value or items[role][row]
