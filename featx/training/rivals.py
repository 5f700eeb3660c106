"""Finished runs as contenders of a comparison."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from featx.heads.sizes import count_parameters
from featx.items.manifest import to_text
from featx.options import CompareOptions
from featx.training.dataset import Dataset, Partition
from featx.training.finished import FinishedRun, align_run
from featx.training.judging import Contender
from featx.training.rendering import describe_choice
from featx.training.standings import FINE_TUNED, FROZEN, Standing
from featx.wording import to_printable

_NOTE = (
    "validation accuracy as measured in its own run, on other items than those that rank the others: its place in the "
    "table is less sure than its test"
)


def enter_runs(
    runs: Sequence[FinishedRun],
    dataset: Dataset,
    partition: Partition,
    options: CompareOptions,
    stores: Mapping[str, str],
) -> list[Contender]:
    """Make a contender of each finished run.

    Args:
        runs: The runs.
        dataset: All items of the comparison.
        partition: What holds its test.
        options: How it was split.
        stores: By the uri of its backbone, the name of a store.

    Raises:
        DataError: If a run was tested on other items than these, or learnt from one of them.
    """
    contenders = []
    for run in {run.bundle.path.resolve(): run for run in runs}.values():
        probabilities, labels = align_run(run, dataset, partition.test.members, options)
        standing = _describe_run(run, stores)
        if not _shares_validation(run, dataset, partition):
            standing = replace(standing, notes=(_NOTE,))
        contenders.append(Contender(standing, functools.partial(np.copy, probabilities), labels))
    titles = [(one.standing.store, one.standing.title) for one in contenders]
    return [
        _name_by_folder(one) if titles.count(title) > 1 else one for one, title in zip(contenders, titles, strict=True)
    ]


def _shares_validation(run: FinishedRun, dataset: Dataset, partition: Partition) -> bool:
    """Tell whether a run was validated by the split of the source that also ranks the heads."""
    if not partition.validation.any():
        return False
    ids = dataset.store.ids[dataset.rows[partition.validation]].tolist()
    own = {name for name, _ in run.roles["validated"]}
    # `fit` learns from these as well in the end, and so lists them as trained.
    return own == set(map(to_text, ids)) or run.finetuning is None


def _describe_run(run: FinishedRun, stores: Mapping[str, str]) -> Standing:
    bundle, tuning = run.bundle, run.finetuning
    uri = tuning.backbone if tuning else bundle.embed_spec.backbone.uri
    shared = Standing(
        store=stores.get(uri, to_printable(uri)),
        head=bundle.head_spec,
        chosen="",
        bytes_per_item=bundle.golden.features.shape[1] * np.dtype(bundle.embed_spec.dtype).itemsize,
        validation_accuracy=float(run.validation.accuracy),
        validation_log_loss=float(run.validation.log_loss),
        fit_seconds=run.seconds,
        embed_seconds=run.embed_seconds,
        run=bundle.path,
    )
    if tuning is None:
        parameters = count_parameters(bundle.load_head())
        name, chosen = f"{bundle.head_spec.name} (run)", describe_choice(bundle.head_spec)
        return replace(shared, kind=FROZEN, name=name, chosen=chosen, trained_parameters=parameters)
    return replace(
        shared,
        kind=FINE_TUNED,
        name=f"finetune {to_printable(tuning.unfreeze)}",
        chosen=f"epoch {tuning.best_epoch} of {tuning.epochs}",
        bytes_per_item=None,
        fit_seconds=tuning.seconds,
        peak_memory_bytes=tuning.peak_memory_bytes,
        trained_parameters=tuning.trained_parameters,
    )


def _name_by_folder(contender: Contender) -> Contender:
    standing = contender.standing
    folder = to_printable(standing.run.name) if standing.run else ""
    name = f"{standing.title.removesuffix(' (run)')} ({folder})"
    return replace(contender, standing=replace(standing, name=name))
