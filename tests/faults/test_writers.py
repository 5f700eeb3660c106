"""Two writers at once, one of them stopped at the worst moments, and readers meanwhile."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest

from featx import FeatureStore, embed
from featx.errors import StoreLockedError

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the platform cannot stop a process")

#: Embeds a folder, and stops before the first call of one function of featx, until it receives SIGCONT.
WRITER = """
import importlib, os, signal, sys
from featx import embed
from featx.errors import FeatxError
from featx.store import journal

source, folder, module, name = sys.argv[1:]
journal.SHARD_BYTES = 1
place = importlib.import_module(f"featx.{module}")
call = getattr(place, name)

def stop(*arguments, **options):
    setattr(place, name, call)
    print("stopping", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    return call(*arguments, **options)

setattr(place, name, stop)
try:
    result = embed(source, "colour", folder=folder)
    print("done", len(result.store), flush=True)
except FeatxError as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def folders(tmp_path, digits):
    return digits, tmp_path / "features"


@contextlib.contextmanager
def start_stopped(folders, module, name):
    command = [sys.executable, "-c", WRITER, *folders, module, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "stopping\n"
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits):
    return embed(digits, "colour", folder=tmp_path_factory.mktemp("whole")).store


def assert_whole(folder, whole):
    found = FeatureStore(folder / "colour.h5")
    assert found.find_damage() == []
    assert found.ids.tolist() == whole.ids.tolist()
    assert found.features.tobytes() == whole.features.tobytes()
    assert [path.name for path in folder.iterdir()] == ["colour.h5"]


def test_the_second_writer_is_refused_with_pid_host_and_age_of_the_first(folders, whole):
    source, folder = folders
    with start_stopped(folders, "store.journal", "write_file") as first:
        pattern = rf"colour.h5 is being written by process {first.pid} on \S+ for \d+ s; wait for it"
        with pytest.raises(StoreLockedError, match=pattern):
            embed(source, "colour", folder=folder)
        first.send_signal(signal.SIGCONT)
        assert first.stdout.read() == f"done {len(whole)}\n"
    assert_whole(folder, whole)


#: Where the first writer stops: before it writes a shard, before the shard gets its name, and before the seal.
MOMENTS = [("store.journal", "write_file"), ("files", "publish_file"), ("store.sealing", "write_file")]


@pytest.mark.parametrize(("module", "name"), MOMENTS)
def test_a_writer_that_wakes_after_its_lock_was_taken_commits_nothing(folders, whole, module, name):
    source, folder = folders
    with start_stopped(folders, module, name) as first:
        (folder / "colour.h5.lock").unlink()  # as its message says, if that process is gone
        embed(source, "colour", folder=folder)
        sealed = (folder / "colour.h5").stat()
        first.send_signal(signal.SIGCONT)
        printed = first.stdout.read()
    assert printed.startswith(("StoreLockedError", "StoreError")), printed
    assert "taken over by another writer" in printed or "cannot be written" in printed
    assert (folder / "colour.h5").stat() == sealed
    assert_whole(folder, whole)


def test_a_writer_that_wakes_leaves_the_shards_and_the_lock_of_the_next(folders, whole):
    folder = folders[1]
    with start_stopped(folders, "store.sealing", "write_file") as first:
        (folder / "colour.h5.lock").unlink()
        with start_stopped(folders, "store.sealing", "write_file") as second:
            first.send_signal(signal.SIGCONT)
            assert first.stdout.read().startswith("StoreLockedError")
            assert (folder / "colour.h5.lock").exists()
            assert any((folder / "colour.h5.parts").iterdir())
            second.send_signal(signal.SIGCONT)
            assert second.stdout.read() == f"done {len(whole)}\n"
    assert_whole(folder, whole)


#: Adds a picture and removes it again, so that the store is sealed again each time.
REWRITER = """
import sys
from pathlib import Path
from featx import embed

source, folder, number = sys.argv[1:]
extra = Path(source) / "0" / "extra.png"
content = next(extra.parent.iterdir()).read_bytes()
for _ in range(int(number)):
    extra.write_bytes(content)
    embed(source, "colour", folder=folder)
    extra.unlink()
    embed(source, "colour", folder=folder)
"""


def test_readers_always_see_a_whole_store_while_it_is_rewritten_again_and_again(folders, tmp_path):
    source, folder = tmp_path / "few", folders[1]
    shutil.copytree(folders[0] / "0", source / "0")
    first = embed(source, "colour", folder=folder)
    expected = dict(zip(first.store.ids.tolist(), map(bytes, first.store.features), strict=True))
    sizes = []
    with subprocess.Popen([sys.executable, "-c", REWRITER, source, folder, "15"]) as process:
        while process.poll() is None:
            found = FeatureStore(folder / "colour.h5")
            assert found.find_damage() == []
            rows = dict(zip(found.ids.tolist(), map(bytes, found.features), strict=True))
            rows.pop("0/extra.png", None)
            assert rows == expected
            sizes.append(len(found))
    assert process.returncode == 0
    assert set(sizes) == {40, 41}
    assert dict(zip(first.store.ids.tolist(), map(bytes, first.store.features), strict=True)) == expected
