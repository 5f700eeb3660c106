"""`featx compare`, as a user types it."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from finetuned import mark_finetuned
from pictures import write_digits

from featx.registry import HEAD_SETS

pytestmark = pytest.mark.slow


@pytest.fixture
def embedded(featx_command, tmp_path):
    write_digits(tmp_path / "digits", per_class=20, classes=4)
    assert featx_command("embed", "digits", "--backbone", "colour").code == 0
    return "features/colour.h5"


def test_a_table_marks_heads_that_do_not_differ(featx_command, embedded, tmp_path, monkeypatch):
    result = featx_command("compare", "--clf", "centroid,ridge", "--clf", "dummy", "--seed", "3")
    assert (result.code, result.err) == (0, "")
    header, *rows = result.out.split("\n\n")[0].splitlines()
    assert header.startswith("head")
    assert header.endswith("against the best by validation")
    assert {row.split()[0] for row in rows} == {"centroid", "ridge", "dummy"}
    assert rows[0].endswith("best")
    assert re.search(
        r"\n\n(use \w+ or \w+: 24 test images cannot tell them apart\n.+ is best by validation|"
        r".+ is best by validation .*\nthese 24 test images show that both others differ from the best by validation)",
        result.out,
    )
    assert re.search(r"s -> runs/\d{4}-\d\d-\d\d-compare\n$", result.out)
    assert len(list((tmp_path / "runs" / ".compare").glob("*.npz"))) == 12
    again = featx_command("compare", embedded, "--clf", "dummy,centroid,ridge", "--seed", "3")
    assert again.out.split("\n\n")[0] == result.out.split("\n\n")[0]
    assert again.out.endswith("-compare\n")
    monkeypatch.setenv("COLUMNS", "70")
    narrow = featx_command("compare", embedded, "--clf", "dummy,centroid,ridge", "--seed", "3")
    assert max(map(len, narrow.out.split("\n\n")[0].splitlines())) <= 70
    assert "chosen" not in narrow.out.splitlines()[0]


def test_json_is_a_list_of_rows(featx_command, embedded, tmp_path):
    result = featx_command("compare", embedded, "--clf", "centroid,dummy", "--json", "--out", "there", "--jobs", "1")
    rows = json.loads(result.out)
    assert [row["head"] for row in rows] == ["centroid", "dummy"]
    assert {"store", "head", "accuracy", "accuracy_low", "accuracy_high", "fit_seconds"} <= rows[0].keys()
    assert rows[0]["store"] == "colour"
    assert rows[0]["accuracy_low"] <= rows[0]["accuracy"] <= rows[0]["accuracy_high"]
    assert json.loads((tmp_path / "there" / "comparison.json").read_text())["rows"][1]["head"] == "dummy"


def test_formats_for_a_report(featx_command, embedded, tmp_path):
    arguments = ("compare", embedded, "--clf", "centroid,dummy", "--jobs", "1", "--out")
    markdown = featx_command(*arguments, "a", "--format", "markdown")
    assert markdown.out.startswith("| head | validation | accuracy |")
    assert re.search(r"^\| centroid .*\d\.\d{3} \\\[\d\.\d{3}, \d\.\d{3}\\\]", markdown.out, re.MULTILINE)
    assert re.fullmatch(r"[\d.]+ s -> a\n", markdown.err)
    latex = featx_command(*arguments, "b", "--format", "latex").out
    assert r"\begin{table}" in latex
    assert latex.endswith("\\end{table}\n")
    printed = featx_command(*arguments, "c", "--format", "csv").out
    assert printed == (tmp_path / "c" / "comparison.csv").read_text()
    assert [row["head"] for row in csv.DictReader(printed.splitlines())] == ["centroid", "dummy"]
    assert json.loads(featx_command(*arguments, "d", "--format", "json").out)[0]["head"] == "centroid"


def test_a_fine_tuned_run_among_heads(featx_command, embedded, tmp_path):
    assert featx_command("fit", embedded, "--clf", "lda").code == 0
    (run,) = (tmp_path / "runs").glob("*-lda-colour")
    mark_finetuned(run)
    arguments = ("compare", embedded, "--clf", "centroid,dummy", "--run", run.relative_to(tmp_path))
    result = featx_command(*arguments)
    assert result.code == 0, result
    assert re.search(r"\nfinetune last:23 .* 2\.1 min  1\.5 GB   1\.2 M ", result.out)
    assert re.search(
        r"\n(no difference shown on \d+ test images: )?fine-tuning \(last:23\) (gains|scores) .*, "
        r"in [\d,.]+ times the time \(2\.1 min, embedding included, against ",
        result.out,
    )
    assert re.search(
        r"note: finetune last:23: validated on \d+ images of its own training set, not on those that "
        r"rank the heads, so it is listed below them; ",
        result.err,
    )
    assert result.out.split("\n\n")[0].splitlines()[-1].startswith("finetune last:23")
    rows = json.loads(featx_command(*arguments, "--json", "--out", "there").out)
    assert {row["head"]: row["kind"] for row in rows} == {
        "finetune last:23": "fine-tuned",
        "centroid": "frozen",
        "dummy": "frozen",
    }
    values = json.loads((tmp_path / "there" / "comparison.json").read_text())
    assert "fine-tuning (last:23)" in values["verdict"][0]
    assert "- " + values["verdict"][0] in (tmp_path / "there" / "comparison.md").read_text()
    other = featx_command(*arguments, "--seed", "1")
    assert other.code == 1
    assert "use the same --seed, --test-size and --group" in other.err


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (["--clf", "logrge"], 1, "no classifier is called 'logrge'; did you mean logreg"),
        (["--clf", ","], 2, "no head is named"),
        (["--folds", "1"], 2, "folds is 1; it must be at least 2"),
        (["--jobs", "0"], 2, "--jobs"),
        (["--json", "--format", "csv"], 2, "--json prints JSON, but --format is csv; leave one of them out"),
        (["--json", "--format", "table"], 2, "--json prints JSON, but --format is table; leave one of them out"),
        (["--test-size", "2"], 2, "above 0 and below 1"),
        (["features/gone.h5"], 1, "there is no store features/gone.h5"),
        (["--clf", "knn", "--class-weight", "balanced"], 2, "none of knn has a parameter class_weight"),
        (["--calibration", "magic"], 2, "must be one of auto, none, temperature"),
        (["--run", "gone"], 1, "there is no bundle 'gone'"),
        (["--run", "last:23"], 1, "there is no run last:23; an unfreeze plan goes to --finetune"),
        (["--finetune", "runs/a"], 2, "runs/a is not an unfreeze plan, such as last:23, blocks:1 or all; to compare"),
        (["--finetune", "last:23"], 2, "colour has no trainable weights"),
        (["features/colour.h5", "--group", "nothing"], 2, "'nothing' is not a group"),
    ],
)
def test_usage_errors(featx_command, embedded, arguments, code, pattern):
    result = featx_command("compare", *arguments)
    assert result.code == code, result
    assert pattern in result.err
    assert result.err.count("error:") == result.err.count("\n") == 1


def test_sets_are_of_known_heads():
    assert all(set(heads) <= set(HEAD_SETS["all"]) for heads in HEAD_SETS.values())


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_ctrl_c_is_clean_and_goes_on(interruptible, featx_command, embedded, tmp_path):
    """The trees take long enough to be interrupted; the folds of the other head are there by then."""
    command = [sys.executable, "-m", "featx", "compare", embedded, "--clf", "hist-gb,random-forest,dummy"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/.compare/*.npz")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait(30) == 130
    assert errors == "error: stopped; run the same command again to continue: it repeats only what was not finished\n"
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/.compare/*.npz")}
    assert 1 <= len(done) < 12
    assert featx_command("compare", embedded, "--clf", "hist-gb,random-forest,dummy").code == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(tmp_path.glob("runs/.compare/[!.]*"))) == 12
