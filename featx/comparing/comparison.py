"""Comparing heads on stores: the same items and folds for all, the best chosen by validation, the test opened once."""

import functools
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.bundle import read_versions
from featx.comparing.final_test import Entry, run_final_test
from featx.comparing.jobs import (
    HeadTask,
    Task,
    digest_items,
    explain_single_process,
    fit_and_predict,
    remove_results,
    run_tasks,
)
from featx.comparing.plans import find_folder, read_runs
from featx.comparing.report import describe_choice, describe_gains, find_written, name_folder, write_comparison
from featx.comparing.runs import make_entries
from featx.comparison_results import Comparison, ComparisonRow
from featx.errors import DataError, UsageError
from featx.files import read_result
from featx.fitting.choice import choose_heads
from featx.fitting.dataset import Dataset, Partition, deal_folds, load_dataset, note_views, split_dataset
from featx.fitting.preconditions import MIN_CLASSES
from featx.heads import describe_single_fold
from featx.options import COMPARE_DEFAULTS, VIEWS, CompareOptions, check_options
from featx.results import Run
from featx.specs import HeadSpec
from featx.store import FeatureStore
from featx.store.joining import AnyStore, JoinedStore
from featx.store.verification import refuse_damage
from featx.wording import format_plural, join_first, to_printable, to_text

#: As in the log-loss of the test.
_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)


def compare(
    stores: FeatureStore | str | os.PathLike[str] | Sequence[FeatureStore | str | os.PathLike[str]],
    heads: str | Sequence[str | HeadSpec] = "fast",
    *,
    finetune: Sequence[str] | str = (),
    runs: Sequence[Run | str | os.PathLike[str]] | Run | str | os.PathLike[str] = (),
    params: Mapping[str, Any] | None = None,
    calibration: str | None = None,
    options: CompareOptions = COMPARE_DEFAULTS,
) -> Comparison:
    """Compare heads on stores, on the items that all stores have, and with finished runs, such as fine-tuned ones.

    Each head is tuned and fitted on folds of the training items, and ranked by the items held out. Tuning happens
    inside each fold, so more tuning alone gains nothing. Each head is then tuned and fitted on all training items. If
    the source has a val split, that is used instead of the folds: each head is tuned on the train split, ranked by the
    val split, and then fitted to both, as `fit` does. Only then is the test opened, once for all; it ranks nothing.

    A finished run is tested by its own predictions, which must be of these test items. If it was validated on the val
    split of the source, it is ranked among the heads; otherwise it is listed below them. A plan such as `last:23` is
    fine-tuned first, on the source and with the backbone of the first store, unless `options.folder` has a finished
    run of it. Fine-tuned runs are compared with the best frozen head: see `Comparison.verdict`.

    Args:
        stores: One or more stores, or their paths.
        heads: Names of heads or of sets of heads (`featx.registry.HEAD_SETS`), also several in one text, separated by
            commas; a spec fixes parameters.
        finetune: What to unfreeze: `last:N`, `from:LAYER`, `blocks:N`, `gradual`, `gradual:N` or `all`; one or more.
        runs: What `featx.fit` or `featx.finetune` returned, or folders of their bundles; one or more.
        params: Hyper-parameters that are fixed for each named head that has them, such as `class_weight`.
        calibration: One of `featx.specs.CALIBRATIONS` for all named heads; None chooses for each, as `auto` does.
        options: How to split, how many processes, and where to write.

    Returns:
        A row for each store, or combination of stores, and head, and for each run.

    Raises:
        UnknownNameError: If no head, or no layer of a plan, has that name.
        DataError: If the items cannot be split or matched, every head fails, or a run was tested on other items.
        BundleError: If a run is not a bundle, or is damaged.
        StoreFormatError: If a store is damaged.
        StoreError: If a store does not exist, or the results cannot be written.
        SourceError: If the images of a plan are gone or have changed.
    """
    check_options(options, CompareOptions)
    started = time.perf_counter()
    specs, lacking = choose_heads(heads, options.seed, params or {}, calibration)
    opened = _open_stores(stores)
    match = match_stores(opened, group=options.group, views=options.views)
    partition = split_dataset(match.dataset, test_size=options.test_size, seed=options.seed)
    rounds = _plan_rounds(match.dataset, partition, {spec.seed for spec in specs}, options)
    names = _name_stores(opened)
    found = read_runs(finetune, runs, match.dataset, partition, options)
    run_entries = make_entries(found, match.dataset, partition, options, _name_backbones(opened, names))
    places = _combine(list(zip(names, opened, match.rows, strict=True)), options.combine)
    candidates = [_Candidate(*place, spec) for place in places for spec in specs]
    with _find_work(options) as work:
        outcomes = _run_rounds(candidates, rounds, match.dataset, work, options)
        validated = [_validate(*each, rounds, match.dataset) for each in zip(candidates, outcomes, strict=True)]
        ranked = sorted([*validated, *run_entries], key=lambda entry: entry.rank)
        # Nothing is chosen below this line.
        rows = run_final_test(ranked, match.dataset, partition, options.seed)
    notes = [*match.notes, *partition.notes, *rounds.notes, *lacking, *_note_processes(options)]
    comparison = Comparison(
        rows=rows,
        folder=None,
        test_name=partition.test_name,
        validation_name=rounds.name,
        n_train=int((partition.train | partition.validation).sum()),
        n_test=len(partition.test),
        versions=read_versions(),
        notes=tuple(dict.fromkeys(notes)),
        seconds=time.perf_counter() - started,
        verdict=describe_gains(rows, partition.test_name),
        call=_describe_call(opened, heads, finetune, runs, {"calibration": calibration, **(params or {})}, options),
    )
    return _write(comparison, options, match.dataset.store.source)


