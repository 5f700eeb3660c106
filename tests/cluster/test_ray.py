"""Embedding on Ray: whatever dies or stops, the store is that of one process, byte for byte, and nothing is left."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from driven import VIEWS, Run, make_path, start_cluster
from object_store import break_some
from pictures import write_digits
from scenarios import list_names, read_content

import featx
from featx.cluster.driver import KILLS
from featx.files import read_result

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Digits, one twice and one broken."""
    folder = write_digits(tmp_path_factory.mktemp("source"), per_class=60)
    shutil.copy(min((folder / "0").iterdir()), folder / "9/again.png")
    (folder / "4/broken.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    return read_content(featx.embed(source, "colour", **VIEWS, name="s", folder=folder).store.path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster that outlives its drivers."""
    with start_cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


def check(folder, expected):
    assert read_content(folder / "s.h5") == expected
    assert list_names(folder) == ["s.h5"]


def test_workers_are_killed_one_of_them_in_the_middle_of_writing(source, expected, features, cluster):
    with Run(source, features, cluster) as run:
        run.wait_for(run.list_shards)
        first = run.wait_for(lambda: run.list_processes("ray::Worker.embed"))[0]
        os.kill(first, signal.SIGKILL)
        run.wait_for(lambda: first not in run.list_processes())  # it may be writing, and would be killed twice
        pid, _ = run.stop_in_write()
        os.kill(pid, signal.SIGKILL)
        counts, states = run.finish()
    check(features, expected)
    assert (counts["new"], counts["quarantined"]) == (601, 1)
    assert any("2 died" in line for line in states)


def test_the_driver_is_killed_and_the_next_run_resumes(source, expected, features, cluster):
    with Run(source, features, cluster) as run:
        run.wait_for(lambda: len(run.list_shards()) > 1)
        run.process.kill()
        run.process.wait()
        run.check_ended()
        assert not (features / "s.h5").exists()
    result = featx.embed(source, "colour", **VIEWS, name="s", folder=features)
    assert result.cached >= 64
    assert result.new + result.cached == 601
    check(features, expected)


def test_a_stopped_worker_is_late_and_its_shard_is_compared(source, expected, features, cluster):
    with Run(source, features, cluster, late_seconds=1) as run:
        pid, shard = run.stop_in_write()
        run.wait_for(shard.exists)  # by the other worker
        os.kill(pid, signal.SIGCONT)
        _, states = run.finish()
    check(features, expected)
    assert any("1 late" in line for line in states)
    assert not any("deterministic" in line for line in states)


def test_a_picture_that_kills_workers_is_quarantined(tmp_path_factory, features, cluster):
    source = write_digits(tmp_path_factory.mktemp("few"), per_class=1, classes=3)
    fatal = min((source / "1").iterdir()).relative_to(source).as_posix()
    with Run(source, features, cluster, workers=1, fatal=fatal) as run:
        counts, _ = run.finish()
    assert (counts["new"], counts["quarantined"]) == (2, 1)
    assert featx.FeatureStore(features / "s.h5").quarantine == [(fatal, "", KILLS)]
    assert list_names(features) == ["s.h5"]


def test_shards_go_through_a_url_where_workers_do_not_see_the_store(
    source, expected, features, object_store, monkeypatch
):
    """The server breaks requests, and a worker is killed."""
    monkeypatch.setenv("FSSPEC_S3", json.dumps(fsspec.config.conf["s3"]))
    object_store.proxy.choose = break_some(seed=1, errors=0.1)
    requests = object_store.proxy.requests
    with Run(source, features, handover="s3://bucket/tmp") as run:
        run.wait_for(lambda: any(method == "PUT" for method, _ in requests))
        os.kill(run.wait_for(lambda: run.list_processes("ray::Worker.embed"))[0], signal.SIGKILL)
        run.finish()
    check(features, expected)
    put = {path for method, path in requests if method == "PUT"}
    assert all(path.startswith("/bucket/tmp/s.h5-") for path in put)
    assert len(put) == 10  # one for each shard
    assert not object_store.client.list_objects_v2(Bucket="bucket", Prefix="tmp/").get("Contents")


def test_heads_are_compared_as_on_one_machine(store, tmp_path, cluster):
    """With a relative folder of results, while the workers have another working folder."""
    heads = "ridge,logreg,dummy"
    local = featx.compare(store, heads, options=featx.CompareOptions(folds=2, folder=tmp_path / "here", jobs=2))
    command = [sys.executable, "-W", "error", "-m", "featx", "compare", store.path, "--clf", heads, "--folds", "2"]
    command += ["--runs", "spread", "--format", "csv", "--jobs", "2", "--executor", "ray", "--ray-address", cluster]
    ended = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    measured = {"fit_seconds", "predict_seconds", "peak_memory_bytes"}
    ours, theirs = (
        [drop(row, measured) for row in csv.DictReader(text.splitlines())]
        for text in (ended.stdout, (local.folder / "comparison.csv").read_text())
    )
    assert ours == theirs
    paths = sorted((tmp_path / "here/.compare").iterdir())
    assert len(paths) == 9
    for path in paths:
        expected, found = (read_result(tmp_path / name / ".compare" / path.name).arrays for name in ("here", "spread"))
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def drop(row, names):
    return {name: value for name, value in row.items() if name not in names}


def test_a_killed_task_is_done_again_and_one_that_kills_fails_alone(tmp_path, cluster):
    code = f"""
from pathlib import Path
from tasks import add, die, die_once, fail, rest
from featx.comparing.jobs import Task, run_tasks
from featx.options import SpreadOptions

folder = {str(tmp_path)!r}
tasks = [Task(str(n), call, (folder, n)) for n, call in enumerate([rest, die_once, add, die, fail])]
options = SpreadOptions(executor="ray", ray_address={cluster!r})
for found in run_tasks(tasks, Path(folder) / "work", jobs=2, cluster=options).items():
    print(*found)
"""
    env = {**os.environ, "PYTHONPATH": make_path()}
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, check=True, capture_output=True)
    found = dict(line.split(maxsplit=1) for line in ended.stdout.decode().splitlines())
    records = [read_result(Path(found[name])).record for name in "012"]
    assert records == [{"rested": 0}, {"survived": 1}, {"sum": 3}]
    assert "killed each time, at last while it ran alone" in found["3"]
    assert found["4"] == f"LinAlgError: no number like ('{tmp_path}', 4)"
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("rest-0", "add-2")] == [1, 1]
    assert list_names(tmp_path / "work") == ["0.npz", "1.npz", "2.npz"]


@pytest.mark.shared
def test_real_features_are_equal_byte_for_byte(shared, features, tmp_path, monkeypatch, capfd):
    """With the command line, a network from the cache, and Ray started for the run."""
    monkeypatch.setenv("KERAS_HOME", str(shared / "keras"))
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    source = shared / "data/sign_language_digits"
    command = [sys.executable, "-m", "featx", "embed", source, "--backbone", "mobilenet?alpha=0.25", "--name", "s"]
    command += ["--only", "class=0", "--only", "class=1", "--only", "class=2", "--features"]
    subprocess.run([*command, tmp_path / "local"], check=True)
    capfd.readouterr()
    subprocess.run([*command, features, "--executor", "ray", "--workers", "2", "--json"], check=True)
    assert json.loads(capfd.readouterr().out)["new"] > 500
    ours, theirs = (read_content(folder / "s.h5") for folder in (features, tmp_path / "local"))
    # The first run, without a network in the cache, computed the golden pictures with Keras.
    assert [name for name in ours if ours[name] != theirs[name]] in ([], ["golden/features"])
    assert list_names(features) == ["s.h5"]
