"""One writer at a time: a lock file beside the store.

The file names its owner and is there as a whole or not at all. Its owner holds the
operating system's lock on it as well, which ends with the process, however that ends.
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

#: A lock that names this process and is older than it was left by a dead one with the same number,
#: as in containers, where every process that starts first is number 1.
_LOADED_SECONDS = time.time()

#: Other writers may free or take the lock between two looks at it, but not for ever.
_ATTEMPTS = 5

#: A lock names one process; what is longer is no lock.
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who holds a lock: process, host, and when it took it, in seconds since 1970; `nonce` tells two locks apart."""

    pid: int
    host: str
    started: float
    nonce: str


class StoreLock:
    """A store's lock, held inside a `with` block.

    Args:
        store: The store; the lock lies beside it.

    Raises:
        StoreLockedError: On entering, if a living process holds it; the message names the owner.
        StoreError: On entering, if the lock cannot be written.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(store.name + ".lock")
        self._store = store
        self._content = b""
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
                f"{self.path} cannot be written: {error.strerror or error}; a store lives in a folder that can be "
                f"written to"
            )
            raise StoreError(msg) from error
        self._content = content
        return self

    def __exit__(self, *_: object) -> None:
        if _read(self.path) == self._content:  # else it is another writer's
            with contextlib.suppress(OSError):  # where nothing can be removed, the next writer takes it over
                self.path.unlink(missing_ok=True)
        self._content = b""
        os.close(self._descriptor)

    def confirm(self) -> None:
        """Refuse to go on if the lock is not held any more.

        A process that was stopped while others took its lock for a dead one's may wake
        at any time. Whoever takes a lock removes the temporary files of its last owner
        before it reads the store, so what is not yet renamed then never will be, and what
        is begun afterwards ends here.

        Raises:
            StoreLockedError: If another writer has the lock, or it was deleted.
        """
        if not self._content or _read(self.path) != self._content:
            msg = (
                f"{self._store} was taken over by another writer while this one stood still; what it had committed "
                f"is kept, and the same command goes on from there when the other has finished"
            )
            raise StoreLockedError(msg)


def _acquire(path: Path, store: Path, content: bytes) -> int:
    for _ in range(_ATTEMPTS):
        try:
            return _create(path, content)
        except FileExistsError:
            _remove_dead(path, store)
        except FileNotFoundError:
            continue  # another writer took the lock, and removed what was left of those before
    msg = f"{store} was locked by another process at the same moment; run the command again"
    raise StoreLockedError(msg)


def _create(path: Path, content: bytes) -> int:
    """Make the lock file with its content, and return the descriptor that holds it.

    Raises:
        FileExistsError: If there is a lock.
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
    """Make the lock file where the file system has no hard links, as exFAT; or fail with what made the link fail."""
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
    """Take the operating system's lock of an open file; None where there is none to be had."""
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
        StoreLockedError: If the owner lives or is on another host, or the file is no lock.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        held = _hold(descriptor)
        content = os.read(descriptor, _MOST_BYTES)
        if content or not held:  # empty: its writer was killed between making and writing it, where links do not work
            _refuse_living(_read_owner(content, path, store), path, store, held=held)
        # Whoever holds the dead owner's file is alone in removing it, if it is still the one with the name.
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
        f"{store} is being written by process {owner.pid} on {owner.host} since "
        f"{max(0, int(time.time() - owner.started))} s; wait for it, write elsewhere, or delete "
        f"{path} if that process is gone"
    )
    raise StoreLockedError(msg)


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
            msg = "no process has that number, or it started at no time"
            raise ValueError(msg)  # noqa: TRY301 - one message for every way of being no lock
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        msg = f"{path} is no lock of featx; if nothing is writing {store}, delete it"
        raise StoreLockedError(msg) from error
    return owner


def _is_alive(owner: _Owner) -> bool:
    """Tell whether a process of this host lives, where its file cannot be locked."""
    if owner.pid == os.getpid():
        return owner.started >= _LOADED_SECONDS
    if os.name == "nt":  # os.kill would end the process there
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, owner.pid)  # type: ignore[attr-defined]  # noqa: FBT003 - Windows only
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)  # type: ignore[attr-defined]
        return bool(handle)
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
