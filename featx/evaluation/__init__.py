"""Evaluation of predictions: metrics with 95 % intervals, paired comparisons, tables and plots.

Each name below is loaded at its first use.
"""

from typing import TYPE_CHECKING

from featx.laziness import load_lazily

if TYPE_CHECKING:
    from featx.evaluation.forecast import Forecast, forecast_accuracy
    from featx.evaluation.intervals import bootstrap_intervals, compute_wilson_interval
    from featx.evaluation.metrics import METRICS, ClassMetrics, Evaluation, evaluate
    from featx.evaluation.paired import Paired, adjust_holm, compare_pair, describe_pair
    from featx.evaluation.plots import plot_confusion, plot_costs, plot_learning, plot_path, plot_reliability
    from featx.evaluation.reliability import Reliability, measure_reliability
    from featx.evaluation.text import format_confusion, format_metrics, format_per_class

_MODULES = {
    "featx.evaluation.forecast": ("Forecast", "forecast_accuracy"),
    "featx.evaluation.intervals": ("bootstrap_intervals", "compute_wilson_interval"),
    "featx.evaluation.metrics": ("METRICS", "ClassMetrics", "Evaluation", "evaluate"),
    "featx.evaluation.paired": ("Paired", "adjust_holm", "compare_pair", "describe_pair"),
    "featx.evaluation.plots": ("plot_confusion", "plot_costs", "plot_learning", "plot_path", "plot_reliability"),
    "featx.evaluation.reliability": ("Reliability", "measure_reliability"),
    "featx.evaluation.text": ("format_confusion", "format_metrics", "format_per_class"),
}

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

__getattr__ = load_lazily(__name__, _MODULES)
