"""Compare featx's heads with scikit-learn's, and with each other.

    python benchmarks/heads.py speed                       # seconds and memory next to scikit-learn's, alternating
    python benchmarks/heads.py collapse                    # as many items as dimensions
    python benchmarks/heads.py table signs.h5 ants.h5 --page docs/heads-compared.md
    python benchmarks/heads.py table                       # the same for scikit-learn's digits with `scattering`

`speed` fits features of 20,000 x 2,048 (low-rank classes, noise, a ReLU), 10 and 100 classes, `--rounds` times each
in alternation, every fit in a process of its own. Memory is the peak of that process beyond what it had with the
features loaded, so 1.0 x X means: as much again as the features. A ratio near 1 on several
machines would be a reason to drop our own code. Each line of output is JSON, with versions and machine.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

CLASSES = (10, 100)
COUNTS = {"items": 20_000, "dim": 2_048, "test": 2_000}
FOLDS = 5
CS = np.logspace(-5, 2, 12)
ALPHAS = np.logspace(1, 6, 8)
NEIGHBOURS = 20
SHRINKAGE = 0.1
PAIRS = ("logreg", "ridge", "lda", "knn")
MARKS = ("<!-- heads -->", "<!-- end of heads -->")
TABLE = "logreg,ridge,lda,linear-svm,svm,knn,centroid,naive-bayes,random-forest,mlp,keras,keras:512-512,keras:bn,dummy"


def make_features(n_items, dim, n_classes, seed=0, rank=32):
    """Make post-ReLU features of low-rank classes and noise, and targets."""
    random = np.random.default_rng(seed)
    basis = random.standard_normal((rank, dim)) / np.sqrt(rank)
    centres = 0.6 * random.standard_normal((n_classes, rank))
    targets = random.permutation(np.arange(n_items) % n_classes)
    features = np.empty((n_items, dim), np.float32)
    for start in range(0, n_items, 1000):
        part = targets[start : start + 1000]
        hidden = (centres[part] + random.standard_normal((len(part), rank))) @ basis
        features[start : start + 1000] = np.maximum(hidden + random.standard_normal((len(part), dim)), 0)
    return features, targets


def fit_ours(name, X, y, folds):
    """Tune and fit a head of featx."""
    from dataclasses import replace

    from featx.heads import find_head, fit_head, tune
    from featx.specs import HeadSpec

    head = find_head(name)
    if name in {"lda", "knn"}:
        params = {"lda": {"shrinkage": SHRINKAGE}, "knn": {"n_neighbors": NEIGHBOURS, "weights": "uniform"}}[name]
        return head.build(params).fit(X, y)
    parameter, values = {"logreg": ("C", CS), "ridge": ("alpha", ALPHAS[::-1])}[name]
    head = replace(head, grid={parameter: tuple(values.tolist())}, grid_unit=0)
    spec = HeadSpec(name, scaling="standard" if name == "logreg" else "none")
    tuned = tune(head, X, y, folds, spec=spec)
    return fit_head(head, X, y, tuned.spec, folds, held_out=(tuned.scores, y), fitted=tuned.fitted).estimator


def fit_theirs(name, X, y, folds):
    """Fit scikit-learn's equivalent."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": CS}, cv=PredefinedSplit(folds), n_jobs=2)
    models = {
        "logreg": search,
        "ridge": RidgeClassifierCV(ALPHAS),
        "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE),
        "knn": KNeighborsClassifier(NEIGHBOURS, metric="cosine", algorithm="brute"),
    }
    return models[name].fit(X, y)


def measure(name, who, folder):
    """Fit in this process, and print its seconds and memory."""
    import warnings

    import sklearn.model_selection  # noqa: F401 - as above

    import featx.heads  # noqa: F401 - loaded before the clock starts

    X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
    X_test, y_test = np.load(folder / "X_test.npy"), np.load(folder / "y_test.npy")
    folds = np.random.default_rng(1).integers(0, FOLDS, len(y))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, processor = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's default of 100 steps is not enough for every C
        model = (fit_ours if who == "featx" else fit_theirs)(name, X, y, folds)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    started = time.perf_counter()
    accuracy = float((model.predict(X_test) == y_test).mean())
    predicted = time.perf_counter() - started
    print(
        json.dumps(
            {
                "head": name,
                "who": who,
                "classes": int(y.max()) + 1,
                "fit_seconds": seconds,
                "fit_processor_seconds": processor,
                "predict_seconds": predicted,
                "memory_of_X": peak / X.nbytes,
                "accuracy": accuracy,
            }
        )
    )


def run_speed(options):
    """Measure each head against scikit-learn's."""
    for n_classes in options.classes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            X, y = make_features(COUNTS["items"] + COUNTS["test"], COUNTS["dim"], n_classes)
            for kind, rows in (("", slice(COUNTS["items"])), ("_test", slice(COUNTS["items"], None))):
                np.save(folder / f"X{kind}.npy", X[rows])
                np.save(folder / f"y{kind}.npy", y[rows])
            del X
            for head in options.heads:
                report_pair(head, n_classes, folder, options.rounds)


