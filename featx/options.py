"""Options: how to run and how to split, with their defaults, for the library and the command line alike."""

import numbers
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from featx.errors import UsageError
from featx.reporting import SILENT, Reporter
from featx.urls import find_writable_url, hide_secrets

#: What `EmbedOptions.on_bad` may be.
ON_BAD = ("quarantine", "fail")

#: What `EmbedOptions.runtime` may be.
RUNTIMES = ("auto", "keras", "openvino")

#: What `EmbedOptions.executor` may be.
EXECUTORS = ("local", "ray")

#: What `FineTuneOptions.cache` may be.
CACHES = ("auto", "yes", "no")

#: What `SplitOptions.stratify` may be.
STRATIFY = ("stable", "exact")

#: What `FitOptions.views` and `CompareOptions.views` may be.
VIEWS = ("average", "augment", "plain")

#: Bytes that a fit of 630 items took (203 MB), and a little more; see decision 34.
LEAST_MEMORY = 250_000_000

#: What NumPy's and scikit-learn's generators take.
_SEEDS = 2**32


#: Options that are a path, or None for nothing to write.
_PATHS = {"folder", "features", "out", "without", "relabel"}


def check_options(options: object, kind: type) -> None:
    """Refuse anything but options of that kind.

    Raises:
        UsageError: The message says what to pass.
    """
    if not isinstance(options, kind):
        msg = f"options is a {type(options).__name__}; pass options=featx.{kind.__name__}(...)"
        raise UsageError(msg)


def _check_types(options: Any) -> None:  # noqa: ANN401 - one of the classes below
    """Refuse values of another type than the default's."""
    for field in fields(options):
        value, default = getattr(options, field.name), field.default
        if field.name in _PATHS:
            fits, wanted = value is None or isinstance(value, str | os.PathLike), "a path"
        elif isinstance(default, Reporter):
            fits, wanted = isinstance(value, Reporter), "a featx.Reporter, such as ProgressReporter()"
        elif isinstance(default, bool):
            fits, wanted = isinstance(value, bool), "True or False"
        elif isinstance(default, str):
            fits, wanted = isinstance(value, str), "text"
        elif isinstance(default, float):
            fits, wanted = isinstance(value, numbers.Real) and not isinstance(value, bool), "a number"
        else:
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            fits, wanted = whole or value is default, "a whole number"
        if not fits:
            msg = f"{field.name} is {value!r}, a {type(value).__name__}; pass {wanted}"
            raise UsageError(msg)


def _check_choices(options: object, **known: Sequence[str]) -> None:
    """Refuse values that are not among the known ones, by the name of the option."""
    for name, values in known.items():
        if (choice := getattr(options, name)) not in values:
            msg = f"{name} is {choice!r}; it must be one of {', '.join(values)}"
            raise UsageError(msg)


