"""Output: results on stdout, notes and errors on stderr; no control character of a name reaches the terminal."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from featx.reporting import show_line
from featx.wording import to_printable

#: Images whose reason is printed; a note counts all.
SHOWN_REASONS = 5


def print_text(text: str) -> None:
    """Print the lines of a result to stdout."""
    typer.echo("\n".join(map(to_printable, text.split("\n"))))


def print_message(message: str) -> None:
    """Print one line to stderr; a terminal gets it broken between words."""
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
    """Print one line of JSON; values that JSON lacks, NaN and infinity, become null."""
    typer.echo(json.dumps(_replace_non_finite(values), ensure_ascii=True))


def _replace_non_finite(value: Any) -> Any:  # noqa: ANN401 - recursive over JSON
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return value


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """Align columns: those numbered in `left` to the left, the others to the right."""
    from rich.cells import cell_len

    cells = [[to_printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(row[at]) for row in cells) for at in range(len(header))]
    lines = []
    for row in cells:
        padded = [
            cell + " " * (width - cell_len(cell)) if at in left else " " * (width - cell_len(cell)) + cell
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
