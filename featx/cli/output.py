"""Output: results on stdout, notes and errors on stderr; no control character of a name reaches the terminal."""

import itertools
import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.cells import cell_len

from featx.reporting import SAID, show_line
from featx.wording import agree, to_printable

#: Images whose reason is printed; a note counts all.
SHOWN_REASONS = 5

#: Blanks between the columns of a table.
_GAP = 2

#: Before the further lines of a wrapped cell.
_INDENT = "  "

#: A longer word may be divided after its marks.
_LONG_WORD = 20

_AFTER_BLANK = re.compile(r"(?<=\s)(?=\S)")
_AFTER_MARK = re.compile(r"(?<=[^\W\d]{2}[-_/.])(?=\w)")  # two letters first: 1e-05 stays whole


def print_text(text: str) -> None:
    """Print the lines of a result to stdout."""
    typer.echo("\n".join(map(to_printable, text.split("\n"))))


def print_message(message: str) -> None:
    """Print one line to stderr; a terminal gets it broken between words."""
    logging.getLogger(SAID).info("%s", message)
    show_line(message, sys.stderr)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes to stderr."""
    for note in notes:
        print_message(f"note: {note}")


def print_quarantine(results: Sequence[Any]) -> None:
    """Print to stderr why images are quarantined, and how many are.

    Args:
        results: The `EmbedResult` of each store.
    """
    reasons = {name: reason for result in results for name, _, reason in result.store.quarantine}
    for item, reason in list(reasons.items())[:SHOWN_REASONS]:
        print_message(f"quarantined {item}: {reason}")
    worst = max(results, key=lambda result: result.bad_share)
    if 0 < worst.bad_share <= worst.max_bad:
        share = f"{worst.bad_share:.1%} of the images are quarantined (up to {worst.max_bad:.1%} is accepted)"
        print_notes([f"{share}; `featx info {worst.store.path}` lists the reasons, and the next run tries them again"])


def print_json(values: Any) -> None:  # noqa: ANN401 - anything that JSON can hold
    """Print one line of JSON; see `to_json`."""
    typer.echo(to_json(values))


def to_json(values: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    """Return one line of JSON; values that JSON lacks, NaN and infinity, become null."""
    return json.dumps(_replace_non_finite(values), ensure_ascii=True)


def print_run(run: Any) -> None:  # noqa: ANN401 - a Run, whose module loads numpy
    """Print a run as one line of JSON, without the tables of many classes."""
    values = run.to_dict()
    parts = {name: omit_tables(values[name]) for name in ("validation", "test")}
    if parts["test"]["per_class"] is None:
        print_notes(
            [f"per_class and confusion are null, since there are many classes; {run.bundle}/metrics.json has them"]
        )
    print_json({**values, **parts})


def point_to_errors(test: Any, folder: Path | None) -> list[str]:  # noqa: ANN401 - an Evaluation, as above
    """Return a line that says how many tested images are wrong and how to see them; nothing if none is."""
    wrong = round((1 - (test.accuracy or 0)) * test.n_items)
    if not wrong or folder is None:
        return []
    how_many = f"{wrong:,} of {test.n_items:,} tested images {agree(wrong, 'is', 'are')} wrong"
    return [f"{how_many}: featx errors {folder}"]


def omit_tables(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Replace the tables of an evaluation by None if they have many classes; its keys stay."""
    from featx.evaluation.metrics import MOST_DENSE

    many = len(evaluation["classes"]) > MOST_DENSE
    return evaluation | ({"per_class": None, "confusion": None} if many else {})


def _replace_non_finite(value: Any) -> Any:  # noqa: ANN401 - recursive over JSON
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return value


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int] = (0,),
    drop: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Align a table, and fit it to the terminal without cutting a word or a number.

    Headings and the cells of text columns are wrapped at blanks; a long name, such as a path, also after its own
    marks. If that is not enough, columns are left out. A table that is still too wide keeps its width.

    Args:
        header: The names of the columns.
        rows: The cells.
        left: Numbers of the columns with text, which are aligned to the left; the others are aligned to the right.
        drop: Names of the columns that may be left out, the first one first.
        width: Width in terminal columns; None for that of the terminal, as `read_width` finds it.
    """
    cells = [[to_printable(cell) for cell in row] for row in (header, *rows)]
    limit = read_width() if width is None else width
    columns = list(zip(*cells, strict=True))
    least = [_measure_least(column, at in left) for at, column in enumerate(columns)]
    kept = list(range(len(header)))
    for name in drop:
        if limit is None or _add_gaps([least[at] for at in kept]) <= limit:
            break
        kept = [at for at in kept if header[at] != name]
    widths = [max(map(cell_len, columns[at])) for at in kept]
    if limit is not None:
        _narrow(widths, [least[at] for at in kept], limit)
    sides = [at in left for at in kept]
    return "\n".join(line for row in cells for line in _align_row([row[at] for at in kept], widths, sides))


def read_width() -> int | None:
    """Return the width of the terminal: `COLUMNS` if it is set; None if stdout is not a terminal."""
    if not os.environ.get("COLUMNS") and not (sys.stdout and sys.stdout.isatty()):
        return None
    return shutil.get_terminal_size(fallback=(0, 0)).columns or None


def _measure_least(column: Sequence[str], is_text: bool) -> int:
    """Measure the widest part of a column that is not wrapped."""
    name, *cells = column
    parts = [*_split(name), *(part for cell in cells for part in (_split(cell) if is_text else [cell]))]
    return max(cell_len(part.rstrip()) for part in parts)


def _add_gaps(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _narrow(widths: list[int], least: Sequence[int], limit: int) -> None:
    """Narrow the widest columns until the table fits, or until no column can be narrowed."""
    while _add_gaps(widths) > limit:
        able = [at for at, width in enumerate(widths) if width > least[at]]
        if not able:
            return
        widths[max(able, key=widths.__getitem__)] -= 1


def _align_row(row: Sequence[str], widths: Sequence[int], sides: Sequence[bool]) -> list[str]:
    lines = []
    wrapped = [_wrap(cell, width, _INDENT * is_text) for cell, width, is_text in zip(row, widths, sides, strict=True)]
    for parts in itertools.zip_longest(*wrapped, fillvalue=""):
        spaces = [" " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True)]
        padded = [part + gap if side else gap + part for part, gap, side in zip(parts, spaces, sides, strict=True)]
        lines.append((" " * _GAP).join(padded).rstrip())
    return lines


def _wrap(text: str, width: int, indent: str) -> list[str]:
    """Wrap a cell; its further lines are indented where there is room, so that one sees where a row begins."""
    if cell_len(text) <= width:
        return [text]
    first, *parts = _split(text)
    lines = [first]
    for part in parts:
        if cell_len((lines[-1] + part).rstrip()) <= width:
            lines[-1] += part
        else:
            lines.append(indent + part if cell_len((indent + part).rstrip()) <= width else part)
    return [line.rstrip() for line in lines]


def _split(text: str) -> list[str]:
    """Split a text where a line may end: after blanks, and in a long word after marks between letters."""
    words = _AFTER_BLANK.split(text)
    return [part for word in words for part in (_AFTER_MARK.split(word) if cell_len(word) > _LONG_WORD else [word])]
