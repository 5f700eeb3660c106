"""Tables on terminals of different widths: nothing is cut, and what does not fit is wrapped or left out."""

import pytest
from rich.cells import cell_len

from featx.cli.output import format_table

HEADER = ["class", "path", "chosen parameters", "difference in points", "p", "items"]
ROWS = [
    ["cat", "photos/cats", "C=31.6 standard", "-41.7 (-54.2 to -28.1)", "<0.001", "1,234,567"],
    ["混同行列の名前", "写真/猫", "C=1e-05 標準 l2", "+0.0", "1.000", "-"],
    ["a class of many words", "runs/2026-11-28-finetune-mobilenet-blocks-1", "", "-1e-05", "0.5", "0"],
]
DROPPED = ["chosen parameters", "no such column", "path", "p"]


def show(width, **options):
    return format_table(HEADER, ROWS, left=(0, 1, 2), **{"drop": DROPPED, "width": width} | options)


@pytest.mark.parametrize(
    ("width", "dropped"), [(60, ["chosen parameters", "path"]), (80, ["chosen parameters"]), (120, []), (200, [])]
)
def test_a_table_fits_its_width(width, dropped):
    lines = show(width).splitlines()
    assert max(map(cell_len, lines)) <= width
    words = " ".join(lines).split()
    for at, name in enumerate(HEADER):
        shown = [part for part in name.split() if part not in {"class", "p"}]
        assert all((part in words) == (name not in dropped) for part in shown), name
        if at > 2 and name not in dropped:
            assert all(row[at] in " ".join(words) for row in ROWS), name


@pytest.mark.parametrize("width", range(20, 130))
def test_no_word_is_divided(width):
    rows = [[*row[:1], *row[2:]] for row in ROWS]  # without the path
    table = format_table([HEADER[0], *HEADER[2:]], rows, left=(0, 1), width=width)
    known = {word for row in (HEADER, *ROWS) for cell in row for word in cell.split()}
    assert set(table.split()) <= known
    assert all(cell in " ".join(table.split()) for row in ROWS for cell in row[3:])


def test_long_names_are_divided_after_their_marks():
    table = format_table(["path", "p"], [[ROWS[2][1], "0.5"]], width=30)
    first = [line.split()[0] for line in table.splitlines()]
    assert first == ["path", "runs/2026-11-28-finetune-", "mobilenet-blocks-1"]
    whole = format_table(["name"], [["mobilenetv2.h5"], ["tolerance=0.0000000000001e-05"]], width=6)
    assert whole.splitlines() == ["name", "mobilenetv2.h5", "tolerance=0.0000000000001e-05"]


def test_wide_characters_are_aligned():
    lines = show(None).splitlines()
    ends = [cell_len(line) for line in lines]
    assert len(lines) == 4
    assert len(set(ends)) == 1  # the last column is aligned to the right


def test_a_wrapped_cell_leaves_the_others_blank():
    rows = [["one two", "1"], ["three", "2"]]
    assert format_table(["name", "n"], rows, width=8).splitlines() == ["name   n", "one    1", "  two", "three  2"]
    assert format_table(["name", "n"], [["one seven", "1"]], width=8).splitlines()[-1] == "seven"  # no room


@pytest.mark.parametrize(("columns", "n_lines"), [(None, 4), ("", 4), ("200", 4), ("90", 9), ("0", 4), ("wide", 4)])
def test_the_width_is_that_of_the_terminal_or_unlimited(monkeypatch, columns, n_lines):
    """Under pytest stdout is not a terminal, so only COLUMNS limits the width."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert len(show(None, drop=()).splitlines()) == n_lines
