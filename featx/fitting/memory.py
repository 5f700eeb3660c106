"""Whether features are kept in memory while a head is fitted, or streamed from their file."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx.errors import UsageError
from featx.heads import Head
from featx.options import FitOptions
from featx.registry import HEADS, resolve
from featx.store.joining import AnyStore
from featx.wording import format_bytes

#: Features that take more than this share of the memory are streamed: the rest is for scores, names and code.
_SHARE = 0.5

#: A cgroup without a limit has this many bytes, or more.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the features are read.

    Attributes:
        features_bytes: Their size as float32, of one vector for each item.
        memory_bytes: The memory that the fit may take; None if the system does not say.
        streamed: Whether they are read block by block, and arrays of scores are in temporary files.
        is_asked: Whether the user set the memory.
    """

    features_bytes: int
    memory_bytes: int | None
    streamed: bool
    is_asked: bool

    @classmethod
    def make(cls, store: AnyStore, options: FitOptions) -> "MemoryPlan":
        """Plan a fit by the sizes of the store and of the memory, and say so if features are streamed.

        Raises:
            UsageError: If several stores are larger than the memory: their features are joined in it.
        """
        n_bytes = 4 * len(store) * store.dim
        memory = options.memory if options.memory is not None else measure_available()
        streamed = memory is not None and n_bytes > _SHARE * memory
        plan = cls(n_bytes, memory, streamed, options.memory is not None)
        if plan.exceeds and len(store.parts) > 1:
            msg = (
                f"the features of {len(store.parts)} stores are joined in memory: they take {format_bytes(n_bytes)}, "
                f"and {format_bytes(memory or 0)} are available; fit one store, or use a machine with more memory"
            )
            raise UsageError(msg)
        if line := plan.describe():
            options.reporter.say(line)
        return plan

    @property
    def exceeds(self) -> bool:
        """Whether the features do not fit into the memory once."""
        return self.memory_bytes is not None and self.features_bytes > self.memory_bytes

    def choose_heads(self, plans: Sequence[tuple[Head, Any]]) -> tuple[list[tuple[Head, Any]], list[str]]:
        """Return those of several heads that can be fitted in this memory, and a note on the others.

        Args:
            plans: Heads, and the spec of each.

        Raises:
            UsageError: If there is none; the message names heads that read features in blocks.
        """
        if not self.exceeds:
            return list(plans), []
        # Of several heads, one that takes a day where the others take minutes is left out; alone, it was asked for.
        slow = [head.name for head, _ in plans if head.pairwise and len(plans) > 1]
        large = [head.name for head, _ in plans if not head.streams]
        able = [plan for plan in plans if plan[0].name not in {*slow, *large}]
        sizes = f"{format_bytes(self.features_bytes)}, and {format_bytes(self.memory_bytes or 0)} are available"
        if not able:
            streaming = [name for name in HEADS if resolve("classifier", name, HEADS, "featx.heads").streams]
            msg = (
                f"{', '.join(large)} needs all features in memory: they take {sizes}. Choose one of "
                f"{', '.join(streaming)}, which read them in blocks"
            )
            raise UsageError(msg)
        notes = [f"{', '.join(large)} were left out, since they need all features in memory: {sizes}"] if large else []
        notes += [f"{name} was left out, since it compares each item with all others; fit it alone" for name in slow]
        return able, notes

    def describe(self) -> str:
        """Say how the features are read; empty where nothing is unusual."""
        if not (self.streamed or self.is_asked):
            return ""
        how = "streamed from their file" if self.streamed else "kept in memory"
        return (
            f"features of {format_bytes(self.features_bytes)}, memory of {format_bytes(self.memory_bytes or 0)}: {how}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record of a bundle."""
        decided = {"memory_bytes": self.memory_bytes} if self.describe() else {}
        return {"features_bytes": self.features_bytes, "streamed": self.streamed, **decided}


def measure_available() -> int | None:
    """Measure the memory that this process can still get, in bytes; None if the system does not say.

    It is the least of what the machine has available, the limits of its cgroups (a container, a batch job), and the
    limits of the process.
    """
    found = [*_read_machine(), *_read_cgroups(), *_read_limits()]
    return min(found, default=None)


def _read_machine() -> Iterator[int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        if hasattr(os, "sysconf"):  # macOS: what is free there counts for little, since its cache is not
            yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return
    yield from (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _read_cgroups() -> Iterator[int]:
    """Read the limits of the cgroups of this process and of all above them, of either version."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, place in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = root / place.lstrip("/")
        for one in (folder, *folder.parents):
            if root not in (one, *one.parents):
                break
            text = _read_text(one / name)
            if text.isdecimal() and int(text) < _NO_LIMIT:
                yield int(text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:  # a cgroup of the machine is not visible in a container
        return ""


def _read_limits() -> Iterator[int]:
    if sys.platform == "win32":
        return
    import resource

    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft
