"""Ctrl-C: the first one stops cleanly with one line, the second one ends the process at once."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

#: The exit status that a shell reports for a process that SIGINT ended.
EXIT_CODE = 128 + 2

_STDERR = 2

_STOPPED = "stopped; run the same command again to continue: it repeats only what was not finished"

#: Verbs of which that is true; the others start from scratch.
_RESUMED = {"embed", "repair", "compare", "finetune", "scout"}

#: Where Python's code for imports comes from.
_IMPORT = "<frozen importlib."


def describe_stop() -> str:
    """Return the message after Ctrl-C."""
    words = {word.partition("=")[0] for word in sys.argv[1:]}
    return _STOPPED if _RESUMED & words or {"predict", "--out"} <= words else "stopped"


@contextlib.contextmanager
def handle_interrupts() -> Iterator[None]:
    """Handle Ctrl-C from here to the end of the process, which ends with status 130 and one line on stderr.

    A KeyboardInterrupt is lost if it is raised inside a destructor, in a callback of the garbage collector, or in an
    import: libraries catch every error of an import, and Python itself ignores those of its import locks. In these
    places the process ends at once; files on the disk are never left in a state that the next run cannot use.

    It does nothing where SIGINT is ignored, as in the background of a script, or has a handler already.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _stop)
    # Registered first, so called last: from then on, only Python's own end is left, in which no handler runs.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    ignore = sys.unraisablehook

    def end_if_interrupted(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _end()
        ignore(lost)

    sys.unraisablehook = end_if_interrupted
    try:
        yield
    except KeyboardInterrupt:  # before the command line itself could handle it
        _end()
    except SystemExit as end:
        if end.code == EXIT_CODE:  # the line is printed
            signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_CODE))
        raise
    except Exception:
        if was_interrupted():  # a library has turned the interrupt into an error of its own
            _end()
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is _stop:
            signal.signal(signal.SIGINT, _end)  # Python calls functions of libraries while it ends


def was_interrupted() -> bool:
    """Return whether Ctrl-C was pressed since `handle_interrupts` began."""
    return signal.getsignal(signal.SIGINT) is _end


@contextlib.contextmanager
def end_at_second_interrupt() -> Iterator[None]:
    """End the process at the second Ctrl-C inside, without waiting for anything.

    The first one stays Python's KeyboardInterrupt. A handler in Python could not answer the second while the main
    thread waits for a network, a forward pass or a hanging disk, and two presses in that time would count as one.
    So a thread counts the bytes that Python's own handler, in C, writes for each signal.

    Outside the main thread, the only one that receives signals, it does nothing.
    """
    import socket

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)  # required by set_wakeup_fd
    watcher = threading.Thread(target=_watch, args=(receiver,), name="featx-interruption", daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    handler = signal.getsignal(signal.SIGINT)
    replaced = handler is signal.default_int_handler  # else interrupts are ignored, or handled already
    if replaced:
        signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        if replaced:
            signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(previous)
        sender.close()
        watcher.join()


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop cleanly if this exception can reach the command line; the second interrupt ends the process."""
    signal.signal(signal.SIGINT, _end)
    if _is_importing(frame):
        _end()
    signal.default_int_handler(number, frame)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORT):
            return True
        frame = frame.f_back
    return False


def _watch(receiver: "socket.socket") -> None:
    interrupts = 0
    with receiver:
        while signals := receiver.recv(64):
            interrupts += signals.count(signal.SIGINT)
            if interrupts > 1:
                _end()


def _end(*_: object) -> None:
    """End the process with one line, without waiting for anything."""
    with contextlib.suppress(OSError):  # nobody reads stderr
        cursor = "\x1b[?25h\n" if os.isatty(_STDERR) else ""  # a progress bar has hidden the cursor
        os.write(_STDERR, f"{cursor}error: {describe_stop()}\n".encode())
    os._exit(EXIT_CODE)
