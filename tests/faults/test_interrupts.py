"""Ctrl-C in `python -m featx embed`, as a person presses it who watches the progress bar."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from image_files import encode, load_photo, make_chunk
from scenarios import list_names, read_content

from featx import embed

pty = pytest.importorskip("pty", reason="a progress bar is shown in a terminal, which this system cannot pretend to be")

COUNT = 14
_PNG_END_BYTES = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures large enough that somebody can press Ctrl-C in between."""
    folder = tmp_path_factory.mktemp("pictures") / "places"
    folder.mkdir()
    data = encode(load_photo(2400, 1600), "PNG", compress_level=1)
    for number in range(COUNT):
        note = make_chunk(b"tEXt", b"number\0%d" % number)
        (folder / f"{number}.png").write_bytes(data[:-_PNG_END_BYTES] + note + data[-_PNG_END_BYTES:])
    return folder.parent


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    return read_content(embed(pictures, "colour", folder=tmp_path_factory.mktemp("undisturbed")).store.path)


def make_command(pictures, features, *more):
    options = ["--backbone", "colour", "--name", "s", "--features", features, "--batch-size", "1", "--workers", "1"]
    return [sys.executable, "-m", "featx", "embed", pictures, *options, *more]


def finish(pictures, features):
    """Run to the end and return how many were new, and how many cached."""
    result = subprocess.run(make_command(pictures, features, "--json"), capture_output=True, text=True, check=True)
    counts = json.loads(result.stdout)
    return counts["new"], counts["cached"]


class Terminal:
    """What a process shows on its terminal."""

    def __init__(self, descriptor):
        self.text = ""
        self._descriptor = descriptor

    def read(self):
        """Read on; False at the end."""
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:  # Linux says so that the other side is closed
            data = b""
        self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode()).replace("\r", "\n")
        return bool(data)

    def count_done(self):
        return max((int(done) for done in re.findall(rf"(\d+)/{COUNT}", self.text)), default=0)

    def wait_until_done(self, count):
        while self.count_done() < count:
            assert self.read(), self.text
        return self.count_done()

    def read_rest(self):
        while self.read():
            pass
        return self.text


@contextlib.contextmanager
def start(pictures, features):
    inside, outside = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        make_command(pictures, features), stdout=subprocess.DEVNULL, stderr=outside, env=environment
    ) as process:
        os.close(outside)
        try:
            yield process, Terminal(inside)
        finally:
            process.kill()
            os.close(inside)


def interrupt_once(pictures, features, after):
    """Interrupt after so many pictures, and return how many were done at least."""
    with start(pictures, features) as (process, terminal):
        done = terminal.wait_until_done(after)
        process.send_signal(signal.SIGINT)
        shown = terminal.read_rest()
    assert process.returncode == 130
    assert shown.rstrip().splitlines()[-1].startswith("error: stopped; run the same command again to continue")
    assert shown.count("error: ") == 1
    assert "Traceback" not in shown
    return done


def test_after_one_interrupt_everything_that_was_finished_is_kept(interruptible, pictures, undisturbed, tmp_path):
    done = interrupt_once(pictures, tmp_path, 3)
    new, cached = finish(pictures, tmp_path)
    assert new + cached == COUNT
    assert done <= cached < COUNT
    assert read_content(tmp_path / "s.h5") == undisturbed
    assert list_names(tmp_path) == ["s.h5"]
    print(f"1 interrupt after {done} pictures, {cached} kept, 0 lost")  # noqa: T201 - shown by `make faults`


def test_after_two_interrupts_it_is_gone_at_once_and_nothing_committed_is_lost(
    interruptible, pictures, undisturbed, tmp_path
):
    committed = interrupt_once(pictures, tmp_path, 2)
    with start(pictures, tmp_path) as (process, terminal):
        terminal.wait_until_done(committed + 1)
        begun = time.monotonic()
        while process.poll() is None:  # two signals that arrive at once would be one
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        seconds = time.monotonic() - begun
        assert "Traceback" not in terminal.read_rest()
    assert process.returncode in {130, -signal.SIGINT}  # a shell says 130 of both
    assert seconds < 20  # half a second where nothing else runs
    new, cached = finish(pictures, tmp_path)
    assert new + cached == COUNT
    assert cached >= committed
    assert read_content(tmp_path / "s.h5") == undisturbed
    assert list_names(tmp_path) == ["s.h5"]
    print(f"2 interrupts, gone after {seconds:.2f} s, {cached} kept, 0 lost")  # noqa: T201 - shown by `make faults`
