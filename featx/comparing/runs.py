"""Finished runs: what their bundles say of the test items, to stand beside heads that are compared now.

A bundle may come from a stranger, and so its tables are checked before they are believed.
"""

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from featx.bundle import Bundle, check_own, read_json
from featx.comparing.final_test import Contender
from featx.comparing.report import describe_choice
from featx.errors import BundleError, DataError
from featx.evaluation import Evaluation
from featx.evaluation.metrics import check_probabilities
from featx.fitting.dataset import Dataset, Partition
from featx.heads.fitting import count_parameters
from featx.options import CompareOptions
from featx.results import FINE_TUNED, FROZEN, ComparisonRow
from featx.wording import to_printable, to_text

_PREDICTIONS, _ITEMS = "predictions.csv", "items.csv"
_PREFIX = "probability_"
_ROLES = ("trained", "validated", "tested", "unused")

#: Of a name that a table could still show.
_MOST_CHARACTERS = 80

#: Metrics are the same where they differ by less: both come from the same numbers.
_SAME = 1e-9

#: No count and no time is that large; Python's own integers have no end, and do not all fit a float.
_MOST = 2.0**63

#: Of a line of a table: a sparse file, which takes no room on a disk, is one line of gigabytes.
_MOST_LINE_CHARACTERS = 16 << 20

_DAMAGES = (ArithmeticError, AttributeError, OSError, KeyError, IndexError, TypeError, ValueError, csv.Error)


