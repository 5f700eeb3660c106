"""Probes: one head, tuned on the same folds of every store's items, and the paired test against the best."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.comparing.comparison import match_stores
from featx.comparing.jobs import HeadTask, Task, digest_items, run_tasks, tune_and_hold_out
from featx.comparing.report import describe_choice
from featx.errors import DataError
from featx.evaluation.intervals import check_groups, measure_accuracy
from featx.evaluation.paired import SIGNIFICANCE, adjust_holm, compare_pair
from featx.files import Result, read_result
from featx.fitting.dataset import Dataset, list_groups
from featx.options import ScoutOptions
from featx.scouting.results import ScoutRow
from featx.specs import HeadSpec
from featx.store import FeatureStore

#: Stores with fewer features than this in all are probed in this process: a second one takes longer to start.
_FEW_VALUES = 50_000_000

_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)


def probe_stores(
    rows: Sequence[ScoutRow], head: HeadSpec, work: Path, options: ScoutOptions
) -> tuple[list[ScoutRow], int, int, tuple[str, ...]]:
    """Tune a head on folds of the items of each store, and compare how it predicted them while they were held out.

    Args:
        rows: A row for each store, without results.
        head: The head.
        work: Folder of finished probes, which are not repeated.
        options: Folds, seed, groups and processes.

    Returns:
        The rows with results, the most accurate first; the number of items and of folds; and notes.

    Raises:
        DataError: If the items cannot be matched, or no head could be fitted.
    """
    match = match_stores([FeatureStore(row.store) for row in rows], group=options.group)
    dataset, everything = match.dataset, np.ones(len(match.dataset), bool)
    folds = max(2, min(options.folds, dataset.count_units(everything)))
    # Items without which a class could not be trained on are never held out, and join the first fold.
    dealt = np.maximum(dataset.assign_folds(everything, folds, options.seed), 0)
    units = dataset.find_units(everything)
    tasks = [
        _make_task(FeatureStore(row.store), at, dataset, dealt, units, head)
        for row, at in zip(rows, match.rows, strict=True)
    ]
    options.reporter.begin("probing")
    jobs = options.count_jobs()
    few = sum(row.dim for row in rows) * len(dataset) < _FEW_VALUES
    threads = 1 if jobs > 1 else None
    found = run_tasks(tasks, work, jobs=jobs, threads=threads, progress=options.reporter.advance, here=few or jobs == 1)
    outcomes = [found[task.key] for task in tasks]
    results = [outcome if isinstance(outcome, str) else read_result(outcome) for outcome in outcomes]
    return _rank(rows, results, dataset, head, options.seed), len(dataset), folds, match.notes


def _make_task(
    store: FeatureStore,
    rows: NDArray[np.intp],
    dataset: Dataset,
    folds: NDArray[np.intp],
    units: NDArray[np.intp],
    head: HeadSpec,
) -> Task:
    nothing = rows[:0]
    task = HeadTask(
        stores=(store.path.resolve(),),
        head=head,
        trained_on=rows,
        targets=dataset.targets,
        folds=folds,
        units=units,
        predicted=nothing,
        n_classes=len(dataset.classes),
        items_digest=digest_items(store, rows, nothing),
        held_out=True,
    )
    return Task(task.digest, tune_and_hold_out, task, task.count_fits())


def _rank(
    rows: Sequence[ScoutRow], results: Sequence[Result | str], dataset: Dataset, head: HeadSpec, seed: int
) -> list[ScoutRow]:
    """Order the rows by accuracy, and compare each with the first."""
    failed = [replace(row, error=why) for row, why in zip(rows, results, strict=True) if isinstance(why, str)]
    groups = list_groups(dataset, np.ones(len(dataset), bool))
    able = [
        _measure(row, result, dataset, groups, head)
        for row, result in zip(rows, results, strict=True)
        if not isinstance(result, str)
    ]
    if not able:
        msg = f"{head.name} could not be fitted to any of the {len(failed)} stores; the first error: {failed[0].error}"
        raise DataError(msg)
    able.sort(key=lambda pair: (-(pair[0].accuracy or 0.0), pair[0].log_loss or 0.0))
    (best, right), *others = able
    pairs = [compare_pair(own, right, groups=groups, seed=seed) for _, own in others]
    p_values = adjust_holm([pair.p_value for pair in pairs]).tolist()
    compared = [
        replace(row, paired=pair, p_value=p_value, verdict="worse" if p_value < SIGNIFICANCE else "tie")
        for (row, _), pair, p_value in zip(others, pairs, p_values, strict=True)
    ]
    return [replace(best, verdict="best"), *compared, *failed]


def _measure(
    row: ScoutRow, result: Result, dataset: Dataset, groups: list[str] | None, head: HeadSpec
) -> tuple[ScoutRow, NDArray[np.bool_]]:
    """Return a row with its accuracy, and which items were predicted correctly."""
    chances, targets, record = result.arrays["held_out"], dataset.targets, result.record
    right: NDArray[np.bool_] = chances.argmax(axis=1) == targets
    accuracy, low, high = measure_accuracy(right, None if groups is None else check_groups(groups, len(targets)))
    own = np.maximum(chances[np.arange(len(targets)), targets], _LEAST_PROBABILITY)
    chosen = replace(head, params=record["params"], scaling=record["scaling"])
    measured = replace(
        row,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        log_loss=float(-np.log(own).mean()),
        chosen=describe_choice(chosen, head),
        probe_seconds=record["fit_seconds"],
    )
    return measured, right
