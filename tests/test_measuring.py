import hashlib
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from featx import measuring
from featx.measuring import DECODE, INFER, READ, STAGES, WRITE, Timing


def burn(seconds):
    """Use a processor for that time, in native code that does not hold up other threads."""
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        hashlib.sha256(bytes(1 << 20)).digest()


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def test_a_run_that_did_nothing_has_all_stages_and_no_time():
    seconds = Timing().conclude()
    assert tuple(seconds) == STAGES
    assert max(seconds.values()) < 0.05


def test_each_stage_has_the_processor_time_of_its_own_threads():
    timing = Timing()

    def decode():
        with timing.measure(DECODE):
            burn(0.2)

    for thread in [in_thread(decode), in_thread(decode)]:
        thread.join()
    with timing.measure(WRITE):
        burn(0.1)
    seconds = timing.conclude()
    assert seconds[DECODE] == pytest.approx(0.4, abs=0.1)
    assert seconds[WRITE] > 0.09  # more where other programs take the cores, which looks like a slow disk
    assert seconds[INFER] < 0.1


def test_the_network_has_the_time_of_threads_that_were_not_measured():
    timing = Timing()
    hidden = in_thread(burn, 0.3)  # as a runtime computes in threads of its own
    with timing.measure(INFER):
        hidden.join()
    assert timing.conclude()[INFER] == pytest.approx(0.3, abs=0.1)


def test_waiting_for_a_disk_counts_where_cores_are_idle():
    timing = Timing()
    with timing.measure(READ):
        time.sleep(0.2)
    assert timing.conclude()[READ] > 0.15


def test_on_a_device_the_network_has_the_time_of_its_calls():
    timing = Timing()
    timing.is_on_device = True
    with timing.measure(INFER):
        time.sleep(0.2)
    assert timing.conclude()[INFER] > 0.19


def test_a_stage_counts_a_block_that_ended_in_an_error():
    timing = Timing()

    def fail():
        with timing.measure(WRITE):
            burn(0.1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert timing.conclude()[WRITE] > 0.05


BLOCK = 60_000_000


def fill(n_bytes):
    """Allocate memory, use it and free it."""
    return int(np.ones(n_bytes, np.uint8).sum())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets a peak")
def test_a_peak_counts_only_the_time_that_was_watched():
    read_small = measuring.watch_memory()
    small = read_small()
    read_large = measuring.watch_memory()
    assert fill(2 * BLOCK) == 2 * BLOCK
    large = read_large()
    assert large - small > BLOCK
    assert measuring.watch_memory()() < large - BLOCK


def test_without_a_reset_a_peak_is_known_only_if_it_rose(monkeypatch):
    monkeypatch.setattr(measuring, "_SELF", Path("nowhere"))
    peaks = iter([100, 100, 100, 300])
    monkeypatch.setattr(measuring, "_read_highest", lambda: next(peaks))
    assert measuring.watch_memory()() is None
    assert measuring.watch_memory()() == 300
    monkeypatch.setattr(measuring, "_read_highest", lambda: None)
    assert measuring.watch_memory()() is None
