import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tasks import add, die, die_once, fail, report_threads, rest, step

from featx.comparing.jobs import Task, _is_whole, explain_single_process, remove_results, run_tasks
from featx.errors import StoreError
from featx.files import Result, read_result, write_result

pytestmark = pytest.mark.slow

kills = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and process groups are POSIX")


def make(tmp_path, *calls):
    return [Task(f"{number:04x}", call, (str(tmp_path), number)) for number, call in enumerate(calls)]


def count_begun(tmp_path, name):
    path = tmp_path / name
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_results_are_kept_and_not_computed_again(tmp_path):
    tasks, seen = make(tmp_path, add, add, add), []
    found = run_tasks(tasks, tmp_path / "work", jobs=2, progress=lambda *counts: seen.append(counts))
    assert [read_result(found[task.key]).record for task in tasks] == [{"sum": 1}, {"sum": 2}, {"sum": 3}]
    assert read_result(found["0002"]).arrays["numbers"].tolist() == [0, 1]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert run_tasks(tasks[1:], tmp_path / "work", jobs=2) == {key: found[key] for key in ("0001", "0002")}
    assert [count_begun(tmp_path, f"add-{number}") for number in range(3)] == [1, 1, 1]
    remove_results(tasks[:1], tmp_path / "work")
    run_tasks(tasks, tmp_path / "work", jobs=1, here=True)
    assert [count_begun(tmp_path, f"add-{number}") for number in range(3)] == [2, 1, 1]


def test_steps_of_running_tasks_are_counted(tmp_path):
    """A task of eleven steps that rests in the middle, and one that is done at once."""
    slow, quick = make(tmp_path, step, add)
    seen = []
    tasks = [replace(slow, steps=11), quick]
    run_tasks(tasks, tmp_path / "work", jobs=1, progress=lambda *counts: seen.append(counts))
    assert seen[0] == (0, 12)
    assert (5, 12) in seen
    assert seen[-1] == (12, 12)
    assert seen == sorted(set(seen))
    assert len(list((tmp_path / "work").iterdir())) == 2
    del seen[:]
    run_tasks(tasks, tmp_path / "work", jobs=1, progress=lambda *counts: seen.append(counts))
    assert seen == [(12, 12)]


def test_without_a_place_for_steps_finished_tasks_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    seen = []
    tasks = [replace(task, steps=3) for task in make(tmp_path, step)]
    run_tasks(tasks, tmp_path / "work", jobs=1, progress=lambda *counts: seen.append(counts))
    assert seen == [(0, 3), (3, 3)]


def test_tasks_of_one_key_are_one(tmp_path):
    tasks = make(tmp_path, add) * 2
    assert len(run_tasks(tasks, tmp_path / "work", jobs=2, here=True)) == 1
    assert count_begun(tmp_path, "add-0") == 1


def test_a_damaged_result_is_computed_again(tmp_path):
    tasks = make(tmp_path, add)
    (path,) = run_tasks(tasks, tmp_path, jobs=1, here=True).values()
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-30], b"x" * 500):
        path.write_bytes(damaged)
        assert run_tasks(tasks, tmp_path, jobs=1, here=True) == {"0000": path}
        assert read_result(path).record == {"sum": 1}


def test_a_failure_costs_its_own_task(tmp_path):
    tasks = make(tmp_path, fail, add, add)
    found = run_tasks(tasks, tmp_path / "work", jobs=1)
    assert found["0000"] == f"LinAlgError: no number like ('{tmp_path}', 0)"
    assert read_result(found["0001"]).record == {"sum": 2}
    assert len(list((tmp_path / "work").iterdir())) == 2


@kills
def test_a_killed_process_costs_its_own_task(tmp_path):
    tasks = make(tmp_path, rest, die_once, add, die, rest)
    found = run_tasks(tasks, tmp_path / "work", jobs=2)
    assert read_result(found["0001"]).record == {"survived": 1}
    assert "killed each time, at last while it ran alone (SIGKILL)" in found["0003"]
    assert [count_begun(tmp_path, name) for name in ("rest-0", "add-2", "rest-4")] == [1, 1, 1]
    assert not [path for path in (tmp_path / "work").iterdir() if path.suffix != ".npz"]


@kills
def test_a_process_killed_from_outside(tmp_path):
    code = f"""
import os, signal, threading, time
from pathlib import Path
from tasks import add, hang_once
from featx.comparing.jobs import Task, run_tasks

folder = Path({str(tmp_path)!r})

def kill():
    while not (folder / "hang-1").exists() or not (folder / "hang-1").read_text():
        time.sleep(0.01)
    os.kill(int((folder / "hang-1").read_text()), signal.SIGKILL)

threading.Thread(target=kill).start()
calls = [add, hang_once, add]
found = run_tasks([Task(f"{{n}}", call, (str(folder), n)) for n, call in enumerate(calls)], folder / "work", jobs=2)
print(sorted(path.name for path in found.values()))
"""
    result = subprocess.run([sys.executable, "-c", code], env=find_tasks(), capture_output=True, text=True, check=True)
    assert result.stdout == "['0.npz', '1.npz', '2.npz']\n"
    assert result.stderr == ""
    assert [count_begun(tmp_path, name) for name in ("add-0", "hang-1", "add-2")] == [1, 2, 1]


def find_tasks():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


ENDLESS = """
import sys
from pathlib import Path
from tasks import rest
from featx.comparing.jobs import Task, run_tasks

folder = sys.argv[1]
tasks = [Task(f"{n:02x}", rest, (folder, n)) for n in range(60)]
run_tasks(tasks, Path(folder) / "work", jobs=2)
"""


