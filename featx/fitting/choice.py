"""Choosing a head: several are tuned on the same folds, and the one that validation ranks first is fitted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from featx.errors import DataError, UsageError
from featx.evaluation.metrics import align_probabilities
from featx.fitting.dataset import Dataset, deal_folds
from featx.heads import FittedHead, Head, Tuned, find_head, fit_tuned, tune_and_fit
from featx.heads.fitting import predict_rows
from featx.heads.neighbours import estimate_seconds
from featx.heads.tuning import Entry, Shortlist, measure_accuracy, tune_rows
from featx.registry import BEST, HEAD_SETS, list_heads
from featx.reporting import Progress
from featx.results import Candidate, TriedHead
from featx.specs import HeadSpec
from featx.wording import format_seconds

Members = NDArray[np.bool_]
Probabilities = NDArray[np.float64]

#: A head, and the spec that fixes what is not tuned.
Plan = tuple[Head, HeadSpec]

#: The heads that `best` tries, the simplest first: means of classes, then Gaussians with one formula, then linear heads
#: that are fitted step by step, then those that keep all items, a network, or hundreds of trees.
SIMPLICITY = ("centroid", "naive-bayes", "lda", "ridge", "logreg", "knn", "mlp", "random-forest")

#: A search with fewer products is not worth an estimate, and one of fewer seconds not worth a word.
_FEWEST_PRODUCTS, _LONG_SEARCH = 5e11, 600

#: In the log-loss, no probability is below.
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True)
class Chosen:
    """The head that was chosen, fitted to the training items.

    Attributes:
        plan: What it was tuned from.
        tuned: How its parameters were chosen.
        fitted: The head.
        tried: All heads that were tried, in order; empty if there was one only.
        notes: What the user should know.
    """

    plan: Plan
    tuned: Tuned
    fitted: FittedHead
    tried: tuple[TriedHead, ...] = ()
    notes: tuple[str, ...] = ()


def plan_best(
    params: Mapping[str, Any], scaling: str | None, calibration: str | None, seed: int
) -> tuple[list[Plan], list[str]]:
    """Plan the heads that `best` tries, the simplest first, and note the parameters that some of them lack.

    Raises:
        UsageError: If no head has a parameter.
    """
    names = sorted(HEAD_SETS["fast"], key=SIMPLICITY.index)
    specs, notes = choose_heads(names, seed, params, calibration)
    return [(find_head(spec.name), replace(spec, scaling=scaling)) for spec in specs], notes


def describe_search(plans: Sequence[Plan], n_rows: int, dim: int, repeats: float = 1) -> str:
    """Say how long a head that compares each item with all others will take; empty if it is one of several, or quick.

    Args:
        plans: The heads.
        n_rows: Rows, most of which are trained on.
        dim: Columns of a row.
        repeats: How often it is tuned and fitted.
    """
    [(head, spec), *others] = plans
    if others or not head.pairwise or n_rows**2 * dim < _FEWEST_PRODUCTS:
        return ""
    repeats *= 1 if spec.scaling else len(head.scalings)
    seconds = repeats * estimate_seconds(n_rows, n_rows, dim)
    if seconds < _LONG_SEARCH:
        return ""
    return (
        f"{head.name} compares {n_rows:,} items with each other, which takes about {format_seconds(seconds)}; the "
        "time of ridge or lda grows only in proportion to the items"
    )


def tune_and_choose(
    plans: Sequence[Plan], dataset: Dataset, train: Members, validation: Members, progress: Progress
) -> Chosen:
    """Tune heads on folds of the training items, choose one, and fit it to them.

    Heads are ranked by the validation items, or if there are none by the items of the folds while they were held out.
    The rule is that of `featx.heads.tuning.tune` for parameters: of the heads whose accuracy is within a standard error
    of the highest, those whose log-loss is within 0.01 nats of the lowest are equal, and the simplest of these is
    taken.

    Args:
        plans: The heads, the simplest first.
        dataset: All items.
        train: bool `(n_items,)`.
        validation: bool `(n_items,)`; all false where the folds validate.
        progress: Called with the number of fits done, and of all fits.

    Raises:
        DataError: If no head can be fitted.
    """
    rows = dataset.take_training_rows(train, deal_folds(dataset, train, plans[0][1].seed))
    if len(plans) == 1:
        [(head, spec)] = plans
        result = tune_and_fit(head, rows, spec, progress=progress)
        assert result.tuned is not None  # noqa: S101 - it always tunes, unless asked not to
        return Chosen(plans[0], result.tuned, result.fitted)
    judge = _Judge(dataset, train, validation)
    shortlist, found, failed = Shortlist(1.0), dict[int, tuple[Tuned, FittedHead | None, TriedHead]](), {}
    for place, (head, spec) in enumerate(plans):
        try:
            tuned = tune_rows(head, rows, spec, progress=shift(progress, place, len(plans)))
            fitted = fit_tuned(head, rows, tuned, fitted=tuned.fitted) if validation.any() else None
        except DataError as error:
            failed[place] = TriedHead(head.name, error=str(error))
            continue
        entry = judge.measure(place, spec, tuned, fitted)
        shortlist.add(entry)
        found[place] = (tuned, fitted, _describe(head.name, entry))
    if not found:
        msg = f"none of the heads can be fitted; the first error is {failed[0].error}"
        raise DataError(msg)
    best = shortlist.choose().candidate.strength
    tuned, fitted, _ = found[best]
    fitted = fitted or fit_tuned(plans[best][0], rows, tuned, fitted=tuned.fitted)
    tried = [replace(found[at][2], chosen=at == best) if at in found else failed[at] for at in range(len(plans))]
    notes = [describe_choice(tried, judge.name), *(f"{one.name} was left out: {one.error}" for one in failed.values())]
    return Chosen(plans[best], tuned, fitted, tuple(tried), tuple(notes))


class _Judge:
    """Measures heads on the validation items, or on those held out in tuning."""

    def __init__(self, dataset: Dataset, train: Members, validation: Members) -> None:
        self._dataset = dataset
        self._members = validation if validation.any() else train
        self._units = dataset.find_units(self._members)
        self.name = "the validation items" if validation.any() else "the held-out training items"

    def measure(self, place: int, spec: HeadSpec, tuned: Tuned, fitted: FittedHead | None) -> Entry:
        dataset, targets = self._dataset, self._dataset.targets[self._members]
        probabilities = (
            align_probabilities(tuned.probabilities, tuned.classes, len(dataset.classes))
            if fitted is None
            else predict_items(fitted, dataset, self._members)
        )
        weights = compute_sample_weight(spec.params.get("class_weight"), targets)
        right = probabilities.argmax(axis=1) == targets
        accuracy, error = measure_accuracy(right, weights, targets, self._units)
        own = np.maximum(probabilities[np.arange(len(targets)), targets], _LEAST_PROBABILITY)
        log_loss = float(np.average(-np.log(own), weights=weights))
        candidate = Candidate(dict(tuned.params), tuned.scaling, place)
        return Entry(candidate, accuracy, error, log_loss, np.empty((0, 0), np.float32))


def _describe(name: str, entry: Entry) -> TriedHead:
    params, scaling = entry.candidate.params, entry.candidate.scaling
    return TriedHead(name, params, scaling, entry.accuracy, entry.error, entry.log_loss)


def describe_choice(tried: Sequence[TriedHead], where: str) -> str:
    """Say why a head was chosen among others."""
    able = [one for one in tried if not one.error]
    [best] = [one for one in able if one.chosen]
    first = max(able, key=lambda one: one.accuracy)
    found = f"{BEST} chose {best.name} of {len(able)} heads by {where}: accuracy {best.accuracy:.4f}"
    if first.accuracy == best.accuracy:
        return f"{found}, the highest, and log-loss {best.log_loss:.3f}"
    return (
        f"{found} is not shown to be worse than {first.accuracy:.4f} of {first.name} (standard error "
        f"{first.accuracy_error:.4f}), and its log-loss is {best.log_loss:.3f} instead of {first.log_loss:.3f}"
    )


def describe_folds(chosen: Sequence[Chosen]) -> list[str]:
    """Note which heads the outer folds of a cross-validation chose, each by itself."""
    if not chosen[0].tried:
        return []
    counts = Counter(one.plan[0].name for one in chosen)
    listed = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
    return [f"{BEST} chose inside each of the {len(chosen)} folds, so the choice is part of what is tested: {listed}"]


def predict_items(fitted: FittedHead, dataset: Dataset, members: Members) -> Probabilities:
    """Predict some items: `(n, n_classes)`."""
    probabilities = predict_rows(fitted.estimator, dataset.take_features(members))
    return align_probabilities(probabilities, fitted.estimator.classes_, len(dataset.classes))


def shift(progress: Progress, part: int, parts: int) -> Progress:
    """Show the progress of one of several equal parts as that of the whole."""
    return lambda done, total: progress(part * total + done, parts * total)


def choose_heads(
    heads: str | Sequence[str | HeadSpec], seed: int, params: Mapping[str, Any], calibration: str | None
) -> tuple[list[HeadSpec], list[str]]:
    """Return the spec of each head once, and notes on parameters that some heads lack.

    Args:
        heads: Names of heads or sets, with commas between in one text, or specs, which stay as they are.
        seed: Seed of those that are named.
        params: What is fixed of every named head that has such a parameter.
        calibration: One of `featx.specs.CALIBRATIONS` for every named head; None chooses for each, as `auto` does.

    Raises:
        UnknownNameError: If no head has a name.
        UsageError: If nothing is named, or no head has a parameter.
    """
    asked = [heads] if isinstance(heads, str) else heads
    specs, named = list[HeadSpec](), list[Head]()
    for entry in asked:
        if isinstance(entry, HeadSpec):
            head = find_head(entry.name)
            specs.append(replace(entry, name=head.name, params=head.check_params(entry.params)))
            continue
        for name in list_heads([name.strip() for name in entry.split(",") if name.strip()]):
            head = find_head(name)
            own = {key: value for key, value in params.items() if key in head.params}
            specs.append(HeadSpec(head.name, head.check_params(own), None, seed, calibration))
            named.append(head)
    unique = list({spec.digest: spec for spec in specs}.values())
    if not unique:
        msg = "no head is named; give some, such as logreg,knn or fast"
        raise UsageError(msg)
    return unique, [note for name in params for note in _note_lacking(name, named)]


def _note_lacking(parameter: str, heads: Sequence[Head]) -> list[str]:
    lacking = list(dict.fromkeys(head.name for head in heads if parameter not in head.params))
    if heads and len(lacking) == len({head.name for head in heads}):
        msg = f"none of {', '.join(lacking)} has a parameter {parameter}; leave it out, or name another head"
        raise UsageError(msg)
    return [f"{', '.join(lacking)}: no parameter {parameter}, so it is ignored"] if lacking else []
