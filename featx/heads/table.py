"""The table of heads: each row says how one classifier is built and tuned."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from featx.errors import UsageError
from featx.heads import sweeps
from featx.heads.architectures import MOST_UNITS, read_hidden
from featx.heads.discriminant import ShrunkDiscriminant
from featx.heads.linear_svm import ScaledLinearSVC
from featx.heads.logistic import ScaledLogisticRegression
from featx.heads.neighbours import VOTES, CosineNeighbours
from featx.heads.networks import NetworkClassifier
from featx.heads.ridge import ScaledRidge
from featx.registry import HEADS, list_names, make_unknown_name_error, resolve
from featx.specs import OPTIMIZERS, SCALINGS

Reader = Callable[[Any], Any]


def read_positive(value: Any) -> float:  # noqa: ANN401 - text or number, which is what a reader is for
    """Read a number above 0. Raises ValueError."""
    return _read_number(value, "a number above 0", lambda number: 0 < number < float("inf"))


def read_share(value: Any) -> float:  # noqa: ANN401 - as above
    """Read a number above 0, up to 1. Raises ValueError."""
    return _read_number(value, "a number above 0, up to 1", lambda number: 0 < number <= 1)


def read_fraction(value: Any) -> float:  # noqa: ANN401 - as above
    """Read a number from 0 to below 1. Raises ValueError."""
    return _read_number(value, "a number from 0 to below 1", lambda number: 0 <= number < 1)


def read_count(value: Any) -> int:  # noqa: ANN401 - as above
    """Read a whole number of at least 1. Raises ValueError."""
    words = "a whole number of at least 1"
    return int(_read_number(value, words, lambda number: number >= 1 and number.is_integer()))


def read_sizes(value: Any) -> tuple[int, ...]:  # noqa: ANN401 - as above
    """Read layer sizes such as `256` or `256,64`. Raises ValueError."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(read_count(part) for part in (parts if isinstance(parts, Iterable) else [parts]))
    except ValueError:
        msg = "whole numbers of at least 1, separated by commas"
        raise ValueError(msg) from None


def read_choice(*choices: str | None) -> Reader:
    """Make a reader of one of a few words; None is written `none`."""

    def read(value: object) -> str | None:
        for choice in choices:
            if str(value).lower() == str(choice).lower():
                return choice
        msg = f"one of {', '.join(str(choice).lower() for choice in choices)}"
        raise ValueError(msg)

    return read


def read_gamma(value: Any) -> float | str:  # noqa: ANN401 - as above
    """Read the width of the RBF kernel: `scale` or a number above 0. Raises ValueError."""
    return "scale" if value == "scale" else _read_number(value, "scale or a number above 0", lambda number: number > 0)


def check_params(head: str, readers: Mapping[str, Reader], params: Mapping[str, Any]) -> dict[str, Any]:
    """Read every parameter with its reader.

    Args:
        head: Name of the head, for the message.
        readers: The parameters that the head has, and their readers.
        params: Names and values, or texts of values.

    Returns:
        The values that scikit-learn takes, in the same order.

    Raises:
        UnknownNameError: If the head has no such parameter; the known ones are listed.
        UsageError: If the head has no parameters, or a value does not fit.
    """
    read: dict[str, Any] = {}
    for name, value in params.items():
        if not readers:
            msg = f"{head} has no parameters; leave out {name}={value}"
            raise UsageError(msg)
        if name not in readers:
            kind = f"parameter of {head}"
            raise make_unknown_name_error(kind, name, readers)
        try:
            read[name] = readers[name](value)
        except ValueError as error:
            msg = f"{head}: {name}={value!r} is not {error}"
            raise UsageError(msg) from None
    return read


