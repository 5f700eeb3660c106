"""One writer at a time: a lock file beside the store."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from featx.errors import StoreLockedError

#: A lock that names this process and is older than it was left by a dead one with the same number,
#: as in containers, where every process that starts first is number 1.
_LOADED_SECONDS = time.time()


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who holds a lock: process, host, and when it took it, in seconds since 1970."""

    pid: int
    host: str
    started: float


@contextlib.contextmanager
def lock_store(store: Path) -> Iterator[None]:
    """Hold a store's lock while writing it.

    The lock is a file made with O_EXCL, which works on every file system that
    featx meets; it names its owner, and a dead owner's lock is taken over.

    Raises:
        StoreLockedError: If a living process holds it; the message names the owner.
    """
    path = store.with_name(store.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    _acquire(path, store)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _acquire(path: Path, store: Path) -> None:
    owner = _Owner(os.getpid(), socket.gethostname(), time.time())
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _take_over(path, store)
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(owner), file)
        return
    msg = f"{store} was locked by another process at the same moment; run the command again"
    raise StoreLockedError(msg)


def _take_over(path: Path, store: Path) -> None:
    try:
        content = path.read_bytes()
        owner = _read_owner(content)
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        msg = f"{path} is no lock of featx; if nothing is writing {store}, delete it"
        raise StoreLockedError(msg) from error
    if not _is_dead(owner):
        age = max(0, int(time.time() - owner.started))
        msg = (
            f"{store} is being written by process {owner.pid} on {owner.host} since {age} s; wait for it, "
            f"write another store with --name, or delete {path} if that process is gone"
        )
        raise StoreLockedError(msg)
    # Moved aside, looked at again, then removed: of two processes that saw the same dead
    # owner, the slower one would otherwise remove the new lock of the faster one.
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        aside.rename(path) if aside.read_bytes() != content else aside.unlink()


def _read_owner(content: bytes) -> _Owner:
    values = json.loads(content)
    owner = _Owner(int(values["pid"]), str(values["host"]), float(values["started"]))
    if not 0 < owner.pid < 2**31 or not 0 < owner.started < 2**62:
        msg = "no process has that number, or it started at no time"
        raise ValueError(msg)
    return owner


def _is_dead(owner: _Owner) -> bool:
    if owner.host != socket.gethostname():
        return False
    if owner.pid == os.getpid():
        return owner.started < _LOADED_SECONDS
    return not _is_alive(owner.pid)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process there
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # type: ignore[attr-defined]  # noqa: FBT003 - Windows only
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)  # type: ignore[attr-defined]
        return bool(handle)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
