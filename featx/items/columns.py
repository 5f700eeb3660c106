"""The columns of a table: which one holds the path, the label, the split and the group, and which are not used."""

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from featx.errors import SourceError
from featx.items.formats import has_image_suffix
from featx.items.layouts import SPLIT_NAMES, find_affixes, find_split
from featx.items.names import normalise_label, remove_invisible
from featx.registry import find_closest
from featx.wording import join_first

#: Column names that are recognised; the first one that a table has wins.
#: Case, spaces, underscores, dots and hyphens do not matter.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "filepath", "imagepath", "file", "filename", "image"),
    "label": ("label", "class", "target", "category"),
    "split": (
        "split",
        "subset",
        "set",
        "partition",
        "fold",
        "traintest",
        "trainvaltest",
        "trainortest",
        "traintestsplit",
    ),
    "group": ("group", "patient", "patientid", "subject", "subjectid"),
}

#: Flags of the command line that name a column.
FLAGS = {"path": "--path-column", "label": "--label-column", "split": "--split-column", "group": "--group"}

_WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")

#: A field in quotes that CSV does not know.
_IN_QUOTES = re.compile("'.*'", re.DOTALL)
_UNQUOTE = "remove these, or write double quotes"

#: What tools write for a value that is missing.
_MISSING = frozenset({"nan", "<na>", "nat", "null", "none", "na", "n/a"})

#: Of these, the names that a class may have.
_WORDS = frozenset({"none", "na", "nat"})

#: Notes on labels that differ only in case.
_SPELLINGS = 3

_NAMED_COLUMNS = 12
_NAMED_VALUES = 5

#: Rows of a column that is not used whose values are looked at.
_FIRST_ROWS = 1000

#: Values of a column that is 1 for the rows of one class and 0 for others.
_BITS = {name: bit for bit, names in enumerate(("0 0.0 false f no n", "1 1.0 true t yes y")) for name in names.split()}

#: Numbers that tables such as CelebA's write for train, val and test.
_CODES = {*_BITS, "2", "2.0"}

#: Words in the name of a column that is 1 for the rows of one split, besides that of the split.
_IS = frozenset({"is", "in", "for", "use", "used", "flag"})