def _note_processes(options: CompareOptions) -> tuple[str, ...]:
    return explain_single_process() if options.executor == "local" else ()


def _describe_call(
    stores: Sequence[FeatureStore],
    heads: str | Sequence[str | HeadSpec],
    finetune: Sequence[str] | str,
    runs: Sequence[Run | str | os.PathLike[str]] | Run | str | os.PathLike[str],
    params: Mapping[str, Any],
    options: CompareOptions,
) -> dict[str, Any]:
    """Describe a comparison as the stores and flags that repeat it; empty if the command line has none for it."""
    named = [heads] if isinstance(heads, str) else [head for head in heads if isinstance(head, str)]
    if not (isinstance(heads, str) or len(named) == len(heads)) or not params.keys() <= {"calibration", "class_weight"}:
        return {}
    finished = [runs] if isinstance(runs, Run | str | os.PathLike) else runs
    flags: dict[str, Any] = {
        "clf": ",".join(named),
        "finetune": [finetune] if isinstance(finetune, str) else list(finetune),
        "run": [to_text(str(find_folder(run))) for run in finished],
        **{name.replace("_", "-"): value for name, value in params.items() if value is not None},
    }
    for name in ("combine", "folds", "test_size", "group", "views", "seed"):
        value = getattr(options, name)
        flags |= {name.replace("_", "-"): value} if value != getattr(COMPARE_DEFAULTS, name) else {}
    return {"stores": [to_text(store.place) for store in stores], "flags": flags}


def _write(comparison: Comparison, options: CompareOptions, source: str) -> Comparison:
    if options.out is not None:
        return write_comparison(comparison, Path(options.out), source)
    if options.folder is None:
        return comparison
    same = find_written(comparison, Path(options.folder))
    if same is not None:
        return replace(comparison, folder=same)
    return write_comparison(comparison, name_folder(Path(options.folder)), source)


@dataclass(frozen=True, slots=True)
class _Round:
    """Training items and items to predict, bool `(n_items,)` each, and by seed the tuning folds of the former.

    What is chosen on the training items is fitted to those of `refit`, if there is one, and predicts its items too.
    """

    trained_on: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    folds: Mapping[int, NDArray[np.intp]]
    refit: "_Round | None" = None


@dataclass(frozen=True, slots=True)
class _Rounds:
    """The rounds of a comparison; if no round validates, the final one does: before its refit, or on tuning folds."""

    validating: tuple[_Round, ...]
    final: _Round
    name: str
    notes: tuple[str, ...] = ()

    @property
    def ranks_by_tuning(self) -> bool:
        """Whether the folds on which heads are tuned also rank them."""
        return not self.validating and self.final.refit is None


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    store: AnyStore
    rows: NDArray[np.intp]
    spec: HeadSpec


#: A store with its name and, int `(n_items,)`, the row of each item.
_Place = tuple[str, AnyStore, NDArray[np.intp]]


