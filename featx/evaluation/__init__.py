"""Probabilities and targets in; metrics, 95 % intervals, tables and a plot out."""

from featx.evaluation.intervals import bootstrap_intervals, compute_wilson_interval
from featx.evaluation.metrics import METRICS, ClassMetrics, Evaluation, evaluate
from featx.evaluation.pairs import Paired, adjust_holm, compare_pair, describe_pair
from featx.evaluation.plots import plot_confusion
from featx.evaluation.tables import format_confusion, format_metrics, format_per_class

__all__ = [
    "METRICS",
    "ClassMetrics",
    "Evaluation",
    "Paired",
    "adjust_holm",
    "bootstrap_intervals",
    "compare_pair",
    "compute_wilson_interval",
    "describe_pair",
    "evaluate",
    "format_confusion",
    "format_metrics",
    "format_per_class",
    "plot_confusion",
]
