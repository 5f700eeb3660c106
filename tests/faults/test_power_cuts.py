import errno
import hashlib
import json
import shutil

import numpy as np
import pytest
from disks import Disk, write_state
from operations import Fault, Operation
from scenarios import Verdict

FULL = pytest.mark.faults

#: One in this many distinct states is also resumed, which takes twenty times as long as reading it.
RESUMED = 60

#: Operations that change names, or make them durable.
NO_DATA = {"sync", "rename", "link", "remove", "mkdir", "rmdir"}


STEPS = [(name, 13) for name in ("fresh", "adding", "resealing", "takeover", "packing")] + [("indexing", 61)]


class Cuts:
    """Power cuts at every moment of one or more consecutive runs."""

    def __init__(self, scenario, tmp_path, *, seed=3):
        self.scenario, self.root = scenario, tmp_path / "root"
        self.verdict = Verdict(scenario)
        self.states = self.resumed = 0
        self._cut = tmp_path / "cut"
        self._rng = np.random.default_rng(seed)
        self._seen = set()

    def begin(self, where=""):
        """Lay out the files from before the first run, all of them durable."""
        self.scenario.prepare(self.root)
        self._disk = Disk(self.root)
        self._committed = frozenset()
        self._where = where

    def run(self, fault=None, *, cut_before):
        """Run once more; cut the power at the end, and before each operation that `cut_before` names."""
        report = self.scenario.run(self.root, fault)
        for number, operation in enumerate(self._follow(report.events)):
            if cut_before(number, operation):
                self._cut_power(f"{number}, {operation.name} {operation.path}")
        if report.exit_code == 0:  # a power cut after a kill is the same as one before the next operation
            done = report.result is not None
            self._committed |= frozenset(self.scenario.store.sha256.tolist() if done else ())
            self._cut_power("the end", done=done)
        return report

    def _follow(self, events):
        """Yield each operation before it is performed."""
        for event in events:
            if isinstance(event, Operation):
                yield event
                self._disk.follow(event)
            else:
                self._committed |= event

    def _cut_power(self, where, *, done=False):
        for state in self._disk.list_states(self._rng):
            key = digest_state(state), self._committed, done
            if key in self._seen:
                continue
            self._seen.add(key)
            self.states += 1
            shutil.rmtree(self._cut, ignore_errors=True)
            write_state(state, self._cut)
            self.verdict.look(f"in a power cut at {where}{self._where}", self._cut, self._committed, done=done)
            if self.states % RESUMED == 0:
                self.resumed += 1
                self.verdict.resume(f"after a power cut at {where}{self._where}", self._cut, self._committed)

    def conclude(self, **counts):
        self.verdict.conclude(**counts, states=self.states, resumed=self.resumed)


def digest_state(state):
    digest = hashlib.sha256()
    for path, content in sorted(state.items()):
        digest.update(json.dumps([path, None if content is None else hashlib.sha256(content).hexdigest()]).encode())
    return digest.digest()


@pytest.mark.parametrize(("name", "step"), [*STEPS, *(pytest.param(name, 1, marks=FULL) for name, _ in STEPS)])
def test_a_power_cut_at_any_moment_loses_nothing(make_scenario, tmp_path, name, step):
    cuts = Cuts(make_scenario(name), tmp_path)
    cuts.begin()
    report = cuts.run(cut_before=lambda number, _: number % step == 0)
    assert report.error is None
    cuts.conclude()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("resealing", {"sync", "rename"}),
        pytest.param("adding", NO_DATA, marks=FULL),
        pytest.param("fresh", NO_DATA, marks=FULL),
    ],
)
@pytest.mark.parametrize("error", [0, errno.EIO], ids=["killed", "failed"])
def test_a_power_cut_after_an_interrupted_run_loses_nothing(make_scenario, tmp_path, name, kinds, error):
    """The second run must not rely on names that the first run gave but did not or could not sync."""
    scenario = make_scenario(name)
    cuts = Cuts(scenario, tmp_path)
    points = [at for at, operation in enumerate(scenario.operations) if operation.name in kinds]
    for at in points:
        cuts.begin(f", after the first run broke off at {at}, {scenario.operations[at].name}")
        cuts.run(Fault(at, error), cut_before=lambda *_: False)
        cuts.run(cut_before=lambda _, operation: operation.name in kinds)
    cuts.conclude(broken_off=len(points))
