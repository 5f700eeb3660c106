"""Delimited text, CSV and TSV: every fault is an error that names the line, so that no row is lost."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featx.errors import SourceError
from featx.items.columns import SPELLINGS, Table, normalise_title
from featx.items.formats import has_image_suffix
from featx.items.names import decode_text, remove_invisible
from featx.wording import agree

#: Excel writes and reads such a first line.
_SEPARATOR = re.compile(r'"?sep=(.*?)"?[\r\n]*', re.IGNORECASE)

_DELIMITERS = ",;\t|"

#: What ends a word, and how much of a word a note quotes on either side of its first letter that is not ASCII.
_BETWEEN, _NEAR = re.compile(r'[\s,;|"]'), 40


@dataclass(slots=True)
class Rows:
    """The rows of a text.

    Attributes:
        header: The first row.
        header_line: The line that it begins in.
        rows: The other rows that are not blank.
        lines: The line that each of them begins in.
        misquoted: The fields of a row that contain a quote and are not quoted, for rows with quotes in fields.
        encoding: Encoding of the text.
        notes: How the text was read, for the user.
    """

    header: list[str] = field(default_factory=list)
    header_line: int = 1
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    misquoted: dict[int, set[str]] = field(default_factory=dict)
    encoding: str = ""
    notes: tuple[str, ...] = ()


def read_delimited(name: str, title: str) -> Table:
    """Read a CSV or TSV file by the rules of `read_rows`; the first row has the names of the columns.

    Args:
        name: The file.
        title: Its name in messages.

    Raises:
        SourceError: If it cannot be read, or a row is not well-formed.
    """
    read = read_rows(name, title)
    by_column = list(zip(*read.rows, strict=True)) if read.rows else [()] * len(read.header)
    columns: dict[str, Sequence[str]] = {}
    for column, cells in zip(read.header, by_column, strict=True):
        columns.setdefault(column, cells)
    return Table(
        title,
        list(columns),
        len(read.rows),
        columns.__getitem__,
        lambda row: f"line {read.lines[row]}",
        repeated={column for column in read.header if read.header.count(column) > 1},
        misquoted=read.misquoted,
        encoding=read.encoding,
        notes=read.notes,
    )


def read_rows(name: str, title: str) -> Rows:
    """Read the rows of a CSV or TSV file.

    The separator is that of a first line `sep=;`, or else the one of `,`, `;`, tab and `|` that the header has most
    of. Lines before the header that begin with `#` are left out, and so is a separator at the end of every row.

    Raises:
        SourceError: If it cannot be read, or a row is not well-formed.
    """
    try:
        raw = Path(name).read_bytes()
    except OSError as error:
        msg = f"{title} cannot be read: {error.strerror}; check its permissions"
        raise SourceError(msg) from error
    text, encoding = decode_text(raw, title)
    lines = list(io.StringIO(text, newline=""))
    start, delimiter = _find_header(lines, title, is_tsv=name.lower().endswith(".tsv"))
    read = _parse(lines, start, delimiter, title)
    read.header = [remove_invisible(column.strip()) for column in _fit_rows(read, delimiter, title)]
    read.encoding, read.notes = encoding, _describe(text, encoding, lines, start)
    return read


def _describe(text: str, encoding: str, lines: Sequence[str], start: int) -> tuple[str, ...]:
    notes = []
    n_comments = sum(line.startswith("#") for line in lines[:start])
    if n_comments:
        notes.append(f"comment lines before the header: {n_comments}")
    if not encoding.startswith("utf"):
        word = _find_word(text)
        notes.append(f"the table is not UTF-8; it is read as {encoding} ({word!r}): save it as UTF-8 if this is wrong")
    elif re.search("[\udc80-\udcff]", text):
        notes.append("some names in the table are not UTF-8; their bytes are kept: save it as UTF-8 if this is wrong")
    return tuple(notes)


def _find_word(text: str) -> str:
    """Return the first word that is not ASCII; of a long one, the part near the first such character."""
    first = re.search(r"[^\x00-\x7f]", text)
    at = first.start() if first else 0
    before, after = text[max(at - _NEAR, 0) : at], text[at : at + _NEAR]
    return _BETWEEN.split(before)[-1] + _BETWEEN.split(after)[0]


def _find_header(lines: Sequence[str], title: str, *, is_tsv: bool) -> tuple[int, str]:
    """Return the index of the header's line, and the delimiter."""
    match = _SEPARATOR.fullmatch(lines[0]) if lines else None
    stated = match[1].replace("\\t", "\t") if match else None
    if stated is not None and len(stated) != 1:
        msg = f"line 1 of {title} is {lines[0].strip()!r}; the separator must be a single character, such as sep=;"
        raise SourceError(msg)
    filled = [at for at, line in enumerate(lines) if line.strip() and not (stated and at == 0)]
    at = next((at for at in filled if not lines[at].startswith("#") or _is_header(lines[at])), len(lines))
    if at == len(lines):
        msg = f"{title} is empty; write the names of the columns in the first line, such as path,label, then the rows"
        raise SourceError(msg)
    # csv.Sniffer guesses quotes and separators from the letters of the paths; the header alone is clearer.
    counts = {mark: len(_split(lines[at], mark)) for mark in ("\t" if is_tsv else _DELIMITERS)}
    best = max(counts, key=lambda mark: counts[mark])
    if stated and at and counts[best] > 1 and len(_split(lines[at], stated)) == 1:
        msg = (
            f"line 1 of {title} is {lines[0].strip()!r}, but the header is separated by {best!r}; correct or "
            "remove line 1"
        )
        raise SourceError(msg)
    return at, stated or best


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _is_header(comment: str) -> bool:
    """Return whether a line such as `#path,label` names a column of paths."""
    names = re.split(rf"[{_DELIMITERS}]", comment.lstrip("#"))
    return len(names) > 1 and any(normalise_title(name.strip()) in SPELLINGS["path"] for name in names)


