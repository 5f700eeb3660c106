"""How far can explanations be trusted: do conformal sets cover what they promise, and are foreign pictures unfamiliar?

    python benchmarks/trust.py STORE OTHER_STORE [--splits 50] [--clf logreg] [--test-size 0.2] [--val-size 0.25]
        [--folds 5] [--sets-only]

Both stores are of the same network and of other pictures. The items of STORE are split at random, `splits` times, and
each time a head is tuned and fitted as `featx fit` does it; the splits of the source are ignored. The items that
calibrate are the training items while one of `folds` parts was held out, or with `--val-size` a val split. Printed
are, for each coverage, the share of test items whose set has their class and its standard deviation over the splits,
the mean size of the sets, the share of empty ones, and the least coverage of a class (mean over splits); then the
area under the ROC curve of the unfamiliarity of the items of OTHER_STORE against that of the test items, and the
shares of both that are called unfamiliar at each threshold, for several ranks and for standardised features. JSON
lines.

The rule for class-wise thresholds would have to change if a mean coverage were two points from the nominal one, and
`RANK` or the cosine if another row found foreign pictures better on both stores.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from reporting import read_processor, show
from sklearn.metrics import roc_auc_score

from featx.explaining.basis import RANK
from featx.fitting.choice import predict_items, tune_and_choose
from featx.fitting.dataset import deal_folds, load_dataset, split_dataset
from featx.fitting.explanations import CALIBRATING_FOLDS, Calibrating, make_basis, predict_held_out
from featx.fitting.protocols import plan_head
from featx.heads import fit_tuned
from featx.specs import HeadSpec
from featx.store import FeatureStore

COVERAGES, THRESHOLDS, RANKS = (0.8, 0.9, 0.95, 0.99), (0.95, 0.99), (1, 5, 10, 50)


def main():
    """Print a line for each coverage, and for each way to measure unfamiliarity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--clf", default="logreg")
    parser.add_argument("--test-size", type=float, default=0.2)
    parser.add_argument("--val-size", type=float, default=0.0, help="share of the training items that calibrates")
    parser.add_argument("--folds", type=int, default=CALIBRATING_FOLDS, help="folds of the items that calibrate")
    parser.add_argument("--sets-only", action="store_true", help="measure the coverage and nothing else")
    options = parser.parse_args()
    show("machine", processor=read_processor())
    dataset = load_dataset(FeatureStore(options.store))
    dataset = replace(dataset, splits=np.full(len(dataset), ""))
    foreign = np.asarray(FeatureStore(options.other).features, np.float32)
    started, sets, familiar = time.process_time(), [], []
    for seed in range(options.splits):
        partition = split_dataset(dataset, test_size=options.test_size, seed=seed)
        train, test = partition.train, partition.test.members
        fitted, calibrating = fit_head(dataset, train, options, seed)
        basis = make_basis(dataset, train, calibrating, with_items=True)
        probabilities, targets = predict_items(fitted, dataset, test), dataset.targets[test]
        sets.append([measure_sets(basis.conformal, share, probabilities, targets) for share in COVERAGES])
        if options.sets_only:
            continue
        known, tested = dataset.take_features(train)[:], dataset.take_features(test)[:]
        familiar.append(
            {**measure_distances(known, tested, foreign), "featx": measure_known(basis.known, tested, foreign)}
        )
    for place, coverage in enumerate(COVERAGES):
        rows = np.array([one[place] for one in sets])
        names = ("covered", "size", "empty", "least_class", "by_class")
        means = dict(zip(names, rows.mean(axis=0).round(4).tolist(), strict=True))
        show(
            "coverage", store=options.store.stem, n=len(dataset), asked=coverage, **means, sd=rows[:, 0].std().round(4)
        )
    for name in familiar[0] if familiar else ():
        rows = np.array([one[name] for one in familiar])
        names = ("auroc", *(f"{kind}_{share:g}" for share in THRESHOLDS for kind in ("false", "found")))
        show("unfamiliar", way=name, **dict(zip(names, rows.mean(axis=0).round(4).tolist(), strict=True)))
    show("time", splits=options.splits, cpu_seconds=round(time.process_time() - started, 1))


def fit_head(dataset, train, options, seed):
    """Tune and fit a head as `featx fit` does, on folds, or with a part of the items as its val split."""
    plan = plan_head(HeadSpec(options.clf, {}, None, seed), None)
    validation = np.random.default_rng(seed).random(len(dataset)) < options.val_size
    validation &= train
    chosen = tune_and_choose([plan], dataset, train & ~validation, validation, lambda *_: None)
    if not validation.any():
        return chosen.fitted, predict_held_out(chosen, dataset, train, options.folds)
    calibrating = Calibrating(validation, predict_items(chosen.fitted, dataset, validation))
    rows = dataset.take_training_rows(train, deal_folds(dataset, train, seed))
    return fit_tuned(plan[0], rows, chosen.tuned), calibrating


def measure_sets(conformal, coverage, probabilities, targets):
    """Return the share of sets with the true class, their size, the share of empty ones, and the least of a class."""
    thresholds = conformal.find_thresholds(coverage)
    taken = thresholds.find_sets(probabilities)
    right = taken[np.arange(len(targets)), targets]
    least = min(right[targets == target].mean() for target in np.unique(targets))
    return [right.mean(), taken.sum(axis=1).mean(), (~taken.any(axis=1)).mean(), least, thresholds.by_class]


def measure_known(known, tested, foreign):
    """Measure unfamiliarity as an explanation does."""
    own, others = (
        np.array([known.measure_unfamiliarity(known.compare(row)) for row in rows]) for rows in (tested, foreign)
    )
    return summarize(own, others, THRESHOLDS, 100)


def measure_distances(features, tested, foreign):
    """Measure unfamiliarity in other ways: cosine or Euclidean, of standardised features or not, to several ranks."""
    found = {}
    for way in ("cosine", "standardised cosine", "standardised Euclidean"):
        known, own, others = (prepare(rows, features, way) for rows in (features, tested, foreign))
        distances = [measure(rows, known) for rows in (known, own, others)]
        for rank in RANKS:
            limits = np.quantile(distances[0][:, rank], THRESHOLDS)  # the first is the item itself
            ranked = [rows[:, rank - 1] for rows in distances[1:]]
            found[f"{way}, rank {rank}{' (chosen)' if (way, rank) == ('cosine', RANK) else ''}"] = summarize(
                *ranked, limits, 1
            )
    return found


def prepare(rows, features, way):
    """Standardise rows, and divide them by their length, where the way asks for it."""
    if way.startswith("standardised"):
        rows = (rows - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if way.endswith("cosine") else rows


def measure(rows, known):
    """Return the squared distances of rows to the nearest known items, rising."""
    squares = (rows**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * rows @ known.T
    most = max(RANKS) + 1
    return np.sort(np.partition(squares, most, axis=1)[:, :most], axis=1)


def summarize(own, others, limits, scale):
    """Return the area under the ROC curve, and the shares of own and foreign items above each limit."""
    area = roc_auc_score(np.repeat([0, 1], [len(own), len(others)]), np.concatenate([own, others]))
    return [area, *(float((rows > limit * scale).mean()) for limit in limits for rows in (own, others))]


if __name__ == "__main__":
    main()
