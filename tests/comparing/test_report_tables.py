"""The table of a terminal, which has 120 columns."""

from dataclasses import replace
from pathlib import Path

import pytest
from comparison_rows import FAILED, make_comparison, make_row

from featx.cli.output import format_table
from featx.comparing.report import cut_middle, tabulate, tabulate_briefly
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
        "verdict": "best",
    }
    other = read_row(table, 1)
    assert (other["head"], other["time"]) == ("finetune last:23", "2.1 h")
    assert other["points to the best"].startswith("-41.7 (-")
    failed = read_row(table, 2)
    assert (failed["head"], failed["verdict"]) == ("svm", "failed")
    assert set(list(failed.values())[1:-1]) == {"-"}


@pytest.mark.parametrize("store", ["photos", "inceptionv3-a-very-long-name-of-a-store-at-its-end-01"])
def test_a_terminal_is_wide_enough(store):
    comparison = make_comparison(*make_many(store))
    assert len(comparison.rows) == len(HEADS) + 1
    header, rows = tabulate_briefly(comparison)
    lines = format_table(header, rows, left=(0,)).splitlines()
    assert max(map(len, lines)) <= 120
    assert {"head", "valid.", "test", "95 %", "time", "memory", "points to the best", "verdict"} <= set(header)
    assert len({row[header.index("head")] for row in rows}) == len(rows)


def test_files_have_all_columns():
    comparison = make_comparison(*make_many())
    header, rows = tabulate(comparison)
    assert {"bal.", "F1", "ECE", "fit s", "predict s", "memory", "params", "bytes/item", "p"} <= set(header)
    assert rows[0][header.index("chosen")] == comparison.best.chosen
    assert rows[-1][header.index("bytes/item")] == "-"


def test_a_cut_keeps_both_ends():
    assert cut_middle("mobilenet-alpha-0.25", 14) == "mobile…ha-0.25"
    assert cut_middle("short", 14) == "short"
