"""Persistence: a fitted head as a file that runs no code when it is loaded."""

import zipfile
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from featx.errors import BundleError

#: Types that fitted heads hold beyond those that skops trusts by itself: the classes
#: of this package and internals of scikit-learn. None runs code from its state.
TRUSTED = (
    "featx.heads.discriminant.ShrunkDiscriminant",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)


def dump_head(estimator: Any, path: Path) -> None:  # noqa: ANN401 - a fitted scikit-learn classifier
    """Write a fitted head.

    Args:
        estimator: As `fit_head` gives it.
        path: The file, replaced if it is there.

    Raises:
        BundleError: If it holds types that `load_head` would refuse; nothing is written.
    """
    import skops.io

    content = skops.io.dumps(estimator)
    _refuse_foreign(skops.io.get_untrusted_types(data=content), path)
    path.write_bytes(content)


def load_head(path: Path) -> Any:  # noqa: ANN401 - a fitted scikit-learn classifier
    """Read a fitted head; nothing is unpickled, and foreign types are refused.

    A file made with bad intent can still hold wrong numbers, which give wrong
    predictions or a crash: load heads from people you trust.

    Raises:
        BundleError: If the file is missing or damaged, holds other types than heads
            are made of, or holds no classifier.
    """
    import skops.io

    try:
        _refuse_foreign(skops.io.get_untrusted_types(file=path), path)
        estimator = skops.io.load(path, trusted=list(TRUSTED))
    except BundleError:
        raise
    except FileNotFoundError:
        msg = f"{path} is missing; a bundle has to be moved with all its files"
        raise BundleError(msg) from None
    except (OSError, zipfile.BadZipFile, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        msg = f"{path} is damaged, or made by another version of scikit-learn or skops ({error}); fit the head again"
        raise BundleError(msg) from error
    if not (isinstance(estimator, Pipeline) and hasattr(estimator, "classes_") and hasattr(estimator, "predict_proba")):
        msg = f"{path} holds a {type(estimator).__name__}, which is no fitted head; choose another file"
        raise BundleError(msg)
    return estimator


def _refuse_foreign(types: list[str], path: Path) -> None:
    foreign = sorted(set(types) - set(TRUSTED))
    if foreign:
        msg = f"{path} holds types that no head is made of: {', '.join(foreign)}; featx neither writes nor loads it"
        raise BundleError(msg)
