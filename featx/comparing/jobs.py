"""Independent tasks: run in several processes, with each result kept on disk so that it is not computed again.

Each slot is a pool of one process. When a process of a larger pool is killed, the whole pool ends and it is not known
which task was to blame. Here only the slot of that task is lost, and it is opened again.
"""

import contextlib
import functools
import glob
import hashlib
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from loky import ProcessPoolExecutor
from loky.backend.context import get_context
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # it ships no types

from featx.bundle import read_versions
from featx.comparing.workers import obey_parent
from featx.errors import DataError, FeatxError, StoreError
from featx.evaluation.metrics import align_probabilities
from featx.files import (
    Result,
    make_folder,
    read_result,
    remove_leftovers,
    say_failures,
    write_result,
)
from featx.fitting.dataset import open_rows, open_training_rows
from featx.heads import find_head, fit_tuned, tune, tune_and_fit
from featx.heads.fitting import count_parameters, explain_failure, predict_rows
from featx.heads.rows import TrainingRows
from featx.heads.sweeps import record_warnings
from featx.heads.tuning import RULES
from featx.measuring import watch_memory
from featx.options import VIEWS, SpreadOptions
from featx.reporting import Progress
from featx.specs import HeadSpec
from featx.store import FeatureStore
from featx.store.joining import AnyStore, join_stores
from featx.store.lock import is_running

#: Environment variables that the numerical libraries read when they are loaded.
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
)

#: On Windows a main thread that waits without a timeout is not woken even by Ctrl-C.
_WAKE_SECONDS = 1.0

#: Bytes of an int32.
_STEP_BYTES = 4

#: A process that has been idle for this long exits.
_IDLE_SECONDS = 30.0

_KILLED = (
    "the process that computed it was killed each time, at last while it ran alone{}: most likely because memory ran "
    "out, or by a fault in native code"
)


@dataclass(frozen=True, slots=True)
class Task:
    """A call in another process.

    Attributes:
        key: Digest of everything that decides the result, in hexadecimal: tasks with the same key have one result.
        call: A function of a module. If the task has several steps, it also takes `progress`.
        argument: Its argument, which is pickled.
        steps: What the task counts for in the progress, such as the number of fits.
    """

    key: str
    call: Callable[..., Result]
    argument: Any
    steps: int = 1


def run_tasks(
    tasks: Sequence[Task],
    folder: Path,
    *,
    jobs: int | None,
    threads: int | None = None,
    progress: Progress | None = None,
    here: bool = False,
    cluster: SpreadOptions | None = None,
) -> dict[str, Path | str]:
    """Run the tasks whose results are not in a folder yet, and write each result there.

    A task that fails, or whose process is killed, does not affect the others. If its process was killed, the task is
    tried once more while nothing else runs, since memory may have run out. Where no process can be started, all run in
    this one; see `explain_single_process`.

    Args:
        tasks: The tasks.
        folder: Where results are kept, one file each; it is created if needed.
        jobs: Number of processes; None for as many as the cluster has room for.
        threads: Threads per process; None leaves the choice to its libraries.
        progress: Called with the number of steps that are done, and the number of steps of all tasks.
        here: Whether to run them one by one in this process, as small ones are quickest.
        cluster: The cluster of Ray whose processes run them, instead of this machine; it must see the folder under the
            same path.

    Returns:
        By key, the file of the result, which `read_result` reads, or the reason why the task failed.

    Raises:
        StoreError: If the folder cannot be made.
        UsageError: If the cluster cannot be reached.
    """
    with say_failures(folder):
        make_folder(folder)
    wanted = {task.key: task for task in tasks}
    there = set(folder.iterdir())  # NFS may hide a file for a minute from a machine that looked for it in vain
    results: dict[str, Path | str] = {
        key: path for key in wanted if (path := _place(folder, key)) in there and _is_whole(path)
    }
    missing = [task for key, task in wanted.items() if key not in results]
    with _count_steps(folder, wanted.values(), results, progress) as counter:

        def note(task: Task, outcome: Path | str) -> None:
            results[task.key] = outcome
            counter.report()

        counter.report()
        if here or not missing or (cluster is None and explain_single_process()):
            _run_here(missing, folder, note, counter)
            return results
        killed = [(task, "") for task in missing]
        with _plan_rounds(jobs, threads, cluster) as (rounds, open_slots):
            for width in rounds:
                tried = [task for task, _ in killed]
                killed = _run_round(tried, folder, functools.partial(open_slots, min(width, len(tried))), note, counter)
        for task, reason in killed:
            note(task, reason)
    return results


