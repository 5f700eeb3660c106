"""Embedding on Ray on two hosts: the link between them is cut in the middle of a shard, and restored."""

import time

import pytest
from driven import VIEWS, Run, start_cluster
from network import Network
from pictures import write_digits
from scenarios import list_names, read_content

import featx

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

#: After some ten seconds without an answer, a host counts as dead; without these, after some seventy.
QUICK = {"health_check_period_ms": 1000, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 4}


@pytest.fixture
def network():
    network = Network()
    try:
        network.__enter__()
    except OSError as error:
        pytest.skip(f"hosts in network namespaces need root on Linux: {error}")
    yield network
    network.__exit__()


def test_a_link_is_cut_in_the_middle_of_a_shard_and_restored(network, tmp_path):
    """Once for a moment, in which the worker writes its shard; and once until its host counts as dead."""
    source = write_digits(tmp_path / "source", per_class=30)
    expected = read_content(featx.embed(source, "colour", **VIEWS, name="s", folder=tmp_path / "local").store.path)
    folders = [tmp_path / name for name in ("cluster", "short", "long")]
    for folder in folders:
        folder.mkdir()
    first, second = network.hosts
    states = {}
    with start_cluster(folders[0], network.hosts, **QUICK) as address:
        for folder in folders[1:]:
            with Run(source, folder / "features", address, late_seconds=600, prefix=first.prefix) as run:
                run.wait_for(lambda run=run: any(map(second.has, run.list_processes("ray::Worker.embed"))))
                with network.cut():
                    if folder.name == "long":
                        run.process.wait(120)
                    else:
                        time.sleep(3)
                _, states[folder.name] = run.finish()
            assert read_content(folder / "features/s.h5") == expected
            assert list_names(folder / "features") == ["s.h5"]
    assert not any("died" in line for line in states["short"])
    assert any("1 died" in line for line in states["long"])
