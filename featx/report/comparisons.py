"""The comparison that a page is about: its table, its plot, and what its finished runs got wrong."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from featx.bundle_page import PAGE
from featx.errors import BundleError, FeatxError
from featx.references import check_own, find_bundle
from featx.report.mistakes import find_mistakes
from featx.report.sections import format_table
from featx.report.subjects import COMPARISON
from featx.wording import (
    UNDEFINED,
    escape_html,
    format_interval,
    format_p_value,
    format_plural,
    format_seconds,
    format_value,
)

#: Finished runs whose mistakes are shown, and the largest plot of theirs in bytes.
_MOST_RUNS, _MOST_BYTES = 12, 300_000

#: What a PNG file begins with.
_PNG = b"\x89PNG\r\n\x1a\n"

_HEAD = ("head", "store", "verdict", "validation", "accuracy [95 %]", "macro-F1", "log-loss", "difference", "p", "fit")


def format_comparison(comparison: Mapping[str, Any], folder: Path, page: Path) -> str:
    """Format the table and the plot of a comparison, and the mistakes of each finished run.

    Args:
        comparison: The content of `comparison.json`.
        folder: The folder of the comparison.
        page: The file of the page, from which links start.

    Raises:
        BundleError: If a row is damaged, or a plot is a link.
    """
    rows = comparison["rows"]
    try:
        shown = [at for at, name in enumerate(_HEAD) if name != "store" or len({row["store"] for row in rows}) > 1]
        head, *cells = ([line[at] for at in shown] for line in (_HEAD, *map(_list_cells, rows)))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        msg = f"{folder / COMPARISON} cannot be read ({type(error).__name__}: {error}); compare again"
        raise BundleError(msg) from error
    table = format_table(head, cells, "numbers")
    plot = _show_plot(folder / "accuracy_against_cost.png", "Test accuracy against the time of embedding and fitting")
    runs = [row for row in rows if row.get("run")]
    parts = [_format_run(row, page) for row in runs[:_MOST_RUNS]]
    if len(runs) > _MOST_RUNS:
        parts.append(f'<p class="note">and {format_plural(len(runs) - _MOST_RUNS, "more run")}</p>')
    mistakes = f"<h2 id=runs>Finished runs</h2>{''.join(parts)}" if parts else ""
    best = escape_html(f"{rows[0]['head']} on {rows[0]['store']}")
    note = f'<p class="note">Differences are from the best by validation, {best}; all below is of it.</p>'
    return f"<h2 id=compared>Compared</h2>{table}{plot}{mistakes}{note}"


def _list_cells(row: Mapping[str, Any]) -> list[str]:
    metrics = [
        format_interval((row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")))
        for name in ("accuracy", "macro_f1", "log_loss")
    ]
    difference = (row.get("difference"), row.get("difference_low"), row.get("difference_high"))
    seconds = row.get("fit_seconds")
    return [
        str(row["head"]),
        str(row["store"]),
        str(row["verdict"]),
        format_value(row.get("validation_accuracy")),
        *metrics,
        format_interval(difference, "+.3f"),
        format_p_value(row.get("p_value")),
        UNDEFINED if seconds is None else format_seconds(seconds),
    ]


def _format_run(row: Mapping[str, Any], page: Path) -> str:
    """Format what a finished run got wrong: the number, the confusion matrix, and the most confident mistakes."""
    name = escape_html(f"{row['head']} on {row['store']}")
    try:
        bundle = find_bundle(str(row["run"]))
        mistakes = find_mistakes(bundle)
    except FeatxError as error:
        return f'<h3>{name}</h3><p class="note">Not shown: {escape_html(str(error))}</p>'
    there = [one for one in (bundle / "report.html", bundle / PAGE) if one.is_file()]
    link = quote(os.path.relpath(there[0], page.parent)) if there else ""
    more = f' <a href="{link}">{escape_html(str(there[0]))}</a>' if there else ""
    plot = _show_plot(bundle / "confusion_matrix.png", f"Confusion matrix of {row['head']} on {row['store']}")
    closed = f"<details><summary>confusion matrix</summary>{plot}</details>" if plot else ""
    return f"<h3>{name}</h3><p>{escape_html(str(mistakes))}.{more}</p>{mistakes.format_pictures()}{closed}"


def _show_plot(path: Path, words: str) -> str:
    """Show a plot inside the page; nothing if it is not there, large, or not a PNG file.

    Raises:
        BundleError: If it is a link, which could put another file of this machine into the page.
    """
    if not os.path.lexists(path):
        return ""
    check_own(path)
    content = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
    if not content.startswith(_PNG):
        return ""
    data = base64.b64encode(content).decode("ascii")
    return f'<p><img class="plot" alt="{escape_html(words)}" src="data:image/png;base64,{data}"></p>'
