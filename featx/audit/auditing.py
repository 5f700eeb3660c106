"""The audit of a store: copies, suspicious labels, outliers, odd pictures and shortcuts."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from featx.audit.copies import THRESHOLD, find_copies, find_near_copies
from featx.audit.findings import KINDS, Audit
from featx.audit.labels import find_outliers, find_suspicious_labels
from featx.audit.looks import read_looks
from featx.audit.odd_pictures import LIMITS, find_odd_pictures
from featx.audit.shortcuts import measure_shortcuts
from featx.errors import DataError, SourceError, UsageError
from featx.files import say_failures, write_atomically, write_json, write_table
from featx.items import Item, Manifest, read_source
from featx.items.sources import read_source_again
from featx.ledger import guess_bits
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.report.contact_sheets import draw_contact_sheet, make_tile
from featx.store import FeatureStore
from featx.wording import format_plural, join_first

TABLE, RECORD = "audit.csv", "audit.json"

#: The name in `audit.json` of the digest of `audit.csv`, which a person edits.
_DIGEST = "audit.csv sha256"

#: Pictures on a contact sheet.
MOST_SHOWN = 40


def audit_store(
    store: FeatureStore | str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    threshold: float = THRESHOLD,
    seed: int = 0,
    options: EmbedOptions = EMBED_DEFAULTS,
) -> Audit:
    """Audit the items of a store: what is copied, mislabelled, unlike the rest, or predicts the label by accident.

    Args:
        store: The store, or its path.
        source: Where the pictures are now; None for where they were when they were embedded.
        threshold: Least cosine between the looks of near-copies.
        seed: Seed of the folds on which labels and shortcuts are examined.
        options: Threads and reporter.

    Returns:
        The findings.

    Raises:
        StoreError: If there is no such store.
        SourceError: If the pictures are gone, or most of them are not in the source.
        DataError: If nearly all pictures are copies of each other.

    Examples:
        >>> import featx
        >>> audit = featx.audit_store("features/colour.h5")
        >>> audit.count()
        {}
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    if not len(opened):
        msg = f"{opened.path} has no items to audit; embed some images first"
        raise DataError(msg)
    if opened.spec.backbone.imported_from and source is None:
        return _audit_features(opened, seed, options)
    manifest = find_pictures(opened, source)
    items = tuple(Item(*fields) for fields in zip(opened.ids.tolist(), opened.labels.tolist(), strict=True))
    looks = read_looks(manifest, items, options, opened.spec.image.bits)
    _check_source(opened, looks.missing, manifest.source)
    digests = zip(opened.ids, looks.sha256, opened.sha256, strict=True)
    is_known = not opened.spec.backbone.imported_from  # then digests are those of the rows
    changed = [name for name, now, then in digests if is_known and now not in {"", then}]
    reporter = options.reporter
    reporter.begin("comparing pictures")
    findings = [*find_copies(opened), *find_near_copies(opened, looks, threshold, reporter.advance)]
    reporter.begin("examining labels")
    labels, notes = find_suspicious_labels(opened, seed, reporter)
    reporter.begin("measuring distances")
    findings += [*labels, *find_outliers(opened, reporter.advance), *find_odd_pictures(opened, looks)]
    order = {kind: number for number, kind in enumerate(KINDS)}
    return Audit(
        store=opened.path,
        n_items=len(opened),
        findings=tuple(sorted(findings, key=lambda finding: order[finding.kind])),
        shortcuts=tuple(measure_shortcuts(opened, looks, seed)),
        notes=(*_describe_changed(changed), *_describe_bits(opened, int(looks.peaks.max())), *notes),
        thresholds={"near-copy": threshold, **LIMITS},
        reader=manifest.reader,
    )


def _audit_features(store: FeatureStore, seed: int, options: EmbedOptions) -> Audit:
    """Audit what needs no picture, of features that were imported."""
    reporter = options.reporter
    reporter.begin("examining labels")
    labels, notes = find_suspicious_labels(store, seed, reporter)
    reporter.begin("measuring distances")
    findings = (*find_copies(store), *labels, *find_outliers(store, reporter.advance))
    note = (
        f"the features were imported from {store.spec.backbone.imported_from}, without pictures: near-copies, poor "
        f"pictures and shortcuts were not looked for; if you have the pictures: featx audit {store.path} SOURCE"
    )
    return Audit(store.path, len(store), findings, (), (note, *notes), {})


