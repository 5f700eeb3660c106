import sys
from pathlib import Path

import numpy as np
import pytest

from featx import measuring

BLOCK = 60_000_000


def fill(n_bytes):
    """Touch memory and give it back."""
    return int(np.ones(n_bytes, np.uint8).sum())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets a peak")
def test_a_peak_is_that_of_what_was_watched():
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
