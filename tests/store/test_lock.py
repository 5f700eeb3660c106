import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from featx.errors import StoreError, StoreLockedError
from featx.store import lock
from featx.store.lock import StoreLock

HOLD = """
import sys
from pathlib import Path
from featx.store.lock import StoreLock
with StoreLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path):
    return tmp_path / "features" / "a.h5"


@pytest.fixture
def path(store):
    store.parent.mkdir()
    return store.with_name("a.h5.lock")


def write_owner(path, **changed):
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time() - 100, "nonce": "0"}
    path.write_text(json.dumps({**owner, **changed}))


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def find_dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@contextlib.contextmanager
def hold_elsewhere(store):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_lock_names_its_owner_and_goes_away(store):
    path = store.with_name("a.h5.lock")
    with StoreLock(store):
        owner = json.loads(path.read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), StoreLock(store):
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_second_lock_in_the_same_process_is_refused(store):
    with StoreLock(store):
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"), StoreLock(store):
            pytest.fail("locked twice")
        assert store.with_name("a.h5.lock").exists()


def test_a_living_process_keeps_its_lock_and_a_killed_one_loses_it(store):
    with hold_elsewhere(store) as process:
        pattern = rf"a.h5 is being written by process {process.pid} on {socket.gethostname()} for \d+ s; .*a.h5.lock"
        with pytest.raises(StoreLockedError, match=pattern), StoreLock(store):
            pytest.fail("taken from a living process")
        process.kill()
    assert store.with_name("a.h5.lock").exists()
    with StoreLock(store):
        pass
    assert list_names(store.parent) == []


def test_the_message_names_the_age_of_the_lock(store, monkeypatch):
    with hold_elsewhere(store):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        with pytest.raises(StoreLockedError, match=r"for 36\d\d s"), StoreLock(store):
            pytest.fail("taken from a living process")


def test_a_lock_of_another_machine_is_never_taken_over(store, path):
    write_owner(path, pid=find_dead_pid(), host="elsewhere")
    with pytest.raises(StoreLockedError, match=r"on elsewhere for 10. s; .* delete .*a.h5.lock"), StoreLock(store):
        pytest.fail("taken from another machine")


@pytest.mark.parametrize("pid", [1, os.getpid(), os.getppid()], ids=["first", "own", "parent"])
def test_a_dead_owner_whose_number_another_process_has_now_is_dead(store, path, pid):
    """As after a restart of the machine, or in a container, where the first process is always number 1."""
    write_owner(path, pid=pid)
    with StoreLock(store):
        assert json.loads(path.read_text())["nonce"] != "0"
    assert list_names(store.parent) == []


class TestWithoutLocksOfTheSystem:
    """On Windows, or on a network drive without locks, the owner's process number decides."""

    @pytest.fixture(autouse=True)
    def forget_locks(self, monkeypatch):
        monkeypatch.setattr(lock, "fcntl", None)

    def test_a_living_process_keeps_its_lock_and_a_dead_one_loses_it(self, store, path):
        write_owner(path, pid=os.getppid())
        with pytest.raises(StoreLockedError, match=f"process {os.getppid()}"), StoreLock(store):
            pytest.fail("taken from a living process")
        write_owner(path, pid=find_dead_pid())
        with StoreLock(store):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert list_names(store.parent) == []

    def test_a_lock_with_this_process_number_from_before_it_started_is_stale(self, store, path):
        write_owner(path, started=lock._LOADED_SECONDS + 1)
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"), StoreLock(store):
            pytest.fail("taken from this process")
        write_owner(path, started=lock._LOADED_SECONDS - 1)
        with StoreLock(store):
            assert json.loads(path.read_text())["started"] > lock._LOADED_SECONDS


def test_locks_work_on_a_file_system_without_hard_links(store, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with StoreLock(store):
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"), StoreLock(store):
            pytest.fail("locked twice")
        assert list_names(store.parent) == ["a.h5.lock"]
    assert list_names(store.parent) == []


def test_an_empty_lock_is_taken_over_unless_its_maker_lives(store, path):
    path.write_bytes(b"")
    with StoreLock(store) as held:
        held.confirm()
    assert list_names(store.parent) == []
    path.write_bytes(b"")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreLockedError, match="not a lock of featx"), StoreLock(store):
            pytest.fail("taken from a process that is about to write it")


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(store):
    store.parent.write_text("a file")
    with pytest.raises(StoreError, match=r"a.h5.lock cannot be written: .*; a store needs a folder"), StoreLock(store):
        pytest.fail("locked nothing")


@pytest.mark.parametrize(
    "content",
    [
        b"held",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"pid": null, "host": "h", "started": 1, "nonce": "0"}',
        b'{"pid": 1e400, "host": "h", "started": 1, "nonce": "0"}',
        b'{"pid": 100000000000000000000, "host": "h", "started": 1, "nonce": "0"}',
        b'{"pid": -1, "host": "h", "started": 1, "nonce": "0"}',
        b'{"pid": 1, "host": "h", "started": NaN, "nonce": "0"}',
        b'{"pid": 1, "host": "h", "started": Infinity, "nonce": "0"}',
        b"[" * 4000,
    ],
)
def test_garbage_is_not_taken_over_and_the_message_names_the_file_to_delete(store, path, content):
    path.write_bytes(content)
    with pytest.raises(StoreLockedError, match=r"a.h5.lock is not a lock of featx; .* delete it"), StoreLock(store):
        pytest.fail("garbage was taken over")
    assert path.read_bytes() == content


def test_of_many_that_find_a_dead_owner_one_gets_the_lock(store, path):
    write_owner(path, pid=find_dead_pid())
    race = """
import sys
from pathlib import Path
from featx.errors import StoreLockedError
from featx.store.lock import StoreLock
sys.stdin.readline()
try:
    with StoreLock(Path(sys.argv[1])) as held:
        held.confirm()
        print("held", flush=True)
        sys.stdin.read()
        held.confirm()
except StoreLockedError as error:
    print("refused", error, flush=True)
"""
    command = [sys.executable, "-c", race, str(store)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        lines = [process.stdout.readline() for process in processes]
        assert sum(line == "held\n" for line in lines) == 1
        assert all(
            re.search("is being written by process|at the same moment", line) for line in lines if "held" not in line
        )
    assert list_names(store.parent) == []


def test_a_writer_that_lost_its_lock_is_refused_and_leaves_that_of_the_next(store, path):
    with StoreLock(store) as held:
        held.confirm()
        path.unlink()
        with pytest.raises(
            StoreLockedError, match=r"a.h5 was taken over by another writer while .* run the same command again"
        ):
            held.confirm()
        with StoreLock(store) as other:
            other.confirm()
            with pytest.raises(StoreLockedError, match="was taken over"):
                held.confirm()
    assert list_names(store.parent) == []


def test_the_lock_of_the_next_writer_outlives_the_one_that_lost_it(store, path):
    with StoreLock(store):
        path.unlink()
        write_owner(path, pid=os.getppid())
    assert json.loads(path.read_text())["pid"] == os.getppid()
