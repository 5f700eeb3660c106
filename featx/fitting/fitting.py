"""Fitting a head on frozen features: tune on folds, refit, test once, bundle."""

import functools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones import cache
from featx.backbones.catalogue import PRETRAINED
from featx.backbones.loading import rebuild_backbone
from featx.backbones.protocol import needs_openvino
from featx.backbones.untrusted_networks import read_checked
from featx.bundle import Draft, DraftPart, read_versions, tabulate_predictions, write_bundle
from featx.errors import DataError, UsageError
from featx.evaluation import Evaluation
from featx.evaluation.figure import make_title
from featx.evaluation.metrics import align_probabilities
from featx.explaining.basis import BASIS, write_basis
from featx.fitting.choice import (
    Chosen,
    Plan,
    describe_folds,
    describe_search,
    plan_best,
    predict_items,
    shift,
    tune_and_choose,
)
from featx.fitting.dataset import (
    Dataset,
    Partition,
    deal_folds,
    describe_split,
    evaluate_items,
    load_dataset,
    note_relabelled,
    split_dataset,
)
from featx.fitting.explanations import Calibrating, describe_basis, make_basis, predict_held_out
from featx.fitting.illustrations import list_illustrations
from featx.fitting.learning_curve import measure_curve, measure_shots
from featx.fitting.memory import MemoryPlan
from featx.fitting.protocols import find_protocol, plan_head
from featx.heads import FittedHead, Tuned, describe_single_fold, fit_tuned
from featx.options import FIT_DEFAULTS, FitOptions, check_options
from featx.references import check_run_name
from featx.registry import BEST
from featx.results import Curve, Run
from featx.specs import HeadSpec
from featx.store import FeatureStore
from featx.store.joining import AnyStore, join_stores
from featx.store.verification import refuse_damage
from featx.wording import format_plural, to_text

Probabilities = NDArray[np.float64]

#: A store, or its path.
StoreLike = FeatureStore | str | os.PathLike[str]


def fit(
    store: StoreLike | Sequence[StoreLike],
    clf: str | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    scaling: str | None = None,
    calibration: str | None = None,
    protocol: str | None = None,
    options: FitOptions = FIT_DEFAULTS,
) -> Run:
    """Fit a head on a store's features and report on held-out items.

    Hyper-parameters and scaling are chosen on folds inside the training split, the
    head is refitted on train and validation items, and the test is evaluated once.

    Args:
        store: A store, or its path; or several of the same items, whose features are put side by side (see
            `featx.store.joining.JoinedStore`). The bundle then runs the network of each.
        clf: Name of a head (see `featx.registry.HEADS`); `best` to tune those of `fast` and to choose one of them by
            validation, inside whatever is tested; None for the protocol's, or `logreg`.
        params: Hyper-parameters that are fixed; the others are tuned.
        scaling: `none`, `standard` or `l2`; None tunes it.
        calibration: One of `featx.specs.CALIBRATIONS`; None chooses by held-out items, as `auto` does.
        protocol: One of `featx.fitting.protocols.PROTOCOLS`; None for none.
        options: How to split and what to write.

    Returns:
        The run; its bundle is on disk.

    Raises:
        UnknownNameError: If no head or parameter has that name.
        DataError: If the items cannot be split, or the head cannot be fitted to them; if several stores have no item
            in common, or disagree about one.
        StoreFormatError: If the store is damaged.
    """
    check_options(options, FitOptions)
    check_run_name(options.folder, options.name)
    chosen = find_protocol(protocol) if protocol else None
    name = clf or (chosen.head if chosen else "logreg")
    if name.lower() == BEST:
        if chosen is not None:
            msg = f"the protocol {chosen.name} fixes its head; leave out {BEST}, or the protocol"
            raise UsageError(msg)
        plans, lacking = plan_best(params or {}, scaling, calibration, options.seed)
    else:
        plans, lacking = [plan_head(HeadSpec(name, params or {}, scaling, options.seed, calibration), chosen)], []
    if chosen is not None and chosen.shots and options.cv:
        msg = f"the protocol {chosen.name} needs a held-out test; leave out --cv"
        raise UsageError(msg)
    stores = open_stores(store)
    joined, started = join_stores(stores), time.perf_counter()
    memory = MemoryPlan.make(joined, options)
    plans, unfit = memory.choose_heads(plans)
    _begin(plans, joined, options)
    refuse_damage(stores)  # a second per gigabyte; a head would be fitted on noise without a warning
    tables = {"without": options.without, "relabel": options.relabel}
    dataset = load_dataset(joined, group=options.group, views=options.views, **tables)
    dataset = replace(dataset, streamed=memory.streamed)
    outcome = (
        _cross_validate(plans, dataset, options)
        if options.cv
        else _hold_out(plans, dataset, options, chosen.shots if chosen else ())
    )
    outcome = replace(outcome, notes=(*lacking, *unfit, *outcome.notes), memory=memory)
    if options.curve:
        outcome = _add_curve(outcome, dataset, options)
    return _conclude(dataset, outcome, options, chosen.name if chosen else "", time.perf_counter() - started)


