"""Output of results on stdout: JSON and tables."""

import json
import math
from collections.abc import Sequence
from typing import Any

import typer

from featx.wording import to_printable


def print_json(values: Any) -> None:  # noqa: ANN401 - anything that JSON can hold
    """Print one line of JSON; NaN, which JSON lacks, becomes null."""
    typer.echo(json.dumps(_replace_nan(values), ensure_ascii=True))


def _replace_nan(value: Any) -> Any:  # noqa: ANN401 - recursive over JSON
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nan(item) for item in value]
    return value


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """Align columns; those numbered in `left` to the left, the others to the right."""
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
