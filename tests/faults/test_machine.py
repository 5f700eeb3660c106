"""After any sequence of changes, runs and crashes, the store matches a dict."""

import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from operations import Fault
from PIL import Image
from processes import Command, run_embedding

from featx import FeatureStore, load_backbone, repair_store, verify_store
from featx.items.decoding import decode
from featx.specs import ImageSpec
from featx.store.journal import Journal
from featx.store.layout import decode_text

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="each run is forked from a warm process"
)

NAMES = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)]
CONTENTS = range(6)


def write_picture(path, content):
    """Write one of a few pictures, so that the same bytes occur under several names; -1 is not a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content < 0:
        path.write_bytes(b"no picture")
    else:
        noise = np.random.default_rng(content).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
    # Times increase, as a clock's do, and are old enough to prove the content.
    write_picture.clock += 1
    os.utime(path, (write_picture.clock, write_picture.clock))


write_picture.clock = int(time.time()) - 10_000_000


def embed_directly(data):
    """Compute a row without any store."""
    backbone = load_backbone("colour")
    spec = ImageSpec(backbone.height, backbone.width)
    return backbone.embed(decode(data, spec).pixels[None])[0][0].tobytes()


class StoreMachine(RuleBasedStateMachine):
    """A folder of pictures, its store, and a dict of the expected content."""

    files = Bundle("files")

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="featx-machine-"))
        self.source = self.root / "pictures"
        self.there = {}
        self.sealed = {}
        self.committed = set()

    def teardown(self):
        shutil.rmtree(self.root)

    @property
    def path(self):
        return self.root / "features" / "s.h5"

    @initialize()
    def begin(self):
        self.add_at("cat/0.png", 0)

    def add_at(self, name, content):
        write_picture(self.source / name, content)
        self.there[name] = (self.source / name).read_bytes()

    @rule(target=files, name=st.sampled_from(NAMES), content=st.sampled_from([*CONTENTS, -1]))
    def add_or_change(self, name, content):
        self.add_at(name, content)
        return name

    @rule(name=consumes(files))
    def remove(self, name):
        if name in self.there and name != "cat/0.png":
            (self.source / name).unlink()
            del self.there[name]

    @rule()
    def embed(self):
        self.check(run_embedding(Command(self.source, self.root), self.root / "notes"))

    @rule(operation=st.integers(1, 90))
    def crash(self, operation):
        """End it by kill -9 at one of its operations, if it has that many."""
        report = run_embedding(Command(self.source, self.root, Fault(operation)), self.root / "notes")
        event(f"exit code {report.exit_code}, {len(report.committed)} rows committed")
        if report.exit_code == 0:
            self.check(report)
            return
        self.committed |= report.committed
        if self.path.exists():
            held = self.read_store()
            assert held in (self.sealed, self.list_good())
            self.sealed = held
            if held == self.list_good():  # shards of files that are gone may be gone as well
                self.committed &= {hashlib.sha256(data).hexdigest() for data in held.values()}

    @rule(data=st.data())
    def damage_and_repair(self, data):
        if not self.sealed:
            return
        store = FeatureStore(self.path)
        known = {*store.ids.tolist(), *(name for name, *_ in store.quarantine)}
        restored = {name: data for name, data in self.list_good().items() if name in known}  # new files wait for embed
        if not restored:
            return
        row = store.features[data.draw(st.integers(0, len(store) - 1))].tobytes()
        content = bytearray(self.path.read_bytes())
        content[content.index(row) + 5] ^= 16
        self.path.unlink()
        self.path.write_bytes(content)
        assert verify_store(self.path).lost.any()
        repair_store(self.path)
        self.sealed = restored
        self.committed = set()

    def check(self, report):
        assert report.error is None or self.list_good() == {}, report.error
        if report.error is None:
            self.note_success(report)

    def note_success(self, report):
        self.sealed = self.list_good()
        good = len(self.sealed)
        assert report.result["new"] + report.result["cached"] == good
        assert report.result["quarantined"] == len(self.there) - good
        assert not report.committed & self.committed, "a committed row was computed again"
        assert [path.name for path in self.path.parent.iterdir()] == ["s.h5"]
        self.committed = {hashlib.sha256(data).hexdigest() for data in self.sealed.values()}

    def list_good(self):
        return {name: data for name, data in self.there.items() if data != b"no picture"}

    def read_store(self):
        """Return the bytes of each item of the store, from the only picture that matches its row."""
        store = FeatureStore(self.path)
        known = {hashlib.sha256(data).hexdigest(): data for data in [*self.sealed.values(), *self.there.values()]}
        return {name: known[sha256] for name, sha256 in zip(store.ids.tolist(), store.sha256.tolist(), strict=True)}

    @invariant()
    def holds_what_the_dict_says(self):
        if not self.sealed:
            return
        found = verify_store(self.path)
        assert found.damage == ()
        assert self.read_store() == self.sealed
        rows = zip(found.store.ids.tolist(), found.store.features, strict=True)
        assert all(row.tobytes() == embed_directly(self.sealed[name]) for name, row in rows)

    @invariant()
    def has_lost_nothing_that_was_committed(self):
        rows = set()
        if self.path.exists():
            store = FeatureStore(self.path)
            rows |= set(store.sha256.tolist())
            for shard in Journal(self.path, store.spec, store.dim, lambda: None).read_shards():
                rows |= set(decode_text(shard.sha256).tolist())
            assert self.committed <= rows


class TestBounded(StoreMachine.TestCase):
    settings = settings(
        max_examples=15,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.faults
class TestAtLength(StoreMachine.TestCase):
    settings = settings(
        max_examples=150,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
