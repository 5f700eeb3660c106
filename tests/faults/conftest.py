import multiprocessing

import pytest
from scenarios import make_adding, make_fresh, make_indexing, make_packing, make_resealing, make_takeover

MAKERS = {
    "fresh": make_fresh,
    "adding": make_adding,
    "resealing": make_resealing,
    "takeover": make_takeover,
    "indexing": make_indexing,
    "packing": make_packing,
}


def pytest_itemcollected(item):
    """Mark what is in this folder: it kills processes, fills disks and opens bombs."""
    item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def make_scenario(tmp_path_factory):
    """Make a scenario by its name, once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("each run is forked from a warm process, which this system cannot do")
    made = {}

    def make(name):
        if name not in made:
            made[name] = MAKERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return make
