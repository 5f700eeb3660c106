import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from featx.errors import StoreLockedError
from featx.store import lock
from featx.store.lock import lock_store

HOLD = """
import sys
from pathlib import Path
from featx.store.lock import lock_store
with lock_store(Path(sys.argv[1])):
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
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time() - 100}
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
    with lock_store(store):
        owner = json.loads(path.read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), lock_store(store):
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_second_lock_in_the_same_process_is_refused(store):
    with lock_store(store):
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"), lock_store(store):
            pytest.fail("locked twice")
        assert store.with_name("a.h5.lock").exists()


def test_a_living_process_keeps_its_lock_and_a_killed_one_loses_it(store):
    with hold_elsewhere(store) as process:
        pattern = rf"a.h5 is being written by process {process.pid} on {socket.gethostname()} since \d+ s; .*a.h5.lock"
        with pytest.raises(StoreLockedError, match=pattern), lock_store(store):
            pytest.fail("taken from a living process")
        process.kill()
    assert store.with_name("a.h5.lock").exists()
    with lock_store(store):
        pass
    assert list_names(store.parent) == []


def test_the_message_says_how_old_the_lock_is(store, path):
    write_owner(path, pid=os.getppid(), started=time.time() - 3600)
    with pytest.raises(StoreLockedError, match=r"since 36\d\d s"), lock_store(store):
        pytest.fail("taken from a living process")


def test_a_lock_of_another_machine_is_never_taken_over(store, path):
    write_owner(path, pid=find_dead_pid(), host="elsewhere")
    with pytest.raises(StoreLockedError, match=r"on elsewhere since 10. s; .* delete .*a.h5.lock"), lock_store(store):
        pytest.fail("taken from another machine")


def test_a_lock_with_this_process_number_from_before_it_started_is_stale(store, path):
    """As in a container, where the process before the restart was number 1 as well."""
    write_owner(path, started=lock._LOADED_SECONDS - 1)
    with lock_store(store):
        assert json.loads(path.read_text())["started"] > lock._LOADED_SECONDS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"held",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"pid": null, "host": "h", "started": 1}',
        b'{"pid": 1e400, "host": "h", "started": 1}',
        b'{"pid": 100000000000000000000, "host": "h", "started": 1}',
        b'{"pid": -1, "host": "h", "started": 1}',
        b'{"pid": 1, "host": "h", "started": NaN}',
        b'{"pid": 1, "host": "h", "started": Infinity}',
    ],
)
def test_garbage_is_not_taken_over_and_the_message_says_what_to_delete(store, path, content):
    path.write_bytes(content)
    with pytest.raises(StoreLockedError, match=r"a.h5.lock is no lock of featx; .* delete it"), lock_store(store):
        pytest.fail("garbage was taken over")
    assert path.read_bytes() == content


def test_the_slower_of_two_that_saw_a_dead_owner_does_not_remove_the_lock_of_the_faster(store, path, monkeypatch):
    dead = find_dead_pid()
    write_owner(path, pid=dead)
    is_dead = lock._is_dead

    def be_slow(owner):
        found = is_dead(owner)
        if owner.pid == dead:
            write_owner(path, pid=os.getppid())  # the faster one, between looking and removing
        return found

    monkeypatch.setattr(lock, "_is_dead", be_slow)
    with pytest.raises(StoreLockedError, match=f"process {os.getppid()}"), lock_store(store):
        pytest.fail("two writers")
    assert json.loads(path.read_text())["pid"] == os.getppid()
    assert list_names(store.parent) == ["a.h5.lock"]