def _check_source(store: FeatureStore, missing: Mapping[str, str], source: str) -> None:
    """Check that most pictures can be read: otherwise it is another source, and not the pictures that are poor.

    Raises:
        SourceError: If more than half of the pictures cannot be read.
    """
    if 2 * len(missing) <= len(store):
        return
    name, reason = next(iter(missing.items()))
    share = "none" if len(missing) == len(store) else f"only {len(store) - len(missing):,}"
    msg = (
        f"{share} of the {len(store):,} pictures of {store.path} can be read in {source}; {name}: {reason}; name the "
        f"folder or table that has it: featx audit {store.path} SOURCE"
    )
    raise SourceError(msg)


def _describe_changed(ids: Sequence[str]) -> list[str]:
    if not ids:
        return []
    who = f"{format_plural(len(ids), 'picture')} changed since {'it was' if len(ids) == 1 else 'they were'} embedded"
    return [f"{who}: {join_first(ids, 3)}; type featx embed again"]


def _describe_bits(store: FeatureStore, largest: int) -> list[str]:
    bits = 0 if store.spec.image.bits else guess_bits(largest)
    words = f"the largest sample in pictures with 16 bits is {largest:,}, so this looks like {bits}-bit data"
    return [f"{words}, which comes out dark: embed again with --bits {bits}"] if bits else []


def find_pictures(store: FeatureStore, source: str | os.PathLike[str] | None) -> Manifest:
    """Find the pictures of a store: where they are now, or where they were when they were embedded.

    Raises:
        SourceError: If they are gone.
    """
    if source:
        return read_source(source)
    try:
        return read_source_again(store.source, store.reading)
    except SourceError as error:
        msg = f"{error}; if the pictures were moved, name where they are now: featx audit {store.path} SOURCE"
        raise SourceError(msg) from error


def check_edited(folder: Path) -> None:
    """Check that an earlier `audit.csv` is as `featx audit` wrote it.

    Raises:
        UsageError: If somebody has edited it.
        FeatxError: If it cannot be read.
    """
    table = folder / TABLE
    with say_failures(folder):
        if not table.exists():
            return
        written = _read_digest(folder / RECORD)
        if written != hashlib.sha256(table.read_bytes()).hexdigest():
            msg = (
                f"{table} was edited since featx audit wrote it; name another folder with --out, or replace it with "
                "--overwrite"
            )
            raise UsageError(msg)


def _read_digest(path: Path) -> str:
    """Read the digest of `audit.csv` from `audit.json`; empty if it is not there."""
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return ""
    return str(values.get(_DIGEST, "")) if isinstance(values, dict) else ""


def write_audit(audit: Audit, folder: Path, most: int = MOST_SHOWN, *, overwrite: bool = False) -> list[Path]:
    """Write `audit.csv`, `audit.json`, and a contact sheet of each kind of findings, if there are pictures.

    Sheets of an earlier audit go.

    Args:
        audit: The audit.
        manifest: Where the pictures are.
        folder: The folder; it is made if it does not exist.
        most: Pictures on a sheet.
        overwrite: Whether to replace an `audit.csv` that somebody has edited.

    Returns:
        The files that were written.

    Raises:
        UsageError: If somebody has edited an earlier `audit.csv`.
        FeatxError: If a file cannot be written.
    """
    if not overwrite:
        check_edited(folder)
    written = [folder / TABLE, folder / RECORD]
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            _name_sheet(folder, kind).unlink(missing_ok=True)
        with write_atomically(written[0]) as temporary:
            write_table(audit.tabulate(), temporary)
        digest = hashlib.sha256(written[0].read_bytes()).hexdigest()
        with write_atomically(written[1]) as temporary:
            write_json({**audit.to_dict(), _DIGEST: digest}, temporary)
        for kind in audit.count():
            if audit.reader is None:
                break
            found = audit.list_kind(kind)
            path = _name_sheet(folder, kind)
            tiles = [
                make_tile(audit.reader, finding.id, (finding.format_caption(), finding.id)) for finding in found[:most]
            ]
            shown = f"the first {most} of {len(found):,}" if len(found) > most else f"{len(found):,}"
            draw_contact_sheet(tiles, f"{kind}: {KINDS[kind]} ({shown})", path)
            written.append(path)
    return written


def _name_sheet(folder: Path, kind: str) -> Path:
    return folder / f"{kind.replace(' ', '-')}.png"
