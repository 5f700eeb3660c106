"""Results of a comparison: its rows, and the table of them for people and papers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.errors import UsageError
from featx.evaluation import METRICS, Evaluation
from featx.evaluation.paired import SIGNIFICANCE, Paired
from featx.specs import HeadSpec
from featx.wording import (
    UNDEFINED,
    escape_html,
    escape_latex,
    escape_markdown,
    format_html_table,
    format_interval,
    format_latex_table,
    format_markdown_table,
    format_p_value,
    to_text,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from featx.report.page import Report


#: What `ComparisonRow.kind` may be; the last is for fine-tuning that kept its start.
FROZEN, FINE_TUNED, START = "frozen", "fine-tuned", "start"

#: What the name of a run that kept its start has after its plan.
START_MARK = " (start)"

#: The heading of `ComparisonRow.verdict`, which is not the order of the test.
AGAINST = "against the best by validation"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A head on the features of a store, or a finished run, with its numbers.

    Attributes:
        store: Name of the store. For a finished run, the store with its backbone, or else the backbone.
        head: The head, with the chosen params and scaling; if it failed, as it was requested.
        chosen: The params and scaling that were chosen, in a few words.
        bytes_per_item: Size of one item's features in the store; None if no store has them.
        verdict: `best` by validation; `tie` if the test shows no difference from the best by validation; `worse` or
            `better` if it shows one; `failed`.
        validation_accuracy: Share of the validation items that were right; None if the head failed, or if a run
            had no items except those that it was trained on.
        validation_log_loss: Mean log-loss of the validation items, in nats.
        test: The evaluation on the test items; None if the head failed.
        paired: The difference from the best on the same test items; None for the best itself.
        p_value: The p-value of that difference, adjusted for all differences by Holm's method.
        fit_seconds: Time of tuning and fitting on all items except those of the test; for a finished run, of
            everything that it did.
        embed_seconds: Time of embedding all items, whenever that happened. It is in addition to `fit_seconds`, but
            part of them for a run of fine-tuning. None if it is not recorded.
        predict_seconds: Time of predicting all test items.
        threads: Threads that were allowed during fitting.
        peak_memory_bytes: Peak memory of the fitting process, imports included; None if it is not known.
        trained_parameters: Number of trained parameters, those of the head alone if a run kept its start; None for
            heads without any, such as neighbours.
        kind: `frozen` for a head on frozen features; `fine-tuned`; or `start` for a run of fine-tuning that kept its
            start, the frozen network with its first head.
        name: Its name in tables; the head's name if empty.
        run: The folder of a finished run; None for a head that this comparison fitted.
        gain: For a fine-tuned run, the difference from the frozen head that validation ranks first.
        gain_p_value: The p-value of the gain, adjusted together with all others of the comparison.
        notes: What the user should know.
        error: Why it failed.
    """

    store: str
    head: HeadSpec
    chosen: str
    bytes_per_item: int | None
    verdict: str = "failed"
    validation_accuracy: float | None = None
    validation_log_loss: float | None = None
    test: Evaluation | None = None
    paired: Paired | None = None
    p_value: float | None = None
    fit_seconds: float | None = None
    embed_seconds: float | None = None
    predict_seconds: float | None = None
    threads: int | None = None
    peak_memory_bytes: int | None = None
    trained_parameters: int | None = None
    kind: str = FROZEN
    name: str = ""
    run: Path | None = None
    gain: Paired | None = None
    gain_p_value: float | None = None
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.name or self.head.name

    def to_dict(self) -> dict[str, Any]:
        """Return a row of `featx compare --json`: plain values, flat except for `params` and `notes`."""
        test, paired, gain = self.test, self.paired, self.gain
        measured: dict[str, float | None] = {"items": test.n_items if test else None}
        for metric in METRICS:
            ends = test.get_interval(metric) if test else (None, None, None)
            measured |= zip((metric, f"{metric}_low", f"{metric}_high"), ends, strict=True)
        return {
            "store": self.store,
            "head": self.title,
            "kind": self.kind,
            "verdict": self.verdict,
            "params": dict(self.head.params),
            "scaling": self.head.scaling,
            "calibration": self.head.calibration,
            "validation_accuracy": self.validation_accuracy,
            "validation_log_loss": self.validation_log_loss,
            **measured,
            "difference": paired.difference if paired else None,
            "difference_low": paired.low if paired else None,
            "difference_high": paired.high if paired else None,
            "p_value": self.p_value,
            "p_value_single": paired.p_value if paired else None,
            "p_value_exact": paired.p_value_exact if paired else None,
            "fit_seconds": self.fit_seconds,
            "embed_seconds": self.embed_seconds,
            "predict_seconds": self.predict_seconds,
            "threads": self.threads,
            "peak_memory_bytes": self.peak_memory_bytes,
            "trained_parameters": self.trained_parameters,
            "bytes_per_item": self.bytes_per_item,
            "gain": gain.difference if gain else None,
            "gain_low": gain.low if gain else None,
            "gain_high": gain.high if gain else None,
            "gain_p_value": self.gain_p_value,
            "run": to_text(str(self.run)) if self.run else None,
            "notes": list(self.notes),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Heads on stores and finished runs, on the same items.

    Attributes:
        rows: The best by validation first, then runs that were validated on other items, then those that failed.
        folder: The folder that was written; None if none was.
        test_name: The split that was reported on: `test` or `val`.
        validation_name: The items that rank the rows.
        n_train: Number of items that the tested heads were trained on.
        n_test: Number of test items.
        versions: Versions of the packages that computed it.
        notes: What the user should know about the items.
        seconds: Time of everything; results that an earlier run left take none.
        verdict: Whether fine-tuning paid off, one sentence for each fine-tuned run.
        call: The stores and flags of `featx compare` that repeat it; empty if only Python can, as with a `HeadSpec`.
    """

    rows: tuple[ComparisonRow, ...]
    folder: Path | None
    test_name: str
    validation_name: str
    n_train: int
    n_test: int
    versions: dict[str, str]
    notes: tuple[str, ...]
    seconds: float
    verdict: tuple[str, ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        kept = f" -> {str(self.folder)!r}" if self.folder else ""
        return (
            f"<Comparison of {len(self.rows):,} rows, {len(self.failed):,} failed; best {self.best.title}; trained on "
            f"{self.n_train:,} items, tested on {self.n_test:,}{kept}>"
        )

    @property
    def best(self) -> ComparisonRow:
        """The row that validation ranks first."""
        return self.rows[0]

    @property
    def ties(self) -> tuple[ComparisonRow, ...]:
        """The rows that these test items cannot tell from the best."""
        return tuple(row for row in self.rows if row.verdict == "tie")

    @property
    def failed(self) -> tuple[ComparisonRow, ...]:
        """The rows without numbers."""
        return tuple(row for row in self.rows if row.verdict == "failed")

    def name_row(self, row: ComparisonRow) -> str:
        """Name a row: with its store if heads are on several, or a finished run is on another."""
        stores = {row.store for row in self.rows if row.run is None}
        plain = stores == {row.store} or (not stores and len(self.rows) == 1)
        return row.title if plain else f"{row.title} on {row.store}"

    def explain_ties(self) -> tuple[str, ...]:
        """Explain why a difference whose interval excludes 0 is a tie; empty if the table has none."""
        names = [self.name_row(row) for row in self.ties if row.paired and not row.paired.low <= 0 <= row.paired.high]
        if not names:
            return ()
        reason = f"p is adjusted for all differences of the table (Holm), and is not below {SIGNIFICANCE}"
        tie = "a tie, although the interval excludes 0. The interval is of this difference alone"
        return (f"{', '.join(names)}: {tie}; {reason}",)

    def list_footnotes(self) -> list[str]:
        """List what a table in a report must explain: ties, finished runs, and heads that failed."""
        runs = [f"{self.name_row(row)}: {note}" for row in self.rows if row.run for note in row.notes]
        return [*self.explain_ties(), *runs, *(f"{self.name_row(row)} failed: {row.error}" for row in self.failed)]

    def to_dict(self) -> dict[str, Any]:
        """Return what `comparison.json` holds."""
        return {
            "test_name": self.test_name,
            "validation_name": self.validation_name,
            "train_items": self.n_train,
            "test_items": self.n_test,
            "verdict": list(self.verdict),
            "rows": [row.to_dict() for row in self.rows],
            "versions": self.versions,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "call": dict(self.call),
        }

    def to_frame(self) -> "DataFrame":
        """Return the rows as a pandas DataFrame: the columns of `comparison.csv`, in its order."""
        from pandas import DataFrame

        return DataFrame([row.to_dict() for row in self.rows])

    def to_markdown(self) -> str:
        """Return the table as Markdown, each metric with its 95 % interval, and its footnotes as a list."""
        header, rows = self._tabulate()
        notes = [f"- {escape_markdown(note)}\n" for note in self.list_footnotes()]
        return "".join([format_markdown_table(header, rows, n_text=self._count_texts()), "\n" * bool(notes), *notes])

    def to_latex(self) -> str:
        """Return the table as LaTeX with booktabs, each metric with its 95 % interval, and its footnotes below."""
        header, rows = self._tabulate()
        n_text = self._count_texts()
        cells = [[*map(escape_latex, row[:n_text]), *map(_typeset_number, row[n_text:])] for row in rows]
        table = format_latex_table([escape_latex(name) for name in header], cells, n_text=n_text)
        caption = escape_latex(self._describe_items())
        notes = [f"\\par\\smallskip{{\\footnotesize {escape_latex(note)}\\par}}\n" for note in self.list_footnotes()]
        return (
            "% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
            f"\\caption{{{caption}}}\n\\label{{tab:comparison}}\n{table}{''.join(notes)}\\end{{table}}\n"
        )

    def _repr_html_(self) -> str:
        """Show the table in a notebook, and pictures that the first finished run got wrong whose pictures are there."""
        from featx.report.mistakes import show_mistakes

        pictures = (show_mistakes(row.run, f"{self.name_row(row)}: ") for row in self.rows)
        return self.to_html() + next(filter(None, pictures), "")

    def report(self) -> "Report":
        """Write `report.html` into the folder, as `featx.write_report` does; a notebook shows it.

        Raises:
            UsageError: If no folder was written.
            FeatxError: As `featx.write_report`.
        """
        from featx.report.page import write_report

        if self.folder is None:
            msg = 'this comparison has no folder to report on; compare with CompareOptions(folder="comparison")'
            raise UsageError(msg)
        return write_report(self.folder)

    def to_html(self, *, footnotes: bool = True) -> str:
        """Return the table as HTML, each metric with its 95 % interval.

        Args:
            footnotes: Whether its footnotes follow.
        """
        header, rows = self._tabulate()
        table = format_html_table(header, rows, n_text=self._count_texts())
        notes = [f"<p>{escape_html(note)}</p>" for note in self.list_footnotes() if footnotes]
        return "".join([f"<p>{escape_html(self._describe_items())}</p>", table, *notes])

    def _describe_items(self) -> str:
        return (
            f"{self.n_test:,} {self.test_name} items, ordered by validation ({self.validation_name}). Brackets hold "
            "95 % intervals; p is adjusted by Holm's method."
        )

    def _count_texts(self) -> int:
        """Count the first columns that hold text: the head, and the store where there are several."""
        return 1 + (len({row.store for row in self.rows}) > 1)

    def _tabulate(self) -> tuple[list[str], list[list[str]]]:
        several = self._count_texts() > 1
        header = ["head", *(["store"] if several else []), "validation", "accuracy", "macro-F1", "log-loss"]
        cells = [[row.title, *([row.store] if several else []), *_format_numbers(row)] for row in self.rows]
        return [*header, "difference from the best", "p", AGAINST], cells


def _format_numbers(row: ComparisonRow) -> list[str]:
    intervals = [row.test.get_interval(name) if row.test else None for name in ("accuracy", "macro_f1", "log_loss")]
    paired = row.paired
    return [
        format_interval((row.validation_accuracy, None, None)),
        *(format_interval(interval) for interval in intervals),
        format_interval((paired.difference, paired.low, paired.high) if paired else None, "+.3f"),
        format_p_value(row.p_value),
        row.verdict,
    ]


def _typeset_number(cell: str) -> str:
    r"""Typeset a cell of `_format_numbers`, its interval in small type: `0.952 {\\small [0.927, 0.969]}`."""
    if cell == UNDEFINED:
        return "--"
    value, bracket, ends = cell.replace("-", "$-$").replace("<", "$<$").partition(" [")
    return f"{value} {{\\small [{ends}}}" if bracket else value
