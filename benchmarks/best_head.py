"""How optimistic is the figure by which a head is chosen, and what is lost against the best head in hindsight?

    python benchmarks/best_head.py features/mobilenet-0.25.h5 --items 150 --splits 24 --without mlp random-forest

In each split, some items of each class are drawn to train on. All heads of `fast` are tuned on folds of these, and
`best` chooses one. All other items, many more, tell how good each head really is. Compared are: the accuracy on the
folds of the head that has the highest, as in a choice by hand; that of the head that `best` takes; and the nested
estimate of `fit --clf best --cv 3`, in which each fold chooses again. Each less the real accuracy of the head is its
optimism. Folds train on fewer items than the head that is tested, so all figures are too low; what the choice adds is
the difference from the mean of all heads.

What would change our mind: a nested estimate that is more optimistic than its standard error, or a choice that loses
more against hindsight than always taking `logreg` does.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from reporting import read_processor, show

FOLDS = 3


def main():
    """Measure all splits, and show the mean of each figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--items", type=int, default=150)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--without", nargs="*", default=(), help="heads that are left out, as they take longest")
    options = parser.parse_args()
    show("machine", processor=read_processor())
    from featx import FeatureStore
    from featx.fitting.dataset import load_dataset

    dataset = load_dataset(FeatureStore(options.store))
    found = [measure(dataset, options.items, seed, options.without) for seed in range(options.splits)]
    for name in found[0]:
        values = [one[name] for one in found]
        if isinstance(values[0], str):
            show(name, counts=dict(Counter(values).most_common()))
            continue
        show(name, mean=float(np.mean(values)), standard_error=float(np.std(values, ddof=1) / np.sqrt(len(values))))


def measure(dataset, n_items, seed, without):
    """Choose a head on a few items, by hand, by `best` and in hindsight."""
    from featx.fitting.choice import plan_best, tune_and_choose

    train = draw(dataset, n_items, seed)
    rest = ~train & ~np.isin(dataset.keys, dataset.keys[train])
    plans = [plan for plan in plan_best({}, None, None, seed)[0] if plan[0].name not in without]
    chosen = tune_and_choose(plans, dataset, train, np.zeros(len(dataset), bool), ignore)
    real = {}
    for (head, spec), tried in zip(plans, chosen.tried, strict=True):
        fixed = replace(spec, params=tried.params, scaling=tried.scaling)
        one = tune_and_choose([(head, fixed)], dataset, train, np.zeros(len(dataset), bool), ignore)
        real[head.name] = score(one.fitted, dataset, rest)
    best, first = chosen.plan[0].name, max(chosen.tried, key=lambda one: one.accuracy)
    [taken] = [one for one in chosen.tried if one.chosen]
    nested, oracle = estimate(dataset, train, plans, seed), max(real.values())
    values = {
        "optimism of all heads on folds": float(np.mean([one.accuracy - real[one.name] for one in chosen.tried])),
        "optimism of the highest on folds": first.accuracy - real[first.name],
        "optimism of best on folds": taken.accuracy - real[best],
        "optimism of the nested estimate": nested - real[best],
        "hindsight": oracle,
        "best against hindsight": real[best] - oracle,
        "highest against hindsight": real[first.name] - oracle,
        "logreg against hindsight": real["logreg"] - oracle,
        "chosen": best,
    }
    show("split", seed=seed, **values, real=real)
    return values


def draw(dataset, n_items, seed):
    """Draw the same number of items of each class: bool (n_items,)."""
    order, train = np.random.default_rng(seed).permutation(len(dataset)), np.zeros(len(dataset), bool)
    for target in range(len(dataset.classes)):
        train[order[dataset.targets[order] == target][: n_items // len(dataset.classes)]] = True
    return train


def estimate(dataset, train, plans, seed):
    """Estimate the accuracy of the whole choice by folds that each choose for themselves."""
    from featx.fitting.choice import tune_and_choose

    outer = np.full(len(dataset), -1)
    outer[train] = dataset.assign_folds(train, FOLDS, seed)
    right = 0.0
    for fold in range(FOLDS):
        inside = tune_and_choose(plans, dataset, train & (outer != fold), np.zeros(len(dataset), bool), ignore)
        held = outer == fold
        right += score(inside.fitted, dataset, held) * held.sum()
    return right / (outer >= 0).sum()


def score(fitted, dataset, members):
    """Return the accuracy on some items."""
    from featx.fitting.choice import predict_items

    return float((predict_items(fitted, dataset, members).argmax(axis=1) == dataset.targets[members]).mean())


def ignore(*_):
    """Show no progress."""


if __name__ == "__main__":
    main()