def _parse(lines: Sequence[str], start: int, delimiter: str, title: str) -> Rows:
    parsed = Rows()
    for begin, end, row in _read_rows(lines, start, delimiter, title):
        if end > begin + 1:
            _refuse_swallowed(row, begin, delimiter, title)
        if not any(row):
            continue
        if not parsed.header:
            parsed.header, parsed.header_line = [row[0].removeprefix("#"), *row[1:]], begin + 1
            continue
        if '"' in lines[begin] and any('"' in cell for cell in row):
            parsed.misquoted[len(parsed.rows)] = _find_misquoted(lines[begin:end], delimiter)
        parsed.rows.append(row)
        parsed.lines.append(begin + 1)
    return parsed


def _read_rows(lines: Sequence[str], start: int, delimiter: str, title: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the indices of a row's first line and of the line after it, and its cells."""
    reader = csv.reader(lines[start:], delimiter=delimiter, skipinitialspace=True, strict=True)
    begin = start
    try:
        for row in reader:
            end = start + reader.line_num
            yield begin, end, row
            begin = end
    except csv.Error as error:
        if reader.line_num + start > begin + 1 or "end of data" in str(error):
            msg = (
                f"a quote in line {begin + 1} of {title} is not closed in that line; close it or remove it, and write "
                '"" for a quote inside a quoted field'
            )
        elif "expected after" in str(error):
            msg = (
                f"line {begin + 1} of {title} has text after a closing quote; put the whole field in quotes, and "
                'write "" for a quote inside'
            )
        else:
            msg = f"line {begin + 1} of {title} cannot be read: {error}; save it as CSV in UTF-8"
        raise SourceError(msg) from error


def _refuse_swallowed(row: Sequence[str], begin: int, delimiter: str, title: str) -> None:
    """Refuse a quoted field of several lines that contains rows: two quotes were opened, and none was closed.

    Raises:
        SourceError: If a field begins like the end of a row, or ends like the beginning of one, with an image's name.
    """
    for at, cell in enumerate(row):
        inner = cell.splitlines()
        if inner in ([], [cell]):
            continue
        first, last = _split(inner[0], delimiter), _split(inner[-1], delimiter)
        names = [*first[1:], *(last if at else ())]
        if (len(last) == at + 1 or len(first) == len(row) - at) and any(
            has_image_suffix(name.strip()) for name in names
        ):
            msg = (
                f"a quote in line {begin + 1} of {title} is not closed in that line, and the field up to the next "
                f"quote has another row ({inner[-1][:40]!r}); close the quote or remove it"
            )
            raise SourceError(msg)


def _find_misquoted(lines: Sequence[str], delimiter: str) -> set[str]:
    """Return the fields of a row that contain a quote and are not quoted."""
    mark = re.escape(delimiter)
    others = re.sub(rf'(^|{mark}) *"(?:[^"]|"")*"(?={mark}|[\r\n]*$)', r"\1", "".join(lines))
    return {cell.lstrip(" ") for cell in others.rstrip("\r\n").split(delimiter) if '"' in cell}


def _fit_rows(parsed: Rows, delimiter: str, title: str) -> list[str]:
    """Drop a delimiter that ends every row, and return the header.

    Raises:
        SourceError: If a row is shorter or longer than the header.
    """
    header, widths = parsed.header, {len(row) for row in parsed.rows}
    if len(widths) == 1:
        width = min(len(header), *widths)
        while width and not header[width - 1].strip() and not any(row[width - 1] for row in parsed.rows):
            width -= 1
        if not any(map(str.strip, header[width:])) and not any(any(row[width:]) for row in parsed.rows):
            parsed.rows = [row[:width] for row in parsed.rows]
            return header[:width]
    for line, row in zip(parsed.lines, parsed.rows, strict=True):
        if len(row) != len(header):
            fields = f"{len(row)} {agree(len(row), 'field', 'fields')}"
            msg = f"line {line} of {title} has {fields} and the header has {len(header)}; "
            if row[0].startswith("#"):
                msg += "remove comments that come after the header"
            elif len(row) < len(header):
                msg += f"write {delimiter!r} for each field that is empty"
            elif any(row[len(header) :]):
                msg += f"put the fields that contain {delimiter!r} in double quotes"
            else:
                msg += f"remove the {delimiter!r} at its end"
            raise SourceError(msg)
    return header
