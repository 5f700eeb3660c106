"""Tasks that are independent: run over processes, kept on disk as they end, and not run again.

Each slot is a pool of one process. A pool of many, where one process is killed, ends them all and cannot tell
which task was to blame; here only the slot of that task is lost, and opened again.
"""

import io
import json
import signal
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

#: A process whose parent was killed has nothing more to do, and leaves.
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
) -> dict[str, Result | str]:
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
        By key, the result, or the reason why there is none.

    Raises:
        StoreError: If nothing can be written into the folder.
    """
    with say_failures(folder):
        make_folder(folder)
    results: dict[str, Result | str] = {}
    wanted = {task.key: task for task in tasks}
    for key in wanted:
        if (kept := read_result(_place(folder, key))) is not None:
            results[key] = kept

    def note(task: Task, outcome: Result | str) -> None:
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


def read_result(path: Path) -> Result | None:
    """Read a result; None if there is none, or it is damaged and has to be computed again."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        return Result(json.loads(str(arrays.pop(_RECORD))), arrays)
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        return None


def write_result(path: Path, result: Result) -> None:
    """Write a result: the file is there as a whole, or not at all."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {_RECORD: np.array(json.dumps(result.record)), **result.arrays}
    np.savez_compressed(content, **arrays)
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


def _run_round(
    tasks: Sequence[Task], folder: Path, jobs: int, threads: int | None, note: Callable[[Task, Result | str], None]
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
                kept = read_result(_place(folder, task.key))  # also of a process that was killed a moment later
                broken = isinstance(future.exception(), BrokenProcessPool)
                if kept is not None:
                    note(task, kept)
                elif broken:
                    remove_leftovers(folder, _place(folder, task.key).name)
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
        slot = ProcessPoolExecutor(1, timeout=_IDLE_SECONDS, initializer=_ignore_interrupts, env=environment)
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


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that has started the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
    return future.result() if error is None else f"{type(error).__name__}: {' '.join(str(error).split())}"


def _name_signal(error: BaseException | None) -> str:
    """Name the signal that loky tells at the end of its message, if any."""
    names = [name for name in signal.Signals.__members__ if f"{name}(" in str(error)]
    return f" ({names[0]})" if names else ""
