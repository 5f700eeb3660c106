"""Plans: a comparison finds the finished run of a plan such as `last:23`, or fine-tunes it first."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featx.backbones import load_backbone, locate_backbone
from featx.comparing.runs import FinishedRun, read_run
from featx.errors import BackboneError, BundleError, DataError, FeatxError, SourceError, UsageError
from featx.finetuning.finetuning import finetune, list_own_layers, load_trainable
from featx.finetuning.first_head import plan_first_head
from featx.finetuning.unfreezing import plan_stages
from featx.fitting.dataset import Dataset, Partition, describe_split
from featx.heads.tuning import RULES
from featx.items import Manifest
from featx.items.sources import read_source_again
from featx.options import CompareOptions, FineTuneOptions
from featx.references import LATEST, find_bundle, read_json
from featx.results import MOST_CHARACTERS, Run
from featx.specs import FineTuneSpec
from featx.store import FeatureStore
from featx.wording import to_printable, to_text

#: An unfreeze plan, such as `last:23`, `blocks:1` or `all`; one letter and a colon may be a Windows drive.
_PLAN = re.compile(r"all|gradual|[a-z][a-z-]+:[^/\\]+", re.IGNORECASE)

#: Errors of reading a folder that is not a bundle, or a damaged one.
_DAMAGES = (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)

Named = Run | str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class FineTuneSource:
    """The images and the backbone that a plan is carried out on.

    Attributes:
        store: The store that names the source and the backbone.
        manifest: Its source, read again.
        uri: Its backbone, as `load_backbone` takes it.
        weights: The backbone's weights, as `load_backbone` takes them.
        options: How the comparison is split, and where it writes.
    """

    store: FeatureStore
    manifest: Manifest
    uri: str
    weights: str | None
    options: CompareOptions


def read_runs(
    plans: Sequence[str] | str,
    runs: Sequence[Named] | Named,
    dataset: Dataset,
    partition: Partition,
    options: CompareOptions,
) -> list[FinishedRun]:
    """Read the finished runs of a comparison, and fine-tune the plans that have no finished run.

    All are checked before anything is trained, so that a mistake in the last one costs nothing.

    Args:
        plans: Unfreeze plans, such as `last:23`; one or more.
        runs: What `fit` or `finetune` returned, or folders of bundles; one or more.
        dataset: All items of the comparison, as its first store has them.
        partition: What holds its test.
        options: How it was split, and where runs are looked for and written.

    Returns:
        The runs, and after them those of the plans, each once.

    Raises:
        UsageError: If a run wrote no bundle, or a plan is not a plan or trains nothing.
        UnknownNameError: If a plan names a layer that does not exist.
        BundleError: If a folder is not a bundle, or is damaged.
        SourceError: If the images of a plan are gone or have changed.
        DataError: If a plan would be tested on other images than the comparison.
    """
    named = [plans] if isinstance(plans, str) else list(plans)
    for plan in named:
        _refuse_folder(plan)
    found = [read_run(find_folder(run)) for run in ([runs] if isinstance(runs, Run | str | os.PathLike) else runs)]
    planned = {plan: None if options.fresh else find_finished(plan, dataset, partition, options) for plan in named}
    lacking = [plan for plan, run in planned.items() if run is None]
    if lacking:
        origin = reopen_source(dataset, options)
        check_plans(lacking, origin)
        planned |= {plan: read_run(finetune_store(plan, origin)) for plan in lacking}
    return [*found, *(run for run in planned.values() if run is not None)]


def _refuse_folder(plan: str) -> None:
    """Refuse the folder of a run where a plan belongs, before any network is loaded.

    Raises:
        UsageError: If the text cannot be a plan.
    """
    if _PLAN.fullmatch(plan) is None:
        msg = (
            f"{plan} is not an unfreeze plan, such as last:23, blocks:1 or all; to compare a finished run, name its "
            "folder with --run (runs= in Python)"
        )
        raise UsageError(msg)


def find_folder(named: Named) -> Path:
    """Find the folder of a run that `fit` or `finetune` returned, or of one that is named.

    Raises:
        UsageError: If the run wrote no bundle.
        BundleError: If there is no such folder.
    """
    if isinstance(named, Run):
        if named.bundle is None:
            msg = "a run without a bundle has no predictions to compare; let it write one (folder='runs')"
            raise UsageError(msg)
        return named.bundle
    if Path(named).is_dir():
        return Path(named)
    try:
        return find_bundle(named)
    except BundleError:
        if str(named).startswith(f"{LATEST}:") or _PLAN.fullmatch(str(named)) is None:
            raise
        msg = f"there is no run {named}; an unfreeze plan goes to --finetune (finetune= in Python)"
        raise BundleError(msg) from None


def find_finished(plan: str, dataset: Dataset, partition: Partition, options: CompareOptions) -> FinishedRun | None:
    """Find and report the newest finished run of exactly this plan on the same images and split; None if none exists.

    Args:
        plan: The layers that are unfrozen.
        dataset: All items of the comparison.
        partition: The split of the comparison.
        options: How it was split, and where to look for runs.
    """
    store, members = dataset.store.parts[0], partition.test.members
    wanted = _plain({
        "finetune": plan_first_head(_make_spec(plan, options)).to_dict(),
        "split": describe_split(
            partition.origin, test_size=options.test_size, group=options.group, seed=options.seed
        ),
        "rules": RULES,
        "corrections": dict(dataset.corrections),
    })  # fmt: skip
    names = [to_text(name) for name in store.ids[dataset.rows[members]].tolist()]
    tested = frozenset(zip(names, dataset.keys[members].tolist(), strict=True))
    near = list[str]()
    for folder in _list_folders(options):
        # Other folders there may be anything, even damaged bundles; they do not concern this comparison.
        with contextlib.suppress(*_DAMAGES):
            about = read_json(folder, "bundle.json")
            record = {"corrections": {}, **about["record"]}
            if record["finetune"]["unfreeze"] != wanted["finetune"]["unfreeze"] or not _is_of(about, store):
                continue
            run = read_run(folder)
            shared = run.roles["tested"] == tested
            if run.finetuning is None:
                continue
            if shared and all(record.get(name) == value for name, value in wanted.items()):
                options.reporter.say(
                    f"{plan}: using {folder}, a finished run of this plan on these images; --fresh trains again"
                )
                return run
            near.append(_describe_near(folder, record, wanted, shared=shared))
    for line in near[:1]:
        options.reporter.say(f"note: {plan}: {line}")
    return None


def _is_of(about: Mapping[str, Any], store: FeatureStore) -> bool:
    """Return whether a bundle is of the backbone, the source and the image size of a store."""
    ours = (_plain(store.spec.backbone.to_dict()), store.source, store.spec.image.to_dict())
    record = about["record"]
    return (record["backbone"], record["store"]["source"], about["embed"]["image"]) == ours


def _describe_near(folder: Path, record: Mapping[str, Any], wanted: Mapping[str, Any], *, shared: bool) -> str:
    """Describe how a finished run of the same plan differs from the run that is wanted."""
    theirs, ours = _list_flags(record), _list_flags(wanted)
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    its, own = (" ".join(flags.get(name, f"no --{name}") for name in differing) for flags in (theirs, ours))
    what = f" with {its}; this one trains with {own}" if differing else ""
    if record.get("rules") != wanted["rules"] and not differing:
        what = ", but another version of featx chose its first head by another rule"
    advice = f"add --run {folder} to use it" if shared else "it was tested on other images, so it is not used"
    return f"{folder} is the same plan{what}; {advice}"


def _list_flags(record: Mapping[str, Any]) -> dict[str, str]:
    """List the settings of a fine-tuning as flags of `featx finetune`, from a bundle that is not trusted."""
    spec, split = dict(record["finetune"]), record["split"]
    head = spec.pop("head")
    params = " --param ".join(f"{name}={value}" for name, value in sorted(head["params"].items()))
    settings = {"clf": head["name"], "param": params, "scaling": head["scaling"], "augment": spec.pop("augmentation")}
    settings |= {name.replace("_", "-"): value for name, value in spec.items()}
    settings |= {"test-size": split["test_size"], "group": split["group"]}
    settings |= {name: record["corrections"].get(name) for name in ("without", "relabel")}
    return {
        name: f"no --{name}" if value in {None, ""} else f"--{name} {to_printable(str(value)[:MOST_CHARACTERS])}"
        for name, value in settings.items()
    }


def _list_folders(options: CompareOptions) -> list[Path]:
    """List the folders of bundles, the newest first."""
    if options.folder is None:
        return []
    found = [path for path in Path(options.folder).glob("[!.]*/bundle.json") if path.is_file()]
    return [path.parent for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, str(path)), reverse=True)]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they are after being written to and read from JSON."""
    return dict(json.loads(json.dumps(values)))