@dataclass(frozen=True, slots=True)
class Finetuning:
    """What `metrics.json` says of a backbone that was fine-tuned.

    Attributes:
        backbone: The uri of the backbone that it began with.
        unfreeze: Which of its layers were trained, such as `last:23`.
        trained_parameters: Those of the backbone that were trained, and those of its head.
        peak_memory_bytes: The most memory that it took; None if it is not known.
        seconds: Time of everything, embedding of frozen layers included.
        embed_seconds: What of it that was, whichever run did it; None if it is not known.
        best_epoch: The epoch whose weights were kept.
        epochs: Epochs that it was trained for.
        validated_on: `training` if its validation was on items that it learnt from; empty where nothing tells.
    """

    backbone: str
    unfreeze: str
    trained_parameters: int
    peak_memory_bytes: int | None
    seconds: float
    embed_seconds: float | None
    best_epoch: int
    epochs: int
    validated_on: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Finetuning":
        """Read the key `finetuned`.

        Raises:
            KeyError: If a value is missing.
            TypeError: If a value is of another type.
            ValueError: If a number is negative or not finite.
        """
        counts = [values[name] for name in ("trainable_parameters", "head_parameters", "best_epoch", "epochs")]
        peak, seconds = values.get("peak_memory_bytes"), values["seconds"]
        texts = [values["backbone"], values["unfreeze"]]
        if not all(isinstance(text, str) for text in texts) or not all(
            type(one) is int for one in [*counts, peak or 0]
        ):
            msg = "finetuned holds no backbone or plan, or counts that are no whole numbers"
            raise TypeError(msg)
        if not all(0 <= number < _MOST for number in (*counts, peak or 0, seconds)):
            msg = "finetuned holds a number below 0 or without end"
            raise ValueError(msg)
        # Without the other key, an older featx told only what its own run took.
        embedding = _read_seconds(values["embed_seconds"]) if "elapsed_seconds" in values else None
        backbone, plan = (text[:_MOST_CHARACTERS] for text in texts)
        learnt = counts[0] + counts[1]
        validated_on = str(values.get("validated_on") or "")[:_MOST_CHARACTERS]
        best, epochs = counts[2:]
        return cls(backbone, plan, learnt, peak or None, float(seconds), embedding, best, epochs, validated_on)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A bundle's split, its predictions of the test, and what it measured.

    Attributes:
        bundle: The bundle.
        record: What `bundle.json` says of how it was made.
        roles: By role, the (id, sha256) of its items.
        ids: The ids of the items that were tested, `(n_tested,)`.
        labels: Their labels, `(n_tested,)`.
        probabilities: float64 `(n_tested, n_classes)`, in the order of the bundle's classes.
        validation: What it did on items that were held out of training.
        seconds: Time of the run.
        embed_seconds: Time of embedding, be it part of the run or before it; None if it is not known.
        finetuning: How the backbone was fine-tuned; None for a head on frozen features.
    """

    bundle: Bundle
    record: Mapping[str, Any]
    roles: Mapping[str, frozenset[tuple[str, str]]]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    validation: Evaluation
    seconds: float
    embed_seconds: float | None
    finetuning: Finetuning | None


def read_run(folder: Path) -> FinishedRun:
    """Read a bundle and what it says of its items.

    Raises:
        BundleError: If it is no bundle, or its tables are missing, damaged, or do not fit each other.
    """
    bundle = Bundle.open(folder)
    try:
        return _read_run(folder, bundle)
    except BundleError:
        raise
    except _DAMAGES as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        msg = f"{folder} is damaged ({reason}); copy the bundle again, or make it again"
        raise BundleError(msg) from error


def _read_run(folder: Path, bundle: Bundle) -> FinishedRun:
    about = read_json(folder, "bundle.json")
    if _PREDICTIONS not in about["files"]:
        msg = f"{folder} has no {_PREDICTIONS} of its own; make the run again"
        raise BundleError(msg)
    metrics = bundle.metrics
    record, tuned, seconds = about["record"], metrics.get("finetuned"), metrics["seconds"]
    if not isinstance(record, dict) or not 0 <= seconds < _MOST:
        msg = "bundle.json has no record, or metrics.json no time"
        raise ValueError(msg)
    roles = _read_roles(folder / _ITEMS)
    ids, labels, probabilities = _read_predictions(folder / _PREDICTIONS, bundle.classes)
    if sorted(ids) != sorted(name for name, _ in roles["tested"]):
        msg = f"{_PREDICTIONS} is of other items than those that {_ITEMS} says were tested"
        if roles["tested"] or not ids:
            raise ValueError(msg)
    _check_metrics(metrics["test"], bundle.classes, labels, probabilities)
    validation = Evaluation.from_dict(metrics["validation"])
    if not (0 <= validation.accuracy <= 1 and 0 <= validation.log_loss < _MOST):
        msg = "metrics.json has no proper validation"
        raise ValueError(msg)
    finetuning = None if tuned is None else Finetuning.from_dict(tuned)
    frozen = _read_seconds((record.get("store") or {}).get("embed_seconds"))
    embedding = finetuning.embed_seconds if finetuning else frozen
    return FinishedRun(
        bundle, record, roles, ids, labels, probabilities, validation, float(seconds), embedding, finetuning
    )


def _read_seconds(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in {int, float} or not 0 <= value < _MOST:  # type: ignore[operator]
        msg = "embed_seconds is no number of seconds"
        raise ValueError(msg)
    return float(value)  # type: ignore[arg-type]


def _read_roles(path: Path) -> dict[str, frozenset[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {role: set() for role in _ROLES}
    check_own(path)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(_read_lines(file, path.name)):
            found[row["role"]].add((row["id"], row["sha256"]))
    return {role: frozenset(items) for role, items in found.items()}


def _read_lines(file: TextIO, name: str) -> Iterator[str]:
    while line := file.readline(_MOST_LINE_CHARACTERS):
        if len(line) == _MOST_LINE_CHARACTERS:
            msg = f"{name} has a line of {_MOST_LINE_CHARACTERS:,} characters or more"
            raise ValueError(msg)
        yield line


def _read_predictions(
    path: Path, classes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float64]]:
    """Read ids, labels and probabilities, a column for each class in the bundle's order."""
    check_own(path)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(_read_lines(file, path.name))
        header = next(reader, [])
        wanted = ["id", "label", *(f"{_PREFIX}{to_text(name)}" for name in classes)]
        named = [name for name in header if name in {"id", "label"} or name.startswith(_PREFIX)]
        if sorted(named) != sorted(wanted):
            msg = f"{path.name} has other columns than id, label and {_PREFIX}CLASS for each of {len(classes)} classes"
            raise ValueError(msg)
        at = [header.index(name) for name in wanted]
        rows = [_take_row(row, at, len(header), path.name) for row in reader]
    ids, labels = tuple(name for name, _, _ in rows), tuple(label for _, label, _ in rows)
    if len(set(ids)) < len(ids) or not rows:
        msg = f"{path.name} has no item, or one twice"
        raise ValueError(msg)
    probabilities, _ = check_probabilities(np.array([values for *_, values in rows]), len(classes))
    return ids, labels, probabilities


def _take_row(row: Sequence[str], at: Sequence[int], width: int, name: str) -> tuple[str, str, NDArray[np.float64]]:
    if len(row) != width:
        msg = f"{name} has a row of {len(row)} cells under {width} columns"
        raise ValueError(msg)
    item, label, *values = (row[column] for column in at)
    return item, label, np.array(values, np.float64)


