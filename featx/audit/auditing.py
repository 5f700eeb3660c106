"""The audit of a store: copies, suspicious labels, outliers, odd pictures and shortcuts."""

import os
from pathlib import Path

from featx.audit.copies import THRESHOLD, find_copies, find_near_copies
from featx.audit.findings import KINDS, Audit, Finding
from featx.audit.labels import find_outliers, find_suspicious_labels
from featx.audit.looks import read_looks
from featx.audit.odd_pictures import LIMITS, find_odd_pictures
from featx.audit.shortcuts import measure_shortcuts
from featx.errors import DataError
from featx.files import say_failures, write_json, write_table
from featx.items import Item, Manifest, read_source
from featx.items.sources import read_source_again
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.report.contact_sheets import draw_contact_sheet, make_tile
from featx.store import FeatureStore

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
        SourceError: If the pictures are gone.
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
    manifest = find_pictures(opened, source)
    items = tuple(Item(*fields) for fields in zip(opened.ids.tolist(), opened.labels.tolist(), strict=True))
    looks = read_looks(manifest, items, options)
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
        notes=tuple(notes),
        thresholds={"near-copy": threshold, **LIMITS},
    )


def find_pictures(store: FeatureStore, source: str | os.PathLike[str] | None) -> Manifest:
    """Find the pictures of a store: where they are now, or where they were when they were embedded.

    Raises:
        SourceError: If they are gone.
    """
    return read_source(source) if source else read_source_again(store.source, store.reading)


def write_audit(audit: Audit, manifest: Manifest, folder: Path, most: int = MOST_SHOWN) -> list[Path]:
    """Write `audit.csv`, `audit.json`, and a contact sheet of each kind of findings.

    Args:
        audit: The audit.
        manifest: Where the pictures are.
        folder: The folder; it is made if it does not exist.
        most: Pictures on a sheet.

    Returns:
        The files that were written.

    Raises:
        FeatxError: If a file cannot be written.
    """
    written = [folder / "audit.csv", folder / "audit.json"]
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_table(audit.tabulate(), written[0])
        write_json(audit.to_dict(), written[1])
        for kind in audit.count():
            found = audit.list_kind(kind)
            path = folder / f"{kind.replace(' ', '-')}.png"
            tiles = [make_tile(manifest.reader, finding.id, _caption(finding)) for finding in found[:most]]
            shown = f"the first {most} of {len(found):,}" if len(found) > most else f"{len(found):,}"
            draw_contact_sheet(tiles, f"{kind}: {KINDS[kind]} ({shown})", path)
            written.append(path)
    return written


def _caption(finding: Finding) -> tuple[str, str]:
    head = f"group of {Path(finding.group).name}" if finding.group else f"{finding.score:.3g}"
    if finding.suggestion.startswith("label "):
        head = f"{finding.suggestion}? {finding.score:.2f}"
    return head, finding.id