def _combine(singles: Sequence[tuple[str, FeatureStore, NDArray[np.intp]]], most: int) -> list[_Place]:
    """Add every combination of two and more stores to the stores, named `a+b`.

    Raises:
        UsageError: If there is only one store.
    """
    if most > 1 and len(singles) == 1:
        msg = f"combine is {most}, but only {singles[0][0]} is compared; name two stores or more"
        raise UsageError(msg)
    places: list[_Place] = list(singles)
    for count in range(2, most + 1):
        for chosen in itertools.combinations(singles, count):
            joined = JoinedStore([store for _, store, _ in chosen])
            # The combination may have more items than those that all stores have.
            order = np.argsort(joined.rows[0])
            at = order[np.searchsorted(joined.rows[0], chosen[0][2], sorter=order)]
            places.append(("+".join(name for name, *_ in chosen), joined, at))
    return places


def _open_stores(
    stores: FeatureStore | str | os.PathLike[str] | Sequence[FeatureStore | str | os.PathLike[str]],
) -> list[FeatureStore]:
    given = [stores] if isinstance(stores, FeatureStore | str | os.PathLike) else stores
    opened = [store if isinstance(store, FeatureStore) else FeatureStore(store) for store in given]
    unique = list({store.path.resolve(): store for store in opened}.values())
    if not unique:
        msg = "no store is named; give the path of at least one"
        raise UsageError(msg)
    refuse_damage(unique)
    return unique


def _name_stores(stores: Sequence[FeatureStore]) -> list[str]:
    """Name stores by their files, or by their paths if two files have the same name."""
    stems = [store.path.stem for store in stores]
    return [
        to_printable(stem if stems.count(stem) == 1 else str(store.path))
        for stem, store in zip(stems, stores, strict=True)
    ]


def _name_backbones(stores: Sequence[FeatureStore], names: Sequence[str]) -> dict[str, str]:
    """Return the name of the first store that each backbone has, by its uri."""
    return {store.spec.backbone.uri: name for store, name in zip(stores[::-1], names[::-1], strict=True)}


def _plan_rounds(dataset: Dataset, partition: Partition, seeds: Iterable[int], options: CompareOptions) -> _Rounds:
    """Plan the rounds.

    If the source has a val split, heads are chosen on train and ranked by val, and the choice is fitted to both, as
    `fit` does.

    If classes are so small that tuning cannot be repeated without a fold, the folds of tuning rank the heads, as they
    validate what `fit` fits.

    Raises:
        DataError: If a head cannot be tuned on the training items.
    """
    train, validation = partition.train, partition.validation
    if validation.any():
        refit = _plan_round(dataset, train | validation, partition.test.members, seeds)
        final = replace(_plan_round(dataset, train, validation, seeds), refit=refit)
        return _Rounds((), final, "the val split of the source", _note_unvalidated(dataset, train, [final]))
    final = _plan_round(dataset, train, partition.test.members, seeds)
    folds = max(2, min(options.folds, dataset.count_units(train)))
    dealt = np.full(len(dataset), -1)
    dealt[train] = dataset.assign_folds(train, folds, options.seed)
    try:
        rounds = tuple(_plan_round(dataset, train & (dealt != at), dealt == at, seeds) for at in range(folds))
    except DataError:
        return _Rounds((), final, "the folds of tuning", (_note_small_classes(dataset, train),))
    return _Rounds(rounds, final, f"{folds} folds of the training items", _note_unvalidated(dataset, train, rounds))


def _plan_round(
    dataset: Dataset, trained_on: NDArray[np.bool_], predicted: NDArray[np.bool_], seeds: Iterable[int]
) -> _Round:
    targets, folds = dataset.targets[trained_on], {seed: deal_folds(dataset, trained_on, seed) for seed in seeds}
    for dealt in folds.values():
        if any(len(np.unique(targets[dealt != fold])) < MIN_CLASSES for fold in np.unique(dealt)):
            counts = _list_counts(dataset, _count_units(dataset, trained_on))
            msg = f"heads cannot be tuned: a fold leaves only one class to train on; {counts}"
            raise DataError(msg)
    return _Round(trained_on, predicted, folds)


