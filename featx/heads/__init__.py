"""Heads: scikit-learn classifiers on features, their tuning, and the files that hold them.

Importing this package imports no scikit-learn: each name below is loaded at its first use.
"""

from typing import TYPE_CHECKING

from featx.laziness import load_lazily

if TYPE_CHECKING:
    from featx.heads.fitting import FittedHead, fit_head, make_head
    from featx.heads.persistence import dump_head, load_head
    from featx.heads.table import Head, find_head, split_params
    from featx.heads.tuning import Tuned, TunedHead, describe_single_fold, fit_tuned, tune, tune_and_fit
    from featx.results import Candidate

_MODULES = {
    "featx.heads.fitting": ("FittedHead", "fit_head", "make_head"),
    "featx.heads.persistence": ("dump_head", "load_head"),
    "featx.heads.table": ("Head", "find_head", "split_params"),
    "featx.heads.tuning": ("Tuned", "TunedHead", "describe_single_fold", "fit_tuned", "tune", "tune_and_fit"),
    "featx.results": ("Candidate",),
}

__all__ = [
    "Candidate",
    "FittedHead",
    "Head",
    "Tuned",
    "TunedHead",
    "describe_single_fold",
    "dump_head",
    "find_head",
    "fit_head",
    "fit_tuned",
    "load_head",
    "make_head",
    "split_params",
    "tune",
    "tune_and_fit",
]

__getattr__ = load_lazily(__name__, _MODULES)
