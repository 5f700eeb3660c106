"""Findings of an audit: what is said of which item, with a number and a suggestion."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.items.manifest import Reader
from featx.items.thumbnails import format_thumbnails
from featx.wording import escape_html, format_html_table, format_plural, join_first

if TYPE_CHECKING:
    from pandas import DataFrame

#: Kinds of findings in the order in which they are shown, and what each means.
KINDS = {
    "copy": "files with the same bytes",
    "near-copy": "the same picture, saved, resized, cropped, brightened or mirrored",
    "suspicious label": "held out, the features say another class",
    "outlier": "its features are far from those of all other items",
    "blank": "the picture has hardly any contrast",
    "exposure": "the picture is much darker or brighter than most, and dark or clipped",
    "blur": "the picture has much less fine detail than most",
    "tiny": "the picture has few pixels",
    "odd shape": "the picture is much longer than it is wide, or wider than long",
    "unreadable": "the picture cannot be read any more",
}


#: Names of a group that are shown, and lines and pictures of each kind in a notebook; copies are mostly pairs.
_NAMED, _SHOWN, _PICTURES = 4, 5, 6


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        id: The item.
        kind: One of `KINDS`.
        score: How strong it is: the larger, the stronger; each kind has its own scale.
        suggestion: What to do: `group`, `check`, `leave out`, or `label NAME`.
        group: For copies, the name of their group: its first item.
        detail: More, in words.
    """

    id: str
    kind: str
    score: float
    suggestion: str
    group: str = ""
    detail: str = ""

    def format_caption(self) -> str:
        """Format in a few words what was found, for a line below the picture."""
        if self.group:
            return f"group of {Path(self.group).name}"
        if self.suggestion.startswith("label "):
            return f"{self.suggestion}? {self.score:.2f}"
        if self.kind == "outlier":
            return f"distance {self.score:.3g}"
        words = self.detail.partition(";")[0].removeprefix("standard deviation of ")
        return words.partition(",")[0].partition(":")[0] if self.kind in {"blur", "exposure"} else words


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well the label follows from something that should not matter.

    Attributes:
        what: Such as `file size`.
        accuracy: Cross-validated share of items whose label is predicted from it alone.
        low, high: Ends of the 95 % interval.
        baseline: The share of the largest class.
    """

    what: str
    accuracy: float
    low: float
    high: float
    baseline: float

    @property
    def is_strong(self) -> bool:
        """Whether it predicts the label clearly better than the largest class does."""
        return self.low > self.baseline + 0.05


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit of a store found.

    Attributes:
        store: The store.
        n_items: Number of its items.
        findings: The findings, by kind and the strongest first; groups of copies stay together.
        shortcuts: What the label was predicted from, the best predictor first.
        notes: What could not be looked for, and why.
        thresholds: The thresholds, by kind.
        reader: Reads the pictures, for notebooks.
    """

    store: Path
    n_items: int
    findings: tuple[Finding, ...]
    shortcuts: tuple[Shortcut, ...]
    notes: tuple[str, ...]
    thresholds: Mapping[str, float]
    reader: Reader | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.findings)

    def __repr__(self) -> str:
        return f"Audit({str(self.store)!r}, items={self.n_items}, findings={self.count()})"

    def _repr_html_(self) -> str:
        """Show the first findings of each kind in a notebook, with pictures where they are still there."""
        parts = [f"<p>{escape_html(f'{self.store}: {self.n_items:,} items')}</p>"]
        for kind in self.count():
            lines = self.list_lines(kind)
            found = self.list_kind(kind)
            parts.append(f"<p><b>{escape_html(self.describe_kind(kind, _SHOWN))}</b></p>")
            parts.append(format_html_table(("image", "suggestion", "why"), lines[:_SHOWN], n_text=3))
            if self.reader:
                ids, captions = [one.id for one in found], [one.format_caption() for one in found]
                parts.append(format_thumbnails(self.reader, ids[:_PICTURES], captions[:_PICTURES]))
        parts += [f"<p>{escape_html(note)}</p>" for note in self.notes]
        parts += [
            f"<p>shortcut: {escape_html(one.what)} ({one.accuracy:.3f})</p>" for one in self.shortcuts if one.is_strong
        ]
        then = f"featx audit {self.store}"
        parts.append(f"<p>audit.csv and contact sheets: <code>{escape_html(then)}</code></p>")
        return f"<div>{''.join(parts)}</div>"

    def count(self) -> dict[str, int]:
        """Count the findings of each kind, in the order of `KINDS`, without kinds that were not found."""
        counts = Counter(finding.kind for finding in self.findings)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    def list_kind(self, kind: str) -> Sequence[Finding]:
        """List the findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def list_lines(self, kind: str) -> list[tuple[str, str, str]]:
        """List the findings of one kind as image, suggestion and detail; a group of copies is one line."""
        lines = []
        for _, members in groupby(self.list_kind(kind), key=lambda one: one.group or one.id):
            group = list(members)
            names = join_first([one.id for one in group], _NAMED, " = ")
            lines.append((names, group[0].suggestion, group[0].detail))
        return lines

    def describe_kind(self, kind: str, shown: int) -> str:
        """Describe how many findings of one kind there are, and how many lines of them are shown."""
        found, n_lines = self.list_kind(kind), len(self.list_lines(kind))
        groups = found[0].group != ""
        count = (
            f"{format_plural(len(found), 'picture')} in {format_plural(n_lines, 'group')}"
            if groups
            else f"{len(found):,}"
        )
        return f"{kind}: {count}" + (f", of which {shown} are shown" if n_lines > shown else "")

    def tabulate(self) -> dict[str, list[Any]]:
        """Return the columns of `audit.csv`."""
        names = ("id", "kind", "score", "suggestion", "group", "detail")
        return {name: [getattr(finding, name) for finding in self.findings] for name in names}

    def to_frame(self) -> "DataFrame":
        """Return the findings as a pandas DataFrame with the columns of `audit.csv`."""
        from pandas import DataFrame

        return DataFrame(self.tabulate())

    def to_dict(self) -> dict[str, Any]:
        """Return the output of `featx audit --json`."""
        return {
            "store": str(self.store),
            "items": self.n_items,
            "counts": self.count(),
            "findings": [asdict(finding) for finding in self.findings],
            "shortcuts": [asdict(one) | {"strong": one.is_strong} for one in self.shortcuts],
            "thresholds": dict(self.thresholds),
            "notes": list(self.notes),
        }
