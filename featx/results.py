"""What comes out: a run of `fit` or `finetune`, its learning curve, and a comparison with its rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation import METRICS, Evaluation
from featx.evaluation.forecast import Forecast
from featx.evaluation.paired import Paired
from featx.specs import HeadSpec
from featx.wording import to_text

#: What `ComparisonRow.kind` may be.
FROZEN, FINE_TUNED = "frozen", "fine-tuned"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
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

    standings: tuple[ComparisonRow, ...]
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
    def best(self) -> ComparisonRow:
        """The one that was chosen by validation."""
        return self.standings[0]

    @property
    def ties(self) -> tuple[ComparisonRow, ...]:
        """Those that these test items cannot tell from the best."""
        return tuple(standing for standing in self.standings if standing.verdict == "tie")

    @property
    def failed(self) -> tuple[ComparisonRow, ...]:
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


@dataclass(frozen=True, slots=True)
class Candidate:
    """Parameters and a scaling that were tried, and how well they did.

    Attributes:
        params: The parameters that are not left to the head's settings.
        scaling: The scaling.
        strength: Place among the parameters tried, 0 for the strongest regularisation.
        accuracy: Share of all items that were right while held out.
        accuracy_std: Standard deviation of the folds' accuracies.
        balanced_accuracy: Mean over the classes of the share of their items that were right; it
            decides where classes are weighted to count the same.
        log_loss: Mean over the held-out items; None for a head that is calibrated,
            as that happens after tuning.
    """

    params: Mapping[str, Any]
    scaling: str
    strength: int
    accuracy: float
    accuracy_std: float
    log_loss: float | None
    balanced_accuracy: float = 0.0

    def __str__(self) -> str:
        return name_candidate(self.params, self.scaling)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self) | {"params": dict(self.params)}


def name_candidate(params: Mapping[str, Any], scaling: str) -> str:
    """Name a candidate by its parameters and scaling, such as `C=1 scaling=l2`."""
    return " ".join([*(f"{name}={value}" for name, value in params.items()), f"scaling={scaling}"])


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy by the number of items that were learnt from.

    Attributes:
        sizes: Items, or items of each class for few shots.
        accuracies: float64 (n_sizes, n_repeats).
        lows: float64 (n_sizes,), lower ends of 95 % intervals of the means.
        highs: float64 (n_sizes,), upper ends.
        forecast: What twice the items would bring; None for few shots.
        notes: What the user should know.
    """

    sizes: tuple[int, ...]
    accuracies: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    forecast: Forecast | None
    notes: tuple[str, ...] = ()

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean accuracy at each size, float64 (n_sizes,)."""
        return np.asarray(self.accuracies.mean(axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values = {
            "sizes": list(self.sizes),
            "accuracy": self.means.tolist(),
            "accuracy_low": self.lows.tolist(),
            "accuracy_high": self.highs.tolist(),
            "accuracies": self.accuracies.tolist(),
        }
        return (
            values
            if self.forecast is None
            else values | {"forecast": {**self.forecast.to_dict(), "words": str(self.forecast)}}
        )

    def tabulate(self) -> Mapping[str, list[Any]]:
        """Return the columns of a table."""
        return {
            "size": list(self.sizes),
            "accuracy": self.means.tolist(),
            "accuracy_low": self.lows.tolist(),
            "accuracy_high": self.highs.tolist(),
            **{f"accuracy_{at + 1}": column.tolist() for at, column in enumerate(self.accuracies.T)},
        }


@dataclass(frozen=True, slots=True)
class Run:
    """One fit and its outcome.

    Attributes:
        bundle: The folder that was written; None if none was asked for.
        head: The head, with the params and scaling that were chosen.
        validation: What the chosen head did on validation items, before it saw the test.
        test: The final evaluation; with cross-validation, over all its folds.
        n_train: Items that the shipped head learnt from.
        test_name: The split that was reported on: `test`, `val` or `5-fold cross-validation`.
        notes: What the user should know.
        seconds: Time of everything after loading the store.
        candidates: What was tried, and how each did on held-out items.
        protocol: The protocol, if there was one.
        curve: The learning curve, if it was asked for.
        shots: Accuracy by items of each class, of a protocol that measures it.
        finetuned: Of a backbone that was trained too: what learnt, how long, and what it took.
    """

    bundle: Path | None
    head: HeadSpec
    validation: Evaluation
    test: Evaluation
    n_train: int
    test_name: str
    notes: tuple[str, ...]
    seconds: float
    candidates: tuple[Candidate, ...] = ()
    protocol: str = ""
    curve: Curve | None = None
    shots: Curve | None = None
    finetuned: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx fit --json` prints and `metrics.json` holds."""
        return {
            "bundle": str(self.bundle) if self.bundle else None,
            "head": self.head.to_dict(),
            "test_name": self.test_name,
            "train_items": self.n_train,
            "validation": self.validation.to_dict(),
            "test": self.test.to_dict(),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "protocol": self.protocol,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "curve": self.curve.to_dict() if self.curve else None,
            "shots": self.shots.to_dict() if self.shots else None,
            "finetuned": dict(self.finetuned) if self.finetuned else None,
        }
