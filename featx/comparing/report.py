"""A comparison as text: a table, what it says in words, and files."""

import contextlib
import csv
import datetime as dt
import functools
import itertools
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from featx.bundle_page import PAGE, link_file, show_plots, wrap_page
from featx.comparison_results import AGAINST, FROZEN, START, START_MARK, Comparison, ComparisonRow
from featx.evaluation.figure import make_title
from featx.evaluation.paired import SIGNIFICANCE, Paired
from featx.files import say_failures, write_json
from featx.heads import find_head
from featx.specs import HeadSpec
from featx.wording import (
    UNDEFINED,
    escape_html,
    format_bytes,
    format_count,
    format_interval,
    format_p_value,
    format_plural,
    format_seconds,
    format_value,
)

# A logarithmic axis has no 0.
_LEAST_SECONDS = 1e-3


def describe_choice(head: HeadSpec, asked: HeadSpec | None = None) -> str:
    """Describe the parameters of a head that are chosen by folds or by the user, and its scaling."""
    open_params = {*find_head(head.name).grid, *(asked or head).params}
    parts = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in head.params.items()
        if name in open_params
    ]
    return " ".join([*parts, *([head.scaling] if head.scaling not in {None, "none"} else [])])


def describe_comparison(comparison: Comparison) -> list[str]:
    """Describe what the table shows and what it does not, in one sentence each; the first says what to use."""
    best, of = comparison.best, functools.partial(_name_network, comparison)
    trained = "" if best.run else f", trained on {comparison.n_train:,} images"
    choice = f"is best by validation ({comparison.validation_name}){trained}; the test was not used to choose"
    lines = [*_list_equals(comparison), f"{of(best)} {choice}", *_list_different(comparison)]
    better = [of(row) for row in comparison.rows if row.verdict == "better"]
    if better:
        which = "it, test both" if len(better) == 1 else "one of them, test it and the best by validation"
        lines.append(
            f"{_join_names(better, 'and')} did better on the test than the best by validation; to prefer {which} again "
            "on new images, since these have been used"
        )
    lines += [*comparison.explain_ties(), *comparison.verdict]
    lines += [f"failed: {of(row)}: {row.error}" for row in comparison.failed]
    return lines


def _name_network(comparison: Comparison, row: ComparisonRow) -> str:
    """Name a row in a sentence: a run that kept its start is a frozen network, whatever its plan was."""
    name = comparison.name_row(row)
    if row.kind != START:
        return name
    return f"the frozen network with the first head of {name.replace(START_MARK, '')}"


def _list_equals(comparison: Comparison) -> list[str]:
    """Say which rows are as good as the best by validation, if the test cannot tell them apart.

    The dummy, which any head must beat, and runs that kept their start are not recommended. Where such a run is the
    best, a head on frozen features is as good, and needs no fine-tuning.
    """
    ties = [row for row in comparison.ties if row.head.name != "dummy" and row.kind != START]
    if comparison.best.kind == START:
        cannot = f"{_count_images(comparison)} cannot tell it from {_name_network(comparison, comparison.best)}"
        frozen = [comparison.name_row(row) for row in ties if row.kind == FROZEN]
        return [f"use {name}: it needs no fine-tuning, and {cannot}" for name in frozen[:1]]
    if not ties:
        return []
    names = _join_names([comparison.name_row(row) for row in (comparison.best, *ties)], "or")
    return [f"use {names}: {_count_images(comparison)} cannot tell them apart"]


def _list_different(comparison: Comparison) -> list[str]:
    """Say which rows the test can tell from the best by validation."""
    best, of, lines = comparison.best, functools.partial(_name_network, comparison), list[str]()
    images = _count_images(comparison)
    if best.head.name != "dummy" and any(row.head.name == "dummy" for row in comparison.ties):
        beats = f"that {of(best)} beats dummy, which always predicts the most frequent class"
        lines.append(f"these {images} do not show {beats}")
    differing = [of(row) for row in comparison.rows if row.verdict in {"worse", "better"}]
    if differing:
        which = f"{_join_names(differing, 'and')} differ{'s' if len(differing) == 1 else ''}"
        if not comparison.ties:
            counts = {1: "the other one differs", 2: "both others differ"}
            which = counts.get(len(differing), f"all {len(differing)} others differ")
        lines.append(f"these {images} show that {which} from the best by validation")
    return lines


