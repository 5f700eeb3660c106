import json

import pytest

from featx.errors import BundleError, UsageError
from featx.report.page import write_report
from featx.report.subjects import find_subject

ROW = {"run": None, "store": "digits", "head": "ridge"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps({"rows": []}),
        json.dumps({"rows": [ROW], "notes": 5}),
        json.dumps({"rows": [ROW | {"run": ["a"]}]}),
        json.dumps({"rows": [ROW | {"store": "x\0"}]}),
    ],
)
def test_a_damaged_comparison_is_an_error(tmp_path, text):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(BundleError, match=r"comparison\.json cannot be read .*; compare again"):
        find_subject(tmp_path)


def test_a_comparison_without_its_store_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": [ROW], "verdict": ["a tie"], "notes": None}))
    subject = find_subject(tmp_path)
    assert subject.remarks == ["a tie"]
    assert any("the best row is not shown: there is no store features/digits.h5" in note for note in subject.notes)


def test_a_comparison_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"rows": [ROW]}))
    (tmp_path / "comparison.json").symlink_to("other.json")
    with pytest.raises(BundleError, match="is a link"):
        find_subject(tmp_path)


def test_a_plot_that_is_a_link_is_not_put_into_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(b"\x89PNG\r\n\x1a\n of this machine")
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/comparison.json").write_text(json.dumps({"rows": [ROW | {"verdict": "best"}]}))
    plot = tmp_path / "sent/accuracy_against_cost.png"
    plot.symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="is a link"):
        write_report("sent")
    assert not (tmp_path / "sent/report.html").exists()
    plot.unlink()
    plot.write_text("no picture")
    assert "data:image/png" not in write_report("sent").path.read_text()


@pytest.mark.parametrize("damage", [{"accuracy": "high"}, {"fit_seconds": "x"}, {"p_value": [1]}])
def test_a_row_that_is_damaged_is_an_error(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    row = {**ROW, "verdict": "best", "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6} | damage
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": [row]}))
    with pytest.raises(BundleError, match=r"comparison\.json cannot be read .*; compare again"):
        write_report(tmp_path)


def test_an_evaluation_points_to_its_wrong_pictures(tmp_path):
    for name in ("metrics.json", "predictions.csv"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=f"is an evaluation, .*: featx errors {tmp_path}"):
        find_subject(tmp_path)