def report_pair(head, n_classes, folder, rounds):
    """Run both in alternation; print every measurement, and the ratio of the medians."""
    found = {"featx": [], "scikit-learn": []}
    for _ in range(rounds):
        for who, lines in found.items():
            command = [sys.executable, __file__, "measure", head, who, str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            lines.append(json.loads(output))
            print(json.dumps(lines[-1]), flush=True)
    clock = "predict_seconds" if head == "knn" else "fit_seconds"
    medians = {who: statistics.median(line[clock] for line in lines) for who, lines in found.items()}
    memory = {who: max(line["memory_of_X"] for line in lines) for who, lines in found.items()}
    accuracy = {who: lines[0]["accuracy"] for who, lines in found.items()}
    ratio = medians["scikit-learn"] / medians["featx"]
    summary = {"head": head, "classes": n_classes, "ratio": round(ratio, 2), "seconds": medians, "memory_of_X": memory}
    print(json.dumps(summary | {"accuracy": accuracy} | describe_machine()), flush=True)


def run_collapse(_):
    """Compare each default linear head with the best one where there are as many items as dimensions."""
    from featx.heads import find_head, fit_head, tune
    from featx.specs import HeadSpec

    X, y = make_features(4_000, 2_048, 10)
    train, test = slice(2_000), slice(2_000, None)
    folds = np.arange(2_000) % 3
    accuracy = {}
    for name in ("logreg", "ridge", "lda", "linear-svm", "centroid"):
        head = find_head(name)
        tuned = tune(head, X[train], y[train], folds, spec=HeadSpec(name))
        fitted = fit_head(head, X[train], y[train], tuned.spec, folds, held_out=(tuned.scores, y[train]))
        accuracy[name] = float(fitted.estimator.score(X[test], y[test]))
        print(json.dumps({"head": name, "accuracy": accuracy[name], "chosen": str(tuned.best)}), flush=True)
    best = max(accuracy.values())
    shares = {name: round(value / best, 4) for name, value in accuracy.items()}
    print(json.dumps({"share_of_the_best": shares} | describe_machine()))


def run_table(options):
    """Compare many heads on each store; print the tables, and write them between the marks of a Markdown page."""
    import featx
    from featx.options import CompareOptions

    tables = []
    with tempfile.TemporaryDirectory() as name:
        stores = options.stores or [embed_digits(Path(name)).path]
        for store in map(Path, stores):
            compared = featx.compare(store, options.clf, options=CompareOptions(folder=Path(name) / "runs"))
            print((compared.folder / "comparison.md").read_text(encoding="utf-8"))
            seconds = round(compared.seconds, 1)
            print(json.dumps({"store": store.name, "seconds": seconds} | describe_machine()), flush=True)
            tables.append(format_comparison(store.stem, compared))
    if options.page:
        before, begin, rest = options.page.read_text(encoding="utf-8").partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        page = "\n\n".join([before + begin, *tables, end + after])
        options.page.write_text(page, encoding="utf-8")


def format_comparison(name, compared):
    """Format a comparison for a page, as Markdown."""
    lines = [
        f"**{name}**: {compared.n_train:,} training images, {compared.n_test:,} tested; {compared.seconds:.0f} s",
        "",
        "| head | chosen | validation | test | 95 % interval | log-loss | ECE | fit s | to the best | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in compared.rows:
        test, paired = row.test, row.paired
        difference = (
            f"{100 * paired.difference:+.1f} ({100 * paired.low:+.1f} to {100 * paired.high:+.1f})" if paired else ""
        )
        lines.append(
            f"| `{row.head.name}` | {row.chosen} | {row.validation_accuracy:.3f} | {test.accuracy:.3f} | "
            f"{test.accuracy_low:.3f} to {test.accuracy_high:.3f} | {test.log_loss:.3f} | "
            f"{test.expected_calibration_error:.3f} | {row.fit_seconds:.1f} | {difference} | {row.verdict} |"
        )
    return "\n".join(lines)


def embed_digits(folder):
    """Write scikit-learn's digits as pictures, and embed them by `scattering`, which needs no download."""
    from PIL import Image
    from sklearn.datasets import load_digits

    import featx

    digits = load_digits()
    for number, (image, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / "digits" / str(target) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9375).astype(np.uint8)).resize((32, 32)).save(path)
    return featx.embed(folder / "digits", "scattering", folder=folder / "features").store


def describe_machine():
    """Describe the machine and the versions."""
    packages = ("featx", "numpy", "scipy", "scikit-learn")
    return {
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}",
    }


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--rounds", type=int, default=3)
    speed.add_argument("--heads", nargs="+", default=PAIRS, choices=PAIRS)
    speed.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    speed.set_defaults(run=run_speed)
    commands.add_parser("collapse").set_defaults(run=run_collapse)
    table = commands.add_parser("table")
    table.add_argument("stores", nargs="*")
    table.add_argument("--clf", default=TABLE)
    table.add_argument("--page", type=Path, help="a Markdown page whose table is written again")
    table.set_defaults(run=run_table)
    one = commands.add_parser("measure")
    one.add_argument("head")
    one.add_argument("who")
    one.add_argument("folder", type=Path)
    one.set_defaults(run=lambda options: measure(options.head, options.who, options.folder))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
