"""Changes to bundles, as a damaged disk or an attacker would make them."""

import hashlib
import json
import tracemalloc

import pytest

from featx.errors import BundleError
from featx.prediction import Predictor

#: NumPy's allocations are counted, whether they are ever touched or not.
MAX_PEAK_BYTES = 200 * 2**20


def rewrite(bundle, **changes):
    """Change entries of `bundle.json`; `a__b=1` changes the entry b of the entry a."""
    about = json.loads((bundle / "bundle.json").read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        entry = about
        for part in outer:
            entry = entry[part]
        entry[last] = value
    (bundle / "bundle.json").write_text(json.dumps(about))


def sign(bundle):
    """Give each file the checksum that it has now, as whoever makes a bundle can."""
    about = json.loads((bundle / "bundle.json").read_text())
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in bundle.iterdir()
        if path.name != "bundle.json"
    }
    (bundle / "bundle.json").write_text(json.dumps({**about, "files": files}))


def check_refused(bundle, message):
    with pytest.raises(BundleError, match=message) as caught:
        Predictor.load(bundle)
    check_line(str(caught.value))
    assert str(bundle) in str(caught.value)


def check_line(message):
    assert "\n" not in message
    assert len(message) < 1500


def check_refused_cheaply(bundle, message):
    tracemalloc.start()
    try:
        check_refused(bundle, message)
        assert tracemalloc.get_traced_memory()[1] < MAX_PEAK_BYTES
    finally:
        tracemalloc.stop()
