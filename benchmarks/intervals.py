"""Measure how often the 95 % intervals hold the truth, and how often the paired test raises a false alarm.

    python benchmarks/intervals.py [--sets 500] [--resamples 400]

*Metrics*: data sets are drawn from a model whose truth is known (normal scores around their
class, posterior probabilities; with groups, a shift that a group's items share, and one class
for each group). For each metric: in how many of the data sets its interval holds the truth. An
interval that is None (for example, where nothing was wrong) counts as holding it: it claims nothing.

*Pairs*: two classifiers whose errors are correlated, equally good or not. How often the interval
holds their difference; how often, for equals by chance, the p-values are below 0.05: the one
that is used (mid-p), the exact one, and the one that ignores groups.

Between 93 and 97 % for intervals, and 3 and 7 % for the test where at least ten items are
expected to differ, is what we want: sampling 500 data sets moves a share of 95 % by 1 %. Below,
we would change the interval; above, it is wider than it needs to be. JSON lines.
"""

import argparse
import json
import time

import numpy as np
from scipy.special import expit, logit, softmax

from featx.evaluation import METRICS, compare_pair, evaluate
from featx.evaluation.paired import SIGNIFICANCE

TRUTH_ITEMS = 200_000

# Items, classes, distance of the classes, items in a group (0: no groups), and a factor on the scores, which makes
# the probabilities too sure above 1 and too unsure below.
METRIC_CASES = [
    (100, 2, 2.0, 0, 1.0),
    (153, 2, 3.0, 0, 1.0),
    (100, 10, 3.0, 0, 1.0),
    (300, 5, 2.5, 0, 1.0),
    (412, 10, 4.0, 0, 1.0),
    (1000, 10, 3.0, 0, 1.0),
    (5000, 10, 3.0, 0, 1.0),
    (200, 5, 3.0, 5, 1.0),
    (600, 5, 3.0, 20, 1.0),
    (1000, 5, 3.5, 10, 1.0),
    (100, 5, 2.0, 0, 1.5),
    (300, 5, 2.0, 0, 3.0),
    (1000, 10, 3.0, 0, 1.5),
    (1000, 10, 3.0, 0, 0.4),
    (5000, 5, 2.0, 0, 1.5),
    (600, 5, 3.0, 20, 0.5),
    (1000, 5, 2.0, 10, 3.0),
    (150, 5, 4.5, 0, 3.0),
    (150, 2, 5.0, 0, 1.0),
]

# Items, accuracy, share of the noise in common, difference, items in a group, spread of the groups.
PAIR_CASES = [
    (100, 0.8, 0.5, 0.0, 0, 0.0),
    (153, 0.9, 0.3, 0.0, 0, 0.0),
    (153, 0.95, 0.7, 0.0, 0, 0.0),
    (500, 0.95, 0.5, 0.0, 0, 0.0),
    (2000, 0.97, 0.7, 0.0, 0, 0.0),
    (153, 0.9, 0.6, 0.04, 0, 0.0),
    (500, 0.95, 0.6, 0.03, 0, 0.0),
    (2000, 0.9, 0.6, 0.02, 0, 0.0),
    (300, 0.85, 0.6, 0.0, 10, 1.0),
    (500, 0.95, 0.6, 0.0, 5, 1.0),
    (2000, 0.9, 0.6, 0.0, 100, 0.5),
    (600, 0.9, 0.6, 0.04, 10, 1.0),
]


def main():
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=400)
    options = parser.parse_args()
    for case in METRIC_CASES:
        measure_metrics(*case, options.sets, options.resamples)
    for case in PAIR_CASES:
        measure_pairs(*case, options.sets, options.resamples)


def show(what, **figures):
    """Print one line of JSON."""
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


def draw_items(rng, n_items, n_classes, distance, size, factor):
    """Draw probabilities, targets and groups."""
    groups = np.arange(n_items) // max(size, 1)
    n_groups = groups[-1] + 1
    targets = rng.integers(n_classes, size=n_groups)[groups]
    scores = rng.normal(size=(n_items, n_classes)) + distance * np.eye(n_classes)[targets]
    if size:
        scores += rng.normal(size=(n_groups, n_classes))[groups]
    return softmax(factor * distance * scores, axis=1), targets, groups.tolist() if size else None


