"""Finished runs: their bundles' predictions of the test items, compared with heads that are fitted now.

A bundle may come from an untrusted source, so its tables are checked before they are used.
"""

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.bundle import ITEMS, Bundle
from featx.comparing.final_test import Entry
from featx.comparing.report import describe_choice
from featx.comparison_results import FINE_TUNED, FROZEN, START, START_MARK, ComparisonRow
from featx.errors import BundleError, DataError
from featx.evaluation import Evaluation
from featx.evaluation.metrics import check_probabilities
from featx.files import read_columns, read_table
from featx.fitting.dataset import Dataset, Partition
from featx.heads.fitting import count_parameters
from featx.options import CompareOptions
from featx.records import cut_text, take_part
from featx.references import check_own, read_json
from featx.results import KEPT_START, LARGEST, MOST_CHARACTERS, PREDICTIONS, FineTuned, read_seconds_or_none
from featx.wording import format_plural, to_printable, to_text

_PREFIX = "probability_"
_ROLES = ("trained", "validated", "tested", "unused")

#: Metrics that differ by less are the same: both are computed from the same numbers.
_SAME = 1e-9

_DAMAGES = (ArithmeticError, AttributeError, OSError, KeyError, IndexError, TypeError, ValueError, csv.Error)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A bundle's split, its predictions of the test items, and its metrics.

    Attributes:
        bundle: The bundle.
        record: The record of `bundle.json`: how the run was made.
        roles: By role, the (id, sha256) of its items.
        ids: The ids of the tested items, `(n_tested,)`.
        labels: Their labels, `(n_tested,)`.
        probabilities: float64 `(n_tested, n_classes)`, in the order of the bundle's classes.
        validation: The evaluation on items that were held out of training.
        seconds: Time of the run.
        embed_seconds: Time of embedding, in the run or before it; None if it is not known.
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
    finetuning: FineTuned | None


def read_run(folder: Path) -> FinishedRun:
    """Read a bundle and the tables of its items.

    Raises:
        BundleError: If the folder is not a bundle, or its tables are missing, damaged or inconsistent.
    """
    bundle = Bundle.open(folder)
    folder = bundle.path  # it may have been named `latest`
    try:
        return _read_run(folder, bundle)
    except BundleError:
        raise
    except _DAMAGES as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        msg = f"{folder} is damaged ({reason}); copy the bundle again, or repeat the run"
        raise BundleError(msg) from error


def _read_run(folder: Path, bundle: Bundle) -> FinishedRun:
    about = read_json(folder, "bundle.json")
    if PREDICTIONS not in about["files"]:
        msg = f"{folder} has no {PREDICTIONS}; repeat the run"
        raise BundleError(msg)
    metrics = bundle.metrics
    record, tuned, seconds = about["record"], metrics.get("finetuned"), metrics["seconds"]
    if not isinstance(record, dict) or not 0 <= seconds < LARGEST:
        msg = "bundle.json has no record, or metrics.json has no valid time"
        raise ValueError(msg)
    roles = _read_roles(folder / ITEMS)
    ids, labels, probabilities = _read_predictions(folder / PREDICTIONS, bundle.classes)
    if sorted(ids) != sorted(name for name, _ in roles["tested"]):
        msg = f"{PREDICTIONS} lists other items than those that {ITEMS} marks as tested"
        if roles["tested"] or not ids:
            raise ValueError(msg)
    _check_metrics(metrics["test"], bundle.classes, labels, probabilities)
    validation = Evaluation.from_dict(metrics["validation"])
    accuracy, log_loss = validation.accuracy, validation.log_loss
    if not (accuracy is None or 0 <= accuracy <= 1) or not (log_loss is None or 0 <= log_loss < LARGEST):
        msg = "metrics.json has no valid validation metrics"
        raise ValueError(msg)
    finetuning = None if tuned is None else FineTuned.from_dict(tuned)
    frozen = read_seconds_or_none(record.get("store") or {}, "embed_seconds")
    embedding = finetuning.embed_seconds if finetuning else frozen
    return FinishedRun(
        bundle, record, roles, ids, labels, probabilities, validation, float(seconds), embedding, finetuning
    )