class _Slot(Protocol):
    """What runs one call after the other in another process."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":  # noqa: ANN401 - those of the call
        """Start a call; its future raises BrokenProcessPool if the process dies."""
        ...


#: Opens a number of slots until the block ends; what it yields are the slots, and what replaces a broken one.
_OpenSlots = Callable[[int], AbstractContextManager[tuple[list[_Slot], Callable[[_Slot], _Slot]]]]


@contextmanager
def _plan_rounds(
    jobs: int | None, threads: int | None, cluster: SpreadOptions | None
) -> Iterator[tuple[Sequence[int], _OpenSlots]]:
    """Yield the number of processes of each round, and what opens them; the last round is of one."""
    if cluster is None:
        yield (jobs or 1, 1), functools.partial(_open_slots, threads=threads)
        return
    from featx.cluster.ray_workers import RaySlot, connect, count_room

    with connect(cluster, jobs):
        room = count_room(cluster)
        width = jobs or room
        slot = RaySlot(cluster)
        # A machine that dies takes many tasks with it, of which most should not wait for each other.
        yield (width, width, 1), lambda count: contextlib.nullcontext(([slot] * count, lambda broken: broken))


class _StepCounter:
    """A counter of the steps that running tasks have done, in a file that their processes write to.

    Args:
        path: The file, which holds an int32 for each task.
        tasks: The tasks, in the order of the file.
        results: By key, the results so far.
        progress: Called if the number of steps has changed.
    """

    def __init__(
        self, path: Path, tasks: Iterable[Task], results: Mapping[str, Path | str], progress: Progress | None
    ) -> None:
        self.path, self._tasks, self._results, self._progress = path, list(tasks), results, progress
        self.places = {task.key: place for place, task in enumerate(self._tasks)}
        self._shown = -1
        with contextlib.suppress(OSError):  # without the file, only finished tasks are counted
            path.write_bytes(bytes(_STEP_BYTES * len(self._tasks)))

    def report(self) -> None:
        """Report the steps of finished tasks, and of those that run."""
        running = self._read()
        done = sum(
            task.steps if task.key in self._results else min(steps, task.steps - 1)
            for task, steps in zip(self._tasks, running, strict=True)
        )
        if self._progress is not None and done != self._shown:
            self._shown = done
            self._progress(done, sum(task.steps for task in self._tasks))

    def _read(self) -> list[int]:
        with contextlib.suppress(OSError):
            data = self.path.read_bytes()
            if len(data) == _STEP_BYTES * len(self._tasks):
                return list(map(int, np.frombuffer(data, np.int32)))
        return [0] * len(self._tasks)


@contextmanager
def _count_steps(
    folder: Path, tasks: Iterable[Task], results: Mapping[str, Path | str], progress: Progress | None
) -> Iterator[_StepCounter]:
    start = f".steps-{socket.gethostname()}-"  # computers may share the folder
    path = folder / f"{start}{os.getpid()}"
    for left in folder.glob(f"{glob.escape(start)}*"):  # killed processes left them
        pid = left.name.removeprefix(start)
        if pid.isdecimal() and not is_running(int(pid)):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
    try:
        yield _StepCounter(path, tasks, results, progress)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _write_steps(path: Path, place: int, steps: int, done: int, total: int) -> None:
    """Write how many steps of a task are done, if `done` of `total` parts are; the last step is kept for its end."""
    with contextlib.suppress(OSError), path.open("r+b") as file:  # progress is not worth a failure
        file.seek(_STEP_BYTES * place)
        file.write(np.int32(done * (steps - 1) // max(total, 1)).tobytes())


@lru_cache
def explain_single_process() -> tuple[str, ...]:
    """Return why no other process can be started, as one note; nothing if they can.

    Processes wait for each other at semaphores, which Linux keeps in /dev/shm: some containers and sandboxes lack it,
    or make it read-only.
    """
    try:
        get_context("loky").Lock()
    except (OSError, ImportError) as error:  # ImportError: a Python without semaphores
        reason = getattr(error, "strerror", None) or str(error)
        advice = "; mount a writable /dev/shm to use more" if Path("/dev").is_dir() else ""
        return (f"everything was computed in one process, since no semaphore can be made ({reason}){advice}",)
    return ()


def remove_results(tasks: Sequence[Task], folder: Path) -> None:
    """Remove the results of tasks, so that they run again."""
    for task in tasks:
        _place(folder, task.key).unlink(missing_ok=True)


def _place(folder: Path, key: str) -> Path:
    return folder / f"{key}.npz"


def _is_whole(path: Path) -> bool:
    """Return whether the result exists and can be read; a damaged one is computed again."""
    try:
        read_result(path)
    except Exception:  # noqa: BLE001 - zipfile and NumPy raise anything on a file that they never wrote
        return False
    return True


def _run_here(
    tasks: Sequence[Task], folder: Path, note: Callable[[Task, Path | str], None], counter: _StepCounter
) -> None:
    """Run every task in this process, one after the other."""
    for task in tasks:
        path = _place(folder, task.key)
        note(task, _work(task, path, counter.path, counter.places[task.key]) or path)


def _run_round(
    tasks: Sequence[Task],
    folder: Path,
    open_slots: Callable[[], AbstractContextManager[tuple[list[_Slot], Callable[[_Slot], _Slot]]]],
    note: Callable[[Task, Path | str], None],
    counter: _StepCounter,
) -> list[tuple[Task, str]]:
    """Run every task once; return those whose process was killed, each with a reason."""
    waiting = deque(tasks)
    killed: list[tuple[Task, str]] = []
    running: dict[Future[str], tuple[Task, _Slot]] = {}
    with open_slots() as (slots, reopen):
        while waiting or running:
            while waiting and slots:
                task, slot = waiting.popleft(), slots.pop()
                path, place = _place(folder, task.key), counter.places[task.key]
                running[slot.submit(_work, task, path, counter.path, place)] = (task, slot)
            counter.report()
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
                    note(task, _describe_failure(future, path))
                slots.append(reopen(slot) if broken else slot)
    return killed


@contextmanager
def _open_slots(
    count: int, threads: int | None
) -> Iterator[tuple[list[ProcessPoolExecutor], Callable[[ProcessPoolExecutor], ProcessPoolExecutor]]]:
    """Open pools of one process each, and yield them with a function that replaces a broken one; end all at the end."""
    environment = {name: str(threads) for name in _THREADS} if threads else {}
    opened: list[ProcessPoolExecutor] = []

    def open_slot() -> ProcessPoolExecutor:
        slot = ProcessPoolExecutor(
            1, timeout=_IDLE_SECONDS, initializer=obey_parent, initargs=(os.getpid(),), env=environment
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


def _work(task: Task, path: Path, counter: Path, place: int) -> str:
    """Run a task in this process; return why it failed, or nothing."""
    progress = {"progress": functools.partial(_write_steps, counter, place, task.steps)} if task.steps > 1 else {}
    try:
        write_result(path, task.call(task.argument, **progress))
    except FeatxError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - any error of a task is reported as the failure of that task
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _describe_failure(future: "Future[str]", path: Path) -> str:
    error = future.exception()
    if error is None:
        missing = f"its result is not in {path.parent}: it was removed, or its machine has another folder there"
        return future.result() or f"{missing}; run the same command again"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _name_signal(error: BaseException | None) -> str:
    """Return the name of the signal that loky's message ends with, if any."""
    names = [name for name in signal.Signals.__members__ if f"{name}(" in str(error)]
    return f" ({names[0]})" if names else ""


