"""Where the time of a run goes, so that a user knows what would make it faster."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from featx.options import count_cores

READ, DECODE, INFER, WRITE = "read+hash", "decode", "infer", "write"

# In any run some cores are idle for some of the time, which is nobody's disk.
_USUALLY_IDLE = 0.15

#: The stages of an embedding run, in the order of the data.
STAGES = (READ, DECODE, INFER, WRITE)


class Timing:
    """Adds up the seconds of each stage over all threads, from when it is made.

    A thread that waits for a core or for Python's lock is in no stage, so that stages count their own processor
    time. To that, reading and writing add what they waited for disks and drives, as far as more cores
    than usual were idle meanwhile. The network has what is left of the process's time, because it runs in
    threads that no clock of Python sees; on a device, it has the time that its calls take.

    Attributes:
        is_on_device: Whether the network runs on a GPU.
    """

    def __init__(self) -> None:
        self.is_on_device = False
        self._wall = dict.fromkeys(STAGES, 0.0)
        self._cpu = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()
        self._owner = threading.get_ident()
        self._others_cpu = 0.0  # of threads that neither own this nor run the network
        self._own_infer_cpu = 0.0
        self._started = _read_clocks()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count what happens inside towards a stage."""
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            with self._lock:
                self._wall[stage] += wall
                self._cpu[stage] += cpu
                is_own = threading.get_ident() == self._owner
                if is_own and stage == INFER:
                    self._own_infer_cpu += cpu
                elif not is_own and stage != INFER:
                    self._others_cpu += cpu

    def conclude(self) -> dict[str, float]:
        """Return the seconds of each stage; called in the thread that made it."""
        elapsed, process, own = (now - then for now, then in zip(_read_clocks(), self._started, strict=True))
        idle = max(0.0, (1 - _USUALLY_IDLE) * elapsed * count_cores() - process)
        with self._lock:
            seconds = dict(self._cpu)
            for stage in (READ, WRITE):
                seconds[stage] += min(idle, max(0.0, self._wall[stage] - self._cpu[stage]))
            rest = max(0.0, process - own - self._others_cpu + self._own_infer_cpu)
            seconds[INFER] = self._wall[INFER] if self.is_on_device else rest
        return seconds


def _read_clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()
