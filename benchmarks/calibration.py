"""Measure how often the default calibration makes probabilities worse than none.

    python benchmarks/calibration.py [--repeats 10] [--seed 0] [--methods]

Heads are simulated: normal scores around their class, whose posterior probabilities are known,
and then distorted. `well` leaves them as they are; `over` multiplies the scores by 3, `slightly`
by 1.5, `under` by 0.4; `tails` multiplies those of a tenth of the items by 8; `outliers` makes 2 %
of the items confident of a random class; `bias` favours some classes. With groups, ten items share
their class and a shift. The default chooses its calibration on folds of whole groups; what it
chooses is fitted to all items and compared with `none` on new items:

- `worse`: the log-loss or the Brier score is higher by more than two standard errors of the
  difference, over groups.
- `doubled`: the calibration error is more than twice as large, and higher by more than 0.01.

Both must be below 5 %. With `--methods`, each method is measured as if it were the default. JSON
lines; the shares are of all simulated data sets, those with many values having fewer repeats.
"""

import argparse
import time
from collections import Counter, defaultdict

import numpy as np
from reporting import read_processor, show
from scipy import special

from featx.evaluation import measure_reliability
from featx.heads.calibration import METHODS, Calibrator
from featx.heads.calibration_choice import HeldOut, choose_calibration

KINDS = ("well", "over", "slightly", "under", "tails", "outliers", "bias")
FACTORS = {"over": 3.0, "slightly": 1.5, "under": 0.4}
SIZES = ((50, 2), (100, 2), (100, 5), (300, 5), (300, 20), (1000, 2), (1000, 10), (2000, 50), (5000, 10), (5000, 100))
GROUP_SIZES = (0, 10)
STEEP_SHARE, WILD_SHARE = 0.1, 0.02
FOLDS = 5
TEST_ITEMS, TEST_VALUES, FEWEST_TEST_ITEMS = 20_000, 200_000, 4_000
FULL_VALUES = 10_000


def main():
    """Print a line for each case, and one for each kind of head."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", action="store_true", help="measure each method, not only the default")
    options = parser.parse_args()
    show("machine", processor=read_processor())
    started = time.perf_counter()
    results = defaultdict(list)
    for n_items, n_classes in SIZES:
        repeats = max(2, min(options.repeats, options.repeats * FULL_VALUES // (n_items * n_classes)))
        for size in GROUP_SIZES:
            for kind in KINDS:
                rng = np.random.default_rng(options.seed)
                found = [simulate(rng, kind, n_items, n_classes, size, options.methods) for _ in range(repeats)]
                summarize(found, "case", kind=kind, items=n_items, classes=n_classes, group_size=size)
                results[kind] += found
    for kind in KINDS:
        summarize(results[kind], "kind", kind=kind)
    summarize([one for found in results.values() for one in found], "all", seconds=time.perf_counter() - started)


def draw_items(rng, kind, n_items, n_classes, size):
    """Draw log-probabilities of a distorted head, targets and groups."""
    groups = np.arange(n_items) // max(size, 1)
    n_groups = groups[-1] + 1
    targets = rng.integers(n_classes, size=n_groups)[groups]
    distance = 2.5 if n_classes < TEST_VALUES // TEST_ITEMS else 3.5
    scores = rng.normal(size=(n_items, n_classes)) + distance * np.eye(n_classes)[targets]
    if size:  # the posterior knows that a group shares a shift of variance 1
        scores = (scores + rng.normal(size=(n_groups, n_classes))[groups]) / 2
    scores = special.log_softmax(distance * scores, axis=1) * FACTORS.get(kind, 1.0)
    if kind == "tails":
        scores[rng.random(n_items) < STEEP_SHARE] *= 8
    elif kind == "outliers":
        wild = rng.random(n_items) < WILD_SHARE
        scores[wild] = -12.0 * (np.arange(n_classes) != rng.integers(n_classes, size=n_items)[wild, np.newaxis])
    elif kind == "bias":
        scores += np.linspace(-1, 1, n_classes)
    return special.log_softmax(scores, axis=1), targets, groups


def simulate(rng, kind, n_items, n_classes, size, every):
    """Compare the default, and perhaps every method, with `none` on new items, by name."""
    scores, targets, groups = draw_items(rng, kind, n_items, n_classes, size)
    n_test = max(FEWEST_TEST_ITEMS, min(TEST_ITEMS, TEST_VALUES // n_classes))
    test = draw_items(rng, kind, n_test, n_classes, size)
    n_groups = groups[-1] + 1
    folds = (rng.permutation(n_groups) % FOLDS)[groups]
    splits = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(FOLDS)]
    held_out = HeldOut(scores.astype(np.float32), targets, splits, groups, np.ones(n_items))
    chosen = choose_calibration(held_out, None).method
    wanted = dict.fromkeys(METHODS if every else ("none", "temperature", chosen))
    measured = {method: measure(Calibrator(method).fit(scores, targets), *test[:2]) for method in wanted}
    found = {method: compare(one, measured["none"], test[2]) for method, one in measured.items()}
    return {"default": (*found[chosen], chosen)} | {name: (*one, name) for name, one in found.items()}


def measure(calibrator, scores, targets):
    """Return log-losses and Brier scores, (2, n_items), and the calibration error."""
    chances = calibrator.predict_proba(scores)
    own = chances[np.arange(len(targets)), targets]
    losses = np.stack([-np.log(np.maximum(own, 1e-12)), (chances**2).sum(axis=1) - 2 * own + 1])
    return losses, measure_reliability(chances, targets).calibration_error


def compare(one, none, groups):
    """Return whether it is worse than `none`, whether its calibration error is doubled, and its values."""
    (losses, error), (base, before) = one, none
    differences = losses - base
    means = differences.mean(axis=1)
    sums = [np.bincount(groups, weights=row - mean) for row, mean in zip(differences, means, strict=True)]
    errors = np.sqrt([row @ row for row in sums]) / len(groups)
    worse = bool((means > 2 * errors + 1e-9).any())
    return worse, bool(error > 2 * before and error > before + 0.01), *losses.mean(axis=1).tolist(), float(error)


def summarize(found, what, **labels):
    """Print the shares and means of every method, in percent and as they are."""
    figures = {"sets": len(found)}
    for name in found[0]:
        rows = [one[name] for one in found if name in one]
        if len(rows) < len(found):
            continue
        worse, doubled, loss, brier, error = np.mean([row[:-1] for row in rows], axis=0).tolist()
        figures[name] = {"worse": f"{worse:.1%}", "doubled": f"{doubled:.1%}"}
        figures[name] |= {"log_loss": f"{loss:.3f}", "brier": f"{brier:.3f}", "ece": f"{error:.3f}"}
    figures["chosen"] = dict(Counter(one["default"][-1] for one in found).most_common())
    show(what, **labels, **figures)


if __name__ == "__main__":
    main()
