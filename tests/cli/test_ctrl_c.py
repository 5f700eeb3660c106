"""Ctrl-C in real processes, which hang where files can hang."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from runs import count, draw, run

from featx.cli.ctrl_c import end_at_second_interrupt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="pipes with names and SIGINT to a process are POSIX"),
]

#: A reader whose picture `3 hangs.png` is a pipe that nobody writes to, as a file of a network drive that is gone;
#: it says on stdout when it waits.
EMBED = """
import sys
import time
from pathlib import Path

import featx.items.folders as folders
from featx.cli.app import main

read = folders.FolderReader.read

def hang(self, item_id):
    if Path(item_id).name != "3 hangs.png":
        return read(self, item_id)
    time.sleep(1)  # by then the main thread has done the others, and waits for this one
    print("waiting", flush=True)
    return Path("pipe").read_bytes()

folders.FolderReader.read = hang
sys.argv = ["featx", "embed", "pictures", "--backbone", "colour", "--image-size", "8",
            "--workers", "1", "--batch-size", "1"]
main()
"""

#: The main thread runs no Python while it waits, and no signal wakes it, as in a forward pass or a disk that hangs.
WAIT_IN_C = """
import signal
import threading
import time

from featx.cli.ctrl_c import end_at_second_interrupt

with end_at_second_interrupt():
    # Printed by another thread, a second later: an interrupt that comes before the wait would be handled before it.
    threading.Timer(1, print, ["waiting"], {"flush": True}).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    time.sleep(600)
"""


@pytest.fixture
def pictures(tmp_path):
    for number in range(6):
        draw(tmp_path / "pictures" / "dog" / f"{number}.png", number)
    draw(tmp_path / "pictures" / "dog" / "3 hangs.png", 6)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pictures"


@contextlib.contextmanager
def start(code, folder):
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "waiting\n", process.stderr.read()
            yield process
        finally:
            process.kill()


def interrupt_in_vain(process):
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)


def interrupt_until_gone(process):
    """Interrupt again and again: on a busy machine, two signals that arrive before either is handled are one."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)


def test_the_first_interrupt_is_a_clean_stop(interruptible, pictures, tmp_path):
    with start(EMBED, tmp_path) as process:
        interrupt_in_vain(process)
        (tmp_path / "pipe").write_bytes(b"")  # the read ends, and with it the stop can
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("error: stopped; run the same command again to continue")
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert list((tmp_path / "features").glob("*.lock")) == []
    new, cached, quarantined = count(run(pictures, tmp_path / "features", name="colour-8x8"))
    assert (new + cached, quarantined) == (7, 0)


def test_the_second_interrupt_ends_at_once_although_a_read_hangs(interruptible, pictures, tmp_path):
    with start(EMBED, tmp_path) as process:
        interrupt_in_vain(process)
        interrupt_until_gone(process)
        assert process.returncode == 130
        assert "Traceback" not in process.stderr.read()
    assert sum(count(run(pictures, tmp_path / "features", name="colour-8x8"))) == 7


def test_two_interrupts_end_a_main_thread_that_handles_none(interruptible, tmp_path):
    with start(WAIT_IN_C, tmp_path) as process:
        interrupt_in_vain(process)
        interrupt_until_gone(process)
        assert process.returncode == 130


@pytest.fixture
def ignored():
    """SIGINT ignored, as in the background of a script."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, previous)


def test_children_of_an_interruptible_test_are_interruptible(ignored, interruptible):
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"True\n"


def test_it_leaves_everything_as_it_was():
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1), threading.active_count()
    with end_at_second_interrupt():
        assert threading.active_count() == before[2] + 1
    assert (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1), threading.active_count()) == before


def test_one_interrupt_inside_is_an_exception(interruptible):
    with pytest.raises(KeyboardInterrupt), end_at_second_interrupt():
        signal.raise_signal(signal.SIGINT)


def test_in_another_thread_it_does_nothing():
    inside = []

    def work():
        with end_at_second_interrupt():
            inside.append(threading.active_count())

    thread = threading.Thread(target=work)
    count_before = threading.active_count()
    thread.start()
    thread.join()
    assert inside == [count_before + 1]


#: Interrupts in places where a KeyboardInterrupt is lost or becomes another error; each program would go on.
IN_AN_IMPORT = """
import sys
from pathlib import Path

Path("careless.py").write_text(
    "import signal\\n"
    "try:\\n"
    "    signal.raise_signal(signal.SIGINT)\\n"
    "except BaseException:\\n"
    "    pass\\n"
)
sys.path.insert(0, "")
import careless
"""

IN_A_DESTRUCTOR = """
class Handle:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

Handle()
"""

IN_A_CALLBACK = """
import weakref

class Handle:
    pass

handle = Handle()
watched = weakref.ref(handle, lambda _: signal.raise_signal(signal.SIGINT))
del handle
"""

AS_ANOTHER_ERROR = """
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as error:
    raise RuntimeError("a callback failed") from error
"""

PLAINLY = "signal.raise_signal(signal.SIGINT)"


@pytest.mark.parametrize("program", [IN_AN_IMPORT, IN_A_DESTRUCTOR, IN_A_CALLBACK, AS_ANOTHER_ERROR, PLAINLY])
def test_no_interrupt_is_lost(interruptible, tmp_path, program):
    body = textwrap.indent(program, "    ")
    code = f"import signal\nfrom featx.cli.ctrl_c import handle_interrupts\nwith handle_interrupts():\n{body}\n"
    command = [sys.executable, "-c", code + "print('it went on')"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "error: stopped\n")


#: `python -m featx`, which says when it handles interrupts; before, Python itself starts.
COMMAND = """
import sys
from featx.cli.ctrl_c import handle_interrupts

with handle_interrupts():
    print("waiting", flush=True)
    from featx.cli.app import main
    main()
"""


def test_an_interrupt_at_any_moment_ends_with_one_line(interruptible, store, tmp_path):
    command = [sys.executable, "-c", COMMAND, "info", str(store.path)]
    began = time.monotonic()
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    whole = time.monotonic() - began
    ends = []
    for moment in range(15):
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "waiting\n"
            time.sleep(whole * moment / 20)
            process.send_signal(signal.SIGINT)
            errors = process.stderr.read()
        ends.append((process.returncode, errors))
    finished = [end for end in ends if end[0] == 0]  # before the signal: the machine is less busy than at first
    # Not in this order on a busy machine, where one run is slower than the next.
    assert sorted(ends) == sorted([(130, "error: stopped\n")] * (15 - len(finished)) + finished)
    assert len(finished) < 8


def test_an_interrupt_while_python_ends_is_one_line(interruptible, tmp_path):
    # A library's function, which Python calls at the end; `input` prints the text and waits.
    code = COMMAND.replace("main()", "import atexit\n    atexit.register(input, 'ending\\n')\n    main()")
    command = [sys.executable, "-c", code, "--version"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        assert [process.stdout.readline() for _ in range(3)][2] == "ending\n"
        interrupt_until_gone(process)  # one that comes just before the wait begins is not seen until it ends
        errors = process.stderr.read()
    assert (process.returncode, errors) == (130, "error: stopped\n")