def split_params(texts: Iterable[str]) -> dict[str, str]:
    """Split texts such as `C=1` into names and values, not yet read.

    Raises:
        UsageError: If a text has no `=`, or a name comes twice.
    """
    params: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            msg = f"{text!r} is not a parameter; write name=value, such as C=1"
            raise UsageError(msg)
        if name in params:
            msg = f"parameter {name} is given twice; give it once"
            raise UsageError(msg)
        params[name] = value
    return params


def _read_number(value: Any, words: str, fits: Callable[[float], bool]) -> float:  # noqa: ANN401 - as above
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(words) from None
    if isinstance(value, bool) or not fits(number):
        raise ValueError(words)
    return number


_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Head:
    """A classifier on features: one row of the table.

    Attributes:
        name: Its name on the command line.
        description: A description in one line.
        estimator: The scikit-learn class.
        params: The parameters that a user may fix, and the readers of their values.
        settings: Parameters that differ from scikit-learn's defaults, unless a user fixes them.
        grid: The values tried by default for one or more parameters, from the
            strongest regularisation to the weakest.
        grid_unit: The power of the features' spread (mean squared distance to their
            mean, rounded to a power of ten) by which the grid is multiplied: the best
            C goes with 1 / spread and the best alpha with the spread, and backbones
            differ in it by factors of a thousand. 0 leaves the grid as it is.
        tol: Where the gradient is small enough to stop, for features of variance 1;
            it grows with their standard deviation, as the gradient does. scikit-learn's
            1e-4 stops far too early on items of length 1: log-loss 0.17 instead of 0.13.
        scalings: The scalings tried by default.
        by_direction: Whether only the directions of items count, so that `l2` is tried only where it scales the
            features of several networks, each by itself.
        seeded: Whether the estimator takes a seed.
        calibrated: Whether its scores become probabilities by temperature scaling where nothing is tuned, as
            it has no probabilities, or none that can be trusted.
        margins: Whether its scores are margins, whose softmax is not a probability.
        folds_scaling: Whether it scales features itself, without a copy of them all.
        thin: Whether its matrix products are too thin to be shared among threads.
        stops_early: Whether it stops when it gets worse on held-out items; its `fit` takes
            them as `validation`, bool (n_items,), and `curves`, false where nobody looks at the curves.
        tolerance: How many standard errors below the best accuracy a candidate may be that is
            chosen for its log-loss; with 0, accuracy alone decides.
        sweep: How its grid is tried on all folds.
        leaves_one_out: Whether `sweep` predicts each item, or unit, by a fit to all others, whatever the folds.
        pairwise: Whether it compares each item with all others, so that its time grows with the square of the items.
        streams: Whether it is tuned, fitted and evaluated without ever holding all features in memory.
        read_variant: Reads the text after `:` in a name into settings; None if there are no variants.
    """

    name: str
    description: str
    estimator: type[Any]
    params: Mapping[str, Reader] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    grid_unit: int = 0
    tol: float | None = None
    scalings: tuple[str, ...] = SCALINGS
    by_direction: bool = False
    seeded: bool = False
    calibrated: bool = False
    margins: bool = False
    folds_scaling: bool = False
    thin: bool = False
    stops_early: bool = False
    tolerance: float = 1.0
    sweep: sweeps.Sweep = sweeps.sweep_each
    leaves_one_out: bool = False
    pairwise: bool = False
    streams: bool = False
    read_variant: Callable[[str], Mapping[str, Any]] | None = None

    def build(self, params: Mapping[str, Any] = _NOTHING, seed: int = 0, scaling: str = "none") -> Any:  # noqa: ANN401 - a scikit-learn classifier
        """Build the classifier, not fitted, without calibration, and without scaling unless it does that itself.

        Raises:
            UnknownNameError: If the head has no such parameter.
            UsageError: If a value does not fit.
        """
        seeding = {"random_state": seed} if self.seeded else {}
        folded = {"scaling": scaling} if self.folds_scaling else {}
        return self.estimator(**{**self.settings, **seeding, **folded, **self.check_params(params)})

    def choose_calibration(self, asked: str | None) -> str:
        """Return a method of calibration: the one that is asked for, or the one that the head needs without tuning."""
        return asked or ("temperature" if self.calibrated else "none")

    def check_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Read values, or the texts of values, into what scikit-learn takes.

        Raises:
            UnknownNameError: If the head has no such parameter.
            UsageError: If a value does not fit.
        """
        return check_params(self.name, self.params, params)


def find_head(name: str) -> Head:
    """Return the head of that name, in any case; `keras:512-256` is a variant of the head `keras`.

    Raises:
        UnknownNameError: If there is none; the closest names come first.
        UsageError: If the head has no such variant.
    """
    base, colon, variant = name.lower().partition(":")
    head: Head = resolve("classifier", base, HEADS, "featx.heads")
    if not colon:
        return head
    if head.read_variant is None:
        kind = "classifier"
        raise make_unknown_name_error(kind, name, list_names(HEADS, "featx.heads"))
    return replace(head, name=f"{head.name}:{variant}", settings={**head.settings, **head.read_variant(variant)})


_class_weight = read_choice("balanced", None)

LOGREG = Head(
    "logreg",
    "multinomial logistic regression with an L2 penalty (L-BFGS)",
    ScaledLogisticRegression,
    params={
        "C": read_positive,
        "class_weight": _class_weight,
        "max_iter": read_count,
        "tol": read_positive,
    },
    grid={"C": tuple(float(f"{10 ** (step / 2):.3g}") for step in range(-2, 11))},
    grid_unit=-1,
    tol=1e-4,
    folds_scaling=True,
    sweep=sweeps.sweep_path,
    streams=True,
)

RIDGE = Head(
    "ridge",
    "ridge regression on targets -1 and 1, tuned by leaving out each item",
    ScaledRidge,
    params={"alpha": read_positive, "class_weight": _class_weight},
    grid={"alpha": tuple(float(f"{10 ** (step / 2):.3g}") for step in range(4, -8, -1))},
    grid_unit=1,
    calibrated=True,
    margins=True,
    folds_scaling=True,
    sweep=sweeps.sweep_ridge,
    leaves_one_out=True,
    streams=True,
)

LINEAR_SVM = Head(
    "linear-svm",
    "linear support vector machine, one class against the rest",
    ScaledLinearSVC,
    params={"C": read_positive, "class_weight": _class_weight, "max_iter": read_count},
    grid={"C": (1e-2, 1e-1, 1e0, 1e1, 1e2)},
    grid_unit=-1,
    calibrated=True,
    margins=True,
    folds_scaling=True,
    sweep=sweeps.sweep_hinge,
)

SVM = Head(
    "svm",
    "support vector machine with an RBF kernel; slow above 10,000 items",
    SVC,
    params={"C": read_positive, "gamma": read_gamma, "class_weight": _class_weight},
    settings={"gamma": "scale", "cache_size": 500},
    grid={"C": (1e-1, 1e0, 1e1, 1e2)},
    calibrated=True,
    margins=True,
    sweep=functools.partial(sweeps.sweep_each, shares_kernel=True),
)

KNN = Head(
    "knn",
    "votes of the nearest items by cosine, weighted by exp(similarity / temperature)",
    CosineNeighbours,
    params={
        "n_neighbors": read_count,
        "weights": read_choice(*VOTES),
        "temperature": read_positive,
    },
    settings={"weights": "temperature"},
    grid={"n_neighbors": (50, 20, 10, 5, 3, 1)},
    scalings=("none", "standard"),  # a cosine is the same after l2
    by_direction=True,
    calibrated=True,
    folds_scaling=True,
    sweep=sweeps.sweep_neighbours,
    pairwise=True,
    streams=True,
)

LDA = Head(
    "lda",
    "linear discriminant analysis with a shrunk covariance",
    ShrunkDiscriminant,
    params={"shrinkage": read_share},
    grid={"shrinkage": (0.9, 0.6, 0.3, 0.1, 0.03, 0.01, 0.001)},
    calibrated=True,
    folds_scaling=True,
    sweep=sweeps.sweep_shrinkage,
    streams=True,
)

CENTROID = Head(
    "centroid",
    "the class whose mean is nearest",
    ShrunkDiscriminant,
    settings={"shrinkage": 1.0, "priors": "uniform"},
    calibrated=True,
    folds_scaling=True,
    sweep=sweeps.sweep_shrinkage,
    streams=True,
)

NAIVE_BAYES = Head(
    "naive-bayes",
    "Gaussian naive Bayes",
    GaussianNB,
    params={"var_smoothing": read_positive},
    grid={"var_smoothing": (1e-1, 1e-2, 1e-3, 1e-6, 1e-9)},
    calibrated=True,
)

RANDOM_FOREST = Head(
    "random-forest",
    "300 decision trees on random parts of the items and features",
    RandomForestClassifier,
    params={
        "n_estimators": read_count,
        "max_depth": read_count,
        "min_samples_leaf": read_count,
        "class_weight": _class_weight,
    },
    settings={"n_estimators": 300},
    scalings=("none",),  # trees see only the order of a feature's values
    seeded=True,
    calibrated=True,  # the mean of many trees is far too uncertain: a calibration error of 0.4 on sign digits
    sweep=sweeps.sweep_forest,
)

HIST_GB = Head(
    "hist-gb",
    "boosted trees on binned features; slow above 500 features",
    HistGradientBoostingClassifier,
    params={
        "learning_rate": read_positive,
        "max_iter": read_count,
        "max_leaf_nodes": read_count,
        "class_weight": _class_weight,
    },
    settings={"early_stopping": False},  # it would hold out items at random and split groups
    scalings=("none",),
    seeded=True,
)

MLP = Head(
    "mlp",
    "a network with one hidden layer of 256 units (Adam)",
    MLPClassifier,
    params={
        "hidden_layer_sizes": read_sizes,
        "alpha": read_positive,
        "learning_rate_init": read_positive,
        "max_iter": read_count,
    },
    settings={"hidden_layer_sizes": (256,)},
    scalings=("standard",),  # Adam's step fits features of variance 1
    seeded=True,
    thin=True,
)


def _read_network(variant: str) -> dict[str, Any]:
    if variant == "bn":
        return {"batch_norm": True, "dropout": 0.5}
    try:
        depth = len(read_hidden(variant))
    except UsageError:
        depth = 0
    if not depth:
        msg = (
            f"no network is called 'keras:{variant[:40]}'; write keras, keras:bn, or the units of each hidden layer, "
            f"1 to {MOST_UNITS:,}: keras:1024, keras:512-512"
        )
        raise UsageError(msg)
    return {"hidden": variant, "dropout": 0.3 if depth > 1 else 0.2}


KERAS = Head(
    "keras",
    "a network trained by Keras until the held-out loss stops falling; also keras:1024, keras:512-512, keras:bn",
    NetworkClassifier,
    params={
        "dropout": read_fraction,
        "optimizer": read_choice(*OPTIMIZERS),
        "learning_rate": read_positive,
        "epochs": read_count,
        "batch_size": read_count,
        "class_weight": _class_weight,
        "label_smoothing": read_fraction,
        "patience": read_count,
    },
    # 1e-3 suits 64 features but overshoots with 3,472, which need 1e-4: accuracy of 512-512 was 0.974 and 0.993.
    grid={"learning_rate": (1e-4, 1e-3)},
    scalings=("standard",),  # as for the other network
    seeded=True,
    folds_scaling=True,
    stops_early=True,
    sweep=sweeps.sweep_stopping,
    read_variant=_read_network,
)

DUMMY = Head(
    "dummy",
    "always the most frequent class; any other head has to beat it",
    DummyClassifier,
    settings={"strategy": "prior"},
    scalings=("none",),
)
