"""What a comparison found: a standing for each store and head, and the whole of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx.evaluation import METRICS, Evaluation
from featx.evaluation.paired import Paired
from featx.specs import HeadSpec
from featx.wording import to_text

#: What `Standing.kind` may be.
FROZEN, FINE_TUNED = "frozen", "fine-tuned"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a head did on the features of a store.

    Attributes:
        store: Name of the store; of a finished run, that of a store with its backbone, or its backbone.
        head: The head, with the params and scaling that were chosen; what was asked for, if it failed.
        chosen: What of these was open, in a few words.
        bytes_per_item: Size of one item's features in the store; None where no store has them.
        verdict: `best` by validation; `tie` where the test shows no difference from it; `worse` or
            `better` where it shows one; `failed`.
        validation_accuracy: Share of the validation items that were right; None if it failed, or if a run had
            no items but those that it learnt from.
        validation_log_loss: Their mean log-loss, in nats.
        test: The evaluation on the test items; None if it failed.
        paired: Its difference from the best on the same test items; None for the best itself.
        p_value: The p-value of that, adjusted for all differences by Holm's method.
        fit_seconds: Time of tuning and fitting on all but the test items; of a finished run, of all it did.
        embed_seconds: Time of embedding all items, whenever it was done: beside `fit_seconds`, or, of a fine-tuned
            run, a part of them. None where nothing tells.
        predict_seconds: Time of predicting all test items.
        threads: Threads that were allowed meanwhile.
        peak_memory_bytes: The most memory of the process meanwhile, imports included; None if it is not known.
        trained_parameters: Parameters that were learnt; None for what learns none, such as neighbours.
        kind: `frozen` for a head on frozen features, or `fine-tuned`.
        name: What it is called in tables; the head's name if empty.
        run: The folder of a finished run; None for what was fitted here.
        gain: Of a fine-tuned run, its difference from the frozen head that validation ranks first.
        gain_p_value: The p-value of that, adjusted together with all others of the comparison.
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
        """What it is called."""
        return self.name or self.head.name

    def to_dict(self) -> dict[str, Any]:
        """Return what a row of `featx compare --json` is: plain and flat values but for `params` and `notes`."""
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
    """Heads on stores, on the same items.

    Attributes:
        standings: The best by validation first; then runs that were validated on other items; those that failed last.
        folder: What was written; None if nothing was.
        test_name: The split that was reported on: `test` or `val`.
        validation_name: What the ranking is by.
        n_train: Items that the heads which were tested had learnt from.
        n_test: Items of the test.
        versions: Versions of what computed it.
        notes: What the user should know of the items.
        seconds: Time of everything; finished parts of an earlier run take none.
        verdict: Whether fine-tuning was worth it, a sentence for each fine-tuned run.
    """

    standings: tuple[Standing, ...]
    folder: Path | None
    test_name: str
    validation_name: str
    n_train: int
    n_test: int
    versions: dict[str, str]
    notes: tuple[str, ...]
    seconds: float
    verdict: tuple[str, ...] = ()

    @property
    def best(self) -> Standing:
        """The one that was chosen by validation."""
        return self.standings[0]

    @property
    def ties(self) -> tuple[Standing, ...]:
        """Those that these test items cannot tell from the best."""
        return tuple(standing for standing in self.standings if standing.verdict == "tie")

    @property
    def failed(self) -> tuple[Standing, ...]:
        """Those without numbers."""
        return tuple(standing for standing in self.standings if standing.verdict == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Return what `comparison.json` holds."""
        return {
            "test_name": self.test_name,
            "validation_name": self.validation_name,
            "train_items": self.n_train,
            "test_items": self.n_test,
            "verdict": list(self.verdict),
            "rows": [standing.to_dict() for standing in self.standings],
            "versions": self.versions,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }
