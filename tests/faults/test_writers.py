"""Two writers at once, one of them standing still at the worst moments, and readers meanwhile."""

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

#: Embeds a folder, and stands still before the first call of a function of the store, until it is told to go on.
WRITER = """
import importlib, os, signal, sys
from featx import embed
from featx.errors import FeatxError
from featx.store import journal

source, folder, module, name = sys.argv[1:]
journal.SHARD_BYTES = 1
place = importlib.import_module(f"featx.store.{module}")
call = getattr(place, name)

def stand_still(*arguments, **options):
    setattr(place, name, call)
    print("still", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    return call(*arguments, **options)

setattr(place, name, stand_still)
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
def stand_still(folders, module, name):
    command = [sys.executable, "-c", WRITER, *folders, module, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "still\n"
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


def test_the_second_is_refused_with_the_first_ones_number_host_and_age(folders, whole):
    source, folder = folders
    with stand_still(folders, "journal", "write_file") as first:
        pattern = rf"colour.h5 is being written by process {first.pid} on \S+ since \d+ s; wait for it"
        with pytest.raises(StoreLockedError, match=pattern):
            embed(source, "colour", folder=folder)
        first.send_signal(signal.SIGCONT)
        assert first.stdout.read() == f"done {len(whole)}\n"
    assert_whole(folder, whole)


#: Where the first writer stands still: before it writes a shard, before that gets its name, and before the seal.
MOMENTS = [("journal", "write_file"), ("hdf5", "publish_file"), ("sealing", "write_file")]


@pytest.mark.parametrize(("module", "name"), MOMENTS)
def test_a_writer_that_wakes_after_its_lock_was_taken_commits_nothing(folders, whole, module, name):
    source, folder = folders
    with stand_still(folders, module, name) as first:
        (folder / "colour.h5.lock").unlink()  # as its message says, if that process is gone
        embed(source, "colour", folder=folder)
        sealed = (folder / "colour.h5").stat()
        first.send_signal(signal.SIGCONT)
        said = first.stdout.read()
    assert said.startswith(("StoreLockedError", "StoreError")), said
    assert "taken over by another writer" in said or "cannot be written" in said
    assert (folder / "colour.h5").stat() == sealed
    assert_whole(folder, whole)


def test_a_writer_that_wakes_leaves_the_shards_and_the_lock_of_the_next(folders, whole):
    folder = folders[1]
    with stand_still(folders, "sealing", "write_file") as first:
        (folder / "colour.h5.lock").unlink()
        with stand_still(folders, "sealing", "write_file") as second:
            first.send_signal(signal.SIGCONT)
            assert first.stdout.read().startswith("StoreLockedError")
            assert (folder / "colour.h5.lock").exists()
            assert any((folder / "colour.h5.parts").iterdir())
            second.send_signal(signal.SIGCONT)
            assert second.stdout.read() == f"done {len(whole)}\n"
    assert_whole(folder, whole)


#: Adds a picture and takes it away again, so that the store is sealed anew each time.
RESTLESS = """
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


def test_readers_see_one_store_or_the_other_whole_while_it_is_written_again_and_again(folders, tmp_path):
    source, folder = tmp_path / "few", folders[1]
    shutil.copytree(folders[0] / "0", source / "0")
    first = embed(source, "colour", folder=folder)
    expected = dict(zip(first.store.ids.tolist(), map(bytes, first.store.features), strict=True))
    sizes = []
    with subprocess.Popen([sys.executable, "-c", RESTLESS, source, folder, "15"]) as process:
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
