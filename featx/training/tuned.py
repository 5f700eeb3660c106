"""What a fine-tuning has come to: its predictions, its numbers, and the bundle of a backbone that nobody else has."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from featx.backbones import Backbone, load_backbone
from featx.delivery.bundle import Draft, align_probabilities, write_table
from featx.embedding import make_spec
from featx.errors import BackboneError
from featx.evaluation import Evaluation
from featx.evaluation.calibration import measure_reliability
from featx.evaluation.charts import plot_reliability
from featx.golden import MAX_DRIFT, embed_golden, make_golden_files, measure_drift
from featx.items.decoding import decode
from featx.options import FineTuneOptions
from featx.specs import FineTuneSpec, ImageSpec
from featx.store.sealing import Golden
from featx.training.dataset import Partition
from featx.training.epochs import CURVES, Progressed, Roles, embed_items
from featx.training.frozen import Run
from featx.training.illustrations import tabulate_reliability
from featx.training.openings import FirstHead
from featx.training.procedure import evaluate_items, read_versions, tabulate_predictions
from featx.training.supply import Supply

#: The contact sheet of augmented images.
SHEET = "augmentation.png"

_BACKBONE = "backbone.keras"

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tuning:
    """A network that was trained, and what it was trained on.

    Attributes:
        tuner: The `TunableNetwork`; not typed, since its module imports TensorFlow.
        first: The head, with the weights that were learnt since.
        spec: How.
        supply: The items.
        partition: Which of them are tested.
        roles: Which are learnt from, and which are watched.
        progressed: How training went.
        read_peak: Tells the most memory that the process has had meanwhile, in bytes.
    """

    tuner: Any
    first: FirstHead
    spec: FineTuneSpec
    supply: Supply
    partition: Partition
    roles: Roles
    progressed: Progressed
    read_peak: Callable[[], int | None]

    def predict(self, items: NDArray[np.intp]) -> Probabilities:
        """Predict items, as they are: float64 `(n, n_classes)`."""
        features = embed_items(self.tuner, self.supply.feed, items, self.spec.batch_size)
        probabilities = self.first.network.predict_proba(features)
        return align_probabilities(probabilities, self.first.network.classes_, len(self.supply.dataset.classes))

    def evaluate_validation(self) -> Evaluation:
        """Evaluate the items that chose the epoch; those learnt from, if none could be held out."""
        dataset = self.supply.dataset
        members = np.zeros(len(dataset), bool)
        members[self.roles.validated if len(self.roles.validated) else self.roles.train] = True
        probabilities = self.predict(np.flatnonzero(members))
        return evaluate_items(dataset, members, probabilities, dataset.targets[members], self.spec.seed)

    def describe(self, backbone: str, elapsed: float) -> dict[str, Any]:
        """Return what `metrics.json` says of it under `finetuned`.

        Its `seconds` are what everything takes where nothing is there yet: epochs of an interrupted run count, and
        so does embedding that an earlier run did. `elapsed_seconds` are those of this run.

        Args:
            backbone: What the backbone is called.
            elapsed: Seconds since this run began.
        """
        supply, seconds = self.supply, elapsed + self.progressed.earlier_seconds
        if supply.embed_seconds is not None:
            seconds += supply.embed_seconds - supply.own_embed_seconds
        return {
            "backbone": backbone,
            "unfreeze": self.spec.unfreeze,
            **self.tuner.count_parameters(),
            "epochs": self.progressed.n_epochs,
            "best_epoch": self.progressed.best_epoch,
            "seconds": seconds,
            "elapsed_seconds": elapsed,
            "embed_seconds": supply.embed_seconds,
            "train_seconds": self.progressed.seconds,
            "validated_on": self.roles.validated_on,
            "batch_parts": self.progressed.parts,
            "peak_memory_bytes": self.read_peak(),
            "cached": supply.cached,
            "cut": list(self.tuner.frontier),
            "views": self.spec.views,
            "augmentation": self.spec.augmentation,
            "spec": self.spec.to_dict(),
        }


def describe_freezing(tuning: Tuning, unchanged: list[str]) -> str:
    """Say that what was frozen has not changed, and what should have and has not."""
    counts, state = tuning.tuner.count_parameters(), tuning.progressed
    frozen = (
        f"checked: all {counts['frozen_parameters']:,} frozen parameters of the backbone are as they were, bit by bit"
    )
    if not state.best_epoch:
        return f"{frozen}; no epoch was better than the start, so the backbone and head that it began with are kept"
    if unchanged and "gradual" in tuning.spec.unfreeze:
        return f"{frozen}; {len(unchanged)} weights learn in later stages only, of which none was better"
    if unchanged:
        return f"{frozen}; {len(unchanged)} weights that could learn have not, such as {unchanged[0]}"
    return f"{frozen}, and all weights that learn have changed"


def draft_bundle(
    run: Run, tuning: Tuning, network: Backbone, probabilities: Probabilities, folder: Path, options: FineTuneOptions
) -> Draft:
    """Draft the bundle: the tuned backbone is a network of the user's own, as far as whoever loads it is concerned.

    Raises:
        BackboneError: If what was saved gives other features than what was trained.
    """
    path, output = folder / _BACKBONE, network.outputs[0]
    tuning.tuner.save(path)
    tuned = load_backbone(f"file:{path}", pooling=output.pooling)
    image = tuning.supply.stores[0].spec.image
    (golden,) = embed_golden(tuned, image, make_golden_files())
    _compare(tuning, golden, image)
    dataset, supply = tuning.supply.dataset, tuning.supply
    store, tested = supply.stores[0], np.flatnonzero(tuning.partition.test.members)
    ids = store.ids[dataset.rows]
    record = {
        "created_with": {**store.created_with, **read_versions()},
        "split": describe_split(tuning.partition, options.test_size, options.group, tuning.spec.seed),
        "store": {"path": str(store.path), "source": store.source, "items": len(store)},
        "finetune": tuning.spec.to_dict(),
        "backbone": make_spec(network, output, image).backbone.to_dict(),
    }
    return Draft(
        embed_spec=make_spec(tuned, tuned.outputs[0], image),
        head_spec=run.head,
        classes=dataset.classes,
        golden=golden,
        head=Pipeline([("scaler", "passthrough"), ("classifier", tuning.first.network)]),
        backbone_file=str(path),
        record=record,
        test=run.test,
        metrics={name: value for name, value in run.to_dict().items() if name not in {"bundle", "candidates"}},
        items={"id": ids, "sha256": dataset.keys, "label": dataset.labels, "role": _name_roles(tuning)},
        predictions=tabulate_predictions(ids, dataset.labels, tested, probabilities, dataset.classes),
        extras=_list_illustrations(run, tuning, probabilities, folder),
    )


def describe_split(partition: Partition, test_size: float, group: str, seed: int) -> dict[str, Any]:
    """Describe a split as a bundle records it, so that a run on the same one can be found."""
    return {"origin": partition.origin, "test_size": test_size, "cv": 0, "group": group, "seed": seed}


def _compare(tuning: Tuning, golden: Golden, image: ImageSpec) -> None:
    """Compare what the saved backbone gives for the golden pictures with what the trained network gives."""
    tuning.tuner.takes_maps = False
    pixels = np.stack([decode(data, image).pixels for data in golden.files])
    drift = measure_drift(Golden(golden.files, tuning.tuner.embed([pixels])), golden)
    if not drift <= MAX_DRIFT:
        msg = (
            f"the saved backbone gives other features than the trained one ({drift:.1e} of their range); "
            "please report this as a bug"
        )
        raise BackboneError(msg)


def _name_roles(tuning: Tuning) -> NDArray[np.str_]:
    roles = np.full(len(tuning.supply.dataset), "unused", "U9")
    for positions, role in ((tuning.roles.train, "trained"), (tuning.roles.validated, "validated")):
        roles[positions] = role
    roles[tuning.partition.test.members] = "tested"
    return roles


def _list_illustrations(run: Run, tuning: Tuning, probabilities: Probabilities, folder: Path) -> dict[str, Any]:
    truth = tuning.supply.dataset.targets[tuning.partition.test.members]
    curves = {run.test_name: measure_reliability(probabilities, truth)}
    files: dict[str, Any] = {
        "reliability.csv": functools.partial(write_table, tabulate_reliability(curves)),
        "reliability.png": functools.partial(plot_reliability, curves),
        "head.keras": lambda path: tuning.first.network.to_keras().save(path),
    }
    for path in sorted(folder.glob(f"{CURVES}.*")) + sorted(folder.glob(SHEET)):
        files[path.name] = functools.partial(shutil.copyfile, path)
    return files
