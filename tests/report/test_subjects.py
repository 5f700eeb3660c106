import json

import pytest

from featx.errors import BundleError
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
