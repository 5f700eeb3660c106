import contextlib
import logging
import os
import signal
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from pictures import write_digits
from runs import draw

import featx

SHARED = Path(os.environ.get("FEATX_SHARED", Path(__file__).resolve().parents[2] / "shared")).resolve()


#: Every test of these files needs Keras, and importing them imports TensorFlow, which takes four seconds.
NEED_KERAS = {
    "backbones/test_applications.py",
    "backbones/test_efficientnet_lite.py",
    "backbones/test_networks.py",
    "backbones/test_openvino.py",
    "backbones/test_savedmodels.py",
    "backbones/test_scattering.py",
    "backbones/test_weights.py",
    "faults/test_hostile_networks.py",
}


def pytest_ignore_collect(collection_path, config):
    """Leave them out where Keras is missing, as in `make newest`, or not asked for, as in `make fast`.

    `make coverage` imports them: its figure counts the lines of featx that run when a module is imported.
    """
    unasked = "not keras" in config.option.markexpr and not config.getoption("cov_source", None)
    left_out = unasked or not find_spec("keras")
    return True if left_out and "/".join(collection_path.parts[-2:]) in NEED_KERAS else None


#: Few tests that take long: a process that began with them at the end would be left alone with them.
LONG = {"test_docs.py", "test_end_to_end.py", "test_extending.py"}


@pytest.hookimpl(trylast=True)  # after those that are not chosen were left out
def pytest_collection_modifyitems(items, config):
    """Where several processes share the files, begin with those of `LONG`, then with those of many tests."""
    if hasattr(config, "workerinput"):
        sizes = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path.name not in LONG, -sizes[item.path], item.path))


@pytest.fixture(scope="session")
def shared():
    """The folder of real images and weights, which is not part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no shared images and weights in {SHARED}; FEATX_SHARED names another folder")
    return SHARED


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """400 digits in ten class folders."""
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=40)


@pytest.fixture(scope="session")
def store(digits, tmp_path_factory):
    """The 400 digits, embedded by the backbone that needs no TensorFlow."""
    return featx.embed(digits, "colour", folder=tmp_path_factory.mktemp("features")).store


@pytest.fixture(scope="session")
def digits_bundle(store, tmp_path_factory):
    """A bundle of the 400 digits; a test that changes it takes a copy, as writing one takes a second."""
    return featx.fit(store, "centroid", options=featx.FitOptions(folder=tmp_path_factory.mktemp("runs"))).bundle


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium for the tests of one page."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_width(monkeypatch):
    """Without the width that pytest-xdist sets, as tables to a file are printed in full."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """Without the cache of converted networks, so that each test builds what it needs."""
    monkeypatch.setenv("FEATX_CACHE", "off")


@pytest.fixture(scope="session")
def _object_store():
    from object_store import ObjectStore

    opened = ObjectStore()
    yield opened
    opened.close()


@pytest.fixture
def object_store(_object_store, tmp_path, monkeypatch):
    """An S3 server on loopback behind a proxy that counts requests and can break them; with a cache of its own."""
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    _object_store.reset()
    return _object_store


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures in two classes."""
    folder = tmp_path / "pictures"
    for number in range(10):
        draw(folder / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    return folder


@pytest.fixture
def features(tmp_path):
    return tmp_path / "features"


@pytest.fixture
def full_disk():
    """Stop files from growing beyond a size, as if the disk were full."""
    import resource  # POSIX alone has it

    @contextlib.contextmanager
    def fill(limit_bytes=4096):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return fill


@pytest.fixture
def interruptible():
    """Handle SIGINT as in a terminal.

    A script starts its background jobs with SIGINT ignored, which processes inherit: without this fixture, neither
    this process nor its children would notice an interrupt.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def notes(caplog, monkeypatch):
    """The warnings of featx, also after a test that ran the command line, which stops their propagation."""
    logger = logging.getLogger("featx")
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(logger, "propagate", False)
    yield lambda: [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    logger.removeHandler(caplog.handler)
