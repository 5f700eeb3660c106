import pytest

from featx.errors import UsageError
from featx.items.splits import describe_ungrouped, find_groups

IDS = ["a/p1-1.png", "b/p1-2.png", "b/deep/q.png", "r.png"]


def test_folders_and_expressions():
    assert find_groups(IDS, "folder", "x", {}) == ["a", "b", "b/deep", ""]
    assert find_groups(IDS, r"(p\d)-", "x", {}) == ["p1", "p1", "", ""]


def test_a_column_is_read_from_the_table_as_it_was_read(tmp_path):
    (tmp_path / "r.png").touch()
    table = tmp_path / "t.csv"
    table.write_text("where,who\n" + "".join(f"{name},{at}\n" for at, name in enumerate(IDS)))
    reading = {"columns": {"path": "where"}}
    assert find_groups(IDS[::-1], "who", str(table), reading) == ["3", "2", "1", "0"]
    with pytest.raises(UsageError, match="the groups cannot be read again"):
        find_groups(IDS, "whom", str(table), reading)
    with pytest.raises(UsageError, match=r"no longer has s\.png; embed it again with --group who"):
        find_groups(["s.png"], "who", str(table), reading)


@pytest.mark.parametrize("group", [r"(p\d)(-)", "patient", "(", r"(z\d+)"])
def test_what_is_no_group_is_an_error(group):
    with pytest.raises(UsageError, match=r"is no group|matches no image"):
        find_groups(IDS, group, "no table", {})


def test_items_in_no_group_are_counted_where_groups_were_asked_for():
    assert describe_ungrouped(["p", "", ""], "x") == ["2 of 3 items are in no group by 'x', and count as a group each"]
    assert describe_ungrouped(["", ""], "") == describe_ungrouped(["p"], "x") == []
