"""The names of all heads, for tests that run each of them."""

import pytest

from featx.registry import HEADS

#: Those that Keras trains are marked.
ALL_HEADS = [pytest.param(name, marks=pytest.mark.keras) if name == "keras" else name for name in HEADS]