def _read_roles(path: Path) -> dict[str, frozenset[tuple[str, str]]]:
    check_own(path)
    found: dict[str, set[tuple[str, str]]] = {role: set() for role in _ROLES}
    for role, item, sha256 in read_columns(path, ("role", "id", "sha256")):
        found[role].add((item, sha256))
    return {role: frozenset(items) for role, items in found.items()}


def _read_predictions(
    path: Path, classes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float64]]:
    """Read ids, labels and probabilities, one column per class in the bundle's order."""
    check_own(path)
    wanted = ["id", "label", *(f"{_PREFIX}{to_text(name)}" for name in classes)]
    header = next(read_table(path), [])
    named = [name for name in header if name in {"id", "label"} or name.startswith(_PREFIX)]
    if sorted(named) != sorted(wanted):
        msg = f"{path.name} has other columns than id, label and {_PREFIX}CLASS for each of {len(classes)} classes"
        raise ValueError(msg)
    ids, labels, values = list[str](), list[str](), list[NDArray[np.float64]]()
    # Row by row: as text, all cells at once would each take the width of the longest.
    for item, label, *cells in read_columns(path, wanted):
        ids.append(item)
        labels.append(label)
        values.append(np.array(cells, np.float64))
    if len(set(ids)) < len(ids) or not ids:
        msg = f"{path.name} is empty, or lists an item twice"
        raise ValueError(msg)
    probabilities, _ = check_probabilities(np.array(values), len(classes))
    return tuple(ids), tuple(labels), probabilities


