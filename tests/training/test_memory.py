import sys
from pathlib import Path

import numpy as np
import pytest

from featx.training import memory

BLOCK = 60_000_000


def fill(n_bytes):
    """Touch memory and give it back."""
    return int(np.ones(n_bytes, np.uint8).sum())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets a peak")
def test_a_peak_is_that_of_what_was_watched():
    read_small = memory.watch_memory()
    small = read_small()
    read_large = memory.watch_memory()
    assert fill(2 * BLOCK) == 2 * BLOCK
    large = read_large()
    assert large - small > BLOCK
    assert memory.watch_memory()() < large - BLOCK


def test_without_a_reset_a_peak_is_known_only_if_it_rose(monkeypatch):
    monkeypatch.setattr(memory, "_SELF", Path("nowhere"))
    peaks = iter([100, 100, 100, 300])
    monkeypatch.setattr(memory, "_read_highest", lambda: next(peaks))
    assert memory.watch_memory()() is None
    assert memory.watch_memory()() == 300
    monkeypatch.setattr(memory, "_read_highest", lambda: None)
    assert memory.watch_memory()() is None
