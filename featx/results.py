"""Results: a run of `fit` or `finetune`, the parameters that were tried, the learning curve, and predictions."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import BundleError, UsageError
from featx.evaluation import Evaluation
from featx.evaluation.forecast import Forecast
from featx.evaluation.text import list_metrics
from featx.files import read_columns, read_table
from featx.specs import FineTuneSpec, HeadSpec
from featx.wording import (
    escape_html,
    format_html_table,
    format_value,
    to_text,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from featx.report.mistakes import Mistakes
    from featx.report.page import Report


#: The file of a bundle that holds `Run.predictions`.
PREDICTIONS = "predictions.csv"

#: What a fine-tuned run is whose start no epoch improved on.
KEPT_START = "kept the start: the frozen network with its first head; nothing was trained"

#: Untrusted counts and times stay below: Python's integers are unbounded, and not all of them fit a float.
LARGEST = 2.0**63

#: The longest text of an untrusted bundle that a table shows.
MOST_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Candidate:
    """Parameters and a scaling that were tried, with their scores on held-out items.

    Attributes:
        params: The parameters that were tried.
        scaling: The scaling.
        strength: Position among the parameters tried; 0 has the strongest regularisation.
        accuracy: Share of all items that were right while held out.
        accuracy_std: Standard deviation of the folds' accuracies.
        balanced_accuracy: Mean of the classes' recalls; it counts if classes are weighted equally.
        log_loss: Mean over the held-out items, or of the classes' means if classes are weighted
            equally; of a head that is calibrated, after a temperature for each fold that is fitted
            to the others. None if the version that wrote a bundle did not record it.
    """

    params: Mapping[str, Any]
    scaling: str
    strength: int
    accuracy: float = 0.0
    accuracy_std: float = 0.0
    log_loss: float | None = None
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
class TriedHead:
    """A head that was tuned so that the best could be chosen, with its scores on validation items.

    Attributes:
        name: Its name.
        params, scaling: Those that tuning chose.
        accuracy: Share of the items that were right; the mean of the classes' recalls if they are weighted equally.
        accuracy_error: The standard error of this accuracy.
        log_loss: The log-loss.
        chosen: Whether it was chosen.
        error: Why it could not be fitted; empty if it could.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    scaling: str = ""
    accuracy: float = 0.0
    accuracy_error: float = 0.0
    log_loss: float = 0.0
    chosen: bool = False
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self) | {"params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy by the number of training items.

    Attributes:
        sizes: Numbers of training items; of items per class for few shots.
        accuracies: float64 (n_sizes, n_repeats).
        lows: float64 (n_sizes,), lower ends of 95 % intervals: from all held-out items; for few shots, Student's
            t of the mean over the draws.
        highs: float64 (n_sizes,), upper ends.
        forecast: The expected accuracy with twice the items; None for few shots.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuned:
    """How a backbone was fine-tuned; None stands for what the version that wrote a bundle did not record.

    Attributes:
        backbone: The uri of the backbone that it started from.
        unfreeze: The layers that were trained, such as `last:23`.
        trainable_parameters: Parameters of the backbone that the plan trains, also if the start was kept.
        frozen_parameters: Parameters of the backbone that the plan leaves as they are.
        head_parameters: Parameters of the head.
        epochs: Epochs of training.
        best_epoch: The epoch whose weights were kept; 0 for the start.
        seconds: Time of everything from scratch: epochs of an interrupted run and earlier embedding included.
        elapsed_seconds: Time of this run.
        embed_seconds: The part of `seconds` that embedding took, whichever run did it.
        train_seconds: The part that training took.
        validated_on: `validation`, or `training` if no item could be held out; empty if not recorded.
        batch_parts: Number of parts in which each batch was computed.
        peak_memory_bytes: Peak memory of the process.
        cached: Whether the feature maps of the frozen layers were stored and read back.
        cut: Names of the last frozen layers.
        views: Augmented views of each training image; 0 for a new one in every epoch.
        augmentation: The augmentation; empty for none.
        spec: The spec, with the head's parameters; None for a spec of another version.
    """

    backbone: str
    unfreeze: str
    trainable_parameters: int
    frozen_parameters: int | None = None
    head_parameters: int
    epochs: int
    best_epoch: int
    seconds: float
    elapsed_seconds: float | None = None
    embed_seconds: float | None = None
    train_seconds: float | None = None
    validated_on: str = ""
    batch_parts: int | None = None
    peak_memory_bytes: int | None = None
    cached: bool | None = None
    cut: tuple[str, ...] = ()
    views: int | None = None
    augmentation: str = ""
    spec: FineTuneSpec | None = None

    @property
    def kept_start(self) -> bool:
        """Whether no epoch improved on the start, so that the result is the frozen network with its first head."""
        return self.best_epoch == 0

    @property
    def trained_parameters(self) -> int:
        """Number of trained parameters of the result: those of the head alone if the start was kept."""
        return self.head_parameters + (0 if self.kept_start else self.trainable_parameters)

    def to_dict(self) -> dict[str, Any]:
        """Return what `metrics.json` holds under `finetuned`."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values |= {"kept_start": self.kept_start, "trained_parameters": self.trained_parameters}
        return values | {"cut": list(self.cut), "spec": self.spec.to_dict() if self.spec else None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned, from a bundle that is not trusted.

        Raises:
            KeyError: If a value is missing that all versions wrote.
            TypeError: If a value has the wrong type.
            ValueError: If a number is negative or not finite.
        """
        cut, cached = values.get("cut"), values.get("cached")
        # Without `elapsed_seconds`, that version recorded the embedding of its own run alone.
        embedding = values.get("embed_seconds") if "elapsed_seconds" in values else None
        return cls(
            trainable_parameters=_read_count(values["trainable_parameters"], "trainable_parameters"),
            frozen_parameters=_read_count_or_none(values, "frozen_parameters"),
            head_parameters=_read_count(values["head_parameters"], "head_parameters"),
            best_epoch=_read_count(values["best_epoch"], "best_epoch"),
            epochs=_read_count(values["epochs"], "epochs"),
            backbone=_read_text(values["backbone"], "backbone"),
            unfreeze=_read_text(values["unfreeze"], "unfreeze"),
            seconds=read_seconds(values["seconds"], "seconds"),
            elapsed_seconds=read_seconds_or_none(values, "elapsed_seconds"),
            embed_seconds=None if embedding is None else read_seconds(embedding, "embed_seconds"),
            train_seconds=read_seconds_or_none(values, "train_seconds"),
            validated_on=_read_text(values.get("validated_on") or "", "validated_on"),
            batch_parts=_read_count_or_none(values, "batch_parts"),
            peak_memory_bytes=_read_count_or_none(values, "peak_memory_bytes") or None,
            cached=cached if isinstance(cached, bool) else None,
            cut=tuple(_read_text(name, "cut") for name in cut) if isinstance(cut, list) else (),
            views=_read_count_or_none(values, "views"),
            augmentation=_read_text(values.get("augmentation") or "", "augmentation"),
            spec=_read_spec(values.get("spec")),
        )


def _read_count(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < LARGEST:
        msg = f"{name} is {str(value)[:MOST_CHARACTERS]}, not a count"
        raise ValueError(msg)
    return value


def _read_count_or_none(values: Mapping[str, Any], name: str) -> int | None:
    return None if values.get(name) is None else _read_count(values[name], name)


def read_seconds(value: object, name: str) -> float:
    """Read a time from a bundle that is not trusted.

    Raises:
        ValueError: If it is not a number, or negative or infinite.
    """
    if not (type(value) in {int, float} and 0 <= value < LARGEST):  # type: ignore[operator]
        msg = f"{name} is {str(value)[:MOST_CHARACTERS]}, not a number of seconds"
        raise ValueError(msg)
    return float(value)  # type: ignore[arg-type]


def read_seconds_or_none(values: Mapping[str, Any], name: str) -> float | None:
    """Read a time that may be absent, as `read_seconds` does."""
    return None if values.get(name) is None else read_seconds(values[name], name)


def _read_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        msg = f"{name} is {str(value)[:MOST_CHARACTERS]}, not text"
        raise TypeError(msg)
    return value[:MOST_CHARACTERS]


def _read_spec(values: object) -> FineTuneSpec | None:
    """Read the spec of a fine-tuned backbone; None if another version wrote it, with other fields."""
    if not isinstance(values, dict) or set(values) != {one.name for one in fields(FineTuneSpec)}:
        return None
    return FineTuneSpec.from_dict(values)


@dataclass(frozen=True, slots=True)
class Run:
    """One fit or fine-tuning and its outcome.

    Attributes:
        bundle: The folder that was written; None if none was requested.
        head: The head, with the chosen params and scaling.
        validation: The evaluation of the chosen head on validation items, before it saw the test.
        test: The final evaluation; with cross-validation, over all folds.
        n_train: Number of items that the head in the bundle was trained on.
        test_name: The split that was reported on: `test`, `val` or `5-fold cross-validation`.
        notes: What the user should know.
        seconds: Time of everything after loading the store.
        candidates: The parameters that were tried, with their scores on held-out items.
        protocol: The name of the protocol; empty for none.
        curve: The learning curve, if it was requested.
        shots: Accuracy by items per class, if the protocol measures it.
        finetuned: How the backbone was fine-tuned; None for a frozen one.
        heads: The heads among which this one was chosen; empty if it was named.
        tested: The columns of `predictions` if there is no bundle to read them from.
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
    finetuned: FineTuned | None = None
    heads: tuple[TriedHead, ...] = ()
    tested: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        kept = f" -> {str(self.bundle)!r}" if self.bundle else ""
        return (
            f"<Run {self.head.name}: trained on {self.n_train:,} items, accuracy "
            f"{format_value(self.test.accuracy, 4)} of {self.test.n_items:,} ({self.test_name}){kept}>"
        )

    @property
    def predictions(self) -> "DataFrame":
        """The tested items as a pandas DataFrame, as `predictions.csv` holds them.

        The columns are `id`, `label`, `predicted`, its `probability`, and `probability_<class>` for each class. With
        a bundle they are read from its file, each time.

        Raises:
            BundleError: If the file is missing or damaged.
        """
        from pandas import DataFrame

        if self.bundle is not None:
            return _frame_predictions(self.bundle / PREDICTIONS)
        columns = self.tested or {}
        texts = {name: [to_text(text) for text in columns[name]] for name in _TEXTS if name in columns}
        return DataFrame({to_text(name): texts.get(name, column) for name, column in columns.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx fit --json` prints and `metrics.json` holds."""
        values = {
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
            "finetuned": self.finetuned.to_dict() if self.finetuned else None,
        }
        return values | ({"heads": [head.to_dict() for head in self.heads]} if self.heads else {})

    def errors(self) -> "Mistakes":
        """Find the tested images that are wrong, the most confident mistake first; a notebook shows them.

        Raises:
            UsageError: If there is no bundle.
            BundleError: If its predictions are missing or damaged.
        """
        from featx.report.mistakes import find_mistakes

        return find_mistakes(self._need_bundle())

    def report(self) -> "Report":
        """Write `report.html` into the bundle, as `featx.write_report` does; a notebook shows it.

        Raises:
            UsageError: If there is no bundle.
            FeatxError: As `featx.write_report`.
        """
        from featx.report.page import write_report

        return write_report(self._need_bundle())

    def _need_bundle(self) -> Path:
        if self.bundle is None:
            msg = 'this run has no bundle to look at; fit with a folder, such as FitOptions(folder="runs")'
            raise UsageError(msg)
        return self.bundle

    def _repr_html_(self) -> str:
        """Show the head and its metrics in a notebook, and the most confident mistakes as pictures."""
        tuned, where = self.finetuned, f"; bundle: {self.bundle}" if self.bundle else ""
        backbone = f"{tuned.backbone}, {tuned.unfreeze} and " if tuned else ""
        if tuned and tuned.kept_start:
            where = f"; {tuned.unfreeze} {KEPT_START}{where}"
            backbone = f"{tuned.backbone} and "
        first = (
            f"{backbone}{self.head.name}: trained on {self.n_train:,} items, evaluated on {self.test.n_items:,} "
            f"({self.test_name}){where}"
        )
        rows = list_metrics(self.test, self.validation)
        from featx.report.mistakes import show_mistakes

        table = format_html_table(["", "test [95 %]", "validation [95 %]"], rows, n_text=1)
        return f"<p>{escape_html(first)}</p>{table}{show_mistakes(self.bundle)}"


_TEXTS = ("id", "label", "predicted")
_PREFIX = "probability_"


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What `predictions.csv` of a bundle or of an evaluation holds.

    Attributes:
        ids: The tested items, as text.
        labels: Their classes.
        predicted: The predicted classes.
        classes: The classes, as text, in the order of the probabilities.
        probabilities: float64 `(n_tested, n_classes)`.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    predicted: Sequence[str]
    classes: Sequence[str]
    probabilities: NDArray[np.float64]


def read_predictions(folder: Path, classes: Sequence[str] | None = None) -> Predictions:
    """Read what was predicted for the tested items.

    Args:
        folder: The folder of a bundle or of an evaluation.
        classes: The classes, in the wanted order; None for those of the file.

    Raises:
        BundleError: If the file is missing or damaged.
    """
    path = folder / PREDICTIONS
    try:
        header = next(read_table(path), [])
        found = [name.removeprefix(_PREFIX) for name in header if name.startswith(_PREFIX)]
        names = found if classes is None else [to_text(name) for name in classes]
        ids, labels, predicted, rows = list[str](), list[str](), list[str](), list[NDArray[np.float64]]()
        for item, label, guess, *cells in read_columns(path, [*_TEXTS, *(f"{_PREFIX}{name}" for name in names)]):
            ids.append(item)
            labels.append(label)
            predicted.append(guess)
            rows.append(np.array(cells, np.float64))
        probabilities = np.array(rows).reshape(len(rows), len(names))
        if not np.isfinite(probabilities).all() or not {*labels, *predicted} <= set(names):
            msg = "a probability is not finite, or a class has no column"
            raise ValueError(msg)  # noqa: TRY301 - all damages are reported alike
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise _say_damaged(path, error) from error
    return Predictions(ids, labels, predicted, names, probabilities)


def _say_damaged(path: Path, error: Exception) -> BundleError:
    reason = " ".join(str(error).split())[:200]
    return BundleError(f"{path} cannot be read ({reason}); copy the bundle again, or repeat the run")


def _frame_predictions(path: Path) -> "DataFrame":
    from pandas import DataFrame

    try:
        # Not by pandas, which would take the id `007` for a number and the class `NA` for a gap.
        header, *rows = list(read_table(path)) or [[]]
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        return DataFrame(
            {name: list(column) if name in _TEXTS else list(map(float, column)) for name, column in columns.items()}
        )
    except (OSError, ValueError, csv.Error) as error:
        raise _say_damaged(path, error) from error
