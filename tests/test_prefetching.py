import itertools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from featx import prefetching
from featx.prefetching import gather, prefetch


def count_own_threads():
    return sum(thread.name.startswith("featx-prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (1, 5), (3, 2), (4, 16)])
def test_results_come_in_the_order_of_the_tasks(workers, ahead):
    def work(task):
        time.sleep(0.002 * (task % 3))
        return task * task

    assert list(prefetch(work, range(40), workers=workers, ahead=ahead)) == [task * task for task in range(40)]
    assert count_own_threads() == 0


def test_no_tasks_no_results():
    assert list(prefetch(str, [], workers=2, ahead=2)) == []


def test_tasks_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=60)  # broken unless three threads are inside at once
    assert len(list(prefetch(lambda _: meeting.wait(), range(3), workers=3, ahead=3))) == 3


def test_tasks_are_taken_only_as_results_are_requested():
    taken = []
    tasks = (taken.append(number) or number for number in itertools.count())
    results = prefetch(lambda task: task, tasks, workers=2, ahead=4)
    assert taken == []
    for asked in range(1, 30):
        assert next(results) == asked - 1
        assert len(taken) == asked + 3
    results.close()


def test_an_error_comes_in_its_place_and_ends_the_work():
    def work(task):
        if task == 3:
            msg = "task 3"
            raise KeyError(msg)
        return task

    results = prefetch(work, range(100), workers=2, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="task 3"):
        next(results)
    assert next(results, "ended") == "ended"
    assert count_own_threads() == 0


def test_closing_drops_waiting_tasks_and_ends_the_threads():
    started = []
    go_on = threading.Event()

    def work(task):
        started.append(task)
        if task:
            go_on.wait(10)
        return task

    results = prefetch(work, range(1000), workers=2, ahead=50)
    assert next(results) == 0
    threading.Timer(0.05, go_on.set).start()
    results.close()
    assert count_own_threads() == 0
    assert len(started) < 10


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="only POSIX can send a signal to one thread")
def test_ctrl_c_while_waiting_for_a_result_ends_the_threads(monkeypatch):
    started = []
    interrupted, dropped = threading.Event(), threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *args, **options):
            super().shutdown(*args, **options)
            dropped.set()

    def interrupt(*_):
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def work(task):
        started.append(task)
        if task == 1:
            # A signal that comes just before the main thread blocks wakes nobody, so it is sent until it is seen.
            while not interrupted.wait(0.1):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert dropped.wait(30)
        return task

    monkeypatch.setattr(prefetching, "ThreadPoolExecutor", Pool)
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(prefetch(work, range(1000), workers=1, ahead=50))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert count_own_threads() == 0
    assert started == [0, 1]


def test_results_are_released_once_used():
    alive = []

    class Result:
        def __init__(self):
            alive.append(1)

        def __del__(self):
            alive.pop()

    for result in prefetch(lambda _: Result(), range(200), workers=2, ahead=3):
        del result
        assert len(alive) <= 3
    assert not alive


def test_no_worker_is_refused():
    with pytest.raises(ValueError, match="max_workers"):
        next(prefetch(str, [1], workers=0, ahead=1))


@pytest.mark.parametrize(("n_items", "size", "sizes"), [(0, 3, []), (2, 3, [2]), (6, 3, [3, 3]), (7, 3, [3, 3, 1])])
def test_items_are_gathered_in_order(n_items, size, sizes):
    batches = list(gather(range(n_items), size))
    assert [len(batch) for batch in batches] == sizes
    assert [item for batch in batches for item in batch] == list(range(n_items))


def test_gathering_takes_no_more_than_it_returns():
    source = iter(range(10))
    assert next(gather(source, 4)) == [0, 1, 2, 3]
    assert next(source) == 4
