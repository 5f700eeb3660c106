import pytest
from server_process import ServerProcess

from featx import FitOptions, fit


@pytest.fixture(scope="session")
def bundle(store, tmp_path_factory):
    """A bundle of ten digits, whose backbone needs no TensorFlow."""
    return fit(store, "centroid", options=FitOptions(cv=2, folder=tmp_path_factory.mktemp("runs"))).bundle


@pytest.fixture(scope="module")
def server(bundle):
    """One server for a module, with limits that a test reaches."""
    limits = ["--max-bytes", "2000000", "--max-pixels", "1000000", "--max-images", "8", "--timeout", "2"]
    with ServerProcess(f"digits={bundle}", *limits) as started:
        yield started
