"""Tasks that are independent: run over processes, kept on disk as they end, and not run again.

Each slot is a pool of one process. A pool of many, where one process is killed, ends them all and cannot tell
which task was to blame; here only the slot of that task is lost, and opened again.
"""

import io
import json
import os
import signal
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from numpy.typing import NDArray

from featx.containers import list_members, read_array
from featx.errors import FeatxError
from featx.options import Progress
from featx.store.durability import make_folder, name_temporary, publish_file, remove_leftovers, say_failures, sync_file

#: What the libraries that compute in threads read when they are loaded.
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
)

#: Windows wakes no main thread that waits for ever, not even for Ctrl-C.
_WAKE_SECONDS = 1.0

#: How often a process looks whether the one that started it is still there.
_WATCH_SECONDS = 0.5

#: A process that has had nothing to do for so long leaves.
_IDLE_SECONDS = 30.0

_RECORD = "record"
_KILLED = (
    "the process that computed it was killed twice, the second time alone{}: for want of memory, most likely, or by a "
    "fault in native code"
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a task found out.

    Attributes:
        record: Plain values, ready for JSON.
        arrays: Arrays of numbers.
    """

    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A call in another process.

    Attributes:
        key: What decides the result, as hexadecimal digits: tasks of one key have one result.
        call: A function of a module.
        argument: Its argument, which is pickled.
    """

    key: str
    call: Callable[[Any], Result]
    argument: Any


def run_tasks(
    tasks: Sequence[Task], folder: Path, *, jobs: int, threads: int | None = None, progress: Progress | None = None
) -> dict[str, Path | str]:
    """Run those tasks whose results are not in a folder yet, and put them there one by one.

    A task that fails, or whose process is killed, leaves the others as they are. One whose process
    was killed is tried once more, with nothing beside it; it may have lacked memory.

    Args:
        tasks: What is to be done.
        folder: Where results are kept, a file each; it is made if it is not there.
        jobs: How many processes.
        threads: Threads of one process; None for what its libraries choose.
        progress: Called with how many tasks are done or failed, and how many there are.

    Returns:
        By key, the file of the result, which `read_result` reads, or the reason why there is none.

    Raises:
        StoreError: If the folder cannot be made.
    """
    with say_failures(folder):
        make_folder(folder)
    wanted = {task.key: task for task in tasks}
    results: dict[str, Path | str] = {key: path for key in wanted if _is_whole(path := _place(folder, key))}

    def note(task: Task, outcome: Path | str) -> None:
        results[task.key] = outcome
        if progress is not None:
            progress(len(results), len(wanted))

    if progress is not None:
        progress(len(results), len(wanted))
    missing = [task for key, task in wanted.items() if key not in results]
    killed = _run_round(missing, folder, jobs, threads, note)
    for task, reason in _run_round([task for task, _ in killed], folder, 1, threads, note):
        note(task, reason)
    return results


def forget_results(tasks: Sequence[Task], folder: Path) -> None:
    """Remove the results of tasks, so that they are run again."""
    for task in tasks:
        _place(folder, task.key).unlink(missing_ok=True)


def read_result(path: Path) -> Result:
    """Read what a task found out."""
    list_members(path)
    with zipfile.ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy"): read_array(archive.read(name)) for name in archive.namelist()}
    record = json.loads(str(arrays.pop(_RECORD)))
    if not isinstance(record, dict):
        msg = f"{path} holds no record; delete it, and run the same command again"
        raise TypeError(msg)
    return Result(record, arrays)


def write_result(path: Path, result: Result) -> None:
    """Write a result: the file is there as a whole, or not at all."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {_RECORD: np.array(json.dumps(result.record)), **result.arrays}
    np.savez(content, **arrays)
    temporary = name_temporary(path)
    with say_failures(path):
        try:
            temporary.write_bytes(content.getvalue())
            sync_file(temporary)
            publish_file(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _place(folder: Path, key: str) -> Path:
    return folder / f"{key}.npz"


def _is_whole(path: Path) -> bool:
    """Whether there is a result that can be read; a damaged one is computed again."""
    try:
        read_result(path)
    except Exception:  # noqa: BLE001 - zipfile and NumPy raise anything on a file that they never wrote
        return False
    return True


def _run_round(
    tasks: Sequence[Task], folder: Path, jobs: int, threads: int | None, note: Callable[[Task, Path | str], None]
) -> list[tuple[Task, str]]:
    """Run every task once; return those whose process was killed, each with a reason."""
    waiting = deque(tasks)
    killed: list[tuple[Task, str]] = []
    running: dict[Future[str], tuple[Task, ProcessPoolExecutor]] = {}
    with _open_slots(min(jobs, len(tasks)), threads) as (slots, reopen):
        while waiting or running:
            while waiting and slots:
                task, slot = waiting.popleft(), slots.pop()
                running[slot.submit(_work, task, _place(folder, task.key))] = (task, slot)
            for future in wait(running, timeout=_WAKE_SECONDS, return_when=FIRST_COMPLETED).done:
                task, slot = running.pop(future)
                path = _place(folder, task.key)
                broken = isinstance(future.exception(), BrokenProcessPool)
                if _is_whole(path):  # also that of a process which was killed a moment later
                    note(task, path)
                elif broken:
                    remove_leftovers(folder, path.name)
                    killed.append((task, _KILLED.format(_name_signal(future.exception()))))
                else:
                    note(task, _describe_failure(future))
                slots.append(reopen(slot) if broken else slot)
    return killed


@contextmanager
def _open_slots(
    count: int, threads: int | None
) -> Iterator[tuple[list[ProcessPoolExecutor], Callable[[ProcessPoolExecutor], ProcessPoolExecutor]]]:
    """Open pools of one process each, and what replaces a broken one; all are ended behind, whatever they do."""
    environment = {name: str(threads) for name in _THREADS} if threads else {}
    opened: list[ProcessPoolExecutor] = []

    def open_slot() -> ProcessPoolExecutor:
        slot = ProcessPoolExecutor(
            1, timeout=_IDLE_SECONDS, initializer=_obey_parent, initargs=(os.getpid(),), env=environment
        )
        opened.append(slot)
        return slot

    def reopen(slot: ProcessPoolExecutor) -> ProcessPoolExecutor:
        opened.remove(slot)
        slot.shutdown(wait=True, kill_workers=True)
        return open_slot()

    try:
        yield [open_slot() for _ in range(count)], reopen
    finally:
        for slot in opened:
            slot.shutdown(wait=True, kill_workers=True)


def _obey_parent(parent: int) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that started this, and end when that is gone.

    On Windows a parent's number outlives it; there, a process ends when it has been idle for long enough.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), name="featx-parent", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _work(task: Task, path: Path) -> str:
    """Run a task in this process; return why it failed, or nothing."""
    try:
        write_result(path, task.call(task.argument))
    except FeatxError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever a task raises is its own failure, and told as such
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _describe_failure(future: "Future[str]") -> str:
    error = future.exception()
    if error is None:
        return future.result() or "its result was removed meanwhile; run the same command again"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _name_signal(error: BaseException | None) -> str:
    """Name the signal that loky tells at the end of its message, if any."""
    names = [name for name in signal.Signals.__members__ if f"{name}(" in str(error)]
    return f" ({names[0]})" if names else ""
