"""Comparing heads on stores: the same items and folds for all, the best chosen by validation, the test opened once."""

import functools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import UsageError
from featx.options import COMPARE_DEFAULTS, CompareOptions
from featx.specs import HeadSpec
from featx.store import FeatureStore
from featx.store.checking import refuse_damage
from featx.training.choosing import choose_heads
from featx.training.dataset import Dataset, Partition, split_dataset
from featx.training.frozen import Run
from featx.training.judging import Contender, judge
from featx.training.lessons import Lesson, digest_items, learn_and_predict
from featx.training.matching import match_stores
from featx.training.plans import read_runs
from featx.training.procedure import deal_folds, name_classes, read_versions
from featx.training.rendering import describe_choice, name_folder, write_comparison
from featx.training.rivals import enter_runs
from featx.training.standings import Comparison, Standing
from featx.training.tasks import Task, forget_results, read_result, run_tasks
from featx.training.verdicts import describe_gains
from featx.wording import to_printable

#: As in the log-loss of the test.
_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)


def compare(
    stores: FeatureStore | str | os.PathLike[str] | Sequence[FeatureStore | str | os.PathLike[str]],
    heads: str | Sequence[str | HeadSpec] = "fast",
    *,
    runs: Sequence[Run | str | os.PathLike[str]] | Run | str | os.PathLike[str] = (),
    params: Mapping[str, Any] | None = None,
    calibration: str | None = None,
    options: CompareOptions = COMPARE_DEFAULTS,
) -> Comparison:
    """Compare heads on stores, on the items that all stores have, and with finished runs, such as fine-tuned ones.

    Each head is tuned and fitted on folds of the training items, and ranked by the items held
    out: what it does to find its parameters is inside, so that tuning much wins nothing by
    itself. If the source has a split for that, this is used instead. Each is then tuned and fitted on
    all training and validation items. Only then is the test opened, once for all; it ranks nothing.

    A finished run is tested by its own predictions, which must be of these test items. If it was validated on that
    split of the source, this ranks it among the heads; if on other items, it is listed below them. A plan such as
    `last:23` is fine-tuned first, on the source and with the backbone of the first store, unless a finished run of
    it lies in `options.folder`. Fine-tuned runs are compared with the best frozen head: `Comparison.verdict`.

    Args:
        stores: One or more stores, or their paths.
        heads: Names of heads, or of sets of them (`featx.registry.HEAD_SETS`); one text may have several,
            with commas between. A spec fixes parameters.
        runs: What `featx.fit` or `featx.finetune` gave, folders of their bundles, or what to unfreeze (`last:N`,
            `from:LAYER`, `blocks:N`, `gradual`, `gradual:N` or `all`); one or more.
        params: Hyper-parameters that are fixed for each named head that has them, such as `class_weight`.
        calibration: One of `featx.specs.CALIBRATIONS` for all named heads; None for what each needs.
        options: How to split, how many processes, and where to write.

    Returns:
        A standing for each store and head, and for each run.

    Raises:
        UnknownNameError: If no head, or no layer of a plan, has that name.
        DataError: If the items cannot be split or matched, every head fails, or a run was tested on other items.
        BundleError: If a run is no bundle, or a damaged one.
        StoreFormatError: If a store is damaged.
        StoreError: If there is no such store, or nothing can be written.
        SourceError: If the images of a plan are gone or have changed.
    """
    started = time.perf_counter()
    specs, lacking = choose_heads(heads, options.seed, params or {}, calibration)
    opened = _open_stores(stores)
    match = match_stores(opened, group=options.group)
    partition = split_dataset(match.dataset, test_size=options.test_size, seed=options.seed)
    rounds = _plan_rounds(match.dataset, partition, options)
    names = _name_stores(opened)
    found = read_runs(runs, match.dataset, partition, options)
    by_backbone = {store.spec.backbone.uri: name for store, name in zip(opened[::-1], names[::-1], strict=True)}
    rivals = enter_runs(found, match.dataset, partition, options, by_backbone)
    candidates = [
        _Candidate(name, store, rows, spec)
        for name, store, rows in zip(names, opened, match.rows, strict=True)
        for spec in specs
    ]
    with _find_work(options) as work:
        outcomes = _run_rounds(candidates, rounds, match.dataset, work, options)
        validated = [_validate(*each, rounds, match.dataset) for each in zip(candidates, outcomes, strict=True)]
        ranked = sorted([*validated, *rivals], key=lambda contender: contender.rank)
        # Nothing is chosen below this line.
        standings = judge(ranked, match.dataset, partition, options.seed)
    comparison = Comparison(
        standings=standings,
        folder=None,
        test_name=partition.test_name,
        validation_name=rounds.name,
        n_train=int(rounds.final.learnt.sum()),
        n_test=len(partition.test),
        versions=read_versions(),
        notes=tuple(dict.fromkeys([*match.notes, *partition.notes, *lacking])),
        seconds=time.perf_counter() - started,
        verdict=describe_gains(standings, partition.test_name),
    )
    if options.out is None and options.folder is None:
        return comparison
    out = Path(options.out) if options.out is not None else name_folder(Path(str(options.folder)))
    return write_comparison(comparison, out)


@dataclass(frozen=True, slots=True)
class _Round:
    """Items to learn from and items to predict, bool `(n_items,)` each."""

    learnt: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Rounds:
    validating: tuple[_Round, ...]
    final: _Round
    name: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    store: FeatureStore
    rows: NDArray[np.intp]
    spec: HeadSpec


