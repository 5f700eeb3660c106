"""What was found in the data: the quarantine, copies, and the findings of an audit, with lists of their items."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx.files import read_columns
from featx.report.items import Items
from featx.report.sections import format_table
from featx.store import FeatureStore
from featx.store.joining import AnyStore
from featx.wording import escape_html, format_interval, format_plural, join_first, to_text

#: Rows of a table that could have thousands.
_LISTED = 30

_COLUMNS = ("id", "kind", "suggestion", "detail")

#: Largest size of `audit.json`.
_MOST_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit of a store found, as far as it was read.

    Attributes:
        findings: Id, kind, suggestion and detail of each; None if there was no audit, or its file is damaged.
        shortcuts: Rows of the table: what predicts the label, how well, and whether that is a shortcut.
        baseline: The accuracy of the largest class.
    """

    findings: list[tuple[str, ...]] | None = None
    shortcuts: Sequence[Sequence[str]] = ()
    baseline: str = ""


def read_audit(store: AnyStore | None, notes: list[str]) -> Audited:
    """Read what an audit of the store found; what cannot be read is left out, with a note."""
    if store is None:
        return Audited()
    path = store.parts[0].path
    folder = Path("audit") / path.stem
    if not folder.is_dir():
        return Audited()
    try:
        findings = list(read_columns(folder / "audit.csv", _COLUMNS))
        about = _read_record(folder / "audit.json")
        shortcuts, baseline = _list_shortcuts(about["shortcuts"])
        audited, n_items = Path(str(about["store"])), int(about["items"])
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        notes.append(
            f"the findings in {folder} are left out, since they cannot be read ({reason}); audit again: "
            f"featx audit {path}"
        )
        return Audited()
    if audited.resolve() != path.resolve() or n_items != len(store.parts[0]):
        notes.append(
            f"the findings in {folder} are left out, since they are of {n_items:,} items of {audited}, and "
            f"{path} has {len(store.parts[0]):,}; audit again: featx audit {path}"
        )
        return Audited()
    return Audited(findings, shortcuts, baseline)


def _read_record(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_BYTES:
        msg = f"{path.name} has more than {_MOST_BYTES:,} bytes"
        raise ValueError(msg)
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return about


def _list_shortcuts(found: Sequence[dict[str, Any]]) -> tuple[list[list[str]], str]:
    rows = [
        [
            str(one["what"]),
            format_interval((one["accuracy"], one["low"], one["high"])),
            "yes" if one["strong"] else "no",
        ]
        for one in found
    ]
    return rows, f"{found[0]['baseline']:.3f}" if found else ""


def format_findings(store: AnyStore | None, items: Items, audited: Audited, lists: list[list[int]]) -> str:
    """Format the quarantine, the duplicates and the findings of an audit; lists of items are added to `lists`."""
    if store is None:
        return ""
    place = {to_text(name): at for at, name in enumerate(items.ids)}
    quarantine = [(name, reason) for part in store.parts for name, _, reason in part.quarantine]
    parts = [
        f"<h3>Quarantine: {len(quarantine):,}</h3>{_format_first(('item', 'reason'), quarantine)}",
        _format_copies(store.parts[0], place, lists),
        *_format_audited(audited, place, lists),
    ]
    if audited.findings is None:
        verb = escape_html(f"featx audit {store.parts[0].path}")
        what = "near-copies, suspicious labels, outliers and shortcuts"
        parts.append(f'<p class="note">For {what}: {verb}, then report again.</p>')
    return "".join(parts)


def _format_copies(store: FeatureStore, place: dict[str, int], lists: list[list[int]]) -> str:
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
    table = _format_first(("files with the same bytes", "splits", "classes"), rows)
    return f"<h3>Copies: {format_plural(len(groups), 'group')} {button}</h3>{table}"


def _format_audited(audited: Audited, place: dict[str, int], lists: list[list[int]]) -> list[str]:
    parts, findings = [], audited.findings or ()
    if audited.findings == []:
        parts.append("<h3>Audit: nothing found</h3>")
    for kind in dict.fromkeys(row[1] for row in findings):
        own = [row for row in findings if row[1] == kind]
        button = _link([row[0] for row in own], kind, place, lists)
        parts.append(f"<h3>Audit, {escape_html(kind)}: {len(own):,} {button}</h3>")
        parts.append(_format_first(("item", "suggestion", "why"), [(row[0], *row[2:]) for row in own]))
    if audited.shortcuts:
        head = ("label predicted from", "accuracy [95 %]", "shortcut")
        why = f"Cross-validated, from this alone; always the largest class: {escape_html(audited.baseline)}."
        parts.append("<h3>Audit, what the label follows from</h3>")
        parts.append(f'{format_table(head, audited.shortcuts, "numbers")}<p class="note">{why}</p>')
    return parts


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
    return format_table(head, [list(map(to_text, row)) for row in rows[:_LISTED]]) + more
