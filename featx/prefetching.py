"""Running the next tasks in threads while earlier results are used."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def gather(items: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """Gather items into lists of one size, the last of which may be shorter; `itertools.batched` of Python 3.12."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def prefetch(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, ahead: int
) -> Generator[Result]:
    """Map a function over tasks in threads, in order and with bounded memory.

    It works as `Executor.map` with the `buffersize` of Python 3.14, and also stops cleanly: closing the
    iterator, Ctrl-C or an error drops the waiting tasks, and returns when the running ones have ended.

    Args:
        function: Called in several threads at once. They help where it releases the interpreter's
            lock, as decoding and reading files do.
        tasks: Its arguments, taken one by one, in the consumer's thread, as results are requested.
        workers: Number of threads, at least 1.
        ahead: Tasks that may be running or have an unused result at one time, at least 1.

    Yields:
        The results, in the order of the tasks.

    Raises:
        ValueError: If `workers` is below 1.
        Exception: Whatever the function raises for a task, instead of its result.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="featx-prefetch") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