def reopen_source(dataset: Dataset, options: CompareOptions) -> FineTuneSource:
    """Read the source of a comparison's first store again, and check that its images are those of the comparison.

    Raises:
        UsageError: If the comparison writes nothing.
        SourceError: If the images are gone, or have changed since they were embedded.
        DataError: If another store lacks some of them, so that the test would be another one.
    """
    store = dataset.store.parts[0]
    if options.folder is None:
        msg = "fine-tuning for a comparison needs a folder to write the bundle into; name one (folder='runs')"
        raise UsageError(msg)
    lacking = int(np.count_nonzero(store.labels != "")) - len(dataset)
    if lacking:
        msg = (
            f"{lacking:,} labelled images of {store.path} are not in all stores, so a run on its source would have "
            f"another test than this comparison; embed all stores from one source, or compare this store alone"
        )
        raise DataError(msg)
    try:
        manifest = read_source_again(store.source, store.reading)
    except FeatxError as error:
        # A DataFrame cannot be restored; its error says what to do.
        restore = "or " if store.reading.get("frame") else "restore them, or "
        msg = f"fine-tuning needs the images, which cannot be read: {error}; {restore}pass a finished run with --run"
        raise SourceError(msg) from error
    _refuse_change(store, manifest)
    uri, weights = locate_backbone(store.spec.backbone, Path(store.backbone_file) if store.backbone_file else None)
    return FineTuneSource(store, manifest, uri, weights, options)