def _count_images(comparison: Comparison) -> str:
    pairs = [row.paired for row in comparison.rows if row.paired is not None]
    return _count(pairs[0], comparison.test_name) if pairs else ""


#: A sentence names up to so many rows, and counts the others.
_MOST_NAMED = 4


def _join_names(names: Sequence[str], word: str) -> str:
    """Join names: `a`, `a or b`, `a, b or c`, and of many the first ones `or one of 5 others`."""
    if len(names) > _MOST_NAMED + 1:
        rest = f"{'one of ' if word == 'or' else ''}{len(names) - _MOST_NAMED} others"
        return f"{', '.join(names[:_MOST_NAMED])} {word} {rest}"
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def list_notes(comparison: Comparison, rows: Sequence[ComparisonRow]) -> list[str]:
    """List the notes on the items and on some rows; a note that several heads share is listed once."""
    of = comparison.name_row
    shared = dict[str, list[str]]()
    for row in rows:
        for note in row.notes:
            shared.setdefault(note.removeprefix(f"{row.title} "), []).append(of(row))
    return [*comparison.notes, *(f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in shared.items())]


def name_folder(parent: Path, verb: str = "compare") -> Path:
    """Name a new folder for a comparison: `<date>-compare`, with a number appended if that exists."""
    stem = f"{dt.datetime.now(tz=dt.UTC).date()}-{verb}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(parent / name for name in names if not (parent / name).exists())


#: Files of a written comparison.
_WRITTEN = ("comparison.md", "comparison.csv", "comparison.json", "accuracy_against_cost.png")


