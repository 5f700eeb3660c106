"""The tables of a page: facts, metrics and classes."""

import shlex
from collections.abc import Sequence

from featx.evaluation import Evaluation
from featx.evaluation.text import list_metrics
from featx.report.curves import Curves
from featx.report.facts import format_compare, format_embed, list_bundle_facts, list_commands, list_store_facts
from featx.report.subjects import Subject
from featx.store import FeatureStore
from featx.wording import (
    UNDEFINED,
    escape_html,
    format_html_table,
    format_value,
    to_text,
)


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
    if subject.comparison:
        commands.append(format_compare(subject.comparison))
    commands = [*filter(None, commands), f"featx report {shlex.quote(to_text(subject.name))}"]
    rows = "".join(f"<dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd>" for name, value in facts)
    lines = "\n".join(map(escape_html, commands))
    return f"<dl>{rows}</dl><pre>{lines}</pre>"


def format_metrics(test: Evaluation, validation: Evaluation) -> str:
    """Format the metrics with their intervals."""
    return format_table(["", "test [95 %]", "validation [95 %]"], list_metrics(test, validation), "numbers")


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


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "text") -> str:
    """Format a table that scrolls if it is large; of the kind `numbers`, whose cells stay on one line, or `text`."""
    return f'<div class="scroll {kind}">{format_html_table(head, rows, n_text=len(head))}</div>'