def _open_stores(
    stores: FeatureStore | str | os.PathLike[str] | Sequence[FeatureStore | str | os.PathLike[str]],
) -> list[FeatureStore]:
    given = [stores] if isinstance(stores, FeatureStore | str | os.PathLike) else stores
    opened = [store if isinstance(store, FeatureStore) else FeatureStore(store) for store in given]
    unique = list({store.path.resolve(): store for store in opened}.values())
    if not unique:
        msg = "no store is named; give the path of one at least"
        raise UsageError(msg)
    refuse_damage(unique)
    return unique


def _name_stores(stores: Sequence[FeatureStore]) -> list[str]:
    """Name stores by their files, or by their paths where two files have one name."""
    stems = [store.path.stem for store in stores]
    return [
        to_printable(stem if stems.count(stem) == 1 else str(store.path))
        for stem, store in zip(stems, stores, strict=True)
    ]


def _plan_rounds(dataset: Dataset, partition: Partition, options: CompareOptions) -> _Rounds:
    train, validation = partition.train, partition.validation
    final = _Round(train | validation, partition.test.members)
    if validation.any():
        return _Rounds((_Round(train, validation),), final, "the val split of the source")
    folds = max(2, min(options.folds, dataset.count_units(train)))
    dealt = np.full(len(dataset), -1)
    dealt[train] = dataset.assign_folds(train, folds, options.seed)
    rounds = tuple(_Round(train & (dealt != fold), dealt == fold) for fold in range(folds))
    return _Rounds(rounds, final, f"{folds} folds of the training items")


def _run_rounds(
    candidates: Sequence[_Candidate], rounds: _Rounds, dataset: Dataset, work: Path, options: CompareOptions
) -> list[list[Path] | str]:
    """Let every candidate learn and predict in every round: its results, the final one last, or why it failed."""
    order = (*rounds.validating, rounds.final)
    seeds = {candidate.spec.seed for candidate in candidates}
    folds = {seed: [deal_folds(dataset, part.learnt, seed) for part in order] for seed in seeds}
    tasks = [
        [
            _make_task(candidate, dataset, part, dealt)
            for part, dealt in zip(order, folds[candidate.spec.seed], strict=True)
        ]
        for candidate in candidates
    ]
    # The final round, which takes longest, begins, so that no process is left alone with one at the end.
    queue = [task for column in reversed(list(zip(*tasks, strict=True))) for task in column]
    if options.fresh:
        forget_results(queue, work)
    jobs = options.count_jobs()
    found = run_tasks(queue, work, jobs=jobs, threads=1 if jobs > 1 else None, progress=options.progress)
    outcomes: list[list[Path] | str] = []
    for own in tasks:
        results = [found[task.key] for task in own]
        reasons = [result for result in results if isinstance(result, str)]
        outcomes.append(reasons[0] if reasons else [result for result in results if isinstance(result, Path)])
    return outcomes


def _make_task(candidate: _Candidate, dataset: Dataset, part: _Round, folds: NDArray[np.intp]) -> Task:
    learnt, predicted = candidate.rows[part.learnt], candidate.rows[part.predicted]
    lesson = Lesson(
        store=candidate.store.path.resolve(),
        head=candidate.spec,
        learnt=learnt,
        targets=dataset.targets[part.learnt],
        folds=folds,
        units=dataset.find_units(part.learnt),
        predicted=predicted,
        n_classes=len(dataset.classes),
        items_digest=digest_items(candidate.store, learnt, predicted),
    )
    return Task(lesson.digest, learn_and_predict, lesson)


@contextmanager
def _find_work(options: CompareOptions) -> Iterator[Path]:
    if options.folder is not None:
        yield Path(options.folder) / ".compare"
        return
    with tempfile.TemporaryDirectory(prefix="featx-compare-") as folder:
        yield Path(folder)


def _validate(candidate: _Candidate, outcome: list[Path] | str, rounds: _Rounds, dataset: Dataset) -> Contender:
    """Score a candidate by the items that were held out of the training items."""
    size = candidate.store.dim * candidate.store.features.dtype.itemsize
    if isinstance(outcome, str):
        standing = Standing(candidate.name, candidate.spec, describe_choice(candidate.spec), size, error=outcome)
        return Contender(standing, None)
    right, losses = [], []
    for path, part in zip(outcome[:-1], rounds.validating, strict=True):
        probabilities, targets = read_result(path).arrays["probabilities"], dataset.targets[part.predicted]
        right.append(probabilities.argmax(axis=1) == targets)
        own = probabilities[np.arange(len(targets)), targets]
        losses.append(-np.log(np.maximum(own, _LEAST_PROBABILITY)))
    record = read_result(outcome[-1]).record
    notes = dict.fromkeys(name_classes(note, dataset.classes) for note in record["notes"])
    head = replace(candidate.spec, params=record["params"], scaling=record["scaling"])
    standing = Standing(
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
        # An older featx kept results without them.
        peak_memory_bytes=record.get("peak_memory_bytes"),
        trained_parameters=record.get("trained_parameters"),
        notes=tuple(notes),
    )
    return Contender(standing, functools.partial(_recall, outcome[-1]))


def _recall(path: Path) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = read_result(path).arrays["probabilities"]
    return probabilities
