"""Findings of an audit: what is said of which item, with a number and a suggestion."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """

    store: Path
    n_items: int
    findings: tuple[Finding, ...]
    shortcuts: tuple[Shortcut, ...]
    notes: tuple[str, ...]
    thresholds: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.findings)

    def count(self) -> dict[str, int]:
        """Count the findings of each kind, in the order of `KINDS`, without kinds that were not found."""
        counts = Counter(finding.kind for finding in self.findings)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    def list_kind(self, kind: str) -> Sequence[Finding]:
        """List the findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

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