def _refuse_change(store: FeatureStore, manifest: Manifest) -> None:
    """Refuse a source whose items, labels, splits or groups have changed, before training takes minutes."""
    cells = zip(store.labels.tolist(), store.splits.tolist(), store.groups.tolist(), strict=True)
    ours = dict(zip(store.ids.tolist(), cells, strict=True))
    theirs = {item.id: (item.label, item.split, item.group) for item in manifest.items}
    for name, *_ in store.quarantine:
        theirs.pop(name, None)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        msg = (
            f"{store.source} has changed since it was embedded: {len(differing):,} images are new, gone, or have "
            f"another label, split or group, such as {to_text(differing[0])}; run `featx embed` again, then compare"
        )
        raise SourceError(msg)


def check_plans(plans: Sequence[str], origin: FineTuneSource) -> None:
    """Check that plans can be carried out, which needs the network.

    Raises:
        UsageError: If a plan is invalid or leaves nothing to train, or the backbone is not trainable.
        UnknownNameError: If a plan names a layer that does not exist.
        BackboneError: If the backbone's weights are not those that the store was embedded with.
    """
    known, image = origin.store.spec.backbone, origin.store.spec.image
    load = functools.partial(
        load_backbone,
        origin.uri,
        layers=(known.layer,),
        pooling=known.pooling,
        weights=origin.weights,
        image_size=(image.height, image.width),
    )
    network = load_trainable(load, origin.uri)
    if network.weights_digest != known.weights_digest:
        msg = (
            f"the weights of {origin.uri} (sha256 {network.weights_digest[:12]}) are not those that "
            f"{origin.store.path} was embedded with ({known.weights_digest[:12]}); embed again with another --name"
        )
        raise BackboneError(msg)
    for plan in plans:
        plan_stages(plan, list_own_layers(network), origin.uri)


def finetune_store(plan: str, origin: FineTuneSource) -> Path:
    """Fine-tune the backbone of a store on its source, split as the comparison is, and return the bundle."""
    store, options = origin.store, origin.options
    options.reporter.say(f"{plan}: fine-tuning {store.spec.backbone.uri} on {store.source}")
    run = finetune(
        origin.manifest,
        origin.uri,
        spec=_make_spec(plan, options),
        layer=store.spec.backbone.layer,
        pooling=store.spec.backbone.pooling,
        weights=origin.weights,
        image=store.spec.image.to_dict(),
        options=FineTuneOptions(
            test_size=options.test_size,
            group=options.group,
            features=store.path.parent,
            folder=options.folder or "",
            fresh=options.fresh,
            reporter=options.reporter,
        ),
    )
    for note in run.notes:
        options.reporter.say(f"note: {plan}: {note}")
    folder = find_folder(run)
    options.reporter.say(f"{plan}: {run.seconds:.1f} s -> {folder}")
    return folder


def _make_spec(plan: str, options: CompareOptions) -> FineTuneSpec:
    return FineTuneSpec(unfreeze=plan, seed=options.seed)