def find_written(comparison: Comparison, parent: Path) -> Path | None:
    """Find the folder of an equal comparison that was written before, if any."""
    beside = {"seconds": 0, "call": {}}  # heads in another order are the same comparison
    ours = json.loads(json.dumps(comparison.to_dict() | beside))
    for path in sorted(parent.glob("*-compare*/comparison.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # anything may be in that folder
            whole = all((path.parent / name).is_file() for name in _WRITTEN)
            if whole and json.loads(path.read_text(encoding="utf-8")) | beside == ours:
                return path.parent
    return None


def write_comparison(comparison: Comparison, folder: Path, source: str = "") -> Comparison:
    """Write the table as Markdown, CSV and JSON, the plot of accuracy against cost, and a page of them.

    Args:
        comparison: The comparison.
        folder: The folder; it is made if it does not exist.
        source: Path of the images, for the title of the plot.

    Returns:
        The comparison, with the folder.

    Raises:
        StoreError: If the folder cannot be written to.
    """
    from featx.evaluation.plots import plot_costs

    written = replace(comparison, folder=folder)
    able = [row for row in comparison.rows if row.test is not None]
    # The dummy is far below all others and would compress them into one line.
    able = [row for row in able if row.head.name != "dummy"] or able
    left_out = [row for row in comparison.rows if row not in able]
    intervals = [row.test.get_interval("accuracy") for row in able if row.test is not None]
    accuracies, lows, highs = np.array(intervals, np.float64).T
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.md").write_text(make_page(comparison), encoding="utf-8")
        write_csv(folder / "comparison.csv", [row.to_dict() for row in comparison.rows])
        write_json(comparison.to_dict(), folder / "comparison.json")
        plot_costs(
            _name_points(able),
            [_add_seconds(row) for row in able],
            accuracies,
            lows,
            highs,
            folder / "accuracy_against_cost.png",
            chosen=able.index(comparison.best) if comparison.best in able else None,
            kinds=[row.kind for row in able],
            validations=[math.nan if row.validation_accuracy is None else row.validation_accuracy for row in able],
            missing=[_describe_missing(row, name) for row, name in zip(left_out, _name_points(left_out), strict=True)],
            title=_make_title(comparison, able, source),
        )
        files = sorted(path.name for path in folder.iterdir())
        (folder / PAGE).write_text(make_html_page(written, files), encoding="utf-8")
    return written


def _make_title(comparison: Comparison, rows: Sequence[ComparisonRow], source: str) -> str:
    stores = list(dict.fromkeys(row.store for row in rows))
    store = stores[0] if len(stores) == 1 else format_plural(len(stores), "store")
    head = rows[0].title if len(rows) == 1 else format_plural(len(rows), "head")
    return make_title(head, store=store, source=source, split=comparison.test_name, n_items=comparison.n_test)


def make_html_page(comparison: Comparison, files: Sequence[str]) -> str:
    """Return the page of a comparison: what to use, the table, the plots, and links to the bundles of finished runs.

    Args:
        comparison: The comparison, with its folder.
        files: The names of the files in the folder so far.
    """
    folder = comparison.folder or Path()
    runs = [
        (f"{comparison.name_row(row)}: {row.run}", quote(os.path.relpath(row.run / PAGE, folder)))
        for row in comparison.rows
        if row.run is not None
    ]
    links = "".join(f'<li><a href="{link}">{escape_html(words)}</a></li>' for words, link in runs)
    notes = list_notes(comparison, comparison.rows)
    again = escape_html(f"featx report {shlex.quote(str(folder))}")
    tables = ", ".join(link_file(name) for name in _WRITTEN[:3])
    sections = [
        _list_lines("What it shows", describe_comparison(comparison)),
        f'<h2>Compared</h2><div class="wide">{comparison.to_html(footnotes=False)}</div>',
        show_plots(files),
        f"<h2>Finished runs</h2><ul>{links}</ul>" if links else "",
        _list_lines("Notes", notes),
        f"<h2>Files</h2><p>{tables} have the same rows and more columns.</p>",
        f"<h2>Commands</h2><p>For the pictures, in the folder where this was compared:</p><pre>{again}</pre>",
    ]
    accuracy = comparison.best.test.get_interval("accuracy") if comparison.best.test else None
    best = f"{comparison.name_row(comparison.best)}, accuracy {format_interval(accuracy)}"
    return wrap_page(f"Comparison of {len(comparison.rows):,} rows", f"best by validation is {best}", sections)


def _list_lines(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape_html(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def _describe_missing(row: ComparisonRow, name: str) -> str:
    """Describe a row that the plot leaves out: with its accuracy, or with why it has none."""
    if row.test is not None:
        return f"{name} {format_value(row.test.accuracy, 2)}"
    return f"{name} failed" if row.error else f"{name} without a test"


def _add_seconds(row: ComparisonRow) -> float:
    """Add the time of embedding to that of fitting, if it is known and not already part of it."""
    embedding = row.embed_seconds if row.kind == FROZEN else 0.0
    return max((row.fit_seconds or 0.0) + (embedding or 0.0), _LEAST_SECONDS)


def _name_points(rows: Sequence[ComparisonRow]) -> list[str]:
    """Name the points of a plot, which has little room: with the store only if names are ambiguous."""
    titles = [row.title for row in rows]
    return [
        title if titles.count(title) == 1 else f"{title} on {one.store}"
        for one, title in zip(rows, titles, strict=True)
    ]


def make_page(comparison: Comparison) -> str:
    """Return a Markdown page with the findings, the table and all notes."""
    header, rows = tabulate(comparison)
    marks = [":---" if name in LEFT else "---:" for name in header]
    lines = ["# Comparison", "", *(f"- {line}" for line in describe_comparison(comparison)), ""]
    lines += [_join(header), _join(marks), *(_join(row) for row in rows), ""]
    notes = list_notes(comparison, comparison.rows)
    lines += [*(f"- note: {note}" for note in notes), ""] if notes else []
    counts = sorted({row.threads for row in comparison.rows if row.threads})
    threads = f"{' or '.join(map(str, counts))} thread{'s' if max(counts, default=0) > 1 else ''}"
    lines.append(_EXPLANATION.format(threads=threads))
    lines += [_RUNS] if any(row.run for row in comparison.rows) else []
    return "\n".join(lines) + "\n"


_EXPLANATION = """\
`valid.` is the accuracy on items held out of the training items, with tuning repeated inside each fold; it alone
orders the table. `95 %` is the interval of the test accuracy. `to the best` is the difference in test accuracy from the
best by validation, on the same images, with its interval. `p` is its p-value (McNemar's test with mid-p, or sign flips
of whole groups), adjusted for the number of differences (Holm). The last column says what the test shows of this
difference; it is not an order of the test. A `tie` is a difference that this test cannot show; it does not prove that
there is none. `bal.` is the mean accuracy of the classes. `fit s` is the time of tuning and fitting with {threads},
`predict s` that of predicting all test images, and `embed s` that of embedding, which all heads of a store share.
`memory` is the peak of the fitting process, including libraries and the pages of the store that it had loaded.
`params` counts fitted parameters: coefficients and intercepts, or the weights of networks."""

_RUNS = """\

A row of a finished run has the numbers of its bundle, and is tested here by its own predictions of the same images.
If it was validated on other images than the heads, its validation cannot be compared with theirs, so it is listed below
them. The `fit s` of a fine-tuned run include everything, embedding too, as if nothing had been cached; those of a head
on cached features exclude embedding."""


def _join(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV; a value that is a list or a mapping becomes JSON."""
    rows = [
        {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()}
        for row in rows
    ]
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


#: Columns that are text, and so aligned to the left.
LEFT = ("store", "head", "chosen", AGAINST)

#: Columns that a narrow terminal can do without, the first one first.
DISPENSABLE = ("log-loss", "params", "memory", "chosen", "95 %", "time", "points to the best")


def tabulate(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of the table, the best by validation first."""
    return _arrange(comparison, [_format_row(row) for row in comparison.rows])


def tabulate_briefly(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of a table with fewer columns, for a terminal."""
    return _arrange(comparison, [_format_briefly(row) for row in comparison.rows])


def _arrange(comparison: Comparison, rows: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    stores = {row.store for row in comparison.rows}
    hidden = {"store"} if len(stores) == 1 else set()
    header = [name for name in rows[0] if name not in hidden]
    return header, [[row[name] for name in header] for row in rows]


def _format_row(row: ComparisonRow) -> dict[str, str]:
    test, paired, size = row.test, row.paired, row.bytes_per_item
    interval = f"{test.accuracy_low:.3f} to {test.accuracy_high:.3f}" if test else UNDEFINED
    difference = f"{paired.difference:+.3f} ({paired.low:+.3f} to {paired.high:+.3f})" if paired else UNDEFINED
    return {
        "store": row.store,
        "head": row.title,
        "chosen": row.chosen or UNDEFINED,
        "valid.": format_value(row.validation_accuracy),
        "test": format_value(test.accuracy if test else None),
        "95 %": interval,
        "bal.": format_value(test.mean_per_class_accuracy if test else None),
        "F1": format_value(test.macro_f1 if test else None),
        "log-loss": format_value(test.log_loss if test else None),
        "ECE": format_value(test.expected_calibration_error if test else None),
        "fit s": format_value(row.fit_seconds, 2),
        "embed s": format_value(row.embed_seconds, 2),
        "predict s": format_value(row.predict_seconds),
        **_format_costs(row),
        "bytes/item": UNDEFINED if size is None else f"{size:,}",
        "to the best": difference,
        "p": format_p_value(row.p_value),
        AGAINST: row.verdict,
    }


def _format_briefly(row: ComparisonRow) -> dict[str, str]:
    test, paired, seconds = row.test, row.paired, row.fit_seconds
    points = [f"{100 * share:+.1f}" for share in (paired.difference, paired.low, paired.high)] if paired else []
    return {
        "store": row.store,
        "head": row.title,
        "chosen": row.chosen or UNDEFINED,
        "valid.": format_value(row.validation_accuracy),
        "test": format_value(test.accuracy if test else None),
        "95 %": f"{test.accuracy_low:.3f}-{test.accuracy_high:.3f}" if test else UNDEFINED,
        "log-loss": format_value(test.log_loss if test else None),
        "time": UNDEFINED if seconds is None else format_seconds(seconds),
        **_format_costs(row),
        "points to the best": f"{points[0]} ({points[1]} to {points[2]})" if points else UNDEFINED,
        AGAINST: row.verdict,
    }


def _format_costs(row: ComparisonRow) -> dict[str, str]:
    memory, parameters = row.peak_memory_bytes, row.trained_parameters
    return {
        "memory": UNDEFINED if memory is None else format_bytes(memory),
        "params": UNDEFINED if parameters is None else format_count(parameters),
    }


#: From this ratio on, a digit after the decimal point says nothing.
_WHOLE_RATIO = 10


def describe_gains(rows: Sequence[ComparisonRow], test_name: str) -> tuple[str, ...]:
    """Describe what each fine-tuned run gains over the frozen head that validation ranks first, and at what cost.

    It counts as a gain only if the paired test shows it, with the p-value adjusted for all differences of the
    comparison. A run that kept its start gains nothing; its sentence says that nothing was trained.

    Args:
        rows: All rows of a comparison, in its order.
        test_name: Name of the split that is reported on.
    """
    best = next((one for one in rows if one.kind == FROZEN and one.test is not None), None)
    several = len({one.store for one in rows if one.run is None}) > 1
    sentences = []
    for row in rows:
        if row.kind == START:
            sentences.append(_describe_start(row, best))
        elif best is not None and row.gain is not None:
            against = f"{best.title} on {best.store}" if several else best.title
            sentences.append(_describe_gain(row, row.gain, best, against, test_name))
    return tuple(sentences)


def _describe_start(tuned: ComparisonRow, frozen: ComparisonRow | None) -> str:
    images = "its training images" if tuned.validation_accuracy is None else "the validation images"
    spent = "" if tuned.fit_seconds is None else f"{format_seconds(tuned.fit_seconds)} were spent and "
    return (
        f"{_name(tuned, frozen)} did not improve on its first head on {images}, so it kept the start: its numbers are "
        f"those of the frozen network with that head; {spent}nothing was trained"
    )


def _describe_gain(tuned: ComparisonRow, gain: Paired, frozen: ComparisonRow, against: str, test_name: str) -> str:
    time, of = _describe_time(tuned, frozen), _name(tuned, frozen)
    p_value = gain.p_value if tuned.gain_p_value is None else tuned.gain_p_value
    if p_value >= SIGNIFICANCE:
        point = f"{_sign(gain.difference)} points ({_sign(gain.low)} to {_sign(gain.high)}) against {against}"
        # The interval is of this difference alone, so it may exclude 0 although the table as a whole shows nothing.
        alone = "" if gain.low <= 0 <= gain.high else f", p {p_value:.2f} among all differences of the table"
        return f"no difference shown on {_count(gain, test_name)}: {of} scores {point}{alone}, {time}"
    if gain.difference > 0:
        return f"{of} gains {_range(gain.difference, gain.low, gain.high)} over {against}, {time}"
    return f"{of} scores {_range(-gain.difference, -gain.high, -gain.low)} less than {against}, {time}"


def _name(tuned: ComparisonRow, frozen: ComparisonRow | None) -> str:
    """Name the plan, and the backbone if it differs from that of the frozen head."""
    plan = tuned.title.removeprefix("finetune ").replace(START_MARK, "")
    return f"fine-tuning ({plan}{'' if frozen is None or tuned.store == frozen.store else f' of {tuned.store}'})"


def _describe_time(tuned: ComparisonRow, frozen: ComparisonRow) -> str:
    """Describe both times, each including embedding if both the run and the store record it."""
    if tuned.fit_seconds is None or frozen.fit_seconds is None:
        return "time not recorded"
    whole, fitting = format_seconds(tuned.fit_seconds), format_seconds(frozen.fit_seconds)
    if frozen.embed_seconds is None or tuned.embed_seconds is None:
        which = "store" if frozen.embed_seconds is None else "run"
        return f"in {whole} in all, against {fitting} of fitting (the {which} does not record the time of embedding)"
    least = max(frozen.embed_seconds + frozen.fit_seconds, _LEAST_SECONDS)
    times = tuned.fit_seconds / least
    ratio = f"{times:,.0f}" if times >= _WHOLE_RATIO else f"{times:.1f}"
    return f"in {ratio} times the time ({whole}, embedding included, against {format_seconds(least)})"


def _count(gain: Paired, test_name: str) -> str:
    groups = f" in {gain.n_units:,} groups" if gain.n_units < gain.n_items else ""
    return f"{gain.n_items:,} {test_name} images{groups}"


def _range(*shares: float) -> str:
    point, low, high = (f"{100 * share:.1f}" for share in shares)
    return f"{point} points ({low} to {high})"


def _sign(share: float) -> str:
    return f"{100 * share:+.1f}"
