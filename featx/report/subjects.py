"""What a report is about: a bundle, a comparison or a store, found from what the user named."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featx.bundle import Bundle
from featx.comparison_results import Comparison
from featx.errors import BundleError, FeatxError, UsageError
from featx.files import DAMAGES
from featx.references import MANIFEST, RUNS, check_own, find_bundle, list_bundles, read_json
from featx.report.evaluations import is_evaluation
from featx.results import Run
from featx.store import FeatureStore
from featx.store.joining import AnyStore, join_stores

#: The file of a comparison.
COMPARISON = "comparison.json"

#: Largest size of that file.
_MOST_BYTES = 128 * 2**20


@dataclass(slots=True)
class Subject:
    """What a report is about.

    Attributes:
        name: How the user names it.
        title: The title of the page.
        default_path: Where the report goes.
        bundle, record: The bundle and the record of its description; None and empty if there is none.
        store: The store of the items; None if there is none.
        source: Where the pictures were; empty if not known.
        comparison: The content of `comparison.json`; empty for none.
        folder: The folder of the comparison.
        notes: What could not be found, and why.
        remarks: What the run noted.
    """

    name: str
    title: str
    default_path: Path
    bundle: Bundle | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    store: AnyStore | None = None
    source: str = ""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def find_subject(what: Any) -> Subject:  # noqa: ANN401 - a result, a store, or a path
    """Find what a report is about.

    Raises:
        FeatxError: If there is no such bundle, comparison or store.
    """
    if isinstance(what, FeatureStore):
        return _use_store(what)
    if isinstance(what, Run | Comparison):
        folder = what.bundle if isinstance(what, Run) else what.folder
        if folder is None:
            msg = "this result was not written to a folder, so there is nothing to report on; name one (folder='runs')"
            raise UsageError(msg)
        what = folder
    if what is None:
        return (
            _use_bundle(find_bundle("latest")) if list_bundles(Path(RUNS)) else _use_store(FeatureStore.find_newest())
        )
    path = Path(what)
    named = next((one for one in (path, Path(RUNS) / path) if (one / COMPARISON).is_file()), None)
    if named is not None:
        return _use_comparison(named)
    if path.suffix == ".h5":
        return _use_store(FeatureStore(path))
    if is_evaluation(path):
        msg = f"{path} is an evaluation, which has no report; its wrong pictures are shown by: featx errors {path}"
        raise UsageError(msg)
    return _use_bundle(find_bundle(path))


def _use_store(store: FeatureStore) -> Subject:
    return Subject(
        name=store.place,
        title=f"Feature store {store.path.stem}",
        default_path=Path("reports") / f"{store.path.stem}.html",
        store=store,
        source=store.source,
    )


def _use_bundle(path: Path) -> Subject:
    bundle = Bundle.open(path)
    record = read_json(path, MANIFEST).get("record")
    record = record if isinstance(record, dict) else {}
    about = record.get("store")
    about = about if isinstance(about, dict) else {}
    subject = Subject(
        name=str(path),
        title=f"{bundle.head_spec.name}: {path.resolve().name}",
        default_path=path / "report.html",
        bundle=bundle,
        record=record,
        source=str(about.get("source") or ""),
        remarks=[str(note) for note in bundle.metrics.get("notes") or []],
    )
    if "finetune" in record:
        subject.notes.append("there is no map: the features of a fine-tuned network are in no store")
        return subject
    try:
        listed = record.get("stores") or [about]
        stores = [FeatureStore(str(one["path"])) for one in listed]
        for store, part in zip(stores, bundle.parts, strict=True):
            if store.spec.digest != part.embed_spec.digest:
                msg = f"{store.path} holds other features now"
                raise BundleError(msg)
        subject.store = join_stores(stores)
    except (FeatxError, KeyError, TypeError, ValueError) as error:
        reason = f"{MANIFEST} names no store" if isinstance(error, KeyError | TypeError | ValueError) else error
        subject.notes.append(f"there is no map: {reason}")
    return subject


def _use_comparison(folder: Path) -> Subject:
    """Take a comparison, and what its best row is about."""
    path = folder / COMPARISON
    try:
        if path.stat().st_size > _MOST_BYTES:
            msg = f"it has more than {_MOST_BYTES:,} bytes"
            raise ValueError(msg)
        check_own(path)
        values = json.loads(path.read_text(encoding="utf-8"))
        best = values["rows"][0]
        run, store, head = best.get("run"), _check_name(best["store"]), _check_name(best["head"])
        run = None if run is None else _check_name(run)
        said = [str(note) for part in ("verdict", "notes") for note in list(values.get(part) or [])]
    except (*DAMAGES, LookupError, TypeError, AttributeError) as error:
        msg = f"{path} cannot be read ({error}); compare again"
        raise BundleError(msg) from error
    subject = Subject(str(folder), f"Comparison {folder.resolve().name}", folder / "report.html")
    try:
        found = _use_bundle(find_bundle(run)) if run else _use_store(FeatureStore(Path("features") / f"{store}.h5"))
        subject.bundle, subject.record, subject.store = found.bundle, found.record, found.store
        subject.source, subject.notes, subject.remarks = found.source, found.notes, found.remarks
        if not run:
            subject.notes.append(
                f"no predictions are shown: a comparison keeps none; featx fit features/{store}.h5 --clf {head}, then "
                "featx report"
            )
    except FeatxError as error:
        subject.notes.append(f"the best row is not shown: {error}")
    subject.comparison, subject.folder = values, folder
    subject.remarks += said
    return subject


def _check_name(value: Any) -> str:  # noqa: ANN401 - of an untrusted file
    """Return a text that can be part of a path.

    Raises:
        ValueError: If it is not a text, or holds a zero byte.
    """
    if not isinstance(value, str) or "\0" in value:
        msg = f"{str(value)[:40]!r} is not a name"
        raise ValueError(msg)
    return value