def _count_units(dataset: Dataset, members: NDArray[np.bool_]) -> dict[str, int]:
    """Count the images, or groups, of each class among some items, the fewest first."""
    pairs = set(zip(dataset.find_units(members).tolist(), dataset.labels[members].tolist(), strict=True))
    counts = Counter(label for _, label in pairs)
    return dict(sorted(((name, counts[name]) for name in dataset.classes), key=lambda pair: (pair[1], pair[0])))


#: A message counts the items of so many classes.
_MOST_COUNTED = 5


def _list_counts(dataset: Dataset, counts: Mapping[str, int]) -> str:
    """List how many images or groups of some classes are trained on, and how many images there are."""
    totals = Counter(dataset.labels.tolist())
    shown = [
        f"class {name!r} has {count} to train on ({format_plural(totals[name], 'image')} in all)"
        for name, count in counts.items()
    ]
    return join_first(shown, _MOST_COUNTED, what="more classes")


def _note_small_classes(dataset: Dataset, train: NDArray[np.bool_]) -> str:
    counts = _count_units(dataset, train)
    least = min((count for count in counts.values() if count > 1), default=1)
    few = _list_counts(dataset, {name: count for name, count in counts.items() if count == least})
    return (
        f"there are too few training images or groups to repeat the tuning inside each fold: {few}. The heads are "
        "ranked by the folds that they were tuned on, which favours heads with many settings; add images"
    )


def _note_unvalidated(dataset: Dataset, train: NDArray[np.bool_], rounds: Sequence[_Round]) -> tuple[str, ...]:
    """Note the classes that are trained on and that no round holds out: of one image, or not in the val split."""
    validated = [dataset.targets[part.predicted] for part in rounds]
    lacking = np.setdiff1d(dataset.targets[train], np.concatenate(validated)).tolist()
    if not lacking:
        return ()
    names = join_first([repr(dataset.classes[target]) for target in lacking], _MOST_COUNTED)
    what, it = (f"class {names}", "it") if len(lacking) == 1 else (f"classes {names}", "them")
    more = "add images or groups of small classes"
    return (f"no validation item is of {what}, so the validation says nothing of {it}; {more}",)


def _run_rounds(
    candidates: Sequence[_Candidate], rounds: _Rounds, dataset: Dataset, work: Path, options: CompareOptions
) -> list[list[Path] | str]:
    """Fit every candidate and predict in every round. Return its results, the final one last, or why it failed."""
    order = (*rounds.validating, rounds.final)
    tasks = [
        [_make_task(candidate, dataset, part, options.views, held_out=not rounds.validating) for part in order]
        for candidate in candidates
    ]
    # The final round takes longest and comes first, so that no process is left alone with it at the end.
    queue = [task for column in reversed(list(zip(*tasks, strict=True))) for task in column]
    if options.fresh:
        remove_results(queue, work)
    cluster = options if options.executor == "ray" else None
    jobs = options.jobs if cluster else options.count_jobs()
    options.reporter.begin("comparing")
    found = run_tasks(
        queue, work, jobs=jobs, threads=None if jobs == 1 else 1, progress=options.reporter.advance, cluster=cluster
    )
    outcomes: list[list[Path] | str] = []
    for own in tasks:
        results = [found[task.key] for task in own]
        reasons = [result for result in results if isinstance(result, str)]
        outcomes.append(reasons[0] if reasons else [result for result in results if isinstance(result, Path)])
    return outcomes


def _make_task(candidate: _Candidate, dataset: Dataset, part: _Round, views: str, *, held_out: bool) -> Task:
    head_task = _make_head_task(candidate, dataset, part, views, held_out=held_out)
    return Task(head_task.digest, fit_and_predict, head_task, head_task.count_fits())


def _make_head_task(candidate: _Candidate, dataset: Dataset, part: _Round, views: str, *, held_out: bool) -> HeadTask:
    trained_on, predicted = candidate.rows[part.trained_on], candidate.rows[part.predicted]
    refit = None if part.refit is None else _make_head_task(candidate, dataset, part.refit, views, held_out=False)
    return HeadTask(
        stores=tuple(part.path.resolve() for part in candidate.store.parts),
        head=candidate.spec,
        trained_on=trained_on,
        targets=dataset.targets[part.trained_on],
        folds=part.folds[candidate.spec.seed],
        units=dataset.find_units(part.trained_on),
        predicted=predicted,
        n_classes=len(dataset.classes),
        items_digest=digest_items(candidate.store, trained_on, predicted),
        views=views if candidate.store.n_views > 1 else VIEWS[0],  # without views, all are one job
        held_out=held_out,
        refit=refit,
    )