@dataclass(frozen=True, slots=True)
class HeadTask:
    """A head to tune and fit, with the rows of a store that it is fitted on and those that it predicts.

    Another process gets nothing else: no features, and no labels except those of the training rows.

    Attributes:
        stores: Path of the store, or of several whose features are side by side.
        head: Name, fixed parameters and seed.
        trained_on: int `(n_trained,)`, training rows.
        targets: int `(n_trained,)`, their classes.
        folds: int `(n_trained,)`, the folds on which parameters are chosen and probabilities calibrated.
        units: int `(n_trained,)`: training items with the same number stay together.
        predicted: int `(n_predicted,)`, rows to predict.
        n_classes: Number of classes, of which `targets` may lack some.
        items_digest: Digest of the store's spec and of the sha256 of all these items, by `digest_items`.
        views: Which views of the items it is fitted on and predicts; see `FitOptions`.
        held_out: Whether the probabilities of the training items while tuning held them out are kept as well.
        refit: The same head for more items. What is chosen on those of this task is fitted to those, and predicts those
            to predict there; what is predicted here is kept as `held_out`.
    """

    stores: tuple[Path, ...]
    head: HeadSpec
    trained_on: NDArray[np.intp]
    targets: NDArray[np.intp]
    folds: NDArray[np.intp]
    units: NDArray[np.intp]
    predicted: NDArray[np.intp]
    n_classes: int
    items_digest: str
    views: str = VIEWS[0]
    held_out: bool = False
    refit: "HeadTask | None" = None

    def count_fits(self) -> int:
        """Count about how many fits tuning takes: each candidate on each fold, and the best one on all rows."""
        head = find_head(self.head.name)
        more = 0 if self.refit is None else 1
        grid = math.prod(len(values) for name, values in head.grid.items() if name not in self.head.params)
        scalings = len(head.scalings) if self.head.scaling is None else 1
        return 1 + more + grid * scalings * len(np.unique(self.folds))

    @property
    def digest(self) -> str:
        """The digest of everything that decides the probabilities; the order of rows in the store does not."""
        versions = sorted(read_versions().items())
        state = hashlib.sha256(
            f"{self.items_digest} {self.head.to_json()} {self.n_classes} {versions} {RULES}".encode()
        )
        state.update(self.targets.astype("<i8").tobytes())
        state.update(self.folds.astype("<i8").tobytes())
        state.update(self.units.astype("<i8").tobytes())
        state.update(f" views {self.views}".encode())
        if self.held_out:
            state.update(b" held out")
        if self.refit is not None:
            state.update(f" refit {self.refit.digest}".encode())
        return state.hexdigest()


