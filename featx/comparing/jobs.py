"""Tasks that are independent: run over processes, kept on disk as they end, and not run again.

Each slot is a pool of one process. A pool of many, where one process is killed, ends them all and cannot tell
which task was to blame; here only the slot of that task is lost, and opened again.
"""

import hashlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from numpy.typing import NDArray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # it ships no types

from featx.bundle import align_probabilities, read_versions
from featx.errors import DataError, FeatxError, StoreError
from featx.files import (
    Result,
    make_folder,
    read_result,
    remove_leftovers,
    say_failures,
    write_result,
)
from featx.fitting.dataset import open_rows, open_training_rows
from featx.heads import find_head, tune_and_fit
from featx.heads.fitting import count_parameters, predict_rows
from featx.heads.sweeps import record_warnings
from featx.measuring import watch_memory
from featx.options import VIEWS
from featx.reporting import Progress
from featx.specs import HeadSpec
from featx.store import FeatureStore

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

_KILLED = (
    "the process that computed it was killed twice, the second time alone{}: for want of memory, most likely, or by a "
    "fault in native code"
)


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


def remove_results(tasks: Sequence[Task], folder: Path) -> None:
    """Remove the results of tasks, so that they are run again."""
    for task in tasks:
        _place(folder, task.key).unlink(missing_ok=True)


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


@dataclass(frozen=True, slots=True)
class HeadTask:
    """What a head learns from and what it predicts, told in rows of a store.

    It is all that another process is given: no features, and no labels but those to learn from.

    Attributes:
        store: The file.
        head: Name, fixed parameters and seed.
        learnt: int `(n_learnt,)`, rows to learn from.
        targets: int `(n_learnt,)`, their classes.
        folds: int `(n_learnt,)`, the folds on which parameters are chosen and probabilities calibrated.
        units: int `(n_learnt,)`, the items to learn from that stay together.
        predicted: int `(n_predicted,)`, rows to predict.
        n_classes: Number of classes, of which `targets` may lack some.
        items_digest: Digest of the store's spec and of the sha256 of all these items, by `digest_items`.
        views: Which views of the items it is fitted on and predicts; see `FitOptions`.
    """

    store: Path
    head: HeadSpec
    learnt: NDArray[np.intp]
    targets: NDArray[np.intp]
    folds: NDArray[np.intp]
    units: NDArray[np.intp]
    predicted: NDArray[np.intp]
    n_classes: int
    items_digest: str
    views: str = VIEWS[0]

    @property
    def digest(self) -> str:
        """A digest of everything that decides the probabilities, whatever rows the items are in."""
        versions = sorted(read_versions().items())
        state = hashlib.sha256(f"{self.items_digest} {self.head.to_json()} {self.n_classes} {versions}".encode())
        state.update(self.targets.astype("<i8").tobytes())
        state.update(self.folds.astype("<i8").tobytes())
        state.update(self.units.astype("<i8").tobytes())
        if self.views != VIEWS[0]:  # results that an older featx kept are those of the default
            state.update(f" views {self.views}".encode())
        return state.hexdigest()


def digest_items(store: FeatureStore, learnt: NDArray[np.intp], predicted: NDArray[np.intp]) -> str:
    """Digest what the features of items are: the spec, and the sha256 of each item."""
    state = hashlib.sha256(store.spec.digest.encode())
    for rows in (learnt, predicted):
        state.update(f" {len(rows)} ".encode())
        state.update("".join(store.sha256[rows].tolist()).encode())
    return state.hexdigest()


def fit_and_predict(task: HeadTask) -> Result:
    """Tune and fit a head, and predict.

    Returns:
        The record has `params`, `scaling`, `fit_seconds` (tuning included), `predict_seconds`, `threads` (that were
        allowed), `peak_memory_bytes` (of this process while it tuned and fitted), `trained_parameters`, `notes` and
        `single_fold_targets` (see `featx.heads.Tuned`); the array
        `probabilities` is float64 `(n_predicted, n_classes)`.

    Raises:
        StoreError: If the store is another one by now.
        DataError: If the head cannot learn from these items, or gives no probabilities.
    """
    store = _open_store(task.store)
    if digest_items(store, task.learnt, task.predicted) != task.items_digest:
        msg = f"{store.path} was replaced while it was read; run the same command again"
        raise StoreError(msg)
    rows = open_training_rows(store, task.learnt, task.targets, folds=task.folds, units=task.units, views=task.views)
    with record_warnings():  # those of fits are notes by now; of predictions there is nothing to tell
        read_peak, started = watch_memory(), time.perf_counter()
        tuned = tune_and_fit(find_head(task.head.name), rows, task.head, always_tune=False)
        fit_seconds, peak = time.perf_counter() - started, read_peak()
        estimator = tuned.fitted.estimator
        started = time.perf_counter()
        predicted = predict_rows(estimator, open_rows(store, task.predicted, task.views))
        predict_seconds = time.perf_counter() - started
    if not np.isfinite(predicted).all():
        msg = f"{task.head.name} gives no probabilities for {int((~np.isfinite(predicted)).any(axis=1).sum())} items"
        raise DataError(msg)
    record = {
        "params": dict(tuned.spec.params),
        "scaling": tuned.spec.scaling,
        "fit_seconds": fit_seconds,
        "predict_seconds": predict_seconds,
        "threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
        "peak_memory_bytes": peak,
        "trained_parameters": count_parameters(estimator),
        "notes": list(tuned.notes),
        "single_fold_targets": list(tuned.single_fold),
    }
    probabilities = align_probabilities(predicted, estimator.classes_, task.n_classes)
    return Result(record, {"probabilities": probabilities})


@lru_cache(maxsize=2)
def _open_store(path: Path) -> FeatureStore:
    return FeatureStore(path)
