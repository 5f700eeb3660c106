"""An evaluation as plain text, aligned in any terminal."""

import numpy as np

from featx.evaluation.metrics import METRICS, ClassMetrics, Evaluation
from featx.wording import UNDEFINED, format_interval, format_value, measure_names, pad_name

#: What the metrics are called in tables.
METRIC_TITLES = {
    "accuracy": "accuracy",
    "mean_per_class_accuracy": "mean per-class accuracy",
    "macro_f1": "macro-F1",
    "log_loss": "log-loss (nats)",
    "expected_calibration_error": "expected calibration error",
    "roc_auc": "ROC-AUC",
}

# A table that is not printed to a narrower terminal has names of up to this width.
_MOST_CELLS, _LEAST_CELLS = 80, 16

_MOST_ROWS = 30
_MOST_CLASSES = 15
_MOST_PAIRS = 10
_LINE_CELLS = 100
_CORNER = "true \\ predicted"


def format_metrics(evaluation: Evaluation) -> str:
    """Format the metrics, each with its 95 % interval; `-` stands for an undefined value."""
    width = max(map(len, METRIC_TITLES.values()))
    lines = [f"{'':{width}}   value   95 % interval"]
    for metric in METRICS:
        point, low, high = evaluation.get_interval(metric)
        interval = "none: all resamples agree" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        interval = UNDEFINED if point is None else interval
        lines.append(f"{METRIC_TITLES[metric]:{width}}  {format_value(point, 4):>6}   {interval}")
    lines.append(f"{'items':{width}}  {evaluation.n_items:>6}")
    return "\n".join(lines)


def list_metrics(*evaluations: Evaluation) -> list[list[str]]:
    """List the metrics as rows of a table: the title, and the value of each evaluation with its interval."""
    return [
        [METRIC_TITLES[name], *(format_interval(one.get_interval(name)) for one in evaluations)] for name in METRICS
    ]


def format_per_class(evaluation: Evaluation, width: int | None = None) -> str:
    """Format the metrics of each class; with more than 30, of the 30 with the lowest F1.

    Args:
        evaluation: The evaluation.
        width: Columns of the terminal, in which names are cut that have no room; None for no limit.
    """
    rows = list(evaluation.per_class)
    if len(rows) > _MOST_ROWS:
        rows.sort(key=_rank_class)
    shown, hidden = rows[:_MOST_ROWS], rows[_MOST_ROWS:]
    heading = "  precision  recall      F1  support  ROC-AUC"
    cells = measure_names(["class", *(row.name for row in shown)], _find_room(width, len(heading)))
    lines = [f"{'class':{cells}}{heading}"]
    lines += [
        f"{pad_name(row.name, cells)}  {format_value(row.precision):>9}  {format_value(row.recall):>6}"
        f"  {format_value(row.f1):>6}  {row.support:>7}  {format_value(row.roc_auc):>7}"
        for row in shown
    ]
    if hidden:
        lines.append(f"... and {len(hidden)} more, with {_describe_rest(hidden)}")
    return "\n".join(lines)


def format_confusion(evaluation: Evaluation, width: int | None = None) -> str:
    """Format the confusion matrix, true classes down and predicted ones across.

    With more than 15 classes, list the ten pairs that are confused most instead.

    Args:
        evaluation: The evaluation.
        width: Columns of the terminal, in which names are cut that have no room; None for no limit.
    """
    if len(evaluation.classes) > _MOST_CLASSES:
        return _format_pairs(evaluation, width)
    return _format_matrix(evaluation, width)


def _find_room(width: int | None, taken: int) -> int:
    """Return the columns that a name may have beside what else is on its line."""
    return _MOST_CELLS if width is None else min(max(width - taken, _LEAST_CELLS), _MOST_CELLS)


def _rank_class(row: ClassMetrics) -> tuple[float, int]:
    """Order by F1; of equal ones the class with more items first; undefined ones last."""
    return (np.inf if row.f1 is None else row.f1, -row.support)


def _describe_rest(hidden: list[ClassMetrics]) -> str:
    if hidden[0].f1 is None:
        return "no items"
    return f"an F1 of {hidden[0].f1:.3f} or more"


def _format_matrix(evaluation: Evaluation, line: int | None) -> str:
    """Name the columns where a line has room for the names, and number them where it has not."""
    names = list(evaluation.classes)
    digits = len(str(evaluation.confusion.max()))
    width = measure_names(names, _MOST_CELLS)
    cell = max(digits, width)
    heads = names
    if max(width, len(_CORNER)) + len(names) * (cell + 2) > (line or _LINE_CELLS):
        heads = [str(number) for number in range(1, len(names) + 1)]
        names = [f"{head:>{len(heads[-1])}} {name}" for head, name in zip(heads, names, strict=True)]
        cell = max(digits, len(heads[-1]))
        width = measure_names(names, _find_room(line, len(names) * (cell + 2)))
    width = max(width, len(_CORNER))
    lines = ["  ".join([pad_name(_CORNER, width), *(pad_name(head, cell, right=True) for head in heads)])]
    for name, row in zip(names, evaluation.confusion.tolist(), strict=True):
        lines.append("  ".join([pad_name(name, width), *(f"{count:>{cell}}" for count in row)]))
    return "\n".join(lines)


def _format_pairs(evaluation: Evaluation, line: int | None) -> str:
    wrong_cells = evaluation.cells[evaluation.cells[:, 0] != evaluation.cells[:, 1]]
    pairs = wrong_cells[np.argsort(-wrong_cells[:, 2], kind="stable")[:_MOST_PAIRS]].tolist()
    if not pairs:
        return "no class is confused with another"
    names = evaluation.classes
    heading = "  items  of the class"
    width = measure_names(["true class", *(names[true] for true, _, _ in pairs)], _MOST_CELLS)
    other = measure_names(["predicted as", *(names[wrong] for _, wrong, _ in pairs)], _MOST_CELLS)
    if line is not None:
        room = max(line - len(heading) - 2, 2 * _LEAST_CELLS)
        width = min(width, max(room // 2, room - other))  # what one column leaves is the other's
        other = min(other, room - width)
    lines = [f"{'true class':{width}}  {'predicted as':{other}}{heading}"]
    for true, wrong, count in pairs:
        part = count / evaluation.per_class[true].support
        lines.append(f"{pad_name(names[true], width)}  {pad_name(names[wrong], other)}  {count:>5}  {part:>12.1%}")
    return "\n".join(lines)