def _check_metrics(
    test: Mapping[str, Any], classes: Sequence[str], labels: Sequence[str], probabilities: NDArray[np.float64]
) -> None:
    """Check that the predictions agree with the metrics of the bundle's own test."""
    predicted = np.array([to_text(name) for name in classes])[probabilities.argmax(axis=1)]
    accuracy = float((predicted == np.array(labels)).mean())
    recorded = accuracy if test.get("accuracy") is None else test["accuracy"]
    if test["items"] != len(labels) or not abs(recorded - accuracy) <= _SAME:
        msg = (
            f"metrics.json has an accuracy of {recorded} on {test['items']} items, but {PREDICTIONS} gives "
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
        Probabilities float64 `(n_test, n_classes)`, and the labels that the run used, `(n_test,)`.

    Raises:
        DataError: If the run was tested on other items, has other classes, or was trained on a test item.
    """
    names = [to_text(name) for name in dataset.store.ids[dataset.rows[members]].tolist()]
    keys = dataset.keys[members].tolist()
    _refuse_other_source(run, dataset)
    _check_tested(run, list(zip(names, keys, strict=True)), options)
    seen = {key for role in ("trained", "validated") for _, key in run.roles[role]} & set(keys)
    if seen:
        first = names[[key in seen for key in keys].index(True)]
        msg = (
            f"{run.bundle.path} was trained or validated on {len(seen)} files with the bytes of test images, such as "
            f"{first}, so its test is too optimistic to be compared; repeat the run with the same split"
        )
        raise DataError(msg)
    differing = sorted(set(run.bundle.classes) ^ set(dataset.classes))
    if differing:
        msg = (
            f"{run.bundle.path} has other classes than this comparison: only one of them has {differing[0]!r}, for "
            f"example; repeat the run on the same source"
        )
        raise DataError(msg)
    place = {name: at for at, name in enumerate(run.ids)}
    rows = [place[name] for name in names]
    columns = [run.bundle.classes.index(name) for name in dataset.classes]
    return run.probabilities[np.ix_(rows, columns)], tuple(run.labels[row] for row in rows)


def _refuse_other_source(run: FinishedRun, dataset: Dataset) -> None:
    """Refuse a run of another data set: no image that it was tested on is in the store."""
    tested = {key for _, key in run.roles["tested"]}
    if not tested or tested & set(dataset.keys.tolist()):
        return
    recorded, store = run.record.get("store"), dataset.store
    source = recorded.get("source") if isinstance(recorded, dict) else None
    its = to_printable(str(source)[:MOST_CHARACTERS]) if source else "another source"
    msg = (
        f"{run.bundle.path} was tested on {len(tested):,} images of {its}, none of which is in {store.path} "
        f"({len(dataset):,} labelled images of {to_printable(store.source)}); compare it with a store of its own "
        "images, or repeat the run on this source"
    )
    raise DataError(msg)


def _check_tested(run: FinishedRun, wanted: Sequence[tuple[str, str]], options: CompareOptions) -> None:
    tested, own = run.roles["tested"], frozenset(wanted)
    if tested == own:
        return
    path, split = run.bundle.path, run.record.get("split")
    split = split if isinstance(split, dict) else {}
    if split.get("cv"):
        msg = f"{path} was cross-validated, so it has no test split; repeat the run without --cv and with the same"
        msg += " --seed, --test-size and --group as this comparison"
        raise DataError(msg)
    parts = [
        f"{len(ours - theirs):,} of {whose} {len(ours):,} images are not in {other}, such as {min(ours - theirs)[0]}"
        for ours, theirs, whose, other in (
            (tested, own, "its", "this test"),
            (own, tested, "this test's", "the run's test"),
        )
        if ours - theirs
    ]
    changed = {name for name, _ in tested - own} & {name for name, _ in own - tested}
    parts += [f"{len(changed):,} of these have other bytes under the same name"] if changed else []
    # Bundles that an older `fit` wrote do not record the seed of the split; it is that of the head.
    its = _describe_split(split.get("seed", run.bundle.head_spec.seed), split.get("test_size"), split.get("group"))
    this = _describe_split(options.seed, options.test_size, options.group)
    msg = (
        f"{path} was tested on other images than this comparison: {'; '.join(parts)}. It was made with {its}, and this "
        f"comparison with {this}: use the same --seed, --test-size and --group, and the same source"
    )
    raise DataError(msg)


def _describe_split(seed: object, test_size: object, group: object) -> str:
    """Describe how a test was split; the values of a bundle are not trusted."""
    own, size = (to_printable(str(value)[:MOST_CHARACTERS]) for value in (seed, test_size))
    return f"--seed {own} --test-size {size}" + (f" --group {str(group)[:60]!r}" if group else "")


_SAME_TEST = "its test and its verdict use the same images as theirs"
_BELOW = f"so it is listed below them; {_SAME_TEST}"
_OWN = f"validated on {{}} images of its own training set, not on those that rank the heads, {_BELOW}"
_OTHERS = f"validated on {{}} images that are not exactly those that rank the heads, {_BELOW}"
_UNKNOWN = f"its bundle records no validation accuracy, so it is listed below the heads; {_SAME_TEST}"
# What the name of a run has whose items were corrected.
_CORRECTED = " (corrected)"

_NOT_VALIDATED = f"no validation images were held out of its training, so it is listed below the heads; {_SAME_TEST}"


def make_entries(
    runs: Sequence[FinishedRun],
    dataset: Dataset,
    partition: Partition,
    options: CompareOptions,
    stores: Mapping[str, str],
) -> list[Entry]:
    """Make an entry of the comparison from each finished run.

    Args:
        runs: The runs.
        dataset: All items of the comparison.
        partition: The split of the comparison.
        options: How it was split.
        stores: The names of stores, by the uri of their backbone.

    Raises:
        DataError: If a run was tested on other items than these, or was trained on one of them.
    """
    entries, marks = [], []
    for run in {run.bundle.path.resolve(): run for run in runs}.values():
        probabilities, labels = align_run(run, dataset, partition.test.members, options)
        row, note = _describe_run(run, stores), _explain_unranked(run, dataset, partition)
        start = KEPT_START if row.kind == START else ""
        corrected = _describe_corrections(run, dataset)
        row = replace(row, notes=tuple(filter(None, (start, corrected, note))))
        marks.append(_CORRECTED * bool(corrected))
        entries.append(Entry(row, functools.partial(np.copy, probabilities), labels, ranked=not note))
    titles = [(one.row.store, one.row.title) for one in entries]
    named = [
        _name_by_folder(one) if titles.count(title) > 1 else one for one, title in zip(entries, titles, strict=True)
    ]
    return [
        replace(one, row=replace(one.row, name=f"{one.row.title}{mark}"))
        for one, mark in zip(named, marks, strict=True)
    ]


def _explain_unranked(run: FinishedRun, dataset: Dataset, partition: Partition) -> str:
    """Explain why a run cannot be ranked among the heads; empty if it was validated on the items that rank them."""
    if _trained_on_all(run):
        return _NOT_VALIDATED
    if run.validation.accuracy is None:
        return _UNKNOWN
    members = partition.validation
    ids = map(to_text, dataset.store.ids[dataset.rows[members]].tolist())
    ranking = frozenset(zip(ids, dataset.keys[members].tolist(), strict=True))
    if run.finetuning is None:
        # `fit` finally trains on these items too, so it lists them as trained; otherwise it validates by folds.
        own, shared = run.validation.n_items, ranking <= run.roles["trained"]
        same = shared and own == len(ranking)
    else:
        own, shared = len(run.roles["validated"]), bool(ranking & run.roles["validated"])
        same = ranking == run.roles["validated"]
    if ranking and same:
        return ""
    return (_OTHERS if ranking and shared else _OWN).format(f"{own:,}")


def _trained_on_all(run: FinishedRun) -> bool:
    """Return whether a fine-tuned run held nothing out, and so was validated on its training images."""
    return run.finetuning is not None and (not run.roles["validated"] or run.finetuning.validated_on == "training")


def _describe_run(run: FinishedRun, stores: Mapping[str, str]) -> ComparisonRow:
    bundle, tuning = run.bundle, run.finetuning
    uris = [tuning.backbone] if tuning else [part.embed_spec.backbone.uri for part in bundle.parts]
    shared = ComparisonRow(
        store="+".join(stores.get(uri, to_printable(uri)) for uri in uris),
        head=bundle.head_spec,
        chosen="",
        bytes_per_item=sum(
            part.golden.features.shape[1] * np.dtype(part.embed_spec.dtype).itemsize for part in bundle.parts
        ),
        validation_accuracy=run.validation.accuracy,
        validation_log_loss=run.validation.log_loss,
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
        kind=START if tuning.kept_start else FINE_TUNED,
        name=f"finetune {to_printable(tuning.unfreeze)}{START_MARK if tuning.kept_start else ''}",
        chosen="the start" if tuning.kept_start else f"epoch {tuning.best_epoch} of {tuning.epochs}",
        bytes_per_item=None,
        fit_seconds=tuning.seconds,
        peak_memory_bytes=tuning.peak_memory_bytes,
        trained_parameters=tuning.trained_parameters,
        validation_accuracy=None if _trained_on_all(run) else shared.validation_accuracy,
        validation_log_loss=None if _trained_on_all(run) else shared.validation_log_loss,
    )


def _describe_corrections(run: FinishedRun, dataset: Dataset) -> str:
    """Say by which tables a run's items were corrected that the comparison does not use; empty if by none."""
    record, parts = take_part(run.record, "corrections"), []
    for name, count, did in (
        ("without", "left_out", "leaves out"),
        ("relabel", "relabelled", "changes the label of"),
        ("group", "grouped", "keeps together"),
    ):
        digest = f"{name}_sha256"
        if name in record and record.get(digest) != dataset.corrections.get(digest):
            items = record.get(count)
            shown = format_plural(items, "item") if type(items) is int else "some items"
            parts.append(f"--{name} {cut_text(record[name])}, which {did} {shown}")
    if not parts:
        return ""
    return f"it was made with {'; '.join(parts)}: it was trained on other data than the heads of this comparison"


def _name_by_folder(entry: Entry) -> Entry:
    row = entry.row
    folder = to_printable(row.run.name) if row.run else ""
    name = f"{row.title.removesuffix(' (run)')} ({folder})"
    return replace(entry, row=replace(row, name=name))
