"""Embedding by workers without Ray: the real workers and their shards, called in this process one after the other."""

import contextlib
import logging
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scenarios import list_names, read_content
from test_dicom import make

import featx
from featx.cluster import workers
from featx.cluster.driver import KILLS, WorkerLostError
from featx.cluster.workers import Worker
from featx.errors import StoreLockedError
from featx.items import reading

pytest.importorskip("ray")
RAY = featx.EmbedOptions(executor="ray", workers=1, max_bad=1.0)


class Here:
    """An engine whose workers are objects of this process, and die on some images."""

    deadly = frozenset()

    def __init__(self, job, _options):
        self.job = job

    def start(self):
        return Worker(self.job)

    def load(self, worker):
        return worker.load()

    def embed(self, worker, name, ids, known):
        return "death" if self.deadly & set(ids) else worker.embed(name, ids, known)

    def wait(self, answers, _seconds):
        return list(answers)

    def read(self, answer):
        if answer == "death":
            raise WorkerLostError(answer, is_dead=True)
        return answer

    def stop(self, _worker):
        pass


@pytest.fixture(autouse=True)
def starts(monkeypatch):
    """A list that grows when a run starts workers; what they set in their process is undone."""
    from featx.cluster import ray_workers

    starts, before = [], dict(os.environ)

    @contextlib.contextmanager
    def connect(*_):
        starts.append(1)
        yield

    monkeypatch.setattr(ray_workers, "RayEngine", Here)
    monkeypatch.setattr(ray_workers, "connect", connect)
    yield starts
    os.environ.clear()
    os.environ.update(before)


def embed(source, folder, options=RAY, **image):
    return featx.embed(source, "colour", name="s", folder=folder, image=image, options=options)


def count(result):
    return result.new, result.cached, result.quarantined


def test_how_images_were_read_is_reported_as_by_one_process(tmp_path, caplog):
    """One DICOM image with a window, two without, and one of 12 bits in 16, which `bits` explains."""
    source = tmp_path / "source"
    source.mkdir()
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for number in range(3):
        tags = {} if number else {"WindowCenter": 1000, "WindowWidth": 500}
        (source / f"{number}.dcm").write_bytes(make(deep + number, bits=13, **tags))
    Image.fromarray(deep).save(source / "deep.png")
    said = []
    for folder, options in (("local", featx.EmbedOptions()), ("ray", RAY)):
        for bits in (0, 12):
            caplog.clear()
            embed(source, tmp_path / folder / str(bits), options, bits=bits)
            said.append([record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING])
    assert said[2:] == said[:2]
    assert [text.startswith("grey levels of DICOM images by their smallest") for text in said[1]] == [True]
    assert len(said[0]) == 2
    assert read_content(tmp_path / "ray/12/s.h5") == read_content(tmp_path / "local/12/s.h5")


def test_workers_read_from_a_server_with_more_threads_than_cores(pictures, features, monkeypatch):
    import fsspec

    system, counts = fsspec.filesystem("memory"), []
    for path in pictures.rglob("*.png"):
        system.pipe_file(f"/workers/{path.relative_to(pictures).as_posix()}", path.read_bytes())
    examine = workers.examine
    monkeypatch.setattr(
        workers, "examine", lambda *args, **rest: counts.append(rest["workers"]) or examine(*args, **rest)
    )
    assert count(embed("memory://workers", features)) == (10, 0, 0)
    assert counts == [16]


def test_images_of_the_quarantine_start_workers_only_when_they_can_be_decoded(pictures, tmp_path, starts):
    broken = pictures / "cat/broken.png"
    broken.write_bytes(b"not a picture")
    (pictures / "dog/broken.png").write_bytes(b"nor this")
    for folder, options in (("local", featx.EmbedOptions(max_bad=1.0)), ("ray", RAY)):
        assert count(embed(pictures, tmp_path / folder, options)) == (10, 0, 2)
        assert count(embed(pictures, tmp_path / folder, options)) == (0, 10, 2)
    assert starts == [1]
    known = featx.FeatureStore(tmp_path / "ray/s.h5").quarantine
    assert known == featx.FeatureStore(tmp_path / "local/s.h5").quarantine
    broken.write_bytes((pictures / "dog/0.png").read_bytes())  # its row is there
    assert count(embed(pictures, tmp_path / "ray")) == (0, 11, 1)
    assert starts == [1]
    Image.new("RGB", (9, 9), "teal").save(broken)
    assert count(embed(pictures, tmp_path / "ray")) == (1, 10, 1)
    assert starts == [1, 1]


def test_an_image_that_killed_workers_is_not_decoded_by_the_driver(pictures, features, starts, monkeypatch):
    (pictures / "cat/broken.png").write_bytes(b"not a picture")
    monkeypatch.setattr(Here, "deadly", {"cat/broken.png"})
    for number in (1, 2):
        result = embed(pictures, features)
        assert [reason for *_, reason in result.store.quarantine] == [KILLS]
        assert len(starts) == number


def test_a_worker_that_is_late_leaves_nothing_behind(pictures, features, monkeypatch):
    """One that could not be reached when the run ended."""
    late = []
    start = Here.start
    monkeypatch.setattr(Here, "start", lambda engine: late.append(start(engine)) or late[-1])
    embed(pictures, features)
    with pytest.raises(StoreLockedError):
        late[0].embed("000001-0123456789abcdef", ["cat/1.png"], [])
    assert list_names(features) == ["s.h5"]


def test_images_whose_rows_are_there_are_only_read(pictures, features, monkeypatch):
    """Those that were renamed, have another time, or are to be hashed again; but not one with other bytes."""
    assert embed(pictures, features).new == 10
    decoded = []
    decode = reading.decode
    monkeypatch.setattr(reading, "decode", lambda data, spec: decoded.append(1) or decode(data, spec))
    (pictures / "cat/1.png").rename(pictures / "dog/renamed.png")
    os.utime(pictures / "cat/3.png", (1, 1))
    assert count(embed(pictures, features)) == (0, 10, 0)
    assert count(embed(pictures, features, replace(RAY, rehash=True))) == (0, 10, 0)
    assert not decoded
    Image.new("RGB", (9, 9), "teal").save(pictures / "cat/3.png")
    assert count(embed(pictures, features)) == (1, 9, 0)
    assert len(decoded) == 1
    assert read_content(features / "s.h5") == read_content(embed(pictures, features / "again").store.path)
