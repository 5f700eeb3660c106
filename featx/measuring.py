"""Time of each stage of a run, and peak memory."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from featx.options import count_cores

READ, DECODE, INFER, WRITE = "read+hash", "decode", "infer", "write"

# In any run, cores are idle for some of the time, without waiting for a disk.
_USUALLY_IDLE = 0.15

#: The stages of an embedding run, in the order of the data.
STAGES = (READ, DECODE, INFER, WRITE)


class Timing:
    """A clock that adds up the seconds of each stage over all threads.

    A stage counts its processor time, since a thread that waits for a core or for Python's lock does no work.
    Reading and writing also count the time that they wait for disks, if more cores than usual are idle meanwhile.
    The network runs in threads that Python cannot measure, so it gets the rest of the process's time; on a device,
    it gets the duration of its calls.

    Attributes:
        is_on_device: Whether the network runs on a GPU.
    """

    def __init__(self) -> None:
        self.is_on_device = False
        self._wall = dict.fromkeys(STAGES, 0.0)
        self._cpu = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()
        self._owner = threading.get_ident()
        self._others_cpu = 0.0  # of threads that neither made this clock nor run the network
        self._own_infer_cpu = 0.0
        self._started = _read_clocks()
        self._elsewhere = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time of the block towards a stage."""
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

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of stages that another process measured."""
        for stage, value in seconds.items():
            self._elsewhere[stage] += value

    def conclude(self) -> dict[str, float]:
        """Return the seconds of each stage; call it in the thread that made the clock."""
        elapsed, process, own = (now - then for now, then in zip(_read_clocks(), self._started, strict=True))
        idle = max(0.0, (1 - _USUALLY_IDLE) * elapsed * count_cores() - process)
        with self._lock:
            seconds = dict(self._cpu)
            for stage in (READ, WRITE):
                seconds[stage] += min(idle, max(0.0, self._wall[stage] - self._cpu[stage]))
            rest = max(0.0, process - own - self._others_cpu + self._own_infer_cpu)
            seconds[INFER] = self._wall[INFER] if self.is_on_device else rest
        return {stage: seconds[stage] + self._elsewhere[stage] for stage in STAGES}


def _read_clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()


_SELF = Path("/proc/self")

#: Resets the peak; see proc(5).
_RESET_PEAK = "5"


def watch_memory() -> Callable[[], int | None]:
    """Start to watch the memory of this process.

    It measures the resident memory of the whole process, since a machine must have that much: code, imports,
    leftovers of an earlier task, and pages of mapped files such as a store's features.

    Returns:
        A function that returns the peak since then, in bytes. It returns None if the system does not report it,
        or if an earlier peak was higher and cannot be reset.
    """
    if _reset_peak():
        return _read_peak
    before = _read_highest()

    def read_risen() -> int | None:
        now = _read_highest()
        return now if before is not None and now is not None and now > before else None

    return read_risen


def _reset_peak() -> bool:
    """Reset the peak of this process to its present memory; only Linux can, and not everywhere."""
    try:
        (_SELF / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return _read_peak() is not None


def _read_peak() -> int | None:
    try:
        lines = (_SELF / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(values[0]) if values else None


def _read_highest() -> int | None:
    """Read the peak since the process started, which cannot be reset."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else 1024 * highest
