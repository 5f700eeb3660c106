"""The columns of a table: which one holds the path, the label, the split and the group, and which are not used."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from featx.errors import SourceError
from featx.items.formats import has_image_suffix
from featx.items.layouts import SPLIT_NAMES, find_split
from featx.items.names import normalise_label
from featx.registry import find_closest
from featx.wording import join_first

#: Column names that are recognised; the first one that a table has wins.
#: Case, spaces, underscores, dots and hyphens do not matter.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "filepath", "imagepath", "file", "filename", "image"),
    "label": ("label", "class", "target", "category"),
    "split": ("split", "subset", "set", "partition", "fold"),
    "group": ("group", "patient", "patientid", "subject", "subjectid"),
}

#: Flags of the command line that name a column.
FLAGS = {"path": "--path-column", "label": "--label-column", "split": "--split-column", "group": "--group"}

_WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")

_NAMED_COLUMNS = 12
_NAMED_VALUES = 5

#: Rows of a column that is not used whose values are looked at.
_FIRST_ROWS = 1000

#: Values of a column that is 1 for the rows of one class and 0 for others.
_BITS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns; None looks for the usual spellings, and an empty name uses no column.

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


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text, and how messages name it and its rows.

    Attributes:
        title: The table's name.
        columns: The columns' names, each once.
        n_rows: Number of rows.
        read: Returns the cells of a column.
        name_row: Returns the name of a row for messages.
        repeated: Names that several columns have.
        misquoted: The fields of a row that contain a quote and are not quoted, for rows with quotes in fields.
        encoding: Encoding of the text; empty if it has none.
        notes: How the table was read, for the user.
    """

    title: str
    columns: Sequence[str]
    n_rows: int
    read: Callable[[str], Sequence[str]]
    name_row: Callable[[int], str]
    repeated: Collection[str] = ()
    misquoted: Mapping[int, Collection[str]] = field(default_factory=dict)
    encoding: str = ""
    notes: tuple[str, ...] = ()

    def list_columns(self) -> str:
        """Return the columns' names in quotes; at most twelve."""
        return _list_names(self.columns)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cells of the columns that are used.

    Attributes:
        cells: The cells for each role; empty strings for a role without a column.
        notes: Which columns are used and which are not, for the user.
    """

    cells: Mapping[str, Sequence[str]]
    notes: list[str] = field(default_factory=list)


class AmbiguousColumnError(SourceError):
    """A column that may hold the label or the split, and that only the user can choose.

    Attributes:
        role: `label` or `split`.
        column: The column that was used before this was an error; empty for none.
    """

    def __init__(self, message: str, role: str, column: str) -> None:
        super().__init__(message)
        self.role, self.column = role, column


def choose_columns(table: Table, wanted: Columns) -> Chosen:
    """Choose the column of each role, by its name or by the usual spellings.

    A column with a usual name is taken for the split if all of its values are splits, and refused if only some are.

    Raises:
        SourceError: If a column is missing or its name occurs twice, or if a value is not a split.
        AmbiguousColumnError: If several columns may hold the label, or only some values of a column are splits.
    """
    names = {
        "path": _find_column(table, "path", wanted.path),
        "label": _find_label(table, wanted.label),
        "split": _find_split_column(table, wanted.split),
        "group": _find_column(table, "group", wanted.group),
    }
    cells: dict[str, Sequence[str]] = {}
    for role, name in names.items():
        if name in table.repeated:
            msg = f"{table.title} has several columns {name!r}; rename all but the one of the {role}"
            raise SourceError(msg)
        found = table.read(name) if name is not None else [""] * table.n_rows
        cells[role] = found if role == "path" else _clean(found)
        _check_quotes(table, role, found)
    cells["split"] = _name_splits(table, names["split"], cells["split"], guessed=not wanted.split)
    return Chosen(cells, _describe(table, names, wanted))


def advise(role: str, name: str = "NAME") -> str:
    """Return how to name the column of a role, on the command line and in Python."""
    return f"{FLAGS[role]} {name} (columns=Columns({role}={name!r}) in Python)"


def _find_column(table: Table, role: str, named: str | None) -> str | None:
    if named == "" and role != "path":
        return None
    if named:
        wanted = {
            named: 0,
            **{column: 1 for column in table.columns if normalise_title(column) == normalise_title(named)},
        }
        found = [column for column in sorted(wanted, key=lambda name: wanted[name]) if column in table.columns]
    else:
        found = _find_usual(table, role)
    if not found and (named or role == "path"):
        missing = f"no column {named!r}" if named else f"no column for the {role}"
        msg = (
            f"{table.title} has {missing}; its columns are {table.list_columns()}; name the column of the {role} "
            f"with {advise(role)}"
        )
        if role == "path" and any(map(has_image_suffix, table.columns)):
            msg += ", or add a first line with the names of the columns, such as path,label"
        raise SourceError(msg)
    return found[0] if found else None


def _find_usual(table: Table, role: str) -> list[str]:
    spelled = {normalise_title(column): column for column in reversed(table.columns)}
    return [spelled[spelling] for spelling in SPELLINGS[role] if spelling in spelled]


def _find_label(table: Table, named: str | None) -> str | None:
    if named is not None:
        return _find_column(table, "label", named)
    usual = _find_usual(table, "label")
    first = next(iter(usual), None)
    others = [name for name in usual[1:] if list(table.read(name)) != list(table.read(usual[0]))]
    if others:
        msg = (
            f"{table.title} has several columns that may be the label, {_list_names([usual[0], *others])}; choose one "
            f"with {advise('label', usual[0])}"
        )
        raise AmbiguousColumnError(msg, "label", usual[0])
    one_hot = _find_one_hot(table) if first is None else []
    if one_hot:
        msg = (
            f"{table.title} has no label column, but a column of 0 and 1 for each class: {_list_names(one_hot)}; make "
            f"a label with pandas, table['label'] = table.loc[:, {one_hot[0]!r}:{one_hot[-1]!r}].idxmax(axis=1), or "
            f"embed without classes with {FLAGS['label']} ''"
        )
        raise AmbiguousColumnError(msg, "label", "")
    return first


def _find_one_hot(table: Table) -> list[str]:
    """Return the longest run of columns of 0 and 1 in which each row has a single 1; empty if there are none."""
    used = {name for role in SPELLINGS for name in _find_usual(table, role)}
    best: list[str] = []
    run: list[str] = []
    columns: list[list[int]] = []
    for name in [*table.columns, ""]:
        bits = _to_bits(table.read(name)) if name and name not in used else None
        if bits is not None:
            run.append(name)
            columns.append(bits)
            continue
        best = max(best, run[_find_partition(columns)], key=len)
        run, columns = [], []
    return best


def _to_bits(cells: Sequence[str]) -> list[int] | None:
    bits = {cell: _BITS.get(cell.strip().casefold(), -1) for cell in set(cells)}
    if set(bits.values()) != {0, 1}:
        return None
    return [bits[cell] for cell in cells]


def _find_partition(columns: Sequence[Sequence[int]]) -> slice:
    """Return the longest range of columns of which each row has a single 1."""
    for length in range(len(columns), 1, -1):
        for start in range(len(columns) - length + 1):
            if all(sum(bits) == 1 for bits in zip(*columns[start : start + length], strict=True)):
                return slice(start, start + length)
    return slice(0, 0)


def _find_split_column(table: Table, named: str | None) -> str | None:
    if named is not None:
        return _find_column(table, "split", named)
    return next((name for name in _find_usual(table, "split") if _may_hold_splits(_count_values(table, name))), None)


def _may_hold_splits(values: Iterable[str]) -> bool:
    """Return whether a value is a split, or all are spelt nearly like one."""
    given = [value for value in values if value]
    return any(map(find_split, given)) or bool(given and all(map(_is_near_split, given)))


def _is_near_split(value: str) -> bool:
    return bool(find_split(value) or difflib.get_close_matches(value.casefold(), SPLIT_NAMES, n=1, cutoff=0.75))


def _count_values(table: Table, column: str) -> Counter[str]:
    return Counter(cell.strip() for cell in table.read(column))


def _name_splits(table: Table, column: str | None, values: Sequence[str], *, guessed: bool) -> list[str]:
    splits = {value: find_split(value) for value in set(values)}
    unknown = {value for value, split in splits.items() if value and not split}
    if unknown:
        at = next(at for at, value in enumerate(values) if value in unknown)
        close = find_closest(values[at], SPLIT_NAMES)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        msg = f"{table.name_row(at)} of {table.title} has the split {values[at]!r}{hint} in the column {column!r}; "
        msg += f"it must be one of {', '.join(SPLIT_NAMES)}"
        if guessed:
            msg += f"; correct it, choose another column with {advise('split')}, or use none with {FLAGS['split']} ''"
            earlier = [
                name
                for name in _find_usual(table, "split")
                if all(map(find_split, filter(None, _count_values(table, name))))
            ]
            raise AmbiguousColumnError(msg, "split", next(iter(earlier), ""))
        raise SourceError(msg)
    return [splits[value] for value in values]


def _check_quotes(table: Table, role: str, cells: Sequence[str]) -> None:
    for row, misquoted in table.misquoted.items():
        if cells[row] in misquoted:
            msg = (
                f"{table.name_row(row)} of {table.title} has a quote inside the {role} {cells[row]!r}, which is not "
                f'quoted; remove the quote, or put the field in quotes and write "" for it'
            )
            raise SourceError(msg)


def _clean(cells: Sequence[str]) -> list[str]:
    cleaned = {cell: normalise_label(cell.strip()) for cell in set(cells)}
    # Tools that store numbers as floats write a column of whole numbers with a gap as 3.0.
    if all(_WHOLE_NUMBER.fullmatch(cell) for cell in cleaned.values() if cell):
        cleaned = {cell: text.partition(".")[0] for cell, text in cleaned.items()}
    return [cleaned[cell] for cell in cells]


def normalise_title(title: str) -> str:
    """Return a column's name without case, spaces, underscores, dots and hyphens."""
    return re.sub(r"[\s_.-]+", "", title.casefold())


