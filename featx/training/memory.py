"""The most memory that this process takes while something is done in it."""

import sys
from collections.abc import Callable
from pathlib import Path

_SELF = Path("/proc/self")

#: What resets the peak, by proc(5).
_RESET_PEAK = "5"


def watch_memory() -> Callable[[], int | None]:
    """Begin to watch this process.

    What is measured is the memory of the whole process that is resident (code, imports, what an earlier task
    left, and pages of mapped files such as a store's features), as that is what a machine must have.

    Returns:
        What gives the peak in bytes since then; None where the system does not tell it, as where
        an earlier peak was higher and cannot be reset.
    """
    if _reset_peak():
        return _read_peak
    before = _read_highest()

    def read_risen() -> int | None:
        now = _read_highest()
        return now if before is not None and now is not None and now > before else None

    return read_risen


def _reset_peak() -> bool:
    """Make the peak of this process what it takes now; Linux can, where it is allowed."""
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
    """Read the peak since the process began, which cannot be reset."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else 1024 * highest