def digest_items(store: AnyStore, trained_on: NDArray[np.intp], predicted: NDArray[np.intp]) -> str:
    """Return the digest of items' features: of the spec, and of the sha256 of each item."""
    state = hashlib.sha256("+".join(part.spec.digest for part in store.parts).encode())
    for rows in (trained_on, predicted):
        state.update(f" {len(rows)} ".encode())
        state.update("".join(store.sha256[rows].tolist()).encode())
    return state.hexdigest()


def fit_and_predict(task: HeadTask, progress: Progress | None = None) -> Result:
    """Tune and fit a head, and predict.

    Args:
        task: The head and its rows.
        progress: Called after each fit of the tuning with how many are done, and how many there are.

    Returns:
        The record has `params`, `scaling`, `fit_seconds` (including tuning), `predict_seconds`, `threads` (the number
        allowed), `peak_memory_bytes` (of this process during tuning and fitting), `trained_parameters`, `notes` and
        `single_fold_targets` (see `featx.heads.Tuned`); the array
        `probabilities` is float64 `(n_predicted, n_classes)`, and so is `held_out`, if asked for, with a row for each
        training item, or each item that the first of two fits predicts.

    Raises:
        StoreError: If the store has been replaced.
        DataError: If the head cannot be fitted to these items, or gives no probabilities.
    """
    store, head, arrays = _open_stores(task.stores), find_head(task.head.name), {}
    rows, last = _open_rows(store, task), task.refit or task
    with record_warnings():  # warnings of fits are kept as notes; those of predictions say nothing
        read_peak, started = watch_memory(), time.perf_counter()
        tuned = tune_and_fit(head, rows, task.head, always_tune=task.held_out, progress=progress)
        fit_seconds, peak, fitted = time.perf_counter() - started, read_peak(), tuned.fitted
        if task.refit is not None:
            assert tuned.tuned is not None  # noqa: S101 - such a task always tunes
            arrays["held_out"] = _predict(fitted.estimator, store, task)
            rows, started = _open_rows(store, task.refit), time.perf_counter()
            fitted = fit_tuned(head, rows, tuned.tuned)
            fit_seconds, peak = fit_seconds + time.perf_counter() - started, read_peak()
        elif task.held_out and tuned.tuned is not None:
            arrays["held_out"] = align_probabilities(tuned.tuned.probabilities, tuned.tuned.classes, task.n_classes)
        started = time.perf_counter()
        arrays["probabilities"] = _predict(fitted.estimator, store, last)
        predict_seconds = time.perf_counter() - started
    record = {
        "params": dict(tuned.spec.params),
        "scaling": tuned.spec.scaling,
        "calibration": tuned.spec.calibration,
        "fit_seconds": fit_seconds,
        "predict_seconds": predict_seconds,
        "threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
        "peak_memory_bytes": peak,
        "trained_parameters": count_parameters(fitted.estimator),
        "notes": [*(tuned.tuned.notes if tuned.tuned else ()), *fitted.notes],
        "single_fold_targets": list(tuned.single_fold),
    }
    return Result(record, arrays)