def _describe(table: Table, names: Mapping[str, str | None], wanted: Columns) -> list[str]:
    used = ", ".join(f"{role} {name!r}" for role, name in names.items() if name is not None)
    unused = [column for column in table.columns if column and column not in names.values()]
    notes = [f"columns: {used}" + (f"; not used: {_list_names(unused)}" if unused else "")]
    if names["split"] is None and wanted.split is None:
        notes += [
            f"the column {name!r} is not used as the split; its values are {_list_names(values, _NAMED_VALUES)}"
            for name in _find_usual(table, "split")
            if (values := [value for value, _ in _count_values(table, name).most_common() if value])
        ]
        notes += [
            f"the values of {name!r} are splits; use them with {advise('split', name)}"
            for name in unused
            if (first := {*filter(None, table.read(name)[:_FIRST_ROWS])}) and any(map(find_split, first))
            if all(map(_is_near_split, first))
        ]
    if names["label"] is None and wanted.label is None and unused:
        repeating = [name for name in unused if 1 < len(set(table.read(name))) <= table.n_rows / 2]
        may_be = repeating or unused
        notes.append(
            f"no label column was found; if {'one of ' if len(may_be) > 1 else ''}{_list_names(may_be)} holds the "
            f"classes, add {advise('label', may_be[0])}"
        )
    return notes


def _list_names(names: Sequence[str], most: int = _NAMED_COLUMNS) -> str:
    return join_first(list(map(repr, names)), most)
