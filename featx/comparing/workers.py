"""The first thing that a worker process does.

This module imports nothing heavy: a worker loads it first, and must notice that its parent is gone also while it
imports everything else.
"""

import os
import signal
import threading
import time

#: How often a process checks that its parent still exists.
_WATCH_SECONDS = 0.5


def obey_parent(parent: int) -> None:
    """Ignore Ctrl-C, which a terminal sends to all processes and the parent handles, and exit when the parent is gone.

    On Windows a parent's process id outlives it; there, a process exits after it has been idle for long enough.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), name="featx-parent", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
