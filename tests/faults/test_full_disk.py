import errno

import pytest
from operations import NEEDS_NO_ROOM, Fault
from scenarios import Verdict, list_names

FULL = pytest.mark.faults
NAMES = ["fresh", "adding", "resealing", pytest.param("indexing", marks=FULL), pytest.param("packing", marks=FULL)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [17, pytest.param(1, marks=FULL)])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_a_full_disk_at_any_operation_is_reported_and_loses_nothing(make_scenario, tmp_path, name, step, lasting):
    scenario, root = make_scenario(name), tmp_path / "root"
    verdict = Verdict(scenario)
    spared = NEEDS_NO_ROOM if lasting else frozenset()
    points = range(0, len(scenario.operations), step)
    for at in points:
        report = disturb(scenario, root, verdict, Fault(at, errno.ENOSPC, lasting, spared))
        left = [path for path in list_names(root) if path.endswith((".tmp", ".lock"))]
        if lasting and left:
            verdict.blame("not resumed", f"after {at}", f"left over while the disk is full: {left}")
        verdict.resume(f"after {at}", root, report.committed)
    verdict.conclude(full_disks=len(points))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [17, pytest.param(1, marks=FULL)])
def test_a_disk_that_becomes_read_only_at_any_operation_is_reported_and_loses_nothing(
    make_scenario, tmp_path, name, step
):
    scenario, root = make_scenario(name), tmp_path / "root"
    verdict = Verdict(scenario)
    points = range(0, len(scenario.operations), step)
    for at in points:
        report = disturb(scenario, root, verdict, Fault(at, errno.EROFS, lasting=True))
        verdict.resume(f"after {at}", root, report.committed)
    verdict.conclude(read_only_disks=len(points))


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_sync_is_an_error(make_scenario, tmp_path, name):
    scenario, root = make_scenario(name), tmp_path / "root"
    verdict = Verdict(scenario)
    points = [at for at, operation in enumerate(scenario.operations) if operation.name == "sync"]
    for at in points:
        report = disturb(scenario, root, verdict, Fault(at, errno.EIO))
        path = scenario.operations[at].path
        if report.error is None and ".lock" not in path:  # a lock is tried in another way
            verdict.blame("wrong", f"after the sync of {path}", "the run succeeded")
        verdict.resume(f"after {at}", root, report.committed)
    verdict.conclude(failed_syncs=len(points))


def disturb(scenario, root, verdict, fault):
    """Run with a fault that must end in the right store, or in one line with a way out."""
    scenario.prepare(root)
    operation = scenario.operations[fault.at]
    where = f"after {errno.errorcode[fault.error]} at {fault.at}, {operation.name} {operation.path}"
    report = scenario.run(root, fault)
    assert report.exit_code == 0, where
    error = report.error
    if error and ("StoreError" not in error["kinds"] or "\n" in error["text"] or "; " not in error["text"]):
        verdict.blame("not said", where, f"{error['kinds'][0]}: {error['text']}")
    verdict.look(where, root, report.committed, done=error is None)
    return report
