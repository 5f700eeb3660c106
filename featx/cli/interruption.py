"""What Ctrl-C does: once, a clean stop; twice, the end at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

#: What a shell reports of a process that SIGINT ended.
EXIT_CODE = 128 + 2

_STDERR = 2


@contextlib.contextmanager
def end_at_second_interrupt() -> Iterator[None]:
    """End the process at the second Ctrl-C inside, without waiting for anything.

    The first one stays Python's KeyboardInterrupt. A handler in Python alone could not answer the second
    while the main thread waits in a network, a forward pass or a disk that hangs, and two presses in that
    time would count as one; the bytes that Python's own handler in C writes are counted by a thread.

    Outside the main thread, which alone gets signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)  # asked for by set_wakeup_fd
    watcher = threading.Thread(target=_watch, args=(receiver,), name="featx-interruption", daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else interrupts are ignored, or somebody else's
        signal.signal(signal.SIGINT, _raise_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(previous)
        sender.close()
        watcher.join()


def _raise_once(number: int, frame: FrameType | None) -> None:
    """Stop cleanly; where the main thread is the first to see a second interrupt, it ends before it can complain."""
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