def read_bytes(text: str, option: str) -> int:
    """Read an option that is a number of bytes, such as `500MB` or `1.5 GiB`; a number alone is in bytes.

    Raises:
        UsageError: If it is something else.
    """
    found = re.fullmatch(r"([\d.]+)\s*(?:([kMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or number <= 0:
        msg = f"{option} {text!r} is not a number of bytes; write a number and a unit, such as 1.5GiB or 800MB"
        raise UsageError(msg)
    return int(number * (1024 if found[3] else 1000) ** " KMGT".index((found[2] or " ").upper()))


def read_memory(text: str) -> int:
    """Read the option `--memory`; see `read_bytes`.

    Raises:
        UsageError: If it is something else, or too little.
    """
    n_bytes = read_bytes(text, "--memory")
    _check_memory("--memory", n_bytes)
    return n_bytes


def _check_memory(name: str, n_bytes: int) -> None:
    """Refuse less memory than a fit takes for any store."""
    if n_bytes < LEAST_MEMORY:
        least = f"the code of a fit alone takes {LEAST_MEMORY // 10**6} MB"
        msg = f"{name} is {n_bytes:,} bytes, but {least}; give at least that, or leave it out"
        raise UsageError(msg)


def count_cores() -> int:
    """Count the cores that this process may use; in a container, affinity and quota often leave only some."""
    from loky import cpu_count  # that of joblib, which takes three times as long to import

    return int(cpu_count())


#: Features of more bytes stay in shards, and the store is an index of them: a copy takes minutes, and room twice.
INDEX_ABOVE = 16 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadOptions:
    """What spreads work; none of these changes the numbers.

    Attributes:
        executor: One of `EXECUTORS`.
        ray_address: The cluster, such as `10.0.0.5:6379` or `auto`; empty starts Ray on this machine for this run.
        gpus_per_worker: GPUs of each of Ray's workers; a worker with 0 does not use any.
        cpus_per_worker: Cores of each of Ray's workers.
    """

    executor: str = EXECUTORS[0]
    ray_address: str = ""
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0

    def _check_spread(self) -> None:
        _check_choices(self, executor=EXECUTORS)
        if self.gpus_per_worker < 0 or self.cpus_per_worker <= 0:
            msg = "cpus_per_worker must be above 0, and gpus_per_worker at least 0"
            raise UsageError(msg)
        if self.executor != "ray" and (self.ray_address or self.gpus_per_worker or self.cpus_per_worker != 1):
            msg = "ray_address, gpus_per_worker and cpus_per_worker need the executor ray; choose it, or leave them out"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions(SpreadOptions):
    """How to embed; none of these changes the numbers.

    Attributes:
        batch_size: Images per forward pass; None for the fastest size, found by a short probe.
        workers: Threads that read and decode; None for one per core. With the executor `ray`: processes that embed,
            each with `cpus_per_worker` such threads; None for as many as the cluster has room for.
        rehash: Hash every file, even if its size and time are unchanged.
        on_bad: What happens to an image that cannot be embedded: `quarantine` leaves it out and records the reason
            in the store; `fail` ends the run before anything is sealed.
        max_bad: Largest share of items in quarantine, 0 to 1, that `EmbedResult.check` and the command line
            accept; the store is sealed in any case.
        runtime: The software that runs the network: `keras`; `openvino`, which is several times as fast on a CPU; or
            `auto`: Keras on a GPU, otherwise OpenVINO if it is installed and gives the same numbers, otherwise Keras.
        reporter: Receives the progress in items: those written to the store or up to date.
        executor: What spreads the work: `local`, this process; or `ray`, processes on one or many machines that see the
            same files under the same paths.
        ray_address: The cluster, such as `10.0.0.5:6379` or `auto`; empty starts Ray on this machine for this run.
        gpus_per_worker: GPUs of each of Ray's workers; a worker with 0 does not use any.
        cpus_per_worker: Cores of each of Ray's workers.
        handover: URL of a folder, such as `s3://bucket/tmp`, that shards go through where Ray's workers do not see the
            folder of the store; empty if they do.
        index_above: Bytes of features above which a store becomes an index: its features stay in shards beside it.
    """

    batch_size: int | None = None
    workers: int | None = None
    rehash: bool = False
    on_bad: str = ON_BAD[0]
    max_bad: float = 0.05
    runtime: str = RUNTIMES[0]
    reporter: Reporter = SILENT
    handover: str = ""
    index_above: int = INDEX_ABOVE

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_types(self)
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                msg = f"{name} is {value}; it must be at least 1"
                raise UsageError(msg)
        if self.index_above < 0:
            msg = f"index_above is {self.index_above}; it must be a number of bytes, such as 16_000_000_000"
            raise UsageError(msg)
        _check_choices(self, on_bad=ON_BAD, runtime=RUNTIMES)
        if not 0 <= self.max_bad <= 1:
            msg = f"max_bad is {self.max_bad}; it must be a share from 0 to 1, such as 0.05"
            raise UsageError(msg)
        self._check_spread()
        if self.handover and self.executor != "ray":
            msg = "handover needs the executor ray; choose it, or leave handover out"
            raise UsageError(msg)
        if self.handover and not find_writable_url(self.handover):
            shown = hide_secrets(self.handover)
            msg = f"handover is {shown!r}, which is not a URL that can be written to; name one such as s3://bucket/tmp"
            raise UsageError(msg)

    def count_workers(self, least: int = 1) -> int:
        """Return the number of threads that read and decode in this process.

        Where they wait for answers, there are at least so many, unless the user named another number.
        """
        return (self.workers if self.executor == "local" else None) or max(least, count_cores())


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How to split the items of a store, and where to write the bundle.

    Attributes:
        test_size: Fraction held out if the source has no test split.
        cv: Folds of a cross-validation over all items, instead of one test; 0 for none.
        group: What keeps items together: empty for the groups in the store, `folder` for
            the folder of each image, a column of the table that was embedded, a
            regular expression with one group, searched in each item's id, or a table with the columns `id` and
            `group`, such as `audit.csv`.
        without: Table of items to leave out: an `audit.csv`, or any with a column `id`.
        relabel: Table of items to label anew: an `audit.csv`, or one with the columns `id` and `label`.
        seed: Seed of the split, the folds and the head.
        folder: Where bundles are written; None writes none.
        name: Name of the bundle in that folder; empty for one made from the date, the head and the store.
        curve: Whether the learning curve is measured as well, which takes some 25 more fits.
        views: What heads are fitted on in a store with views. `average` takes the mean over all views of an item,
            also when the bundle predicts. `augment` takes every view as a separate row, while tests and predictions
            take the image itself. `plain` takes only the image itself. `average` is the default because it has one
            row per item, so nothing that counts rows is misled. `augment` predicts at the cost of one view.
        network: Whether the bundle holds the converted network too, if it is in the cache: it then runs without Keras
            and without the weights.
        neighbours: Whether the bundle holds the features of the training items too, which show in its explanations
            what an image is similar to, and how unfamiliar it is.
        memory: Bytes of memory that the fit may take, at least 250 MB; None for what the machine has, limits of
            containers included. Features that take more than half of it are streamed from their file, which changes no
            number.
        reporter: Receives the progress in fits.
    """

    test_size: float = 0.2
    cv: int = 0
    group: str = ""
    without: str | os.PathLike[str] | None = None
    relabel: str | os.PathLike[str] | None = None
    seed: int = 0
    folder: str | os.PathLike[str] | None = "runs"
    name: str = ""
    curve: bool = False
    views: str = VIEWS[0]
    network: bool = True
    neighbours: bool = True
    memory: int | None = None
    reporter: Reporter = SILENT

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_types(self)
        _check_split(self.test_size, self.seed)
        _check_views(self.views)
        if self.memory is not None:
            _check_memory("memory", self.memory)
        if self.cv < 0 or self.cv == 1:
            msg = f"cv is {self.cv}; it must be at least 2, or 0 to hold out one test"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """How to split a source into train, val and test, and whether existing splits and files may be replaced.

    Attributes:
        val_size: Fraction of the images for validation; 0 for none.
        test_size: Fraction held out for the test, as in `FitOptions`; 0 for none.
        group: What keeps items together, as in `FitOptions`; empty for the groups of the table, if any.
        seed: Seed of the split.
        stratify: One of `STRATIFY`: `stable` moves no earlier image when images are added later, and the share of a
            class varies by chance; `exact` holds out the same share of each class as far as whole groups allow.
        replace: Whether existing splits of the source are replaced by new ones.
        force: Whether an existing table of the same name is overwritten.
        workers: Threads that read and hash; None for one per core.
        reporter: Receives the progress in files read.
    """

    val_size: float = 0.1
    test_size: float = 0.2
    group: str = ""
    seed: int = 0
    stratify: str = "stable"
    replace: bool = False
    force: bool = False
    workers: int | None = None
    reporter: Reporter = SILENT

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_types(self)
        for name, size in (("val", self.val_size), ("test", self.test_size)):
            if not 0 <= size < 1:
                msg = f"the size of {name} is {size}; it must be at least 0 and below 1, such as 0.1"
                raise UsageError(msg)
        if not 0 < self.val_size + self.test_size < 1:
            msg = (
                f"the sizes of val and test are {self.val_size:g} and {self.test_size:g}; together they must be above "
                "0 and below 1, so that something is held out and something is left to train on"
            )
            raise UsageError(msg)
        _check_seed(self.seed)
        _check_choices(self, stratify=STRATIFY)
        if self.workers is not None and self.workers < 1:
            msg = f"workers is {self.workers}; it must be at least 1"
            raise UsageError(msg)

    def count_workers(self, least: int = 1) -> int:
        """Return the number of threads; where they wait for answers, at least so many unless the user named another."""
        return self.workers or max(least, count_cores())


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions(SpreadOptions):
    """How to compare heads on stores: on what items, in how many processes, and where to write.

    Attributes:
        test_size: Fraction held out if the source has no test split.
        folds: Folds of the training items; they rank the candidates if the source has no val split.
        group: What keeps items together, as in `FitOptions`.
        seed: Seed of the splits, the folds and the heads.
        jobs: Processes; None for one per core, or with the executor `ray` for as many as the cluster has room for.
        folder: Where the comparison is written, in a folder named by date, and where `.compare` keeps finished parts,
            so that the same call can continue; None writes nothing.
        out: The folder to write the comparison into, instead of the one named by date.
        fresh: Whether to compute everything again, fine-tuned runs included.
        reporter: Receives the progress in fits (in images during fine-tuning) and lines on finished and new runs.
        views: What heads are fitted on in a store with views, as in `FitOptions`.
        combine: Also compare up to so many stores with their features side by side: 2 adds a row of each head for each
            pair of stores. 1 for none.
        executor, ray_address, gpus_per_worker, cpus_per_worker: What spreads the heads and folds, as in `EmbedOptions`.
            The machines of a cluster must see the stores and `folder` under the same paths.
    """

    test_size: float = 0.2
    folds: int = 3
    group: str = ""
    seed: int = 0
    jobs: int | None = None
    folder: str | os.PathLike[str] | None = "runs"
    out: str | os.PathLike[str] | None = None
    fresh: bool = False
    reporter: Reporter = SILENT
    views: str = VIEWS[0]
    combine: int = 1

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_types(self)
        _check_split(self.test_size, self.seed)
        _check_views(self.views)
        if self.combine < 1:
            msg = f"combine is {self.combine}; it must be at least 2, or 1 to combine no stores"
            raise UsageError(msg)
        if self.folds < 2:  # noqa: PLR2004 - one to train on, one to hold out
            msg = f"folds is {self.folds}; it must be at least 2"
            raise UsageError(msg)
        if self.jobs is not None and self.jobs < 1:
            msg = f"jobs is {self.jobs}; it must be at least 1"
            raise UsageError(msg)
        self._check_spread()
        if self.ray_address and self.folder is None:
            msg = "the workers of a cluster write their results to a folder; name one that all machines see as folder"
            raise UsageError(msg)

    def count_jobs(self) -> int:
        """Return the number of processes on this machine."""
        return self.jobs or count_cores()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutOptions:
    """How to scout backbones: on what items, and where to write.

    Attributes:
        sample: How many of the training items: a share up to 1, such as 0.2, or about how many above 1.
        folds: Folds of these items on which the head is tuned and its accuracy measured.
        test_size: Fraction held out if the source has no test split, as in `FitOptions`; it is not embedded.
        group: What keeps items together, as in `FitOptions`.
        seed: Seed of the split, the sample, the folds and the head.
        jobs: Processes that fit heads; None for one per core.
        workers: Threads that read and decode; None for one per core.
        runtime: The software that runs the networks, as in `EmbedOptions`.
        max_bad: Share of items in quarantine that is accepted, as in `EmbedOptions`.
        features: Folder of the stores. Features of the scout are in its subfolder `scout`, where `embed` finds them.
        folder: Where the results are written, in a folder named by date; None writes none.
        out: The folder to write the results into, instead of the one named by date.
        reporter: Receives the phases, and their progress in images and in fits.
    """

    sample: float = 1.0
    folds: int = 5
    test_size: float = 0.2
    group: str = ""
    seed: int = 0
    jobs: int | None = None
    workers: int | None = None
    runtime: str = RUNTIMES[0]
    max_bad: float = 0.05
    features: str | os.PathLike[str] = "features"
    folder: str | os.PathLike[str] | None = "runs"
    out: str | os.PathLike[str] | None = None
    reporter: Reporter = SILENT

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_types(self)
        _check_split(self.test_size, self.seed)
        self.make_embed_options()
        if self.sample <= 0 or (self.sample > 1 and self.sample != int(self.sample)):
            msg = f"sample is {self.sample}; it must be a share above 0, such as 0.2, or a number of images"
            raise UsageError(msg)
        if self.folds < 2:  # noqa: PLR2004 - one to train on, one to hold out
            msg = f"folds is {self.folds}; it must be at least 2"
            raise UsageError(msg)
        if self.jobs is not None and self.jobs < 1:
            msg = f"jobs is {self.jobs}; it must be at least 1"
            raise UsageError(msg)

    def make_embed_options(self) -> EmbedOptions:
        """Return the options of its embedding."""
        return EmbedOptions(workers=self.workers, runtime=self.runtime, max_bad=self.max_bad, reporter=self.reporter)

    def count_jobs(self) -> int:
        """Return the number of processes."""
        return self.jobs or count_cores()


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneOptions:
    """How to fine-tune: on what items, from where, and where to write.

    Attributes:
        test_size: Fraction held out if the source has no test split.
        group: What keeps items together, as in `FitOptions`.
        without, relabel: Tables of items to leave out and to label anew, as in `FitOptions`.
        cache: `yes` embeds the feature maps below the trainable layers once and trains from these; `no` runs the
            whole network on pixels in every epoch; `auto` caches if that is possible and the disk has room.
        features: Folder of the stores; feature maps are in its subfolder `maps`.
        folder: Where bundles are written, and where `.finetune` keeps the state of unfinished runs.
        name: Name of the bundle in that folder; empty for one made from the date and the network.
        fresh: Whether to start again instead of resuming an interrupted run.
        workers: Threads that read and decode; None for one per core.
        runtime: The software that embeds the frozen part, as in `EmbedOptions`.
        mixed_precision: Whether to compute in bfloat16 if there is a GPU.
        neighbours: Whether the bundle holds the features of the training items too, as in `FitOptions`.
        reporter: Receives the phases, their progress in images, and lines such as one per epoch.
    """

    test_size: float = 0.2
    group: str = ""
    without: str | os.PathLike[str] | None = None
    relabel: str | os.PathLike[str] | None = None
    cache: str = CACHES[0]
    features: str | os.PathLike[str] = "features"
    folder: str | os.PathLike[str] = "runs"
    name: str = ""
    fresh: bool = False
    workers: int | None = None
    runtime: str = RUNTIMES[0]
    mixed_precision: bool = False
    neighbours: bool = True
    reporter: Reporter = SILENT

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        _check_types(self)
        _check_split(self.test_size, 0)
        _check_choices(self, cache=CACHES, runtime=RUNTIMES)
        if self.workers is not None and self.workers < 1:
            msg = f"workers is {self.workers}; it must be at least 1"
            raise UsageError(msg)


def _check_split(test_size: float, seed: int) -> None:
    if not 0 < test_size < 1:
        msg = f"the test size is {test_size}; it must be a fraction above 0 and below 1, such as 0.2"
        raise UsageError(msg)
    _check_seed(seed)


def _check_views(views: str) -> None:
    if views not in VIEWS:
        msg = f"views is {views!r}; it must be one of {', '.join(VIEWS)}"
        raise UsageError(msg)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < _SEEDS:
        msg = f"the seed is {seed}; it must be 0 to {_SEEDS - 1}"
        raise UsageError(msg)


EMBED_DEFAULTS = EmbedOptions()
FIT_DEFAULTS = FitOptions()
COMPARE_DEFAULTS = CompareOptions()
FINETUNE_DEFAULTS = FineTuneOptions()
SPLIT_DEFAULTS = SplitOptions()
SCOUT_DEFAULTS = ScoutOptions()
