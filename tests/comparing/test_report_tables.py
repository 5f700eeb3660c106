"""The table of a comparison, for terminals of different widths and for files."""

from dataclasses import replace
from pathlib import Path

import pytest
from comparison_rows import FAILED, make_comparison, make_row

from featx.cli.output import format_table
from featx.comparing.report import DISPENSABLE, LEFT, tabulate, tabulate_briefly
from featx.comparison_results import FINE_TUNED
from featx.registry import HEADS

COSTS = {"peak_memory_bytes": 231_000_000, "trained_parameters": 66_050}


def make_many(store="photos"):
    first, *others = HEADS
    heads = [make_row(first, "best"), *(make_row(name, "tie", 3) for name in others)]
    chosen = "hidden_layer_sizes=(256, 128) alpha=0.001 standard"
    heads = [replace(one, chosen=chosen, store=store, **COSTS) for one in heads]
    return [*heads, make_tuned()]


def make_tuned():
    tuned = replace(make_row("network", "worse", 25), name="finetune last:23", kind=FINE_TUNED, run=Path("run"))
    return replace(tuned, fit_seconds=7_500.0, bytes_per_item=None, **COSTS)


def read_row(table, at):
    header, rows = table
    return dict(zip(header, rows[at], strict=True))


def test_cells_of_a_terminal():
    table = tabulate_briefly(make_comparison(make_row("lda", "best", **COSTS), make_tuned(), FAILED))
    assert read_row(table, 0) == {
        "head": "lda",
        "chosen": "l2",
        "valid.": "0.900",
        "test": "1.000",
        "95 %": "0.940-1.000",
        "log-loss": "0.223",
        "time": "1.5 s",
        "memory": "231 MB",
        "params": "66.0 k",
        "points to the best": "-",
        "against the best by validation": "best",
    }
    other = read_row(table, 1)
    assert (other["head"], other["time"]) == ("finetune last:23", "2.1 h")
    assert other["points to the best"].startswith("-41.7 (-")
    failed = read_row(table, 2)
    assert (failed["head"], failed["against the best by validation"]) == ("svm", "failed")
    assert set(list(failed.values())[1:-1]) == {"-"}


def print_table(comparison, width):
    header, rows = tabulate_briefly(comparison)
    left = [at for at, name in enumerate(header) if name in LEFT]
    return format_table(header, rows, left=left, drop=DISPENSABLE, width=width)


ESSENTIAL = {"head", "valid.", "test", "against the best by validation"}


LONG = "inceptionv3-a-very-long-name-of-a-store-at-its-end-01"


@pytest.mark.parametrize(
    ("width", "stores", "columns"),
    [
        (60, ["photos"], ESSENTIAL),
        (80, ["photos"], {*ESSENTIAL, "time", "points to the best"}),
        (80, ["photos", LONG], {*ESSENTIAL, "store"}),
        (120, ["photos"], {*ESSENTIAL, "95 %", "time", "memory", "chosen", "params", "points to the best"}),
        (120, ["photos", LONG], {*ESSENTIAL, "95 %", "time", "chosen", "store", "points to the best"}),
        (200, ["photos", LONG], None),
    ],
)
def test_a_comparison_fits_the_terminal(width, stores, columns):
    comparison = make_comparison(*(row for store in stores for row in make_many(store)))
    lines = print_table(comparison, width).splitlines()
    assert max(map(len, lines)) <= width
    header, rows = tabulate_briefly(comparison)
    text = " ".join(" ".join(lines).split())
    for name in columns or header:
        assert name.split()[0] in text
        if name not in LEFT:  # no number is divided
            at = header.index(name)
            assert all(row[at] in text for row in rows), name


def test_200_columns_show_what_was_chosen():
    lines = print_table(make_comparison(*make_many()), 200).splitlines()
    assert len(lines) == len(HEADS) + 2
    assert "chosen" in lines[0]
    assert " hidden_layer_sizes=(256, 128) alpha=0.001 standard   0.900 " in lines[1]


def test_files_have_all_columns():
    comparison = make_comparison(*make_many())
    header, rows = tabulate(comparison)
    assert {"bal.", "F1", "ECE", "fit s", "predict s", "memory", "params", "bytes/item", "p"} <= set(header)
    assert rows[0][header.index("chosen")] == comparison.best.chosen
    assert rows[-1][header.index("bytes/item")] == "-"