@kills
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_end_in_the_middle_keeps_what_is_done_and_leaves_no_process(interruptible, tmp_path, number):
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    with subprocess.Popen(
        command, env=find_tasks(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("work/*.npz"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does, to the workers too
        else:
            process.send_signal(number)
        process.wait(60)
        if number == signal.SIGINT:
            assert process.stderr.read().splitlines()[-1] == "KeyboardInterrupt"
    workers = {int(pid) for path in tmp_path.glob("rest-*") for pid in path.read_text().split()}
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))
    done = len(list(tmp_path.glob("work/*.npz")))
    assert 3 <= done < 30  # five or six where nothing else runs
    assert all(read_result(path).record for path in tmp_path.glob("work/*.npz"))


@kills
def test_what_a_killed_comparison_left_is_removed_by_the_next(tmp_path):
    work = tmp_path / "work"
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], env=find_tasks()) as process:
        deadline = time.monotonic() + 120
        while not list(work.glob(".steps-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    (left,) = work.glob(".steps-*")
    living = work / left.name.replace(str(process.pid), str(os.getppid()))
    elsewhere = work / f".steps-another-host-{process.pid}"
    for path in (living, elsewhere):
        path.touch()
    run_tasks(make(tmp_path, add), work, jobs=1)
    assert set(work.glob(".steps-*")) == {living, elsewhere}


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_threads_of_a_process(tmp_path):
    (path,) = run_tasks([Task("aa", report_threads, None)], tmp_path, jobs=1, threads=1).values()
    assert read_result(path).record == {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def test_a_result_is_written_as_a_whole_or_not_at_all(tmp_path):
    result = Result({"a": [1, None, "ü"]}, {"b": np.eye(3)})
    write_result(tmp_path / "x.npz", result)
    again = read_result(tmp_path / "x.npz")
    assert again.record == result.record
    assert again.arrays["b"].tobytes() == result.arrays["b"].tobytes()
    with pytest.raises(TypeError):
        write_result(tmp_path / "y.npz", Result({"a": object()}))
    with pytest.raises(StoreError, match="cannot be written"):
        write_result(tmp_path / "gone" / "x.npz", result)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_whatever_one_flipped_bit_does_a_result_is_read_or_computed_again(tmp_path):
    tasks = make(tmp_path, add)
    (path,) = run_tasks(tasks, tmp_path / "work", jobs=1, here=True).values()
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for bit in random.integers(0, 8 * len(whole), 400).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        (again,) = (
            run_tasks(make(tmp_path, add), tmp_path / "work", jobs=1, here=True).values() if bit < 80 else (path,)
        )
        _is_whole(again)  # no error, whatever it says


@kills
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5])
def test_processes_that_still_start_end_with_their_parent(tmp_path, seconds):
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, env=find_tasks(), start_new_session=True) as process:
        children = set()
        deadline = time.monotonic() + 60
        while len(children) < 3 and time.monotonic() < deadline:  # two trackers and the first worker
            children = find_session(process.pid) - {process.pid}
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
    deadline = time.monotonic() + 20
    while find_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert find_session(process.pid) == set()


def find_session(number):
    """Find the processes of a session, zombies left out."""
    listed = subprocess.run(["ps", "-eo", "pid=,sid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid) for pid, session, state in rows if int(session) == number and not state.startswith("Z")}


def test_finished_processes_are_no_zombies(tmp_path):
    run_tasks(make(tmp_path, die_once, add), tmp_path / "work", jobs=2)
    listed = subprocess.run(
        ["ps", "-o", "stat=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    assert not [state for state in listed.stdout.split() if state.startswith("Z")]


#: Mount no, or a read-only, folder for semaphores; only root may.
SHM = {
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
    "missing": "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9",
}

ADD = """
import sys
from pathlib import Path
from tasks import add, fail
from featx.comparing.jobs import Task, explain_single_process, run_tasks
from featx.files import read_result

folder = sys.argv[1]
calls = [add, fail, add]
found = run_tasks([Task(f"{n}", call, (folder, n)) for n, call in enumerate(calls)], Path(folder) / "work", jobs=2)
print(read_result(found["0"]).record["sum"], read_result(found["2"]).record["sum"], found["1"].split(":")[0])
print(*explain_single_process())
"""


@pytest.mark.parametrize("how", SHM)
def test_without_shared_memory_everything_runs_in_one_process(tmp_path, how):
    prepare = f"{SHM[how]} || exit 77; exec {sys.executable} -c '{ADD}' {tmp_path}"
    command = ["unshare", "-m", "bash", "-c", prepare]
    if not shutil.which("unshare"):
        pytest.skip("this system has no unshare")
    result = subprocess.run(command, env=find_tasks(), capture_output=True, text=True, check=False)
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"mounting is not allowed here: {result.stderr}")
    computed, reason = result.stdout.splitlines()
    assert computed == "1 3 LinAlgError"
    assert "everything was computed in one process" in reason


@pytest.fixture
def no_semaphores(monkeypatch):
    """A limit that every user can set makes them impossible: no file of this process may have a byte."""
    import resource  # POSIX alone has it

    explain_single_process.cache_clear()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, previous)
    explain_single_process.cache_clear()


@kills
def test_a_user_who_is_not_root_sees_the_same(no_semaphores, tmp_path):
    (reason,) = explain_single_process()
    no_semaphores()
    assert "no semaphore can be made (File too large)" in reason
    found = run_tasks(make(tmp_path, add, fail), tmp_path / "work", jobs=2)
    assert read_result(found["0000"]).record == {"sum": 1}
    assert found["0001"].startswith("LinAlgError")


def test_where_processes_start_there_is_nothing_to_explain():
    explain_single_process.cache_clear()
    assert explain_single_process() == ()
