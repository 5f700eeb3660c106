"""Evaluation of predictions: metrics with 95 % intervals, paired comparisons, tables and plots."""

from featx.evaluation.forecast import Forecast, forecast_accuracy
from featx.evaluation.intervals import bootstrap_intervals, compute_wilson_interval
from featx.evaluation.metrics import METRICS, ClassMetrics, Evaluation, evaluate
from featx.evaluation.paired import Paired, adjust_holm, compare_pair, describe_pair
from featx.evaluation.plots import plot_confusion, plot_costs, plot_learning, plot_path, plot_reliability
from featx.evaluation.reliability import Reliability, measure_reliability
from featx.evaluation.text import format_confusion, format_metrics, format_per_class

__all__ = [
    "METRICS",
    "ClassMetrics",
    "Evaluation",
    "Forecast",
    "Paired",
    "Reliability",
    "adjust_holm",
    "bootstrap_intervals",
    "compare_pair",
    "compute_wilson_interval",
    "describe_pair",
    "evaluate",
    "forecast_accuracy",
    "format_confusion",
    "format_metrics",
    "format_per_class",
    "measure_reliability",
    "plot_confusion",
    "plot_costs",
    "plot_learning",
    "plot_path",
    "plot_reliability",
]
