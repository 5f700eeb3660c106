"""The import: every row is examined, and then a store is sealed from the same files, both block by block."""

import functools
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, SourceError, SpecMismatchError, StoreError, UsageError
from featx.files import remove_leftovers
from featx.golden import Golden
from featx.importing.labels import collect_items
from featx.importing.layouts import open_parts, say_damage
from featx.importing.parts import Part
from featx.items import Columns
from featx.reporting import SILENT, Reporter
from featx.specs import IMPORTED, BackboneSpec, EmbedSpec, ImageSpec
from featx.store import FeatureStore
from featx.store.journal import describe_unfinished
from featx.store.layout import Columns as StoreColumns
from featx.store.lock import StoreLock
from featx.store.sealing import Provenance, seal
from featx.store.shards import Row
from featx.store.writing import check_spec
from featx.wording import to_text

#: What the spec of imported features has in place of an image, which no reader may use.
_NO_IMAGE = ImageSpec(1, 1, decoder="pillow-full")

#: Size and time of a file that must not be trusted.
_NO_TIME = 2**63 - 1

_NOT_FINITE = "its features are not numbers that float32 can hold (NaN, infinity or too large)"


def import_features(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    name: str = "",
    folder: str | os.PathLike[str] = "features",
    labels: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    format_: str = "",
    network: str = "",
    reporter: Reporter = SILENT,
) -> FeatureStore:
    """Write a feature store from features that another tool computed.

    featx does not know the network that computed them, so nothing that needs pixels works on the store. The sha256 of
    an item is that of its row, so equal rows count as copies. The same files give the same store again.

    Args:
        sources: Files and folders of one tool: TRIDENT, CLAM, hloc, thingsvision, clip-retrieval, AnnData, npy, npz,
            Parquet, or exports of featx.
        name: Name of the store; empty for that of the file or folder.
        folder: Folder of the stores.
        labels: CSV, TSV or Parquet table with the columns id and label, and perhaps split and group; ids are those of
            the features, or of whole slides. Labels and splits of the files are then not used.
        columns: Names of columns, where they are not the usual ones: of `labels`, or of the files if there is none.
        format_: One of `featx.importing.layouts.FORMATS`; empty if the files decide. `anndata:X_pca` takes that
            element of `obsm`.
        network: The network that computed the features, if you know it: stores that name the same one can be merged.
        reporter: Receives the phases, their progress in rows, and how the table was read.

    Returns:
        The store; rows that are not finite are in its quarantine.

    Raises:
        SourceError: If a file cannot be read, two rows have one id, or `labels` names an id that no row has.
        DataError: If no row is left.
        SpecMismatchError: If the store exists with other numbers.
        StoreError: If it cannot be written.
        UsageError: If there is no such format, or nothing was named.

    Examples:
        >>> import featx
        >>> store = featx.import_features("embeddings.npz", labels="labels.csv")
        >>> store.spec.backbone.uri
        'imported:npz'
    """
    paths = [Path(one) for one in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
    if not paths:
        msg = "name a file or a folder of features"
        raise UsageError(msg)
    reporter.begin("checking features")
    parts = open_parts(paths, format_)
    items = collect_items(parts, None if labels is None else Path(labels), columns or Columns(), reporter)
    dtype = "float16" if all(part.dtype == np.float16 for part in parts) else "float32"
    found = _examine(parts, dtype, reporter)
    if not any(found.finite):
        msg = f"{paths[0]} has no row of finite features ({len(found.finite):,} rows in all), so no store was written"
        raise DataError(msg)
    spec = _make_spec(parts[0].tool, network, found, dtype)
    source = paths[0].absolute() if len(paths) == 1 else Path(os.path.commonpath([path.absolute() for path in paths]))
    stem = name or (source.name if source.is_dir() else source.stem) or parts[0].tool
    target = Path(folder) / f"{stem.removesuffix('.h5')}.h5"
    if unfinished := describe_unfinished(target):
        raise StoreError(unfinished)
    good, quarantine = _divide(items, found, parts[0].dim * np.dtype(dtype).itemsize)
    provenance = _describe_provenance(parts, source, labels)
    reporter.begin("writing the store")
    with StoreLock(target) as lock:
        remove_leftovers(target.parent, f"{target.name}.")
        _refuse_other_numbers(target, spec, dict(zip(good["id"], good["sha256"], strict=True)))
        rows = _list_rows(parts, dtype, found, reporter)
        seal(target, spec, provenance, good, rows, quarantine, confirm=lock.confirm)
    return FeatureStore(target)


@dataclass(slots=True)
class _Examined:
    """What one reading of all rows found.

    Attributes:
        sha256: Digest of each row as it is stored, hexadecimal.
        finite: Whether each row is finite.
        sizes, checksums: Number of rows and CRC-32 of each block.
    """

    sha256: list[str] = field(default_factory=list)
    finite: list[bool] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)


