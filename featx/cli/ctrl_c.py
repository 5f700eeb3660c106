"""Ctrl-C: the first one stops cleanly, the second one ends the process at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

#: The exit status that a shell reports for a process that SIGINT ended.
EXIT_CODE = 128 + 2

_STDERR = 2


@contextlib.contextmanager
def end_at_second_interrupt() -> Iterator[None]:
    """End the process at the second Ctrl-C inside, without waiting for anything.

    The first one stays Python's KeyboardInterrupt. A handler in Python could not answer the second while the main
    thread waits for a network, a forward pass or a hanging disk, and two presses in that time would count as one.
    So a thread counts the bytes that Python's own handler, in C, writes for each signal.

    Outside the main thread, the only one that receives signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)  # required by set_wakeup_fd
    watcher = threading.Thread(target=_watch, args=(receiver,), name="featx-interruption", daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else interrupts are ignored, or the caller handles them
        signal.signal(signal.SIGINT, _raise_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(previous)
        sender.close()
        watcher.join()


def _raise_once(number: int, frame: FrameType | None) -> None:
    """Stop cleanly; if the main thread sees a second interrupt first, the process ends before a traceback."""
    signal.signal(signal.SIGINT, lambda *_: _end())
    signal.default_int_handler(number, frame)


def _watch(receiver: socket.socket) -> None:
    interrupts = 0
    with receiver:
        while signals := receiver.recv(64):
            interrupts += signals.count(signal.SIGINT)
            if interrupts > 1:
                _end()


def _end() -> None:
    if os.isatty(_STDERR):
        os.write(_STDERR, b"\x1b[?25h\n")  # a progress bar has hidden the cursor
    os._exit(EXIT_CODE)
