"""Results go to stdout whatever stderr is, and a bar appears on a terminal only."""

import os
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="this platform has no pseudo-terminals")

PRINT_UNDER_A_BAR = """
import csv
import sys

from featx.cli.output import show_progress

with show_progress("working") as progress:
    progress(1, 2)
    csv.writer(sys.stdout, lineterminator="\\n").writerow(["photo.jpg", "cat"])
"""


TELL_ABOVE_A_BAR = """
from featx.cli.output import show_progress, tell

with show_progress("tuning") as progress:
    progress(3, 9)
    progress.begin("testing")
    tell("one line")
    progress(1, 2)
"""


def test_a_bar_can_begin_anew_under_another_name_and_lines_go_above_it():
    shown, result = run_on_a_terminal(TELL_ABOVE_A_BAR)
    assert result.stdout == b""
    before, after = shown.split(b"one line", 1)
    assert b"testing" in before  # the bar, which the line then takes the place of
    assert b"0/?" in before
    assert b"testing" in after
    assert b"1/2" in after
    assert b"tuning" not in after


def run_on_a_terminal(program):
    """Run a program whose stderr is a terminal: what that showed, and the finished process."""
    terminal, stderr = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=env, check=True)
    os.close(stderr)
    shown = os.read(terminal, 65536)
    os.close(terminal)
    return shown, result


def test_rows_reach_a_file_while_a_bar_is_on_the_terminal():
    shown, result = run_on_a_terminal(PRINT_UNDER_A_BAR)
    assert result.stdout == b"photo.jpg,cat\n"
    assert b"working" in shown
    assert b"photo.jpg" not in shown


def test_without_stderr_there_is_no_bar_and_no_crash(monkeypatch):
    from featx.cli.output import show_progress

    monkeypatch.setattr(sys, "stderr", None)  # as where the caller closed it
    with show_progress("working") as progress:
        assert progress is None
