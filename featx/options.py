"""Options: how to run and how to split, with their defaults, for the library and the command line alike."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from featx.errors import UsageError

#: Called with what is done and what there is in all.
Progress = Callable[[int, int], None]


#: What `EmbedOptions.on_bad` may be.
ON_BAD = ("quarantine", "fail")

#: What `EmbedOptions.runtime` may be.
RUNTIMES = ("auto", "keras", "openvino")

#: What `FitOptions.views` may be.
VIEWS = ("average", "augment", "plain")

#: What NumPy's and scikit-learn's generators take.
_SEEDS = 2**32


def count_cores() -> int:
    """Count the cores that this process may use: in a container, by its affinity or its quota, often not all."""
    from joblib import cpu_count

    return int(cpu_count())


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How to embed, which does not change the numbers.

    Attributes:
        batch_size: Images per forward pass; None for what the runtime is fastest with, by a short probe.
        workers: Threads that read and decode; None for one per core.
        rehash: Hash every file, also where size and time are unchanged.
        progress: Called with items done and in all, whenever a batch is in its store or an item needs nothing.
        on_bad: What an image that cannot be embedded does: `quarantine` leaves it out, with its reason in
            the store; `fail` ends the run before anything is sealed.
        max_bad: Largest share of items in quarantine, 0 to 1, that `Embedding.check` and the command line
            accept; the store is sealed in any case.
        runtime: What runs the network: `keras`; `openvino`, several times as fast on a CPU; or `auto`: Keras
            on a GPU, else OpenVINO where it is installed and gives the same numbers, else Keras.
    """

    batch_size: int | None = None
    workers: int | None = None
    rehash: bool = False
    progress: Progress | None = None
    on_bad: str = ON_BAD[0]
    max_bad: float = 0.05
    runtime: str = RUNTIMES[0]

    def __post_init__(self) -> None:
        """Refuse values that no run can go by.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                msg = f"{name} is {value}; it must be at least 1"
                raise UsageError(msg)
        for name, choice, known in (("on_bad", self.on_bad, ON_BAD), ("runtime", self.runtime, RUNTIMES)):
            if choice not in known:
                msg = f"{name} is {choice!r}; it must be one of {', '.join(known)}"
                raise UsageError(msg)
        if not 0 <= self.max_bad <= 1:
            msg = f"max_bad is {self.max_bad}; it must be a share from 0 to 1, such as 0.05"
            raise UsageError(msg)

    def count_workers(self) -> int:
        """Return the number of threads."""
        return self.workers or count_cores()


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to split the items of a store, and where to write the bundle.

    Attributes:
        test_size: Fraction held out where the source has no test split.
        cv: Folds of a cross-validation over all items in place of one test; 0 for none.
        group: What keeps items together: empty for the groups in the store, `folder` for
            the folder of each image, a column of the table that was embedded, or a
            regular expression with one group, searched in each item's id.
        seed: Seed of the split, the folds and the head.
        folder: Where bundles are written; None writes none.
        progress: Called with fits done and in all.
        curve: Whether the learning curve is measured as well, which takes some 25 more fits.
        views: What is learnt from a store with views: `average`, the mean over all views of an item, which then
            stands for it when the bundle predicts as well; `augment`, every view as a row of its own, while
            tests and predictions take the image itself; `plain`, the image itself alone. The first is the default
            since it has as many rows as items, so that nothing that counts rows is misled, and no strange views
            to learn; `augment` predicts at the cost of one view.
    """

    test_size: float = 0.2
    cv: int = 0
    group: str = ""
    seed: int = 0
    folder: str | os.PathLike[str] | None = "runs"
    progress: Progress | None = None
    curve: bool = False
    views: str = VIEWS[0]

    def __post_init__(self) -> None:
        """Refuse values that no split can be made with.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_split(self.test_size, self.seed)
        if self.views not in VIEWS:
            msg = f"views is {self.views!r}; it must be one of {', '.join(VIEWS)}"
            raise UsageError(msg)
        if self.cv < 0 or self.cv == 1:
            msg = f"{self.cv} folds cannot be made; ask for 2 or more, or for 0 to hold one test out"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How to compare heads on stores: on what items, in how many processes, and where to write.

    Attributes:
        test_size: Fraction held out where the source has no test split.
        folds: Folds of the training items, by which candidates are ranked where the source has no split for that.
        group: What keeps items together, as in `FitOptions`.
        seed: Seed of the splits, the folds and the heads.
        jobs: Processes; None for one per core.
        folder: Where the comparison is written, in a folder with the date in its name, and where finished parts
            are kept, in `.compare`, so that the same call goes on from there; None writes nothing.
        out: The folder to write the comparison into, in place of that with the date.
        fresh: Whether to compute everything again.
        progress: Called with parts done, and in all.
    """

    test_size: float = 0.2
    folds: int = 3
    group: str = ""
    seed: int = 0
    jobs: int | None = None
    folder: str | os.PathLike[str] | None = "runs"
    out: str | os.PathLike[str] | None = None
    fresh: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Refuse values that nothing can be compared with.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_split(self.test_size, self.seed)
        if self.folds < 2:  # noqa: PLR2004 - one to learn from, one held out
            msg = f"{self.folds} folds cannot rank anything; ask for 2 or more"
            raise UsageError(msg)
        if self.jobs is not None and self.jobs < 1:
            msg = f"jobs is {self.jobs}; it must be at least 1"
            raise UsageError(msg)

    def count_jobs(self) -> int:
        """Return the number of processes."""
        return self.jobs or count_cores()


def _check_split(test_size: float, seed: int) -> None:
    if not 0 < test_size < 1:
        msg = f"the test size is {test_size}; it must be a fraction above 0 and below 1, such as 0.2"
        raise UsageError(msg)
    if not 0 <= seed < _SEEDS:
        msg = f"the seed is {seed}; it must be 0 to {_SEEDS - 1}"
        raise UsageError(msg)


EMBED_DEFAULTS = EmbedOptions()
FIT_DEFAULTS = FitOptions()
COMPARE_DEFAULTS = CompareOptions()
