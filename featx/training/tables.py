"""The table of a comparison: all of it for files, and as much as a terminal can show."""

from collections.abc import Mapping, Sequence

from rich.cells import cell_len

from featx.evaluation.names import shorten_name
from featx.training.standings import Comparison, Standing
from featx.wording import format_bytes, format_count, format_seconds

#: Columns that are text, and so aligned to the left.
LEFT = ("store", "head", "chosen", "verdict")

#: What a terminal can be counted on to show.
TERMINAL_CELLS = 120

_UNDEFINED = "-"
_LEAST_SHOWN = 0.001
_GAP = 2

#: Where the table is too wide: a column that is cut, to how few cells, or left out (0), one after the other.
_SAVINGS = (("chosen", 8), ("chosen", 0), ("log-loss", 0), ("store", 14), ("head", 18), ("params", 0), ("memory", 0))


def tabulate(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Make the header and the cells of the table, the best by validation first."""
    return _arrange(comparison, [_format_standing(standing) for standing in comparison.standings])


def tabulate_briefly(comparison: Comparison, cells: int = TERMINAL_CELLS) -> tuple[list[str], list[list[str]]]:
    """Make the same table of fewer columns, no wider than a terminal.

    Args:
        comparison: What was found.
        cells: Columns of the terminal.
    """
    header, rows = _arrange(comparison, [_format_briefly(standing) for standing in comparison.standings])
    columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
    for name, fewest in _SAVINGS:
        excess = _measure(columns) - cells
        if name not in columns or excess <= 0:
            continue
        texts = columns.pop(name) if not fewest else columns[name]
        if fewest:
            width = max(fewest, _measure({name: texts}) - excess)
            cut = cut_middle if name == "store" else shorten_name
            columns[name] = [cut(text, width) for text in texts]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def cut_middle(text: str, cells: int) -> str:
    """Cut a text in its middle, as stores often differ at the end.

    Args:
        text: Any text.
        cells: The most columns of a terminal that it may take.
    """
    if cell_len(text) <= cells:
        return text
    half = cells // 2
    return shorten_name(text, cells - half) + text[-half:]


def _measure(columns: Mapping[str, Sequence[str]]) -> int:
    widths = [max(map(cell_len, (name, *texts))) for name, texts in columns.items()]
    return sum(widths) + _GAP * (len(widths) - 1)


def _arrange(comparison: Comparison, rows: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    stores = {standing.store for standing in comparison.standings}
    hidden = {"store"} if len(stores) == 1 else set()
    header = [name for name in rows[0] if name not in hidden]
    return header, [[row[name] for name in header] for row in rows]


def _format_standing(standing: Standing) -> dict[str, str]:
    test, paired, size = standing.test, standing.paired, standing.bytes_per_item
    interval = f"{test.accuracy_low:.3f} to {test.accuracy_high:.3f}" if test else _UNDEFINED
    difference = f"{paired.difference:+.3f} ({paired.low:+.3f} to {paired.high:+.3f})" if paired else _UNDEFINED
    return {
        "store": standing.store,
        "head": standing.title,
        "chosen": standing.chosen or _UNDEFINED,
        "valid.": _format(standing.validation_accuracy),
        "test": _format(test.accuracy if test else None),
        "95 %": interval,
        "bal.": _format(test.mean_per_class_accuracy if test else None),
        "F1": _format(test.macro_f1 if test else None),
        "log-loss": _format(test.log_loss if test else None),
        "ECE": _format(test.expected_calibration_error if test else None),
        "fit s": _format(standing.fit_seconds, 2),
        "embed s": _format(standing.embed_seconds, 2),
        "predict s": _format(standing.predict_seconds),
        **_format_costs(standing),
        "bytes/item": _UNDEFINED if size is None else f"{size:,}",
        "to the best": difference,
        "p": _format_p(standing.p_value),
        "verdict": standing.verdict,
    }


def _format_briefly(standing: Standing) -> dict[str, str]:
    test, paired, seconds = standing.test, standing.paired, standing.fit_seconds
    points = [f"{100 * share:+.1f}" for share in (paired.difference, paired.low, paired.high)] if paired else []
    return {
        "store": standing.store,
        "head": standing.title,
        "chosen": standing.chosen or _UNDEFINED,
        "valid.": _format(standing.validation_accuracy),
        "test": _format(test.accuracy if test else None),
        "95 %": f"{test.accuracy_low:.3f}-{test.accuracy_high:.3f}" if test else _UNDEFINED,
        "log-loss": _format(test.log_loss if test else None),
        "time": _UNDEFINED if seconds is None else format_seconds(seconds),
        **_format_costs(standing),
        "points to the best": f"{points[0]} ({points[1]} to {points[2]})" if points else _UNDEFINED,
        "verdict": standing.verdict,
    }


def _format_costs(standing: Standing) -> dict[str, str]:
    memory, parameters = standing.peak_memory_bytes, standing.trained_parameters
    return {
        "memory": _UNDEFINED if memory is None else format_bytes(memory),
        "params": _UNDEFINED if parameters is None else format_count(parameters),
    }


def _format(value: float | None, digits: int = 3) -> str:
    return _UNDEFINED if value is None else f"{value:.{digits}f}"


def _format_p(value: float | None) -> str:
    return "<0.001" if value is not None and value < _LEAST_SHOWN else _format(value)