def _check_metrics(
    test: Mapping[str, Any], classes: Sequence[str], labels: Sequence[str], probabilities: NDArray[np.float64]
) -> None:
    """Check that the predictions are those that the bundle's own test was measured with."""
    predicted = np.array([to_text(name) for name in classes])[probabilities.argmax(axis=1)]
    accuracy = float((predicted == np.array(labels)).mean())
    if test["items"] != len(labels) or not abs(test["accuracy"] - accuracy) <= _SAME:
        msg = (
            f"metrics.json tells an accuracy of {test['accuracy']} on {test['items']} items, {_PREDICTIONS} one of "
            f"{accuracy} on {len(labels)}"
        )
        raise ValueError(msg)


def align_run(
    run: FinishedRun, dataset: Dataset, members: NDArray[np.bool_], options: CompareOptions
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Put a run's probabilities and labels into the order of a comparison's test items and classes.

    Args:
        run: The run.
        dataset: All items of the comparison.
        members: bool `(n_items,)`, those of the test.
        options: How the comparison was split.

    Returns:
        Probabilities float64 `(n_test, n_classes)`, and what the run took for the labels `(n_test,)`.

    Raises:
        DataError: If the run was tested on other items, has other classes, or learnt from a test item.
    """
    names = [to_text(name) for name in dataset.store.ids[dataset.rows[members]].tolist()]
    keys = dataset.keys[members].tolist()
    _check_tested(run, list(zip(names, keys, strict=True)), options)
    seen = {key for role in ("trained", "validated") for _, key in run.roles[role]} & set(keys)
    if seen:
        first = names[[key in seen for key in keys].index(True)]
        msg = (
            f"{run.bundle.path} was trained or validated on {len(seen)} of the test images, such as {first}, by "
            f"their bytes; its test flatters, and nothing can be compared with it: make it again with the same split"
        )
        raise DataError(msg)
    differing = sorted(set(run.bundle.classes) ^ set(dataset.classes))
    if differing:
        msg = (
            f"{run.bundle.path} tells other classes apart than this comparison, such as {differing[0]!r}, which only "
            f"one of them has; make it again from the same source"
        )
        raise DataError(msg)
    place = {name: at for at, name in enumerate(run.ids)}
    rows = [place[name] for name in names]
    columns = [run.bundle.classes.index(name) for name in dataset.classes]
    return run.probabilities[np.ix_(rows, columns)], tuple(run.labels[row] for row in rows)


def _check_tested(run: FinishedRun, wanted: Sequence[tuple[str, str]], options: CompareOptions) -> None:
    tested, own = run.roles["tested"], frozenset(wanted)
    if tested == own:
        return
    path, split = run.bundle.path, run.record.get("split")
    split = split if isinstance(split, dict) else {}
    if split.get("cv"):
        msg = f"{path} was cross-validated and so has no test of its own; make it again without --cv, with the same"
        msg += " --seed, --test-size and --group as this comparison"
        raise DataError(msg)
    parts = [
        f"{len(ours - theirs):,} of {whose} {len(ours):,} are not in {other}, such as {min(ours - theirs)[0]}"
        for ours, theirs, whose, other in ((tested, own, "its", "this test"), (own, tested, "this test's", "its"))
        if ours - theirs
    ]
    changed = {name for name, _ in tested - own} & {name for name, _ in own - tested}
    parts += [f"{len(changed):,} of these have other bytes under the same name"] if changed else []
    # Bundles that an older `fit` wrote do not record the seed of the split; it is that of the head.
    its = _describe_split(split.get("seed", run.bundle.head_spec.seed), split.get("test_size"), split.get("group"))
    this = _describe_split(options.seed, options.test_size, options.group)
    msg = (
        f"{path} was tested on other images than this comparison: {'; '.join(parts)}. It was made with {its}, this is "
        f"with {this}: use the same --seed, --test-size and --group, and embed and train from the same source"
    )
    raise DataError(msg)


def _describe_split(seed: object, test_size: object, group: object) -> str:
    """Say how a test was split; what a bundle says of it may be anything."""
    own, size = (to_printable(str(value)[:_MOST_CHARACTERS]) for value in (seed, test_size))
    return f"--seed {own} --test-size {size}" + (f" --group {str(group)[:60]!r}" if group else "")


_SAME_TEST = "its test and its verdict are on the same images as theirs"
_BELOW = f"so it is listed below the heads, whatever its validation says; {_SAME_TEST}"
_OWN = f"validated on {{}} images of its own training items, {_BELOW}"
_OTHERS = f"validated on {{}} images that are not all and only those that rank the heads, {_BELOW}"
_LEARNT = (
    "no validation images were held out of its training, and the accuracy on those that it learnt from is none; it is "
    f"listed below the heads; {_SAME_TEST}"
)


def enter_runs(
    runs: Sequence[FinishedRun],
    dataset: Dataset,
    partition: Partition,
    options: CompareOptions,
    stores: Mapping[str, str],
) -> list[Contender]:
    """Make a contender of each finished run.

    Args:
        runs: The runs.
        dataset: All items of the comparison.
        partition: What holds its test.
        options: How it was split.
        stores: By the uri of its backbone, the name of a store.

    Raises:
        DataError: If a run was tested on other items than these, or learnt from one of them.
    """
    contenders = []
    for run in {run.bundle.path.resolve(): run for run in runs}.values():
        probabilities, labels = align_run(run, dataset, partition.test.members, options)
        standing, note = _describe_run(run, stores), _doubt_validation(run, dataset, partition)
        standing = replace(standing, notes=(note,) if note else ())
        contenders.append(Contender(standing, functools.partial(np.copy, probabilities), labels, ranked=not note))
    titles = [(one.standing.store, one.standing.title) for one in contenders]
    return [
        _name_by_folder(one) if titles.count(title) > 1 else one for one, title in zip(contenders, titles, strict=True)
    ]


def _doubt_validation(run: FinishedRun, dataset: Dataset, partition: Partition) -> str:
    """Say why its validation cannot rank a run among the heads; empty if it was on the items that rank these."""
    if _learnt_all(run):
        return _LEARNT
    members = partition.validation
    ids = map(to_text, dataset.store.ids[dataset.rows[members]].tolist())
    ranking = frozenset(zip(ids, dataset.keys[members].tolist(), strict=True))
    if run.finetuning is None:
        # `fit` learns from these as well in the end, and so lists them as trained; else it validates by folds.
        own, shared = run.validation.n_items, ranking <= run.roles["trained"]
        same = shared and own == len(ranking)
    else:
        own, shared = len(run.roles["validated"]), bool(ranking & run.roles["validated"])
        same = ranking == run.roles["validated"]
    if ranking and same:
        return ""
    return (_OTHERS if ranking and shared else _OWN).format(f"{own:,}")


def _learnt_all(run: FinishedRun) -> bool:
    """Tell whether a fine-tuned run had nothing held out, and so was validated on images that it learnt from."""
    return run.finetuning is not None and (not run.roles["validated"] or run.finetuning.validated_on == "training")


def _describe_run(run: FinishedRun, stores: Mapping[str, str]) -> ComparisonRow:
    bundle, tuning = run.bundle, run.finetuning
    uri = tuning.backbone if tuning else bundle.embed_spec.backbone.uri
    shared = ComparisonRow(
        store=stores.get(uri, to_printable(uri)),
        head=bundle.head_spec,
        chosen="",
        bytes_per_item=bundle.golden.features.shape[1] * np.dtype(bundle.embed_spec.dtype).itemsize,
        validation_accuracy=float(run.validation.accuracy),
        validation_log_loss=float(run.validation.log_loss),
        fit_seconds=run.seconds,
        embed_seconds=run.embed_seconds,
        run=bundle.path,
    )
    if tuning is None:
        parameters = count_parameters(bundle.load_head())
        name, chosen = f"{bundle.head_spec.name} (run)", describe_choice(bundle.head_spec)
        return replace(shared, kind=FROZEN, name=name, chosen=chosen, trained_parameters=parameters)
    return replace(
        shared,
        kind=FINE_TUNED,
        name=f"finetune {to_printable(tuning.unfreeze)}",
        chosen=f"epoch {tuning.best_epoch} of {tuning.epochs}",
        bytes_per_item=None,
        fit_seconds=tuning.seconds,
        peak_memory_bytes=tuning.peak_memory_bytes,
        trained_parameters=tuning.trained_parameters,
        validation_accuracy=None if _learnt_all(run) else shared.validation_accuracy,
        validation_log_loss=None if _learnt_all(run) else shared.validation_log_loss,
    )


def _name_by_folder(contender: Contender) -> Contender:
    standing = contender.standing
    folder = to_printable(standing.run.name) if standing.run else ""
    name = f"{standing.title.removesuffix(' (run)')} ({folder})"
    return replace(contender, standing=replace(standing, name=name))
