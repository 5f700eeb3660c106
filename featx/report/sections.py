"""The tables of a page: facts, metrics, classes, comparisons, and what was found in the data."""

import base64
import csv
import shlex
from collections.abc import Sequence
from pathlib import Path

from featx.evaluation import Evaluation
from featx.evaluation.text import list_metrics
from featx.files import read_columns
from featx.report.curves import Curves
from featx.report.facts import format_embed, list_bundle_facts, list_commands, list_store_facts
from featx.report.items import Items
from featx.report.subjects import Subject
from featx.store import FeatureStore
from featx.wording import (
    UNDEFINED,
    escape_html,
    format_html_table,
    format_interval,
    format_p_value,
    format_plural,
    format_seconds,
    format_value,
    join_first,
    to_text,
)

#: Rows of a table that could have thousands.
_LISTED = 30

_AUDIT = ("id", "kind", "score", "suggestion", "detail")


def format_facts(subject: Subject) -> str:
    """Format what was done, and the commands that repeat it."""
    facts, commands = [], list[str]()
    if subject.bundle is not None:
        facts, commands = (
            list_bundle_facts(subject.bundle, subject.record),
            list_commands(subject.bundle, subject.record, subject.store.reading if subject.store is not None else {}),
        )
    elif isinstance(subject.store, FeatureStore):
        facts, commands = list_store_facts(subject.store), [format_embed(subject.store)]
    commands = [*commands, f"featx report {shlex.quote(to_text(subject.name))}"]
    rows = "".join(f"<dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd>" for name, value in facts)
    lines = "\n".join(map(escape_html, commands))
    return f"<dl>{rows}</dl><pre>{lines}</pre>"


def format_metrics(test: Evaluation, validation: Evaluation) -> str:
    """Format the metrics with their intervals."""
    return _format_table(["", "test [95 %]", "validation [95 %]"], list_metrics(test, validation))


def format_classes(test: Evaluation, curves: Curves) -> str:
    """Format the table of the classes; the browser fills in the sensitivity."""
    head = ("class", "items", "precision", "recall", "F1", "ROC-AUC", "average precision")
    cells = "".join(f"<th>{name}</th>" for name in head)
    rows = []
    for at, one in enumerate(test.per_class):
        areas = (curves.roc_aucs[at], curves.average_precisions[at])
        values = [f"{one.support:,}", *(format_value(value) for value in (one.precision, one.recall, one.f1))]
        values += [UNDEFINED if area != area else format_value(float(area)) for area in areas]  # noqa: PLR0124 - NaN
        link = f'<button class="link" data-class="{at}">{escape_html(one.name)}</button>'
        numbers = "".join(f"<td>{value}</td>" for value in values)
        rows.append(f'<tr><td>{link}</td>{numbers}<td data-sensitivity="{at}">{UNDEFINED}</td></tr>')
    last = '<th>sensitivity at specificity <span class="at"></span></th>'
    body = "".join(rows)
    table = f'<table class="sorted"><thead><tr>{cells}{last}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def format_page_table(subject: Subject) -> str:
    """Format the table and the plot of a comparison."""
    rows = []
    for row in subject.comparison["rows"]:
        accuracy, difference = (
            format_interval((row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")))
            for name in ("accuracy", "difference")
        )
        seconds = row.get("fit_seconds")
        time = UNDEFINED if seconds is None else format_seconds(seconds)
        numbers = [
            format_value(row.get("validation_accuracy")),
            accuracy,
            difference,
            format_p_value(row.get("p_value")),
        ]
        rows.append([str(row["head"]), str(row["store"]), str(row["verdict"]), *numbers, time])
    head = ("head", "store", "verdict", "validation", "test [95 %]", "difference from the best", "p", "fit")
    plot = Path(subject.folder or ".") / "accuracy_against_cost.png"
    image = ""
    if plot.is_file():
        data = base64.b64encode(plot.read_bytes()).decode("ascii")
        image = (
            f'<p><img alt="Test accuracy against cost" style="max-width: 100%" src="data:image/png;base64,{data}"></p>'
        )
    return f"<h2 id=compared>Compared</h2>{_format_table(head, rows)}{image}"


def format_findings(subject: Subject, items: Items, lists: list[list[int]]) -> str:
    """Format the quarantine, the duplicates and the findings of an audit; lists of items are added to `lists`."""
    if subject.store is None:
        return ""
    place = {to_text(name): at for at, name in enumerate(items.ids)}
    parts = []
    quarantine = [(name, reason) for store in subject.store.parts for name, _, reason in store.quarantine]
    parts.append(f"<h3>Quarantine: {len(quarantine):,}</h3>{_format_first(('item', 'reason'), quarantine)}")
    store = subject.store.parts[0]
    groups = store.find_duplicates()
    groups.sort(key=lambda rows: -len(set(store.splits[rows])) - len(set(store.labels[rows])))
    rows = [
        (
            join_first([to_text(name) for name in store.ids[group]], 3),
            *(", ".join(sorted(set(values[group]))) for values in (store.splits, store.labels)),
        )
        for group in groups
    ]
    names = [to_text(str(name)) for group in groups for name in store.ids[group]]
    button = _link(names, "files with the same bytes", place, lists)
    parts.append(f"<h3>Copies: {format_plural(len(groups), 'group')} {button}</h3>")
    parts.append(_format_first(("files with the same bytes", "splits", "classes"), rows))
    found = _read_audit(store)
    kinds = dict.fromkeys(row[1] for row in found)
    for kind in kinds:
        own = [row for row in found if row[1] == kind]
        button = _link([row[0] for row in own], kind, place, lists)
        parts.append(f"<h3>Audit, {escape_html(kind)}: {len(own):,} {button}</h3>")
        parts.append(_format_first(("item", "suggestion", "why"), [(row[0], row[3], row[4]) for row in own]))
    if not found:
        verb = escape_html(f"featx audit {store.path}")
        parts.append(f'<p class="note">For near-copies, suspicious labels and outliers: {verb}, then report again.</p>')
    return "".join(parts)


def _read_audit(store: FeatureStore) -> list[tuple[str, ...]]:
    """Read what an audit of the store found; nothing if there was none."""
    path = Path("audit") / store.path.stem / "audit.csv"
    if not path.is_file():
        return []
    try:
        return list(read_columns(path, _AUDIT))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        return [("", "audit.csv cannot be read", "", f"{error}", "audit again")]


def _link(names: Sequence[str], title: str, place: dict[str, int], lists: list[list[int]]) -> str:
    found = [place[name] for name in names if name in place]
    if not found:
        return ""
    lists.append(found)
    return f'<button class="link" data-list="{len(lists) - 1}" data-title="{escape_html(title)}">show pictures</button>'


def _format_first(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    more = f'<p class="note">and {len(rows) - _LISTED:,} more</p>' if len(rows) > _LISTED else ""
    return _format_table(head, [list(map(to_text, row)) for row in rows[:_LISTED]]) + more


def _format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f'<div class="scroll">{format_html_table(head, rows, n_text=len(head))}</div>'