def _begin(plans: Sequence[Plan], store: AnyStore, options: FitOptions) -> None:
    """Begin to report progress, and say first if a search will take long."""
    rows = len(store) * (store.n_views if options.views == "augment" else 1)
    # A fold of the cross-validation has fewer items; a curve adds the fits of its parts.
    repeats = (0.75 * options.cv if options.cv else 1) * (3 if options.curve else 1)
    if line := describe_search(plans, rows, store.dim // store.n_views, repeats):
        options.reporter.say(line)
    options.reporter.begin("fitting")


def open_stores(stores: StoreLike | Sequence[StoreLike]) -> list[FeatureStore]:
    """Open one or more stores.

    Raises:
        UsageError: If none is named.
    """
    given = [stores] if isinstance(stores, FeatureStore | str | os.PathLike) else stores
    opened = [store if isinstance(store, FeatureStore) else FeatureStore(store) for store in given]
    if not opened:
        msg = "no store is named; give the path of at least one"
        raise UsageError(msg)
    return opened


@dataclass(frozen=True, slots=True)
class _Outcome:
    chosen: Chosen
    fitted: FittedHead
    notes: tuple[str, ...]
    validation: Evaluation
    test: Evaluation
    tested: NDArray[np.intp]
    probabilities: Probabilities
    trained: NDArray[np.bool_]
    tuned_on: NDArray[np.bool_]
    calibrating: Calibrating
    test_name: str
    origin: str
    shots: Curve | None = None
    curve: Curve | None = None
    memory: MemoryPlan | None = None


def _add_curve(outcome: _Outcome, dataset: Dataset, options: FitOptions) -> _Outcome:
    """Measure the learning curve; where there are too few items for one, note that instead."""
    try:
        curve = measure_curve(*outcome.chosen.plan, dataset, outcome.tuned_on, options.reporter.advance)
    except DataError as error:
        return replace(outcome, notes=(*outcome.notes, f"there is no learning curve: {error}"))
    return replace(outcome, curve=curve)


def _hold_out(plans: Sequence[Plan], dataset: Dataset, options: FitOptions, shots: tuple[int, ...]) -> _Outcome:
    partition = split_dataset(dataset, test_size=options.test_size, seed=options.seed)
    train, test = partition.train, partition.test
    trained = train | partition.validation
    chosen = tune_and_choose(plans, dataset, train, partition.validation, options.reporter.advance)
    (head, spec), fitted = chosen.plan, chosen.fitted
    calibrating = _validate(fitted, chosen.tuned, dataset, partition)
    if partition.validation.any():
        folds = deal_folds(dataset, trained, spec.seed)
        fitted = fit_tuned(head, dataset.take_training_rows(trained, folds), chosen.tuned)
    probabilities = predict_items(fitted, dataset, test.members)
    targets = test.open_targets()
    few = measure_shots(head, spec, dataset, trained, (test.members, targets), shots) if shots else None
    return _Outcome(
        chosen=chosen,
        fitted=fitted,
        notes=(*partition.notes, *chosen.notes, *(few.notes if few else ())),
        validation=_evaluate_validation(dataset, calibrating, spec.seed),
        test=evaluate_items(dataset, test.members, probabilities, targets, options.seed),
        tested=np.flatnonzero(test.members),
        probabilities=probabilities,
        trained=trained,
        tuned_on=train,
        calibrating=calibrating,
        test_name=partition.test_name,
        origin=partition.origin,
        shots=few,
    )


def _cross_validate(plans: Sequence[Plan], dataset: Dataset, options: FitOptions) -> _Outcome:
    """Choose, tune, fit and test inside each fold, so that no tested item took part in any of it; then fit all."""
    everything, nobody = np.ones(len(dataset), bool), np.zeros(len(dataset), bool)
    outer = dataset.assign_folds(everything, options.cv, options.seed)
    probabilities = np.zeros((len(dataset), len(dataset.classes)))
    inside = []
    for fold in range(options.cv):
        options.reporter.begin(f"fold {fold + 1} of {options.cv}")
        progress = shift(options.reporter.advance, fold, options.cv + 1)
        inside.append(tune_and_choose(plans, dataset, outer != fold, nobody, progress))
        probabilities[outer == fold] = predict_items(inside[-1].fitted, dataset, outer == fold)
    held = outer >= 0
    alone = int((~held).sum())
    single = f"classes with a single image are trained on and never tested ({format_plural(alone, 'image')}); add more"
    notes = [*([single] if alone else []), *note_relabelled(dataset, held)]
    if (dataset.splits != "").any():
        notes.append("cross-validation uses all items and ignores the splits of the source; leave out --cv to use them")
    options.reporter.begin("fitting to all items")
    progress = shift(options.reporter.advance, options.cv, options.cv + 1)
    chosen = tune_and_choose(plans, dataset, everything, nobody, progress)
    folded = align_probabilities(chosen.tuned.probabilities, chosen.tuned.classes, len(dataset.classes))
    calibrating = Calibrating(everything, folded)
    return _Outcome(
        chosen=chosen,
        fitted=chosen.fitted,
        notes=(*notes, *chosen.notes, *describe_folds(inside)),
        validation=_evaluate_validation(dataset, calibrating, options.seed),
        test=evaluate_items(dataset, held, probabilities[held], dataset.targets[held], options.seed),
        tested=np.flatnonzero(held),
        probabilities=probabilities[held],
        trained=everything,
        tuned_on=everything,
        calibrating=calibrating,
        test_name=f"{options.cv}-fold cross-validation",
        origin="cross-validation",
    )


def _validate(fitted: FittedHead, tuned: Tuned, dataset: Dataset, partition: Partition) -> Calibrating:
    """Take the probabilities of the source's validation split, or those of the folds that chose the parameters."""
    members = partition.validation
    if members.any():
        return Calibrating(members, predict_items(fitted, dataset, members))
    return Calibrating(partition.train, align_probabilities(tuned.probabilities, tuned.classes, len(dataset.classes)))


def _evaluate_validation(dataset: Dataset, validated: Calibrating, seed: int) -> Evaluation:
    members = validated.members
    return evaluate_items(dataset, members, validated.probabilities, dataset.targets[members], seed)


def _conclude(
    dataset: Dataset,
    outcome: _Outcome,
    options: FitOptions,
    protocol: str,
    seconds: float,
) -> Run:
    tuned, fitted = outcome.chosen.tuned, outcome.fitted
    of_heads = [*describe_single_fold(tuned.single_fold, dataset.classes), *tuned.notes, *fitted.notes]
    run = Run(
        bundle=None,
        head=replace(tuned.spec, params=dict(tuned.params)),
        validation=outcome.validation,
        test=outcome.test,
        n_train=int(outcome.trained.sum()),
        test_name=outcome.test_name,
        notes=tuple(dict.fromkeys([*dataset.notes, *outcome.notes, *of_heads, *_note_protocol(protocol, tuned)])),
        seconds=seconds,
        candidates=tuned.candidates,
        protocol=protocol,
        curve=outcome.curve,
        shots=outcome.shots,
        heads=outcome.chosen.tried,
    )
    ids, everyone = dataset.store.read_ids(dataset.rows[outcome.tested]), np.arange(len(outcome.tested))
    named = np.asarray(dataset.classes)[dataset.targets[outcome.tested]]
    tested = tabulate_predictions(ids, named, everyone, outcome.probabilities, dataset.classes)
    if options.folder is None:
        return replace(run, tested=tested)
    parts = []
    for store in dataset.store.parts:
        part, notes = _draft_part(store, options)
        run = replace(run, notes=(*run.notes, *notes))
        parts.append(part)
    draft = _draft_bundle(run, tuple(parts), dataset, outcome, options, tested)
    slug = f"{run.head.name}-{to_text(dataset.store.path.stem)}"
    return replace(run, bundle=write_bundle(draft, options.folder, slug, options.name))


def _draft_part(store: FeatureStore, options: FitOptions) -> tuple[DraftPart, list[str]]:
    """Draft the network of a store, with notes for the user."""
    # A head fitted on means over views needs the views of new images too; others take the image itself.
    spec = store.spec if options.views == "average" else replace(store.spec, views=None)
    if needs_openvino(spec.backbone.uri):  # the bundle holds its network in place of the user's own file
        return DraftPart(spec, store.golden, network=functools.partial(_write_network, store)), []
    if tool := spec.backbone.imported_from:
        note = f"the features were imported from {tool}, and featx does not know their network"
        return DraftPart(spec, store.golden), [f"{note}: the bundle cannot predict images"]
    network, notes = _find_network(store) if options.network else (None, [])
    return DraftPart(spec, store.golden, store.backbone_file, network), notes


def _find_network(store: FeatureStore) -> tuple[Path | None, list[str]]:
    """Find the converted network in the cache, and note why there is none; nothing is built for it."""
    spec, image = store.spec.backbone, store.spec.image
    name = spec.uri.partition("?")[0]
    if cache.is_off() or not (name in PRETRAINED or name.startswith(("file:", "hub:"))):
        return None, []
    without = "the bundle does not hold its network, and needs Keras and the weights where it runs"
    if (entry := cache.find_entry(spec, image.height, image.width)) is None:
        return None, [f"{without}: {name} is not in the cache of networks; `featx bundle complete BUNDLE` adds it"]
    try:
        read_checked(entry.network, image.height, image.width)
    except (OSError, ValueError) as error:
        return None, [f"{without}: {error}"]
    return entry.network, []


def _write_network(store: FeatureStore, path: Path) -> None:
    """Write the network of a user's own file, which the bundle holds in its stead.

    Raises:
        BackboneError: If the file is gone, or is another one now.
    """
    spec, image = store.spec.backbone, store.spec.image
    file = Path(store.backbone_file) if store.backbone_file else None
    network: Any = rebuild_backbone(spec, image, file)
    network.runtime.save(path)
    read_checked(path, image.height, image.width)  # as whoever receives the bundle will


def _note_protocol(name: str, tuned: Tuned) -> list[str]:
    """Note values of a protocol that need more items."""
    notes = []
    for parameter, values in find_protocol(name).grid.items() if name else ():
        left = sorted(set(values) - {candidate.params[parameter] for candidate in tuned.candidates})
        if left:
            shown = ", ".join(f"{value:g}" for value in left)
            notes.append(
                f"the protocol {name} also has {parameter} {shown}, which was not tried: the folds have too few items"
            )
    return notes


def _draft_bundle(
    run: Run,
    parts: tuple[DraftPart, ...],
    dataset: Dataset,
    outcome: _Outcome,
    options: FitOptions,
    predictions: Mapping[str, Any],
) -> Draft:
    store, truth = dataset.store, dataset.targets[outcome.tested]
    on = (Path(to_text(str(store.path))).name, store.source)
    calibrating = outcome.calibrating
    is_tuned_on = outcome.tuned_on[calibrating.members].all()  # there is no val split
    if is_tuned_on and not outcome.chosen.plan[0].leaves_one_out:  # otherwise the same would be computed again
        calibrating = predict_held_out(outcome.chosen, dataset, outcome.tuned_on)
    basis = make_basis(dataset, outcome.trained, calibrating, with_items=options.neighbours)
    plots = list_illustrations(run, outcome.chosen.tuned, outcome.fitted, outcome.probabilities, truth, on)
    return Draft(
        parts=parts,
        head_spec=run.head,
        classes=dataset.classes,
        head=outcome.fitted.estimator,
        record={**_make_record(run, dataset, outcome, options), "explanation": describe_basis(basis)},
        test=outcome.test,
        metrics={name: value for name, value in run.to_dict().items() if name not in {"bundle", "candidates"}},
        items={**dataset.list_items(), "role": _name_roles(outcome)},
        predictions=predictions,
        extras={**plots, BASIS: functools.partial(write_basis, basis)},
        title=make_title(run.head.name, *on, split=run.test_name, n_items=run.test.n_items),
    )


def _make_record(run: Run, dataset: Dataset, outcome: _Outcome, options: FitOptions) -> dict[str, Any]:
    """Make the record of a bundle: how the head was chosen, on what split, from which store."""
    store = dataset.store
    record: dict[str, Any] = {
        "candidates": [candidate.to_dict() for candidate in run.candidates],
        "protocol": run.protocol,
        "created_with": {**store.created_with, **read_versions()},
        "split": describe_split(
            outcome.origin, test_size=options.test_size, group=options.group, seed=options.seed, cv=options.cv
        ),
        "store": {
            "path": to_text(store.place),
            "source": store.source,
            "items": len(store),
            "embed_seconds": store.embed_seconds,
        },
    }
    if outcome.memory:
        record["memory"] = outcome.memory.to_dict()
    if dataset.corrections:
        record["corrections"] = dict(dataset.corrections)
    if run.heads:
        record["heads"] = [head.to_dict() for head in run.heads]
    if len(store.parts) > 1:
        record["stores"] = [
            {"path": to_text(part.place), "items": len(part), "created_with": dict(part.created_with)}
            for part in store.parts
        ]
        record["notes"] = store.notes
    if views := store.parts[0].spec.views:
        record["views"] = {"learnt": options.views, **views.to_dict()}
    return record


def _name_roles(outcome: _Outcome) -> NDArray[np.str_]:
    tested = np.zeros(len(outcome.trained), bool)
    tested[outcome.tested] = True
    return np.select([outcome.trained, tested], ["trained", "tested"], "unused")
