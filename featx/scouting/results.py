"""Results of a scout: a row for each set of features, and the one to embed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.embedding import EmbedResult
from featx.evaluation.paired import Paired
from featx.specs import HeadSpec
from featx.wording import (
    format_html_table,
    format_interval,
    format_markdown_table,
    format_p_value,
    format_value,
    to_text,
)

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class ScoutRow:
    """The features of one backbone, cut at one layer and pooled in one way.

    Attributes:
        backbone: The uri of the backbone.
        layer: The layer.
        pooling: The pooling.
        name: Its name in tables.
        flags: The flags with which `featx embed` makes these features.
        store: The store of the features.
        dim: Width of the features.
        bytes_per_item: Bytes of one item's features in the store.
        images_per_second: Images per second of the network alone, up to the last of its layers that were scouted.
        seconds: Time of embedding these items, whenever that happened; layers of one network share it.
        verdict: `best` by accuracy; `worse` if the paired test shows it; else `tie`; `failed` if no head was fitted.
        accuracy: Share of the items that the head predicted correctly while they were held out.
        accuracy_low: Lower end of its 95 % interval.
        accuracy_high: Upper end of its 95 % interval.
        log_loss: Mean log-loss of these predictions, in nats.
        chosen: The parameters of the head that were chosen.
        probe_seconds: Time of tuning the head.
        paired: The difference from the best on the same items; None for the best itself.
        p_value: The p-value of that difference, adjusted for all differences by Holm's method.
        error: Why no head was fitted.
    """

    backbone: str
    layer: str
    pooling: str
    name: str
    flags: tuple[str, ...]
    store: Path
    dim: int
    bytes_per_item: int
    images_per_second: float
    seconds: float | None
    verdict: str = "failed"
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    log_loss: float | None = None
    chosen: str = ""
    probe_seconds: float | None = None
    paired: Paired | None = None
    p_value: float | None = None
    error: str = ""

    @property
    def cost(self) -> tuple[float, int]:
        """The sort key of the cheapest: time for an image, then bytes of an item."""
        return (1 / self.images_per_second if self.images_per_second else float("inf"), self.bytes_per_item)

    def to_dict(self) -> dict[str, Any]:
        """Return a row of `scout.csv`, and of `featx scout --json`: plain values, flat."""
        paired = self.paired
        return {
            "backbone": self.backbone,
            "layer": self.layer,
            "pooling": self.pooling,
            "verdict": self.verdict,
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_low,
            "accuracy_high": self.accuracy_high,
            "log_loss": self.log_loss,
            "difference": paired.difference if paired else None,
            "difference_low": paired.low if paired else None,
            "difference_high": paired.high if paired else None,
            "p_value": self.p_value,
            "dim": self.dim,
            "bytes_per_item": self.bytes_per_item,
            "images_per_second": self.images_per_second,
            "seconds": self.seconds,
            "chosen": self.chosen,
            "probe_seconds": self.probe_seconds,
            "store": to_text(str(self.store)),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class ScoutResult:
    """The outcome of a scout.

    Attributes:
        rows: The most accurate first, those that failed last.
        choice: The row to embed; see `choose_row`.
        command: The command that embeds it; empty where the items came from a DataFrame.
        head: The head that was tuned on each.
        folds: The folds on which its accuracy was measured.
        n_items: Number of items that every store has.
        n_train: Number of all training items.
        folder: The folder that was written; None if none was.
        notes: What the user should know.
        seconds: Time of everything.
        embedded: What embedding returned for each store.
    """

    rows: tuple[ScoutRow, ...]
    choice: ScoutRow
    command: str
    head: HeadSpec
    folds: int
    n_items: int
    n_train: int
    folder: Path | None
    notes: tuple[str, ...]
    seconds: float
    embedded: tuple[EmbedResult, ...]

    def __repr__(self) -> str:
        kept = f" -> {str(self.folder)!r}" if self.folder else ""
        return f"<ScoutResult of {len(self.rows):,} rows on {self.n_items:,} items; embed {self.choice.name}{kept}>"

    @property
    def best(self) -> ScoutRow:
        """The most accurate row."""
        return self.rows[0]

    @property
    def ties(self) -> tuple[ScoutRow, ...]:
        """The rows that are not shown to be worse than the best, without the best itself."""
        return tuple(row for row in self.rows if row.verdict == "tie")

    def check(self) -> None:
        """Refuse a result with too many items in quarantine, as `EmbedResult.check` does.

        Raises:
            SourceError: If the share of one store is above `max_bad`.
        """
        for result in self.embedded:
            result.check()

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx scout --json` prints, and `scout.json` holds."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "choice": self.choice.to_dict(),
            "command": self.command,
            "head": self.head.name,
            "folds": self.folds,
            "items": self.n_items,
            "train_items": self.n_train,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def to_frame(self) -> "DataFrame":
        """Return the rows as a pandas DataFrame: the columns of `scout.csv`, in its order."""
        from pandas import DataFrame

        return DataFrame([row.to_dict() for row in self.rows])

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        header, rows = self.tabulate()
        return format_markdown_table(header, rows, n_text=1)

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        header, rows = self.tabulate()
        return format_html_table(header, rows, n_text=1)

    def tabulate(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the cells of the table."""
        header = ["features", "accuracy", "95 %", "dim", "bytes", "images/s", "embed s", "points to the best", "p", ""]
        return header, [[*_format_row(row), self._mark(row)] for row in self.rows]

    def _mark(self, row: ScoutRow) -> str:
        return f"{row.verdict}, recommended" if row is self.choice and self.ties else row.verdict


def choose_row(rows: Sequence[ScoutRow], *, is_sample: bool) -> ScoutRow:
    """Choose the row to embed.

    It is the cheapest of those that are not shown to be worse than the best. A sample shows too few differences for
    that (docs/scout.md has the counts), so that it is the best itself then.

    Args:
        rows: The rows, the most accurate first.
        is_sample: Whether only some of the training items were embedded.
    """
    able = [row for row in rows if row.verdict in {"best", "tie"}]
    return able[0] if is_sample else min(able, key=lambda row: row.cost)


def _format_row(row: ScoutRow) -> list[str]:
    paired = row.paired
    points = [f"{100 * share:+.1f}" for share in (paired.difference, paired.low, paired.high)] if paired else []
    ends = format_interval((row.accuracy, row.accuracy_low, row.accuracy_high)).partition("[")[2].rstrip("]")
    return [
        row.name,
        format_value(row.accuracy),
        ends.replace(", ", "-") or "-",
        f"{row.dim:,}",
        f"{row.bytes_per_item:,}",
        f"{row.images_per_second:,.0f}" if row.images_per_second else "-",
        format_value(row.seconds, 1),
        f"{points[0]} ({points[1]} to {points[2]})" if points else "-",
        format_p_value(row.p_value),
    ]
