"""By which rule should `tune` choose among the candidates of a head?

    python benchmarks/choice.py measure --folder F signs.h5 ants.h5    # every candidate, once
    python benchmarks/choice.py rules --folder F                       # every rule on what was measured

`measure` draws training items from each store, from scikit-learn's digits (64 pixels), and from features of 4 and 30
classes that are made as in `heads.py`: 10, 30 and `--most` of each class, and an uneven draw in which each class has
fewer items than the one before it, down to a tenth of the first. The test is the rest, at most `--test` items in the
same proportions. Each head's candidates are scored on the three folds of `tune`, and on the test after a fit to all
training items. Heads with calibration are calibrated by a temperature, cross-fitted by fold for the held-out items;
`lda-raw` is `lda` without it. A file for each draw and head is kept in `--folder`, and not measured again.

`rules` applies each rule to the held-out scores alone, and reports means over draws and heads (without `lda-raw`): test
accuracy, log-loss, calibration error (15 bins), and the distance of each to the best candidate by test, which no rule
can know.
`against_accuracy` is the mean difference from choosing by accuracy, with a 95 % interval from resampled stores
(draws of one store share images, and are resampled together).

SE is the standard error of the best accuracy, or, in pairs, of a difference on the same items. The last part of each
name is what is chosen: the least log-loss, or the strongest penalty.

We want the lowest log-loss that costs no accuracy: less than 0.05 points in the mean, with an interval around 0.
Another rule that is better by more than 0.005 nats under that condition would change our mind. JSON lines.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from heads import make_features
from reporting import read_processor, show
from scipy import special

HEADS = ("logreg", "ridge", "lda", "lda-raw", "knn", "svm", "naive-bayes", "linear-svm")
PER_CLASS = (10, 30)
UNEVEN = 10
SLOW = {"svm", "linear-svm"}
MOST_OF_SLOW = 300  # training items
MADE = (4, 30)  # classes of data that are made
LOWEST = 1e-12


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure")
    one.add_argument("stores", nargs="*", type=Path)
    one.add_argument("--heads", nargs="+", default=HEADS, choices=HEADS)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--most", type=int, default=80)
    one.add_argument("--test", type=int, default=1000)
    one.set_defaults(run=run_measure)
    other = commands.add_parser("rules")
    other.set_defaults(run=run_rules)
    for command in (one, other):
        command.add_argument("--folder", type=Path, required=True, help="where measurements are kept")
    options = parser.parse_args()
    options.run(options)


def run_measure(options):
    """Measure every candidate of every head on every draw."""
    options.folder.mkdir(parents=True, exist_ok=True)
    show("machine", processor=read_processor())
    for name, X, y in read_sources(options.stores):
        for seed in range(options.seeds):
            for draw, train, test in draw_items(y, options, seed):
                for head in options.heads:
                    path = options.folder / f"{name}~{draw}~{seed}~{head}.npz"
                    if path.exists() or (head in SLOW and len(train) > MOST_OF_SLOW):
                        continue
                    started = time.perf_counter()
                    found = measure_head(head, X, y, train, test, seed)
                    np.savez(path.with_suffix(".part.npz"), **found)
                    path.with_suffix(".part.npz").replace(path)
                    seconds = time.perf_counter() - started
                    show("measured", source=name, draw=draw, seed=seed, head=head, items=len(train), seconds=seconds)


def read_sources(stores):
    """Yield the name, features and targets of each source, each image once."""
    from sklearn.datasets import load_digits

    import featx

    X, y = load_digits(return_X_y=True)
    yield "digits", X.astype(np.float32), y
    for n_classes in MADE:
        yield f"made-{n_classes}", *make_features(150 * n_classes, 256, n_classes)
    for path in stores:
        store = featx.FeatureStore(path)
        _, rows = np.unique(store.sha256, return_index=True)
        rows.sort()
        yield path.stem, np.asarray(store.features)[rows], np.unique(store.labels, return_inverse=True)[1][rows]


def draw_items(y, options, seed):
    """Yield each draw: its name, the training items and the test items."""
    n_classes = y.max() + 1
    shares = np.geomspace(1, 1 / UNEVEN, n_classes)
    draws = {str(count): np.full(n_classes, count) for count in (*PER_CLASS, options.most)}
    draws["uneven"] = np.maximum(np.round(options.most * shares), 4).astype(int)
    for name, counts in draws.items():
        random = np.random.default_rng(seed)
        order = random.permutation(len(y))
        own = [order[y[order] == target] for target in range(n_classes)]
        train = np.sort(np.concatenate([rows[:count] for rows, count in zip(own, counts, strict=True)]))
        left = [rows[count:] for rows, count in zip(own, counts, strict=True)]
        most = min(options.test / counts.sum(), *(len(rows) / count for rows, count in zip(left, counts, strict=True)))
        test = np.concatenate([rows[: round(most * count)] for rows, count in zip(left, counts, strict=True)])
        yield name, train, np.sort(test)


def measure_head(name, X, y, train, test, seed):
    """Score every candidate on the held-out items and on the test.

    Returns:
        `right` and `loss` (n_candidates, n_train) of held-out items, `brier` likewise, `strength` and `scaling`
        (n_candidates,), `folds` (n_train,), and of the test `accuracy`, `log_loss`, `ece` (n_candidates,).
    """
    from featx.heads import find_head
    from featx.heads.fitting import split_folds
    from featx.heads.rows import FeatureRows
    from featx.heads.tuning import plan_candidates
    from featx.items.splits import assign_folds
    from featx.specs import HeadSpec

    head = find_head(name.removesuffix("-raw"))
    labels = y[train]
    folds = assign_folds(
        [str(row) for row in train], labels.astype(str).tolist(), [""] * len(train), folds=3, seed=seed
    )
    folds = np.maximum(folds, 0)
    splits = split_folds(folds, labels)
    rows = FeatureRows(X[train])
    plan = plan_candidates(head, rows, HeadSpec(head.name, seed=seed), min(len(part) for part, _ in splits))
    found = {
        key: [] for key in ("right", "loss", "loss_once", "brier", "strength", "scaling", "accuracy", "log_loss", "ece")
    }
    calibrated = head.calibrated and not name.endswith("-raw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for at, (scaling, grid) in enumerate(plan.items()):
            held_out = [scores.copy() for scores in head.sweep(head.build, grid, scaling, pose(rows, labels, splits))]
            tested = score_test(head, grid, scaling, X, y, train, test)
            for strength, (scores, final) in enumerate(zip(held_out, tested, strict=True)):
                record(found, scores, labels, splits, calibrated=calibrated)
                factor = fit_factor(scores, labels) if calibrated else 1.0
                measure_test(found, special.softmax(factor * final.astype(float), axis=1), y[test])
                found["strength"].append(strength)
                found["scaling"].append(at)
    return found | {"folds": folds}


def pose(rows, labels, splits):
    """Return what a sweep takes."""
    from featx.heads.sweeps import Problem

    nothing = [lambda *_: None] * 3
    return Problem(rows, labels, splits, np.arange(len(labels)), labels.max() + 1, 0, *nothing)


def score_test(head, grid, scaling, X, y, train, test):
    """Return the scores of the test items by each candidate, fitted to all training items."""
    from featx.heads.rows import FeatureRows
    from featx.heads.sweeps import score_items

    if head.name in {"ridge", "lda"}:  # their sweeps need every item to be held out
        models = [head.build(params, 0, scaling).fit(X[train], y[train]) for params in grid]
        return [score_items(model, FeatureRows(X[test]), y.max() + 1) for model in models]
    rows = np.concatenate([train, test])
    split = (np.arange(len(train)), np.arange(len(train), len(rows)))
    problem = pose(FeatureRows(X[rows]), y[rows], [split])
    return [scores[split[1]].copy() for scores in head.sweep(head.build, grid, scaling, problem)]


def fit_factor(scores, labels):
    """Fit a temperature to the items whose class was trained on."""
    from featx.heads.calibration import fit_temperature

    known = np.isfinite(scores[np.arange(len(labels)), labels])
    return fit_temperature(scores[known], labels[known])


def record(found, scores, labels, splits, *, calibrated):
    """Record what each held-out item costs."""
    items = np.arange(len(labels))
    chances = np.empty(scores.shape)
    for train, held in splits:
        factor = fit_factor(scores[train], labels[train]) if calibrated else 1.0
        chances[held] = special.softmax(factor * scores[held].astype(float), axis=1)
    factor = fit_factor(scores, labels) if calibrated else 1.0
    once = special.softmax(factor * scores.astype(float), axis=1)
    found["loss_once"].append(-np.log(np.maximum(once[items, labels], LOWEST)))
    found["right"].append(scores.argmax(axis=1) == labels)
    found["loss"].append(-np.log(np.maximum(chances[items, labels], LOWEST)))
    found["brier"].append(np.square(chances - np.eye(scores.shape[1])[labels]).sum(axis=1))


def measure_test(found, chances, labels):
    """Record accuracy, log-loss and calibration error."""
    from featx.evaluation.metrics import CLASS_SCORES, make_class_scores

    predicted = chances.argmax(axis=1)
    errors = make_class_scores(chances, labels, predicted)(np.ones((len(labels), 1)))[0]
    own = chances[np.arange(len(labels)), labels]
    found["accuracy"].append((predicted == labels).mean())
    found["log_loss"].append(-np.log(np.maximum(own, LOWEST)).mean())
    found["ece"].append(errors[CLASS_SCORES.index("expected_calibration_error")])


class Candidates:
    """The candidates of one head on one draw, with what the rules use."""

    def __init__(self, path):
        with np.load(path) as file:
            self.values = {name: file[name] for name in file.files}
        self.right, self.loss = self.values["right"], self.values["loss"]
        self.accuracy, self.log_loss = self.right.mean(axis=1), self.loss.mean(axis=1)
        self.loss_once = self.values["loss_once"].mean(axis=1)
        self.brier = self.values["brier"].mean(axis=1)
        self.strength, self.scaling = self.values["strength"], self.values["scaling"]

    def least(self, *keys, among=None):
        """Return the candidate with the least of the first key, then of the next; then the strongest penalty."""
        among = np.ones(len(self.strength), bool) if among is None else among
        order = np.lexsort((self.scaling, self.strength, *(np.where(among, key, np.inf) for key in reversed(keys))))
        return next(at for at in order if among[at])

    def strongest(self, among, nats):
        """Return the strongest penalty whose log-loss is within some nats of the lowest."""
        lowest = self.log_loss[among].min()
        return self.least(self.strength, self.log_loss, among=among & (self.log_loss <= lowest + nats))

    def close(self, factor=1.0):
        """Return which are within some standard errors of the best accuracy."""
        best = self.accuracy.max()
        return self.accuracy >= best - factor * np.sqrt(best * (1 - best) / self.right.shape[1]) - 1e-12

    def close_in_pairs(self, values, at, factor=1.0):
        """Return which are within some standard errors, of the difference on the same items, of one candidate."""
        difference = values.astype(float) - values[at]
        error = difference.std(axis=1) / np.sqrt(values.shape[1])
        return difference.mean(axis=1) <= factor * error + 1e-12

    def close_to_best(self, factor=1.0):
        """Return which are close in accuracy to the one that `tune` chose before, in pairs."""
        return self.close_in_pairs(~self.right, self.least(-self.accuracy, self.log_loss), factor)


RULES = {
    "accuracy": lambda c: c.least(-c.accuracy, c.log_loss),
    "accuracy, then the strongest": lambda c: c.least(-c.accuracy),
    "log-loss": lambda c: c.least(c.log_loss),
    "log-loss within 0.01, strongest": lambda c: c.strongest(c.accuracy >= 0, 0.01),
    "Brier": lambda c: c.least(c.brier),
    "accuracy within 1 SE, strongest": lambda c: c.least(c.strength, -c.accuracy, among=c.close()),
    "accuracy within 1 paired SE, strongest": lambda c: c.least(c.strength, -c.accuracy, among=c.close_to_best()),
    "accuracy within 1 SE, then log-loss": lambda c: c.least(c.log_loss, among=c.close()),
    "accuracy within 1 SE, then log-loss within 0.003, strongest": lambda c: c.strongest(c.close(), 0.003),
    "accuracy within 1 SE, then log-loss within 0.01, strongest": lambda c: c.strongest(c.close(), 0.01),
    "accuracy within 1 SE, then log-loss within 0.02, strongest": lambda c: c.strongest(c.close(), 0.02),
    "accuracy within 0.5 SE, then log-loss within 0.01, strongest": lambda c: c.strongest(c.close(0.5), 0.01),
    "accuracy within 1.5 SE, then log-loss within 0.01, strongest": lambda c: c.strongest(c.close(1.5), 0.01),
    "accuracy within 2 SE, then log-loss within 0.01, strongest": lambda c: c.strongest(c.close(2), 0.01),
    "accuracy within 1 SE, then log-loss of one temperature": lambda c: c.least(c.loss_once, among=c.close()),
    "accuracy within 1 paired SE, then log-loss": lambda c: c.least(c.log_loss, among=c.close_to_best()),
    "accuracy within 1 paired SE, then log-loss within 0.01, strongest": lambda c: c.strongest(c.close_to_best(), 0.01),
    "accuracy within 2 paired SE, then log-loss within 0.01, strongest": lambda c: c.strongest(
        c.close_to_best(2), 0.01
    ),
    "accuracy within 1 paired SE, then Brier": lambda c: c.least(c.brier, among=c.close_to_best()),
    "log-loss within 1 paired SE, strongest": lambda c: c.least(
        c.strength, c.log_loss, among=c.close_in_pairs(c.loss, c.least(c.log_loss))
    ),
    "log-loss within 1 paired SE, then accuracy": lambda c: c.least(
        -c.accuracy, c.log_loss, among=c.close_in_pairs(c.loss, c.least(c.log_loss))
    ),
}
METRICS = {"accuracy": max, "log_loss": min, "ece": min}


def run_rules(options):
    """Apply every rule; report each, over all heads and for each head."""
    paths = sorted(path for path in options.folder.glob("*~*.npz") if ".part" not in path.name)
    keys = [path.stem.split("~") for path in paths]
    chosen = {rule: np.empty((len(paths), len(METRICS))) for rule in RULES}
    oracle = np.empty((len(paths), len(METRICS)))
    for at, path in enumerate(paths):
        candidates = Candidates(path)
        tested = np.stack([candidates.values[metric] for metric in METRICS], axis=1)
        oracle[at] = [best(column) for best, column in zip(METRICS.values(), tested.T, strict=True)]
        for rule, choose in RULES.items():
            chosen[rule][at] = tested[choose(candidates)]
    heads = np.array([key[3] for key in keys])
    draws = np.array([key[1] for key in keys])
    sources = np.array([key[0] for key in keys])
    show("measured", draws=len({tuple(key[:3]) for key in keys}), sources=len(set(sources)), files=len(paths))
    usual = heads != "lda-raw"
    report("all", {rule: found[usual] for rule, found in chosen.items()}, oracle[usual], sources[usual])
    for kind, values in (("head", heads), ("draw", draws)):
        for value in np.unique(values):
            rows = (values == value) & (usual | (kind == "head"))
            part = {rule: found[rows] for rule, found in chosen.items()}
            report(f"{kind} {value}", part, oracle[rows], sources[rows])


def report(what, chosen, oracle, sources):
    """Print a line for each rule."""
    for rule, found in chosen.items():
        difference = found - chosen["accuracy"]
        figures = {}
        for at, metric in enumerate(METRICS):
            low, high = resample(difference[:, at], sources)
            figures[metric] = float(found[:, at].mean())
            figures[f"{metric}_to_oracle"] = float((found - oracle)[:, at].mean())
            figures[f"{metric}_against_accuracy"] = [
                float(f"{value:.3g}") for value in (difference[:, at].mean(), low, high)
            ]
        show(what, rule=rule, **figures)


def resample(values, sources, resamples=2000):
    """Return a 95 % interval of the mean by resampling whole sources."""
    _, places = np.unique(sources, return_inverse=True)
    sums, counts = np.bincount(places, values), np.bincount(places)
    drawn = np.random.default_rng(0).integers(len(counts), size=(resamples, len(counts)))
    return np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])


if __name__ == "__main__":
    main()
