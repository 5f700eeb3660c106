"""Doing the next tasks in threads while the results of the last ones are used."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def gather(items: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """Gather items into lists of a size, the last one shorter; `itertools.batched` of Python 3.12."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def prefetch(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, ahead: int
) -> Generator[Result]:
    """Map a function over tasks in threads, in order and with bounded memory.

    It is `Executor.map` with the `buffersize` of Python 3.14, which also stops cleanly: closing the
    iterator, Ctrl-C or an error drops the tasks that wait, and returns when those that run have ended.

    Args:
        function: Is called in several threads at once; gains from them where it releases the
            interpreter's lock, as decoding and reading files do.
        tasks: Its arguments; taken one by one, in the consumer's thread, as results are asked for.
        workers: Threads, at least 1.
        ahead: Tasks whose results may exist or be under way at one time, at least 1.

    Yields:
        The results, in the order of the tasks.

    Raises:
        ValueError: If there is no worker.
        Exception: What the function raises for a task, in place of its result.
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