def tune_and_hold_out(task: HeadTask, progress: Progress | None = None) -> Result:
    """Tune a head, and keep how it predicted its rows while they were held out; nothing is fitted to all of them.

    Args:
        task: The head and its rows; it predicts no others.
        progress: As in `fit_and_predict`.

    Returns:
        The record has `params`, `scaling`, `fit_seconds` and `notes`; the array `held_out` is float64
        `(n_trained, n_classes)`.

    Raises:
        StoreError: If the store has been replaced.
        DataError: If the head cannot be fitted to these items.
    """
    head, started = find_head(task.head.name), time.perf_counter()
    rows = _open_rows(_open_stores(task.stores), task)
    with record_warnings(), explain_failure(task.head):
        tuned = tune(head, rows.features, rows.targets, rows.folds, spec=task.head, units=rows.units, progress=progress)
    seconds = time.perf_counter() - started
    record = {"params": dict(tuned.params), "scaling": tuned.scaling, "fit_seconds": seconds}
    held_out = align_probabilities(tuned.probabilities, tuned.classes, task.n_classes)
    return Result({**record, "notes": list(tuned.notes)}, {"held_out": held_out})


def _open_rows(store: AnyStore, task: HeadTask) -> TrainingRows:
    """Open the rows that a head is fitted on, if they are still those of the task.

    Raises:
        StoreError: If the store has been replaced.
    """
    if digest_items(store, task.trained_on, task.predicted) != task.items_digest:
        msg = f"{store.path} was replaced during the comparison; run the same command again"
        raise StoreError(msg)
    return open_training_rows(
        store, task.trained_on, task.targets, folds=task.folds, units=task.units, views=task.views
    )


def _predict(estimator: Pipeline, store: AnyStore, task: HeadTask) -> NDArray[np.float64]:
    """Predict the items of a task: float64 `(n_predicted, n_classes)`.

    Raises:
        DataError: If the head gives no probabilities for some.
    """
    predicted = predict_rows(estimator, open_rows(store, task.predicted, task.views))
    if not np.isfinite(predicted).all():
        msg = f"{task.head.name} gives no probabilities for {int((~np.isfinite(predicted)).any(axis=1).sum())} items"
        raise DataError(msg)
    return align_probabilities(predicted, estimator.classes_, task.n_classes)


@lru_cache(maxsize=2)
def _open_stores(paths: tuple[Path, ...]) -> AnyStore:
    return join_stores([FeatureStore(path) for path in paths])