def measure_metrics(n_items, n_classes, distance, size, factor, sets, resamples):
    """Measure for each metric how many intervals hold the truth."""
    started = time.perf_counter()
    rng = np.random.default_rng(0)
    names = [str(number) for number in range(n_classes)]
    truth = evaluate(*draw_items(rng, TRUTH_ITEMS, n_classes, distance, size, factor)[:2], names, resamples=1)
    held = dict.fromkeys(METRICS, 0)
    ends = []
    for seed in range(sets):
        probabilities, targets, groups = draw_items(rng, n_items, n_classes, distance, size, factor)
        result = evaluate(probabilities, targets, names, groups=groups, seed=seed, resamples=resamples)
        for metric in METRICS:
            _, low, high = result.get_interval(metric)
            held[metric] += low is None or low <= getattr(truth, metric) <= high
        ends.append(result.log_loss_high or 0.0)
    show(
        "metrics",
        items=n_items,
        classes=n_classes,
        group_size=size,
        factor=factor,
        accuracy=float(truth.accuracy),
        calibration_error=float(truth.expected_calibration_error),
        log_loss=float(truth.log_loss),
        farthest_log_loss=float(max(ends)),
        **{f"held_{metric}": count / sets for metric, count in held.items()},
        seconds=time.perf_counter() - started,
    )


def draw_pair(rng, n_items, accuracy, share, difference, size, tilt):
    """Draw whether each of two classifiers has each item right, and the groups."""
    groups = np.arange(n_items) // max(size, 1)
    chance_a, chance_b = np.full(n_items, accuracy + difference / 2), np.full(n_items, accuracy - difference / 2)
    if size:
        ease, tilts = rng.normal(size=(2, groups[-1] + 1))
        chance_a = expit(logit(chance_a) + ease[groups] + tilt * tilts[groups])
        chance_b = expit(logit(chance_b) + ease[groups] - tilt * tilts[groups])
    luck = rng.random(n_items)
    other = np.where(rng.random(n_items) < share, luck, rng.random(n_items))
    return luck < chance_a, other < chance_b, groups.tolist() if size else None


def measure_pairs(n_items, accuracy, share, difference, size, tilt, sets, resamples):
    """Count the intervals that hold the difference, and, of ten times as many pairs, the p-values below 0.05."""
    rng = np.random.default_rng(0)
    case = (accuracy, share, difference, size, tilt)
    right_a, right_b, _ = draw_pair(rng, 10 * TRUTH_ITEMS, *case)
    # Drawn with groups, the difference is not the one of their logits; two equal classifiers stay equal.
    truth = right_a.mean() - right_b.mean() if size and difference else difference
    pairs = [compare(draw_pair(rng, n_items, *case), seed, resamples) for seed in range(sets)]
    quick = [draw_pair(rng, n_items, *case) for _ in range(10 * sets)]
    p_values = [
        (paired.p_value, paired.p_value_exact, naive.p_value)
        for paired, naive in ((compare(one, 0, 1), compare((*one[:2], None), 0, 1)) for one in quick)
    ]
    rejected = (np.array(p_values) < SIGNIFICANCE).mean(axis=0).tolist()
    show(
        "pairs",
        items=n_items,
        accuracy=accuracy,
        difference=float(truth),
        group_size=size,
        differing=float(n_items * (right_a != right_b).mean()),
        held=float(np.mean([paired.low <= truth <= paired.high for paired in pairs])),
        **dict(zip(("significant", "significant_exact", "significant_without_groups"), rejected, strict=True)),
    )


def compare(one, seed, resamples):
    """Compare one pair that `draw_pair` returned."""
    right_a, right_b, groups = one
    return compare_pair(right_a, right_b, groups=groups, seed=seed, resamples=resamples)


if __name__ == "__main__":
    main()