#: Names of splits that have other meanings in a table: an image that is valid, the result of a test.
_UNCLEAR = re.compile(r"(?:is[\s_.-]*)?valid|test|testing|dev|eval|holdout", re.IGNORECASE)


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
    A column of 0 and 1 such as `is_train` is read as the split: 1 is the split of its name.

    Raises:
        SourceError: If a column is missing or its name occurs twice, or if a value is not a split.
        AmbiguousColumnError: If several columns may hold the label, or only some values of a column are splits.
    """
    names = {
        "path": _find_column(table, "path", wanted.path),
        "label": _find_label(table, wanted.label),
        "split": None,
        "group": _find_column(table, "group", wanted.group),
    }
    names["split"] = _find_split_column(table, wanted.split, {*names.values()})
    cells: dict[str, Sequence[str]] = {}
    for role, name in names.items():
        if name in table.repeated:
            msg = f"{table.title} has several columns {name!r}; rename all but the one of the {role}"
            raise SourceError(msg)
        found = table.read(name) if name is not None else [""] * table.n_rows
        cells[role] = found if role == "path" else _clean(found)
        _check_quotes(table, role, found)
    bits = _find_bits(table, names["split"] or "")
    if bits:
        cells["split"] = [bits[_to_bit(cell)] for cell in cells["split"]]
    else:
        cells["split"] = _name_splits(table, names["split"], cells["split"], guessed=not wanted.split)
    notes = [f"the column {names['split']!r} is read as the split: 1 is {bits[1]}, 0 is {bits[0]}"] if bits else []
    notes += [
        f"the label {label!r} is a class of its own; leave the field empty where the class is not known"
        for label in sorted({*cells["label"]})
        if label.casefold() in _MISSING - _WORDS
    ]
    notes += _point_to_spellings(cells["label"])
    return Chosen(cells, [*_describe(table, names, wanted), *notes])


def _point_to_spellings(labels: Sequence[str]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for label in sorted({*labels}):
        alike.setdefault(label.casefold(), []).append(label)
    return [
        f"the labels {' and '.join(map(repr, names))} are classes of their own; write them alike if they are one class"
        for names in alike.values()
        if len(names) > 1
    ][:_SPELLINGS]


def advise(role: str, name: str = "NAME") -> str:
    """Return how to name the column of a role, on the command line and in Python."""
    return f"{FLAGS[role]} {shlex.quote(name)} (columns=Columns({role}={name!r}) in Python)"


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
        elif len(table.columns) == 1 and re.search(r"\W", table.columns[0].strip("'")):
            msg += "; if it has several columns, put commas between them, or state what separates them in a first line"
            msg += " such as sep=:"
        if any(map(_IN_QUOTES.fullmatch, table.columns)):
            msg = f"the columns of {table.title}, such as {table.columns[0]}, are in single quotes; {_UNQUOTE}"
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
        found = run[_find_partition(columns)]
        best = max(best, [] if all(map(_find_indicated, found)) else found, key=len)
        run, columns = [], []
    return best


def _to_bits(cells: Sequence[str]) -> list[int] | None:
    bits = {cell: _to_bit(cell) for cell in set(cells)}
    if set(bits.values()) != {0, 1}:
        return None
    return [bits[cell] for cell in cells]


def _to_bit(cell: str) -> int:
    return _BITS.get(cell.strip().casefold(), -1)


def _find_partition(columns: Sequence[Sequence[int]]) -> slice:
    """Return the longest range of columns of which each row has a single 1."""
    for length in range(len(columns), 1, -1):
        for start in range(len(columns) - length + 1):
            if all(sum(bits) == 1 for bits in zip(*columns[start : start + length], strict=True)):
                return slice(start, start + length)
    return slice(0, 0)


def _find_split_column(table: Table, named: str | None, others: Collection[str | None]) -> str | None:
    if named is not None:
        return _find_column(table, "split", named)
    usual = _find_usual(table, "split")
    found = next((name for name in usual if _may_hold_splits(_count_values(table, name))), None)
    if found is not None:
        return found
    coded = next((name for name in usual if normalise_title(name) != "fold" and _is_coded(table, name)), None)
    indicators = [name for name in table.columns if name not in others and _is_indicator(table, name)]
    if coded is None and not indicators:
        return None
    if len(indicators) == 1 and not _UNCLEAR.fullmatch(indicators[0].strip()):
        return indicators[0]
    raise AmbiguousColumnError(_advise_on_bits(table, coded, indicators), "split", "")


def _is_coded(table: Table, column: str) -> bool:
    """Return whether the values are numbers that may stand for splits: 0, 1 and 2."""
    values = {value.casefold() for value in _count_values(table, column)} - {""}
    return len(values) > 1 and values <= _CODES


def _find_indicated(column: str) -> str:
    """Return the split that a column such as `is_train` marks the rows of; empty for another column."""
    name = re.sub(r"^is(?=[^\W\d_])", "is ", column.strip(), flags=re.IGNORECASE)
    return "" if find_affixes(name) - _IS else find_split(name)


def _is_indicator(table: Table, column: str) -> bool:
    """Return whether most rows have 0 or 1 in a column that is named after a split."""
    if not _find_indicated(column):
        return False
    return 2 * sum(_to_bit(cell) >= 0 for cell in table.read(column)) > table.n_rows


def _find_bits(table: Table, column: str) -> dict[int, str]:
    """Return the splits that the values of a column of 0 and 1 stand for; none for another column.

    Raises:
        SourceError: If a row has neither 0 nor 1.
    """
    if not column or not _is_indicator(table, column):
        return {}
    for row, cell in enumerate(table.read(column)):
        if _to_bit(cell) < 0:
            msg = (
                f"{table.name_row(row)} of {table.title} has {cell.strip()!r} in the column {column!r} of 0 and 1; "
                f"correct it, or use no split with {FLAGS['split']} ''"
            )
            raise SourceError(msg)
    split = _find_indicated(column)
    return {1: split, 0: "test" if split == "train" else "train"}


def _advise_on_bits(table: Table, coded: str | None, indicators: Sequence[str]) -> str:
    """Return what to do about columns of numbers that may be the split."""
    without = f"use no split with {FLAGS['split']} '' (columns=Columns(split='') in Python)"
    if coded is not None:
        values = sorted(set(_count_values(table, coded)) - {""})
        return (
            f"the column {coded!r} of {table.title} may be the split, but its values {_list_names(values)} do not say "
            f"which is train; write train, val and test in their place, or {without}"
        )
    if len(indicators) > 1:
        return (
            f"{table.title} has several columns of 0 and 1 that are named after splits, {_list_names(indicators)}; "
            f"write a single column with train, val and test in it, or {without}"
        )
    split = _find_indicated(indicators[0])
    return (
        f"the column {indicators[0]!r} of {table.title} may be the split; if 1 is {split} and 0 is train, add "
        f"{advise('split', indicators[0])}; if not, {without}"
    )


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
        is_missing = values[at].casefold() in _MISSING
        close = [] if is_missing else find_closest(values[at], SPLIT_NAMES)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        msg = f"{table.name_row(at)} of {table.title} has the split {values[at]!r}{hint} in the column {column!r}; "
        msg += f"it must be one of {', '.join(SPLIT_NAMES)}{', or empty for an image without a split' * is_missing}"
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
    filled = [cell.strip() for cell in cells if cell.strip()]
    if filled and all(map(_IN_QUOTES.fullmatch, filled)):
        msg = f"each {role} in {table.title}, such as {filled[0]}, is in single quotes; {_UNQUOTE}"
        raise SourceError(msg)
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
    """Return a column's name without case, spaces, underscores, dots, hyphens and characters that are not seen."""
    return re.sub(r"[\s_.-]+", "", remove_invisible(title).casefold())


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
