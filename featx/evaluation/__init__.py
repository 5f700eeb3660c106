"""Probabilities and targets in; metrics, 95 % intervals, tables and a plot out."""

from featx.evaluation.intervals import bootstrap_intervals, compute_wilson_interval
from featx.evaluation.metrics import METRICS, ClassMetrics, Evaluation, evaluate
from featx.evaluation.plots import plot_confusion
from featx.evaluation.tables import format_confusion, format_metrics, format_per_class

__all__ = [
    "METRICS",
    "ClassMetrics",
    "Evaluation",
    "bootstrap_intervals",
    "compute_wilson_interval",
    "evaluate",
    "format_confusion",
    "format_metrics",
    "format_per_class",
    "plot_confusion",
]
