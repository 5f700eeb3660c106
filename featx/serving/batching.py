"""Batches over the pictures of all requests, and the bounded queue in front of them.

Threads decode pictures. One thread owns the network: it gathers decoded pictures to a batch, until the batch is full
or the first of them has waited long enough, and starts it as soon as the network can take another one. While the
network is busy, more pictures arrive, so batches grow with the load and nothing waits when there is none.
"""

import ctypes
import hashlib
import queue
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featx.errors import FeatxError, ImageError
from featx.options import count_cores
from featx.serving.metrics import Metrics
from featx.serving.network import Forms, ServedPredictor, check_picture

#: Images of more pixels are decoded one at a time: a thread may take 300 MB for one.
_LARGE_PX = 12_000_000


class OverloadError(FeatxError):
    """The queue is full, or the server stops; the client should try again."""


class LateError(FeatxError):
    """A picture was still waiting when its request was given up."""

    def __init__(self) -> None:
        super().__init__("it was still waiting when the time of its request was over")


@dataclass(slots=True)
class _Job:
    """One picture on its way.

    Attributes:
        data: The bytes of its file; empty once it is decoded.
        deadline: When its request is given up, by `time.monotonic`.
        answer: Receives the probabilities `(n_classes,)`, or the reason why there are none.
        forms: The decoded picture.
    """

    data: bytes
    deadline: float
    answer: "Future[NDArray[np.float64]]" = field(default_factory=Future)
    forms: Forms = ()

    def is_wanted(self) -> bool:
        """Return whether somebody still waits for the answer; tell them if it is too late."""
        if self.answer.done():
            return False
        if time.monotonic() <= self.deadline:
            return True
        settle(self.answer, LateError())
        return False


def settle(answer: "Future[NDArray[np.float64]]", outcome: NDArray[np.float64] | Exception) -> None:
    """Give a future its outcome, unless it was cancelled meanwhile."""
    if not answer.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class Room:
    """Counts what is admitted, up to a limit, over all threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take room, unless there is too little."""
        with self._lock:
            if self.taken + count > self.limit:
                return False
            self.taken += count
            return True

    def give_back(self, count: int) -> None:
        """Give room back."""
        with self._lock:
            self.taken -= count


class Batcher:
    """Answers pictures with one predictor.

    Args:
        predictor: The predictor.
        room: Counts the pictures of all batchers.
        max_batch, max_wait_ms, max_pixels: As in `ServeOptions`.
        parallel: Batches that keep the network busy.
        metrics: Counts batches and their time.
    """

    def __init__(
        self,
        predictor: ServedPredictor,
        room: Room,
        *,
        max_batch: int,
        max_wait_ms: float,
        max_pixels: int,
        parallel: int,
        metrics: Metrics,
    ) -> None:
        self._predictor, self._room, self._metrics = predictor, room, metrics
        self._max_batch, self._max_wait_seconds, self._max_pixels = max_batch, max_wait_ms / 1000, max_pixels
        self._decoded: queue.Queue[_Job | None] = queue.Queue(max(max_batch, predictor.ahead))
        self._large = threading.Lock()
        self._slots = threading.BoundedSemaphore(parallel)
        self._decoders = ThreadPoolExecutor(count_cores(), thread_name_prefix="featx-decode")
        self._runners = ThreadPoolExecutor(parallel, thread_name_prefix="featx-network")
        self._owner = threading.Thread(target=self._own, name="featx-batches", daemon=True)
        self._owner.start()

    def submit(self, pictures: Sequence[bytes], deadline: float) -> "list[Future[NDArray[np.float64]]]":
        """Admit pictures, all or none.

        Args:
            pictures: The bytes of their files.
            deadline: When they are given up, by `time.monotonic`.

        Returns:
            For each, a future of its probabilities `(n_classes,)`, or of an `ImageError`.

        Raises:
            OverloadError: If there is too little room for them.
        """
        if not self._room.take(len(pictures)):
            msg = f"{self._room.taken:,} images are waiting, and at most {self._room.limit:,} may; try again later"
            raise OverloadError(msg)
        jobs = [_Job(data, deadline) for data in pictures]
        for job in jobs:
            job.answer.add_done_callback(lambda _: self._room.give_back(1))
            self._decoders.submit(self._decode, job)
        return [job.answer for job in jobs]

    def close(self) -> None:
        """Answer what was admitted, and end the threads; it waits for them."""
        self._decoders.shutdown()
        self._decoded.put(None)
        self._owner.join()
        self._runners.shutdown()

    def _decode(self, job: _Job) -> None:
        if not job.is_wanted():
            return
        try:
            started = time.perf_counter()
            header, sha256 = check_picture(job.data, self._max_pixels), hashlib.sha256(job.data).hexdigest()
            if header.width_px * header.height_px > _LARGE_PX:
                with self._large:
                    job.forms = self._predictor.decode(job.data, sha256)
                return_memory()
            else:
                job.forms = self._predictor.decode(job.data, sha256)
            self._metrics.decode_seconds.observe(time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001 - it is for whoever waits for the answer
            settle(job.answer, error if isinstance(error, ImageError) else _describe(error))
            return
        job.data = b""
        self._decoded.put(job)  # waits while the network is behind

    def _own(self) -> None:
        """Gather batches until there are no more."""
        is_open = True
        while is_open:
            first = self._decoded.get()
            if first is None:
                return
            # A batch may fill while all slots are busy, so the slot comes first.
            self._slots.acquire()
            batch, is_open = self._gather(first)
            self._runners.submit(self._run, batch)

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        batch, until = [first], time.monotonic() + self._max_wait_seconds
        while len(batch) < self._max_batch:
            try:
                job = self._decoded.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return batch, False
            batch.append(job)
        return batch, True

    def _run(self, batch: list[_Job]) -> None:
        try:
            wanted = [job for job in batch if job.is_wanted()]
            if not wanted:
                return
            started = time.perf_counter()
            answers: Sequence[NDArray[np.float64] | Exception]
            try:
                answers = list(self._predictor.answer([job.forms for job in wanted]))
            except Exception as error:  # noqa: BLE001 - as above
                answers = [_describe(error)] * len(wanted)
            self._metrics.network_seconds.observe(time.perf_counter() - started)
            self._metrics.batch_images.observe(len(wanted))
            for job, answer in zip(wanted, answers, strict=True):
                settle(job.answer, answer)
        finally:
            self._slots.release()


def return_memory() -> None:
    """Give freed memory back to the system, where the C library is that of GNU: it would keep 800 MB after a few."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _describe(error: Exception) -> Exception:
    """Return an error that says what went wrong inside."""
    failure = RuntimeError(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
