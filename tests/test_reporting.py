"""Lines and a progress bar go to stderr, the bar only to a terminal or a notebook; stdout stays for results."""

import os
import subprocess
import sys

import pytest

from featx import EmbedOptions, ProgressReporter
from featx.errors import UsageError

pty = pytest.importorskip("pty", reason="this platform has no pseudo-terminals")

PRINT_UNDER_A_BAR = """
import csv
import sys

from featx import ProgressReporter

with ProgressReporter("working") as reporter:
    reporter.advance(1, 2)
    csv.writer(sys.stdout, lineterminator="\\n").writerow(["photo.jpg", "cat"])
"""

SAY_ABOVE_A_BAR = """
from featx import ProgressReporter

with ProgressReporter("tuning") as reporter:
    reporter.advance(3, 9)
    reporter.begin("testing")
    reporter.say("one line")
    reporter.advance(1, 2)
"""

#: What rich takes for a notebook; the second line makes `ipywidgets` a missing package.
IN_A_NOTEBOOK_WITHOUT_WIDGETS = """
import builtins, sys
sys.modules["ipywidgets"] = None
builtins.get_ipython = type("ZMQInteractiveShell", (), {})
"""


def test_each_phase_starts_the_bar_again_and_lines_go_above_it():
    shown, result = run_on_a_terminal(SAY_ABOVE_A_BAR)
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


def test_without_stderr_no_bar_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as where the caller closed it
    with ProgressReporter("working") as reporter:
        use(reporter)


def test_a_file_gets_the_lines_and_no_bar(capsys):
    with ProgressReporter("working") as reporter:
        use(reporter)
    assert capsys.readouterr() == ("", "one line\n")


def test_a_notebook_without_widgets_gets_a_bar_of_text():
    command = [sys.executable, "-W", "error", "-c", IN_A_NOTEBOOK_WITHOUT_WIDGETS + SAY_ABOVE_A_BAR]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TERM": "xterm"}, check=True)
    assert result.stdout == ""
    before, after = result.stderr.split("one line", 1)
    assert "testing" in before
    assert "1/2" in after
    assert "ipywidgets" not in result.stderr


def test_the_default_reporter_is_silent(capsys):
    use(EmbedOptions().reporter)
    assert capsys.readouterr() == ("", "")


def use(reporter):
    reporter.begin("testing")
    reporter.advance(1, 2)
    reporter.say("one line")


def test_outside_a_with_statement_it_says_how_to_use_it():
    reporter = ProgressReporter()
    for call in (lambda: reporter.begin("testing"), lambda: reporter.advance(1, 2)):
        with pytest.raises(UsageError, match=r"inside `with featx.ProgressReporter\(\) as reporter:`"):
            call()


def test_a_terminal_gets_no_word_or_path_cut_and_a_file_gets_the_line_whole(capsys):
    path = "features/" + "long-name-" * 12 + "mobilenetv2.h5"
    shown, _ = run_on_a_terminal(
        SAY_ABOVE_A_BAR.replace('"one line"', f'"{"normalisation " * 9}{path} {"normalisation " * 9}"')
    )
    assert path.encode() in shown
    assert shown.count(b"normalisation") == 18
    with ProgressReporter("working") as reporter:
        reporter.say("word " * 60)
    assert capsys.readouterr().err == "word " * 60 + "\n"
