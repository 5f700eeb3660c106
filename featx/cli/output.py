"""What the command line shows: progress on stderr, results on stdout."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from featx.wording import to_printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Shown:
    """What moves a bar: called with what is done and in all.

    Args:
        bar: A bar of rich.
        what: What is done.
    """

    def __init__(self, bar: "Bar", what: str) -> None:
        """Show that it begins: what is imported, built and converted before the first item takes seconds."""
        self._bar, self._what = bar, what
        self._task = bar.add_task(f"{what}: loading", total=None)

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._bar.update(self._task, completed=done, total=total, description=self._what)

    def begin(self, what: str) -> None:
        """Go on to something else, of which it is not known yet how much there is."""
        # A task of rich that once had an end keeps one.
        self._bar.remove_task(self._task)
        self._what = what
        self._task = self._bar.add_task(what, total=None)


@contextlib.contextmanager
def show_progress(what: str) -> Iterator[Shown | None]:
    """Show a bar with rate and time left on stderr; nothing where stderr is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # Python has none where the caller closed it
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    # rich would otherwise send what is printed to stdout to the bar's console: rows of `> out.csv` to stderr.
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, redirect_stdout=False, speed_estimate_period=5) as bar:
        yield Shown(bar, what)


def tell(line: str) -> None:
    """Print a line to stderr, above the bar, if there is one."""
    sys.stderr.write(f"{line}\n")


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
