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


def test_rows_reach_a_file_while_a_bar_is_on_the_terminal():
    terminal, stderr = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    command = [sys.executable, "-c", PRINT_UNDER_A_BAR]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=env, check=True)
    os.close(stderr)
    shown = os.read(terminal, 65536)
    os.close(terminal)
    assert result.stdout == b"photo.jpg,cat\n"
    assert b"working" in shown
    assert b"photo.jpg" not in shown