def _read_blocks(parts: Sequence[Part], dtype: str) -> Iterator[NDArray[Any]]:
    """Yield the rows of all parts as they are stored, in blocks."""
    for part in parts:
        with say_damage(part.path):
            n_rows = 0
            for block in part.read():
                n_rows += len(block)
                with np.errstate(over="ignore"):  # a number that float32 cannot hold becomes infinite
                    rows = np.array(block, np.dtype(dtype).newbyteorder("<"), order="C")
                yield rows
            if n_rows != part.n_rows:
                msg = f"it has {n_rows:,} of {part.n_rows:,} rows"
                raise ValueError(msg)


def _examine(parts: Sequence[Part], dtype: str, reporter: Reporter) -> _Examined:
    found, total = _Examined(), sum(part.n_rows for part in parts)
    for block in _read_blocks(parts, dtype):
        # Told apart from digests of files by what is in front.
        found.sha256 += [hashlib.sha256(b"featx row\0" + row.tobytes()).hexdigest() for row in block]
        found.finite += np.isfinite(block).all(axis=1).tolist()
        found.sizes.append(len(block))
        found.checksums.append(zlib.crc32(block.data))
        reporter.advance(len(found.finite), total)
    return found


def _make_spec(tool: str, network: str, found: _Examined, dtype: str) -> EmbedSpec:
    """Make the spec of a network that is not known: a digest of the numbers keeps it apart from all others."""
    uri = f"{IMPORTED}{tool}" + (f"?{urlencode({'network': network})}" if network else "")
    digest = "" if network else hashlib.sha256("".join(found.sha256).encode("ascii")).hexdigest()
    return EmbedSpec(BackboneSpec(uri, "unknown", "none", "unknown", digest), _NO_IMAGE, dtype)


def _divide(items: Mapping[str, list[str]], found: _Examined, row_bytes: int) -> tuple[StoreColumns, StoreColumns]:
    """Divide the rows into the columns of `/items`, with what is not known of a file, and those of `/quarantine`."""
    columns = {**items, "sha256": found.sha256}
    good = {name: list(itertools.compress(values, found.finite)) for name, values in columns.items()}
    count = len(good["id"])
    unknown = {"bytes": row_bytes, "mtime_ns": _NO_TIME, "width": 0, "height": 0}
    is_bad = [not is_finite for is_finite in found.finite]
    bad = {name: list(itertools.compress(columns[name], is_bad)) for name in ("id", "sha256")}
    reasons = [_NOT_FINITE] * len(bad["id"])
    return {**good, **{name: [value] * count for name, value in unknown.items()}}, {**bad, "reason": reasons}


def _describe_provenance(parts: Sequence[Part], source: Path, labels: str | os.PathLike[str] | None) -> Provenance:
    """Describe where the features came from; of what the files record, what all of them agree on."""
    facts = set.intersection(*(set(part.about.items()) for part in parts))
    about = {"format": parts[0].tool, "files": len(parts), **dict(facts)}
    about |= {} if labels is None else {"labels": str(Path(labels).absolute())}
    golden = Golden((), np.empty((0, parts[0].dim), np.float32))
    reading = {"imported": {name: to_text(value) if isinstance(value, str) else value for name, value in about.items()}}
    return Provenance(to_text(str(source)), {}, "unknown", 0.0, (parts[0].dim,), "", golden, reading=reading)


def _refuse_other_numbers(path: Path, spec: EmbedSpec, rows: dict[str, str]) -> None:
    """Refuse to replace a store of other numbers; one that has only more items now, or other labels, is replaced.

    Raises:
        SpecMismatchError: If there is such a store.
    """
    if not path.exists():
        return
    old = FeatureStore(path, allow_damage=True)
    check_spec(old, spec)
    gone = [
        name for name, sha256 in zip(old.ids.tolist(), old.sha256.tolist(), strict=True) if rows.get(name) != sha256
    ]
    if gone:
        msg = (
            f"{path} holds other numbers for {len(gone):,} items, such as {gone[0]!r}, or the files lack them now; "
            f"write another store with --name NAME"
        )
        raise SpecMismatchError(msg)


class _Cursor:
    """The blocks of a second reading, one at a time, and each as it was the first time."""

    def __init__(self, blocks: Iterator[NDArray[Any]], found: _Examined, reporter: Reporter) -> None:
        self._blocks, self._found, self._reporter = enumerate(blocks), found, reporter
        self._number, self._block, self._done = -1, np.empty((0, 0), np.float32), 0

    def load(self, number: int) -> NDArray[Any]:
        while self._number < number:
            self._number, self._block = next(self._blocks, (number, np.empty((0, 0), np.float32)))
            if zlib.crc32(self._block.data) != self._found.checksums[self._number]:
                msg = "the files of features changed while they were imported; import them again"
                raise SourceError(msg)
            self._done += len(self._block)
            self._reporter.advance(self._done, len(self._found.finite))
        return self._block


def _list_rows(parts: Sequence[Part], dtype: str, found: _Examined, reporter: Reporter) -> list[Row]:
    """List the rows to store, which are read from the files again when their turn comes."""
    cursor, finite = _Cursor(_read_blocks(parts, dtype), found, reporter), iter(found.finite)
    loads = [functools.partial(cursor.load, number) for number in range(len(found.sizes))]
    every = [(load, index) for load, size in zip(loads, found.sizes, strict=True) for index in range(size)]
    return [Row(load, index) for load, index in every if next(finite)]
