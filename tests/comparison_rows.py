"""Comparisons that nothing was fitted for."""

import numpy as np

from featx.comparison_results import Comparison, ComparisonRow
from featx.evaluation import evaluate
from featx.evaluation.paired import compare_pair
from featx.specs import HeadSpec

TARGETS = np.arange(60) % 3


def make_row(name, verdict, wrong=0, store="photos", **options):
    predicted = np.where(np.arange(60) < wrong, (TARGETS + 1) % 3, TARGETS)
    probabilities = np.full((60, 3), 0.1)
    probabilities[np.arange(60), predicted] = 0.8
    test = evaluate(probabilities, TARGETS, ("a", "b", "c"), resamples=50)
    paired = None if verdict == "best" else compare_pair(predicted == TARGETS, np.ones(60, bool))
    return ComparisonRow(
        store=store,
        head=HeadSpec(name, options.pop("params", {}), "l2"),
        chosen="l2",
        bytes_per_item=3072,
        verdict=verdict,
        validation_accuracy=0.9,
        validation_log_loss=0.3,
        test=test,
        paired=paired,
        p_value=None if paired is None else paired.p_value,
        fit_seconds=1.5,
        predict_seconds=0.01,
        threads=1,
        **options,
    )


def make_comparison(*rows):
    how = ("test", "3 folds of the training items", 240, 60, {"featx": "0.1.0"}, ("a note | with a bar",), 2.0)
    return Comparison(rows, None, *how)


FAILED = ComparisonRow("photos", HeadSpec("svm"), "", 3072, error="no memory")