@contextmanager
def _find_work(options: CompareOptions) -> Iterator[Path]:
    if options.folder is not None:
        yield Path(options.folder).absolute() / ".compare"  # workers elsewhere have other working folders
        return
    with tempfile.TemporaryDirectory(prefix="featx-compare-") as folder:
        yield Path(folder)


def _validate(candidate: _Candidate, outcome: list[Path] | str, rounds: _Rounds, dataset: Dataset) -> Entry:
    """Score a candidate on the items that were held out of the training items."""
    size = sum(part.dim * part.features.dtype.itemsize for part in candidate.store.parts)
    if isinstance(outcome, str):
        row = ComparisonRow(candidate.name, candidate.spec, describe_choice(candidate.spec), size, error=outcome)
        return Entry(row, None)
    right, losses = [], []
    for probabilities, targets in _recall_validation(outcome, rounds, dataset):
        right.append(probabilities.argmax(axis=1) == targets)
        own = probabilities[np.arange(len(targets)), targets]
        losses.append(-np.log(np.maximum(own, _LEAST_PROBABILITY)))
    record = read_result(outcome[-1]).record
    # Other rounds than those of tuning never hold out a class that is in one fold only; a note on them says so.
    single = record["single_fold_targets"] if rounds.ranks_by_tuning else []
    notes = dict.fromkeys([*describe_single_fold(single, dataset.classes), *record["notes"]])
    chosen = {name: record[name] for name in ("params", "scaling", "calibration")}
    head = replace(candidate.spec, **chosen)
    row = ComparisonRow(
        store=candidate.name,
        head=head,
        chosen=describe_choice(head, candidate.spec),
        bytes_per_item=size,
        validation_accuracy=float(np.concatenate(right).mean()),
        validation_log_loss=float(np.concatenate(losses).mean()),
        fit_seconds=record["fit_seconds"],
        embed_seconds=candidate.store.embed_seconds,
        predict_seconds=record["predict_seconds"],
        threads=record["threads"],
        peak_memory_bytes=record["peak_memory_bytes"],
        trained_parameters=record["trained_parameters"],
        notes=tuple(notes),
    )
    return Entry(row, functools.partial(_recall, outcome[-1]))


def _recall_validation(
    outcome: list[Path], rounds: _Rounds, dataset: Dataset
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.intp]]]:
    """Yield the probabilities of items while they were held out, and their targets."""
    for path, part in zip(outcome[:-1], rounds.validating, strict=True):
        yield read_result(path).arrays["probabilities"], dataset.targets[part.predicted]
    if not rounds.validating:
        own = rounds.final.trained_on if rounds.ranks_by_tuning else rounds.final.predicted
        yield read_result(outcome[-1]).arrays["held_out"], dataset.targets[own]


def _recall(path: Path) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = read_result(path).arrays["probabilities"]
    return probabilities


@dataclass(frozen=True, slots=True)
class Match:
    """The same labelled items in several stores.

    Attributes:
        dataset: The items, as the first store has them.
        rows: For each store, int `(n_items,)`: the row of each item.
        notes: What the user should know.
    """

    dataset: Dataset
    rows: tuple[NDArray[np.intp], ...]
    notes: tuple[str, ...]


def match_stores(stores: Sequence[FeatureStore], *, group: str = "", views: str = VIEWS[0]) -> Match:
    """Find the labelled items that all stores have, by id and content.

    Args:
        stores: One or more stores.
        group: What keeps items together, as in `load_dataset`; read from the first store. If empty,
            the groups that any of the stores has.
        views: What is taken of a store with views, as in `load_dataset`.

    Raises:
        DataError: If no item is in all of them, or they disagree about a label, split or group.
        UsageError: If `group` is not one of these, or a store has no views to augment by.
    """
    joined = JoinedStore(stores)
    dataset = load_dataset(joined, group=group, views=None)
    rows = tuple(rows[dataset.rows] for rows in joined.rows)
    notes = [*dataset.notes, *(note for store in stores for note in note_views(store, views))]
    return Match(replace(dataset, store=stores[0], rows=rows[0]), rows, tuple(dict.fromkeys(notes)))
