import signal
import time

import numpy as np
import pytest
from operations import Fault
from scenarios import Verdict

NAMES = ["fresh", "adding", "resealing", "takeover", "indexing", "packing"]
STEPS = [*((name, 13) for name in NAMES if name != "indexing"), ("indexing", 37)]

FULL = pytest.mark.faults


@pytest.mark.parametrize(("name", "step"), [*STEPS, *(pytest.param(name, 1, marks=FULL) for name in NAMES)])
def test_a_kill_at_any_operation_loses_nothing(make_scenario, tmp_path, name, step):
    scenario, root = make_scenario(name), tmp_path / "root"
    verdict = Verdict(scenario)
    points = range(0, len(scenario.operations), step)
    for at in points:
        where = f"by a kill at {at}, {scenario.operations[at].name} {scenario.operations[at].path}"
        scenario.prepare(root)
        report = scenario.run(root, Fault(at))
        assert report.exit_code == -signal.SIGKILL, where
        verdict.look(where, root, report.committed)
        verdict.resume(where, root, report.committed)
    verdict.conclude(kills=len(points))


@pytest.mark.parametrize("name", [*NAMES[:4], *(pytest.param(name, marks=FULL) for name in NAMES[4:])])
@pytest.mark.parametrize(("seed", "wanted"), [(1, 7), pytest.param(2, 60, marks=FULL)])
def test_kills_at_random_moments_some_in_a_row_lose_nothing(make_scenario, tmp_path, name, seed, wanted):
    scenario, root = make_scenario(name), tmp_path / "root"
    verdict, rng = Verdict(scenario), np.random.default_rng(seed)
    seconds, kills, case = measure_run(scenario, root), 0, 0
    while kills < wanted:
        case += 1
        assert case < 4 * wanted, "most runs end before they are killed"
        scenario.prepare(root)
        committed = frozenset()
        for in_a_row in range(rng.integers(1, 4)):
            where = f"by kill {in_a_row + 1} in a row of case {case}"
            report = scenario.run(root, kill_after=rng.uniform(0, seconds))
            committed |= report.committed
            kills += report.exit_code == -signal.SIGKILL
            assert report.exit_code in {0, -signal.SIGKILL}, report
            assert report.error is None, report.error
            verdict.look(where, root, committed, done=report.result is not None)
        verdict.resume(where, root, committed)
    verdict.conclude(kills=kills)


def measure_run(scenario, root):
    scenario.prepare(root)
    begun = time.perf_counter()
    scenario.run(root)
    return time.perf_counter() - begun
