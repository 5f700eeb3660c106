"""Progress reports: what a run reports to its caller while it works, and a progress bar for terminals and notebooks."""

import builtins
import logging
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from featx.errors import UsageError
from featx.wording import to_printable, wrap_words

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: Called with the number of steps done and the number of all steps.
Progress = Callable[[int, int], None]


class Reporter:
    """A listener to a run, which ignores everything; subclasses override what they want to show."""

    def begin(self, phase: str) -> None:
        """Note that a phase begins, such as `embedding`; progress counts from 0 again."""

    def advance(self, done: int, total: int) -> None:
        """Note how many steps of the current phase are done, and how many there are."""

    def describe(self, state: str) -> None:
        """Note the state of the workers of the current phase, such as `2 embedding`."""

    def say(self, line: str) -> None:
        """Note a line that is meant for the user."""


#: The default of all options.
SILENT = Reporter()

#: The logger of lines that were printed, for the file of a log.
SAID = "featx.said"

logger = logging.getLogger(__name__)


class ProgressReporter(Reporter):
    """A progress bar with rate and time left, for terminals and notebooks; lines appear above it.

    The bar goes to stderr, and is left out if stderr is neither a terminal nor a notebook; lines are still printed.

        with featx.ProgressReporter() as reporter:
            featx.embed("photos/", "mobilenetv2", options=featx.EmbedOptions(reporter=reporter))

    Args:
        phase: The first phase, shown until the run begins one itself.
    """

    def __init__(self, phase: str = "starting") -> None:
        self._phase = phase
        self._state = ""
        self._is_open = False
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._is_open, self._bar = True, _make_bar()
        if self._bar is not None:
            # Importing, building and converting take seconds before the first item is done.
            self._task = self._bar.add_task(f"{self._phase}: loading", total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._is_open, self._bar, self._task = False, None, None

    def begin(self, phase: str) -> None:
        """Start the bar again for another phase, whose length is not known yet."""
        self._check_open()
        logger.info("%s", phase)
        if self._bar is None or self._task is None or phase == self._phase:
            return
        # Once a task of rich has a total, it cannot lose it: take a new one.
        self._bar.remove_task(self._task)
        self._phase, self._state = phase, ""
        self._task = self._bar.add_task(phase, total=None)

    def advance(self, done: int, total: int) -> None:
        """Move the bar."""
        self._check_open()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=self._phase + self._state)

    def describe(self, state: str) -> None:
        """Show the state of the workers beside the phase."""
        self._check_open()
        self._state = f": {state}" if state else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=self._phase + self._state)

    def say(self, line: str) -> None:
        """Print a line to stderr, above the bar."""
        logging.getLogger(SAID).info("%s", line)
        show_line(line, sys.stderr)

    def _check_open(self) -> None:
        """Refuse to work where nothing would stop the bar if the run failed."""
        if not self._is_open:
            msg = "a ProgressReporter works inside `with featx.ProgressReporter() as reporter:`; pass `reporter` there"
            raise UsageError(msg)


def show_line(line: str, stream: TextIO | None) -> None:
    """Print a line without control characters; a terminal gets it broken between words, and other streams get it whole.

    Args:
        line: The line.
        stream: Where to; None, which Python has for a stream that the caller closed, prints nothing.
    """
    if stream is None:
        return
    line = to_printable(line)
    stream.write(f"{wrap_words(line, _measure_width(stream)) if stream.isatty() else line}\n")
    stream.flush()


def _measure_width(terminal: TextIO) -> int:
    try:
        columns = os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):  # a notebook, or a stream that only behaves like a terminal
        columns = 0
    return columns or shutil.get_terminal_size().columns


def _make_bar() -> "Bar | None":
    """Make a bar of rich; None where nobody would see it."""
    if sys.stderr is None:  # Python has none where the caller closed it
        return None
    if not (sys.stderr.isatty() or hasattr(builtins, "get_ipython")):  # before rich is imported, which takes a while
        return None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class WholeWords(Console):
        """A console that does not cut the paths of lines which are printed above the bar."""

        def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - as the method of Console
            super().print(*objects, **{"overflow": "ignore", "crop": False, **options})

    console = WholeWords(stderr=True)
    if console.is_jupyter and find_spec("ipywidgets") is None:
        # rich would show a warning instead of a bar; a notebook also understands a terminal's carriage returns.
        console = WholeWords(stderr=True, force_jupyter=False, force_terminal=True)
    elif not (console.is_jupyter or sys.stderr.isatty()):
        return None

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    # rich would otherwise send what is printed to stdout to the bar's console: rows of `> out.csv` to stderr.
    return Bar(*columns, console=console, transient=True, redirect_stdout=False, speed_estimate_period=5)
