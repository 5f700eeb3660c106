"""One writer at a time: a lock file next to the store.

The file names its owner and exists whole or not at all. Its owner also holds the operating
system's lock on it, which ends when the process ends, however that happens.
"""

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from featx.errors import StoreError, StoreLockedError
from featx.files import make_folder, name_temporary

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: A lock that names this process and is older than this was left by a dead process with the same number,
#: as in containers, where the first process is always number 1.
_LOADED_SECONDS = time.time()

#: Other writers may release or take the lock between two checks, but not forever.
_ATTEMPTS = 5

#: A lock names one process; a longer file is not a lock.
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Owner:
    """The owner of a lock: process, host, start in seconds since 1970, and a `nonce` that distinguishes locks."""

    pid: int
    host: str
    started: float
    nonce: str


class StoreLock:
    """A store's lock, held inside a `with` block.

    Args:
        store: The store; the lock file is next to it.

    Attributes:
        path: The lock file.
        content: Its content while the lock is held.

    Raises:
        StoreLockedError: On entry, if a running process holds the lock; the message names the owner.
        StoreError: On entry, if the lock cannot be written.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(store.name + ".lock")
        self._store = store
        self.content = b""
        self._descriptor = -1

    def __enter__(self) -> Self:
        owner = _Owner(os.getpid(), socket.gethostname(), time.time(), secrets.token_hex(8))
        content = json.dumps(asdict(owner)).encode()
        try:
            make_folder(self.path.parent)
            self._descriptor = _acquire(self.path, self._store, content)
        except StoreError:
            raise
        except OSError as error:
            msg = (
                f"{self.path} cannot be written: {error.strerror or error}; a store needs a folder that you can "
                f"write to"
            )
            raise StoreError(msg) from error
        self.content = content
        return self

    def __exit__(self, *_: object) -> None:
        if _read(self.path) == self.content:  # else the lock is another writer's
            with contextlib.suppress(OSError):  # if it cannot be removed, the next writer takes it over
                self.path.unlink(missing_ok=True)
        self.content = b""
        os.close(self._descriptor)

    def confirm(self) -> None:
        """Raise an error if this process no longer holds the lock; see `confirm_lock`."""
        confirm_lock(self._store, self.content)


def confirm_lock(store: Path, content: bytes) -> None:
    """Raise an error if a store's lock is no longer the one that a writer took.

    A stopped process may wake at any time after its lock was taken over. Whoever takes over
    a lock removes the temporary files of its last owner before reading the store. So a file
    that is not renamed by then never will be, and a later one fails here.

    Args:
        store: The store.
        content: Content of the lock file when the writer took it.

    Raises:
        StoreLockedError: If another writer has the lock, or it was deleted.
    """
    if not content or _read(store.with_name(store.name + ".lock")) != content:
        msg = (
            f"{store} was taken over by another writer while this one was stopped; its committed work is "
            f"kept: run the same command again when the other writer has finished"
        )
        raise StoreLockedError(msg)


def _acquire(path: Path, store: Path, content: bytes) -> int:
    for _ in range(_ATTEMPTS):
        try:
            return _create(path, content)
        except FileExistsError:
            _remove_dead(path, store)
        except FileNotFoundError:
            continue  # another writer took the lock and removed the temporary files
    msg = f"{store} was locked by another process at the same moment; run the command again"
    raise StoreLockedError(msg)


def _create(path: Path, content: bytes) -> int:
    """Create the lock file with its content, and return the descriptor that holds it.

    Raises:
        FileExistsError: If a lock exists.
        FileNotFoundError: If another writer removed the temporary file.
    """
    temporary = name_temporary(path)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    try:
        _hold(descriptor)
        os.write(descriptor, content)
        os.fsync(descriptor)
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return _create_without_link(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    return descriptor


def _create_without_link(path: Path, content: bytes) -> int:
    """Create the lock file where the file system has no hard links, such as exFAT; a real error occurs again here."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    try:
        _hold(descriptor)
        os.write(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _hold(descriptor: int) -> bool | None:
    """Take the operating system's lock on an open file; return None where locks are not available."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_dead(path: Path, store: Path) -> None:
    """Remove the lock of a dead owner.

    Raises:
        StoreLockedError: If the owner is running or on another host, or the file is not a lock.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        held = _hold(descriptor)
        content = os.read(descriptor, _MOST_BYTES)
        if content or not held:  # empty: its writer was killed before writing it, where hard links do not work
            _refuse_living(_read_owner(content, path, store), path, store, held=held)
        # Only the process that holds the dead owner's file may remove it, if the name still leads to that file.
        if held and os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    finally:
        os.close(descriptor)
    if held is None and _read(path) == content:
        path.unlink(missing_ok=True)


def _refuse_living(owner: _Owner, path: Path, store: Path, *, held: bool | None) -> None:
    if owner.host == socket.gethostname() and (held or (held is None and not _is_alive(owner))):
        return
    msg = (
        f"{store} is being written by process {owner.pid} on {owner.host} for "
        f"{max(0, int(time.time() - owner.started))} s; wait for it, write elsewhere, or delete "
        f"{path} if that process is gone"
    )
    raise StoreLockedError(msg)


def find_owner(store: Path) -> str:
    """Name the process that is writing a store, such as `process 12 on lab3`; empty if there is none."""
    path = store.with_name(store.name + ".lock")
    try:
        owner = _read_owner(_read(path), path, store)
    except StoreLockedError:  # no lock, or not one of featx
        return ""
    if owner.host == socket.gethostname() and not _is_alive(owner):
        return ""
    return f"process {owner.pid} on {owner.host}"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return b""


def _read_owner(content: bytes, path: Path, store: Path) -> _Owner:
    try:
        values = json.loads(content)
        owner = _Owner(int(values["pid"]), str(values["host"]), float(values["started"]), str(values["nonce"]))
        if not 0 < owner.pid < 2**31 or not 0 < owner.started < 2**62:
            msg = "the process number or the start time is out of range"
            raise ValueError(msg)  # noqa: TRY301 - one message for every kind of invalid lock
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        msg = f"{path} is not a lock of featx; if nothing is writing {store}, delete it"
        raise StoreLockedError(msg) from error
    return owner


def _is_alive(owner: _Owner) -> bool:
    """Return whether a process of this host is running, for files that cannot be locked."""
    return owner.started >= _LOADED_SECONDS if owner.pid == os.getpid() else is_running(owner.pid)


def is_running(pid: int) -> bool:
    """Return whether a process of this host is running; its number may have been given to another one."""
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
