"""`featx doctor`, `--verbose` and `--log`: what they find and say on this machine, and on a broken one."""

import json
import logging
import shutil
import sys

import pytest

import featx
from featx.cli.app import main
from featx.diagnosis import NOTE, OK, PROBLEM, examine_installation


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """In an empty folder, and with a short test of speed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("featx.diagnosis._SPEED_SECONDS", 0.01)


@pytest.fixture
def run(quick, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["featx", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr()

    yield call
    for handler in logging.getLogger("featx").handlers:
        handler.close()
    logging.getLogger("featx").handlers.clear()
    logging.getLogger("featx").setLevel(logging.NOTSET)


def find(checks, topic):
    (found,) = [one for one in checks if one.topic == topic]
    return found


@pytest.mark.usefixtures("quick")
def test_a_sound_machine_and_bundle_have_no_problem(digits_bundle):
    checks = list(examine_installation(digits_bundle))
    assert not [one for one in checks if one.state == PROBLEM]
    assert find(checks, "packages").values["featx"] == featx.__version__
    assert find(checks, "processor").values["cores"] >= 1
    assert find(checks, "speed").values["decoded_images_per_second"] > 1
    assert (find(checks, "cache of networks").state, find(checks, "weights").state) == (NOTE, OK)  # tests set it off
    assert find(checks, "golden pictures").values["drift"] < 1e-5
    assert {label in map(str, range(10)) for label in find(checks, "golden pictures").values["labels"]} == {True}


def test_the_command_prints_each_finding_and_the_json_has_all(run, digits_bundle, tmp_path):
    code, printed = run("doctor", digits_bundle)
    assert code == 0
    lines = printed.out.splitlines()
    assert any(line.startswith("note     cache of networks: FEATX_CACHE is off") for line in lines)
    assert "         -> unset FEATX_CACHE, or each run builds its network again" in lines
    assert lines[-1].startswith("0 problems, ")
    code, printed = run("doctor", "--json")
    found = json.loads(printed.out)
    assert found["problems"] == 0
    assert {one["state"] for one in found["checks"]} <= {OK, NOTE}
    assert not list(tmp_path.iterdir())  # what was tried is gone


def test_a_problem_has_an_advice_and_the_exit_code_1(run, digits_bundle, tmp_path):
    bundle = shutil.copytree(digits_bundle, tmp_path / "damaged")
    (tmp_path / "features").write_text("not a folder")
    (bundle / "predictions.csv").unlink()
    code, printed = run("doctor", bundle)
    assert code == 1
    assert f"problem  write to {tmp_path / 'features'}: a file is in its place" in printed.out
    assert "-> run featx in another folder, or name others with --features and --runs" in printed.out
    assert f"problem  bundle: {bundle}" in printed.out


def test_a_log_has_the_steps_the_notes_and_the_errors_of_each_command(run, store, tmp_path):
    code, printed = run("fit", store.path, "--clf", "dummy", "--log", "run.log", "--runs", tmp_path / "runs")
    assert (code, "INFO" in printed.err) == (0, False)
    assert run("--log=run.log", "fit", "nowhere.h5")[0] == 1
    text = (tmp_path / "run.log").read_text()
    assert "--clf dummy" in text
    assert "INFO featx.reporting: " in text
    assert "error: there is no store nowhere.h5" in text
    assert "featx.errors.StoreError" in text  # of the traceback
    assert run("--log", tmp_path / "no" / "run.log", "cache")[0] == 2


def test_verbose_prints_the_steps(run, store):
    code, printed = run("fit", store.path, "--clf", "dummy", "--verbose")
    assert code == 0
    assert "INFO: " in printed.err
    code, printed = run("predict", "--", "--verbose")  # behind `--`, it is a name
    assert "INFO: " not in printed.err
