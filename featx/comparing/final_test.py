"""The final test: opened once for all entries of a comparison, after validation has ranked them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featx.comparison_results import FINE_TUNED, FROZEN, ComparisonRow
from featx.errors import DataError
from featx.evaluation.paired import SIGNIFICANCE, Paired, adjust_holm, compare_pair
from featx.fitting.dataset import Dataset, Partition, evaluate_items, list_groups
from featx.wording import to_text


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a comparison after validation: a head on a store, or a finished run.

    Attributes:
        row: Its row of the comparison, so far without the test.
        recall: Returns its probabilities of the test items, float64 `(n_test, n_classes)`; None if it failed.
        labels: For a finished run, the labels that it used for the test items.
        ranked: Whether it was validated on the items that rank all others.
    """

    row: ComparisonRow
    recall: Callable[[], NDArray[np.float64]] | None
    labels: tuple[str, ...] = ()
    ranked: bool = True

    @property
    def rank(self) -> tuple[bool, bool, float, float]:
        """The sort key: higher accuracy first, then lower log-loss, then unranked entries, and failed ones last."""
        accuracy, log_loss = self.row.validation_accuracy, self.row.validation_log_loss
        return (self.recall is None, not self.ranked, -(accuracy or 0.0), log_loss or 0.0)


def run_final_test(
    ranked: Sequence[Entry], dataset: Dataset, partition: Partition, seed: int
) -> tuple[ComparisonRow, ...]:
    """Evaluate all entries on the test. Compare each with the first, and fine-tuned ones with the first frozen one.

    Args:
        ranked: The entries, the best by validation first.
        dataset: All items.
        partition: The split.
        seed: Seed of the intervals.

    Returns:
        Their rows in the same order.

    Raises:
        DataError: If no head could be fitted, or a finished run was tested with other labels.
    """
    able = [(one, one.recall) for one in ranked if one.recall is not None]
    failed = [one.row for one in ranked if one.recall is None]
    if failed and not any(one.row.run is None for one, _ in able):
        first = f"{failed[0].title} on {failed[0].store}: {failed[0].error}"
        msg = f"none of the {len(failed)} heads could be fitted; the first error is {first}"
        msg = msg if len(failed) > 1 else f"the head could not be fitted: {first}"
        raise DataError(msg)
    members, targets = partition.test.members, partition.test.open_targets()
    tested, correct = [], []
    for one, recall in able:
        _check_labels(one, dataset, members, targets)
        probabilities = recall()
        evaluation = evaluate_items(dataset, members, probabilities, targets, seed)
        tested.append(replace(one.row, verdict="best", test=evaluation))
        correct.append(probabilities.argmax(axis=1) == targets)
    groups = list_groups(dataset, members)
    asked = [*((at, 0) for at in range(1, len(tested))), *_list_gain_pairs(tested)]
    pairs = {ends: compare_pair(correct[ends[0]], correct[ends[1]], groups=groups, seed=seed) for ends in asked}
    p_values = _adjust(pairs)
    rows = [_describe(row, pairs.get((at, 0)), p_values.get((at, 0))) if at else row for at, row in enumerate(tested)]
    for ends in _list_gain_pairs(tested):
        rows[ends[0]] = replace(rows[ends[0]], gain=pairs[ends], gain_p_value=p_values[ends])
    return (*rows, *failed)


def _list_gain_pairs(rows: Sequence[ComparisonRow]) -> list[tuple[int, int]]:
    """Pair each fine-tuned run with the frozen head that validation ranks first."""
    frozen = [at for at, row in enumerate(rows) if row.kind == FROZEN][:1]
    tuned = [at for at, row in enumerate(rows) if row.kind == FINE_TUNED]
    return [(at, first) for at in tuned for first in frozen]


def _adjust(pairs: Mapping[tuple[int, int], Paired]) -> dict[tuple[int, int], float]:
    """Adjust the p-values of all pairs by Holm's method; a pair and its reverse are the same question."""
    single = {(min(ends), max(ends)): pair.p_value for ends, pair in pairs.items()}
    adjusted = dict(zip(single, adjust_holm(list(single.values())).tolist(), strict=True))
    return {ends: adjusted[min(ends), max(ends)] for ends in pairs}


def _describe(row: ComparisonRow, pair: Paired | None, p_value: float | None) -> ComparisonRow:
    if pair is None or p_value is None:
        return row
    verdict = "tie" if p_value >= SIGNIFICANCE else "better" if pair.difference > 0 else "worse"
    return replace(row, verdict=verdict, paired=pair, p_value=p_value)


def _check_labels(entry: Entry, dataset: Dataset, members: NDArray[np.bool_], targets: NDArray[np.intp]) -> None:
    if not entry.labels:
        return
    labels = [to_text(dataset.classes[target]) for target in targets.tolist()]
    differing = [at for at, own in enumerate(entry.labels) if own != labels[at]]
    if differing:
        first = differing[0]
        name = to_text(dataset.store.ids[dataset.rows[members]][first])
        msg = (
            f"{entry.row.run} was tested with other labels for {len(differing)} of the test images, such as "
            f"{entry.labels[first]!r} for {name}, which is {labels[first]!r} here; repeat the run on "
            f"the same source"
        )
        raise DataError(msg)
