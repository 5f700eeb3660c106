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

_SAME_TEST = "its test and its verdict are on the same images as theirs"
_BELOW = f"so it is listed below the heads, whatever its validation says; {_SAME_TEST}"
_OWN = f"validated on {{}} images of its own training items, {_BELOW}"
_OTHERS = f"validated on {{}} images that are not all and only those that rank the heads, {_BELOW}"
_LEARNT = (
    "no validation images were held out of its training, and the accuracy on those that it learnt from is none; it is "
    f"listed below the heads; {_SAME_TEST}"
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
        standing, note = _describe_run(run, stores), _doubt_validation(run, dataset, partition)
        standing = replace(standing, notes=(note,) if note else ())
        contenders.append(Contender(standing, functools.partial(np.copy, probabilities), labels, ranked=not note))
    titles = [(one.standing.store, one.standing.title) for one in contenders]
    return [
        _name_by_folder(one) if titles.count(title) > 1 else one for one, title in zip(contenders, titles, strict=True)
    ]


def _doubt_validation(run: FinishedRun, dataset: Dataset, partition: Partition) -> str:
    """Say why its validation cannot rank a run among the heads; empty if it was on the items that rank these."""
    if _learnt_all(run):
        return _LEARNT
    members = partition.validation
    ids = map(to_text, dataset.store.ids[dataset.rows[members]].tolist())
    ranking = frozenset(zip(ids, dataset.keys[members].tolist(), strict=True))
    if run.finetuning is None:
        # `fit` learns from these as well in the end, and so lists them as trained; else it validates by folds.
        own, shared = run.validation.n_items, ranking <= run.roles["trained"]
        same = shared and own == len(ranking)
    else:
        own, shared = len(run.roles["validated"]), bool(ranking & run.roles["validated"])
        same = ranking == run.roles["validated"]
    if ranking and same:
        return ""
    return (_OTHERS if ranking and shared else _OWN).format(f"{own:,}")


def _learnt_all(run: FinishedRun) -> bool:
    """Tell whether a fine-tuned run had nothing held out, and so was validated on images that it learnt from."""
    return run.finetuning is not None and (not run.roles["validated"] or run.finetuning.validated_on == "training")


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
        validation_accuracy=None if _learnt_all(run) else shared.validation_accuracy,
        validation_log_loss=None if _learnt_all(run) else shared.validation_log_loss,
    )


def _name_by_folder(contender: Contender) -> Contender:
    standing = contender.standing
    folder = to_printable(standing.run.name) if standing.run else ""
    name = f"{standing.title.removesuffix(' (run)')} ({folder})"
    return replace(contender, standing=replace(standing, name=name))
