"""Sealing: one new file from the known rows, in the manifest's order."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featx.golden import Golden
from featx.specs import EmbedSpec
from featx.store.hdf5 import create_group, write_file
from featx.store.index import write_index
from featx.store.layout import (
    ATTRIBUTES_SHA256,
    FORMAT,
    INDEX_VERSION,
    ITEM_COLUMNS,
    PLAIN_VERSION,
    QUARANTINE_COLUMNS,
    ROWS_PER_BLOCK,
    Columns,
    choose_block_rows,
    digest_attributes,
    digest_block,
    digest_columns,
    encode_text,
    open_dataset,
    read_column,
    update_digest,
    write_columns,
    write_text,
)
from featx.store.sharding import Sharding, discard_shards
from featx.store.shards import Row, read_rows

#: Clocks are no more precise, and sums of rounded times do not depend on their order.
_SECONDS_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of a store's numbers, in addition to its spec.

    Attributes:
        source: The folder, table or archive, as an absolute path in valid Unicode.
        created_with: Versions of the software that computed the features.
        runtime: The runtime of the network.
        drift: Largest relative difference from Keras of a runtime that was tried; 0 for Keras.
        feature_shape: Shape of one item's features before they became a row.
        backbone_file: The user's file that the backbone's parameters came from, if any; in valid Unicode.
        golden: Pictures for which any later software stack must compute the same features.
        started_ns: Start of the run that read the files, in nanoseconds since 1970.
        reading: Arguments that the source was read with and that differ from the defaults; values for JSON.
        embed_seconds: Time of the runs that computed the rows; None if unknown.
    """

    source: str
    created_with: Mapping[str, str]
    runtime: str
    drift: float
    feature_shape: tuple[int, ...]
    backbone_file: str
    golden: Golden
    started_ns: int = 0
    reading: Mapping[str, Any] = field(default_factory=dict)
    embed_seconds: float | None = None


def seal(
    path: Path,
    spec: EmbedSpec,
    provenance: Provenance,
    items: Columns,
    rows: Sequence[Row],
    quarantine: Columns,
    *,
    confirm: Callable[[], None],
    is_index: bool = False,
) -> None:
    """Write a sealed store under a temporary name, then give it its own.

    Args:
        path: The store; an older one is replaced at the very end.
        spec: Spec of the features.
        provenance: Origin of the features.
        items: The columns of `/items`, in the order of the rows.
        rows: The features of each item.
        quarantine: The columns of `/quarantine`.
        confirm: Raises if this process must no longer write the store.
        is_index: Leave the features in shards beside the file, which names them; a store without items has none.

    Raises:
        StoreError: If the file cannot be written; an older store is left as it was.
    """
    is_index = is_index and len(rows) > 0
    dim, dtype = int(np.prod(provenance.feature_shape)), np.dtype(spec.dtype).newbyteorder("<")
    kept: Sequence[str] = ()
    with write_file(path, confirm, is_index=is_index) as file:
        _write_attributes(file, spec, provenance)
        file.attrs["format_version"] = INDEX_VERSION if is_index else PLAIN_VERSION
        block_rows = choose_block_rows(dim, spec.dtype)
        file.attrs[ROWS_PER_BLOCK] = block_rows
        columns = write_columns(create_group(file, "items"), items, ITEM_COLUMNS)
        blocks = create_group(file, "blocks")
        blocks["items"] = encode_text(digest_columns(columns, block_rows))
        if is_index:
            sharding = Sharding(path, rows, dim, dtype, block_rows, confirm)
            write_index(file, path, dtype, dim, sharding.shards, sharding.pieces)
            checksums, kept = sharding.blocks, sharding.shards["name"]
        else:
            checksums = _write_features(file, dtype, dim, rows, block_rows)
        blocks["features"] = encode_text(checksums)
        write_text(file.attrs, "golden_sha256", write_golden(create_group(file, "golden"), provenance.golden))
        bad = write_columns(create_group(file, "quarantine"), quarantine, QUARANTINE_COLUMNS)
        write_text(file.attrs, "quarantine_sha256", *digest_columns(bad))
        write_text(file.attrs, ATTRIBUTES_SHA256, digest_attributes(file.attrs))
    discard_shards(path, kept, confirm)


def _write_attributes(file: h5py.File, spec: EmbedSpec, provenance: Provenance) -> None:
    texts = {
        "format": FORMAT,
        "spec": spec.to_json(),
        "spec_digest": spec.digest,
        "created_with": json.dumps(dict(provenance.created_with), sort_keys=True),
        "source": provenance.source,
        "reading": json.dumps(dict(provenance.reading), sort_keys=True),
        "backbone_file": provenance.backbone_file,
        "runtime": provenance.runtime,
    }
    for name, text in texts.items():
        write_text(file.attrs, name, text)
    file.attrs["drift"] = provenance.drift
    file.attrs["started_ns"] = provenance.started_ns
    if provenance.embed_seconds is not None:
        file.attrs["embed_seconds"] = round(provenance.embed_seconds, _SECONDS_DIGITS)
    file.attrs["feature_shape"] = np.array(provenance.feature_shape, dtype="<i8")


def digest_golden(golden: Golden) -> str:
    """Return the sha256 over the pictures, in order, and their features."""
    digest = hashlib.sha256()
    for data in golden.files:
        update_digest(digest, "file", np.frombuffer(data, np.uint8))
    update_digest(digest, "features", golden.features)
    return digest.hexdigest()


def write_golden(group: h5py.Group, golden: Golden) -> str:
    """Write golden pictures and return their checksum."""
    group.create_dataset("features", data=golden.features)
    for number, data in enumerate(golden.files):
        group.create_dataset(f"{number}", data=np.frombuffer(data, np.uint8))
    return digest_golden(golden)


def read_golden(group: h5py.Group) -> Golden:
    """Read golden pictures that `write_golden` wrote.

    Raises:
        KeyError: If a dataset is missing.
        ValueError: If they declare more bytes than the file has, for example when many names lead to one dataset.
    """
    names = [name for name in group if name.isdecimal()]
    declared = sum(open_dataset(group, name).nbytes for name in names)
    if declared > group.file.id.get_filesize():
        msg = f"{group.name} declares {declared:,} bytes, which the file does not hold"
        raise ValueError(msg)
    files = tuple(read_column(group, f"{number}", "u1").tobytes() for number in range(len(names)))
    return Golden(files, read_column(group, "features", "<f4"))


def _write_features(
    file: h5py.File, dtype: np.dtype[np.floating], dim: int, rows: Sequence[Row], block_rows: int
) -> list[str]:
    """Write the rows and return the checksum of each block of them."""
    features = file.create_dataset("features", shape=(len(rows), dim), dtype=dtype)
    checksums = []
    for start in range(0, len(rows), block_rows):
        chosen = rows[start : start + block_rows]
        block = read_rows(chosen, len(chosen), dim, dtype)
        features[start : start + len(block)] = block
        checksums.append(digest_block(block))
    return checksums
