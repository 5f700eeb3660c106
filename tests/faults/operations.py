"""Operations that change the disk: counted, recorded, and made to fail or to be the last one.

featx changes the disk only through Python (HDF5 writes into a `FileIO` of featx), so replacing
the functions that it calls in one process catches everything; test_operations.py proves it.
"""

import functools
import io
import os
import signal
from dataclasses import dataclass, replace

#: Operations that still work on a full disk; on a read-only disk none does.
NEEDS_NO_ROOM = frozenset({"remove", "rmdir", "touch"})

#: Names of operations here, by their functions in `os`.
_BY_PATH = {"unlink": "remove", "remove": "remove", "mkdir": "mkdir", "rmdir": "rmdir", "utime": "touch"}
_BY_TWO_PATHS = {"rename": "rename", "replace": "rename", "link": "link"}
_BY_DESCRIPTOR = {"write": "write", "pwrite": "write", "ftruncate": "truncate", "fsync": "sync", "fdatasync": "sync"}


@dataclass(frozen=True)
class Operation:
    """One call that changed the disk, or failed to.

    Attributes:
        name: `create`, `write`, `truncate`, `sync`, `rename`, `link`, `remove`, `mkdir`, `rmdir` or `touch`.
        path: The file or folder, relative to the watched folder.
        other: The new name, for `rename` and `link`.
        inode: Inode that was created, written, truncated or synced.
        offset: Position of the write, or the new size, in bytes.
        data: The written bytes, as Latin-1.
        error: errno if it failed, else 0.
    """

    name: str
    path: str
    other: str = ""
    inode: int = 0
    offset: int = 0
    data: str = ""
    error: int = 0


@dataclass(frozen=True)
class Fault:
    """A fault to inject.

    Attributes:
        at: Number of the operation that fails, from 0.
        error: errno of the failure; 0 kills the process instead (a write is then half done).
        lasting: Whether all later operations fail as well.
        spared: Names of operations that never fail.
    """

    at: int
    error: int = 0
    lasting: bool = False
    spared: frozenset[str] = frozenset()

    def strikes(self, number, name):
        return (number >= self.at if self.lasting else number == self.at) and name not in self.spared


class Shim:
    """A layer between this process and the disk; used once, in its own process.

    Args:
        folder: The watched folder; operations elsewhere are neither counted nor disturbed.
        fault: The fault, if any.
        note: Called with every operation after it succeeded or failed.
    """

    def __init__(self, folder, fault, note):
        self._folder = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118 - pathlib is what is watched
        self._fault = fault
        self._note = note
        self._count = 0
        self._open: dict[int, tuple[str, int]] = {}

    def install(self, *files):
        """Replace the functions of `os`, and the methods that these classes inherit from `FileIO`."""
        for function, name in _BY_PATH.items():
            setattr(os, function, self._wrap_path(name, getattr(os, function)))
        for function, name in _BY_TWO_PATHS.items():
            setattr(os, function, self._wrap_two_paths(name, getattr(os, function)))
        for function, name in _BY_DESCRIPTOR.items():
            setattr(os, function, self._wrap_descriptor(name, getattr(os, function)))
        os.open = self._wrap_open(os.open)
        for file in files:
            file.__bases__ = (_make_file(self),)

    def find(self, path):
        """Return a path relative to the folder, empty for the folder itself; None if it is elsewhere."""
        full = os.path.join(os.path.abspath(os.fsdecode(path)), "")  # noqa: PTH100, PTH118
        return full.removeprefix(self._folder).rstrip(os.sep) if full.startswith(self._folder) else None

    def perform(self, operation, act, tear=None):
        """Perform one operation, unless it is the one that fails.

        Args:
            operation: What it is.
            act: Does it.
            tear: Does a part of it, before the process is killed.
        """
        fault, number = self._fault, self._count
        self._count += 1
        try:
            if fault and fault.strikes(number, operation.name):
                if not fault.error:
                    if tear:
                        tear()
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(fault.error, os.strerror(fault.error), operation.path)  # noqa: TRY301 - noted as a real one
            result = act()
        except OSError as error:
            self._note(replace(operation, error=error.errno or -1))
            raise
        if operation.name in {"create", "mkdir"}:
            operation = replace(operation, inode=os.stat(self._folder + operation.path).st_ino)  # noqa: PTH116
        self._note(operation)
        return result

    def remember(self, descriptor, path):
        """Remember the file of a descriptor."""
        self._open[descriptor] = path, os.fstat(descriptor).st_ino

    def perform_on(self, descriptor, name, act, tear=None, **details):
        """Perform one operation on an open file, like `perform`; on a file from elsewhere, without counting it."""
        if descriptor not in self._open:
            return act()
        path, inode = self._open[descriptor]
        return self.perform(Operation(name, path, inode=inode, **details), act, tear)

    def _wrap_path(self, name, real):
        def wrapped(path, *args, **options):
            act = functools.partial(real, path, *args, **options)
            found = self.find(path)
            return self.perform(Operation(name, found), act) if found is not None else act()

        return wrapped

    def _wrap_two_paths(self, name, real):
        def wrapped(path, other, **options):
            act = functools.partial(real, path, other, **options)
            found = self.find(path), self.find(other)
            return self.perform(Operation(name, *found), act) if found != (None, None) else act()

        return wrapped

    def _wrap_open(self, real):
        def wrapped(path, flags, *args, **options):
            act = functools.partial(real, path, flags, *args, **options)
            found = self.find(path)
            if found is None:
                return act()
            descriptor = self.perform(Operation("create", found), act) if flags & os.O_CREAT else act()
            self.remember(descriptor, found)
            return descriptor

        return wrapped

    def _wrap_descriptor(self, name, real):
        def wrapped(descriptor, *args):
            act = functools.partial(real, descriptor, *args)
            if name == "sync" or descriptor not in self._open:
                return self.perform_on(descriptor, name, act)
            if name == "truncate":
                return self.perform_on(descriptor, name, act, offset=args[0])
            data = bytes(args[0])
            offset = args[1] if len(args) > 1 else os.lseek(descriptor, 0, os.SEEK_CUR)
            tear = functools.partial(real, descriptor, data[: len(data) // 2], *args[1:])
            return self.perform_on(descriptor, name, act, offset=offset, data=data.decode("latin-1"), tear=tear)

        return wrapped


def _make_file(shim):
    class File(io.FileIO):
        def __init__(self, path, mode="r"):
            real = functools.partial(super().__init__, path, mode)
            found = shim.find(path)
            if found is not None and "x" in mode:
                shim.perform(Operation("create", found), real)
            else:
                real()
            if found is not None:
                shim.remember(self.fileno(), found)

        def write(self, data, /):
            real, data = super().write, bytes(data)
            return shim.perform_on(
                self.fileno(),
                "write",
                functools.partial(real, data),
                offset=self.tell(),
                data=data.decode("latin-1"),
                tear=functools.partial(real, data[: len(data) // 2]),
            )

        def truncate(self, size=None, /):
            size = self.tell() if size is None else size
            act = functools.partial(super().truncate, size)
            return shim.perform_on(self.fileno(), "truncate", act, offset=size)

    return File
