"""A sealed feature store, opened for reading."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError, StoreFormatError
from featx.specs import EmbedSpec
from featx.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    ITEM_COLUMNS,
    QUARANTINE_COLUMNS,
    TEXT,
    decode_text,
    digest_block,
    map_dataset,
    read_column,
    read_text,
    update_digest,
)
from featx.store.sealing import Golden, digest_golden

#: What h5py, NumPy and Python raise on files whose bytes were changed at random.
_DAMAGES = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(OSError, RuntimeError, TypeError, ValueError),
)


class FeatureStore:
    """The features of one spec and the items they belong to, read-only.

    Everything but the features is read at once; they are mapped into memory, so
    that opening costs nothing and workers share one copy. The file may be replaced
    meanwhile: what was opened stays as it was.

    Attributes:
        path: The file.
        spec: What the features are.
        features: `(n_items, dim)` float32 or float16, mapped from the file.
        feature_shape: Shape of one item's features before they became a row.
        ids, sha256, labels, splits, groups: Text `(n_items,)`; empty where there is none.
        sizes_px: int `(n_items, 2)`: width and height of each image.
        quarantine: `(id, sha256, reason)` of every item that could not be embedded.
        source: Absolute path of the folder, table or archive.
        created_with: Versions of what computed the features.
        runtime: What ran the network.
        drift: Largest relative difference of that runtime from Keras.
        backbone_file: The user's file that the backbone's parameters came from, if any.
        golden: Pictures that any later stack must give the same features for.
        started_ns: When the run began that read the files, in nanoseconds since 1970.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            msg = f"there is no store {self.path}; `featx embed SOURCE` makes one"
            raise StoreError(msg)
        if not self.path.is_file() or not h5py.is_hdf5(self.path):
            msg = f"{self.path} is no feature store (no HDF5 file); name another one"
            raise StoreFormatError(msg)
        try:
            with h5py.File(self.path, "r") as file:
                self._read(file)
        except _DAMAGES as error:
            if isinstance(error, StoreError):
                raise
            reason = " ".join(str(error).split())
            msg = (
                f"{self.path} is damaged or no feature store of featx: {reason}; embed again, after deleting it or "
                f"with another --name"
            )
            raise StoreFormatError(msg) from error

    def _read(self, file: h5py.File) -> None:
        attributes = file.attrs
        if "format" not in attributes or read_text(attributes, "format") != FORMAT:
            msg = f"{self.path} is an HDF5 file, but no feature store of featx; name another one"
            raise StoreFormatError(msg)
        version = int(attributes["format_version"])
        if version > FORMAT_VERSION:
            msg = f"{self.path} has format version {version}, this featx reads up to {FORMAT_VERSION}; upgrade featx"
            raise StoreFormatError(msg)
        self.format_version = version
        self.spec = EmbedSpec.from_dict(json.loads(read_text(attributes, "spec")))
        if self.spec.digest != read_text(attributes, "spec_digest"):
            msg = "the spec differs from its digest"
            raise ValueError(msg)
        self.created_with: Mapping[str, str] = json.loads(read_text(attributes, "created_with"))
        self.source = read_text(attributes, "source")
        self.backbone_file = read_text(attributes, "backbone_file")
        self.runtime = read_text(attributes, "runtime")
        self.drift = float(attributes["drift"])
        self.started_ns = int(attributes["started_ns"])
        self.golden = _read_golden(file["golden"], read_text(attributes, "golden_sha256"))
        items = _read_columns(file["items"], ITEM_COLUMNS, read_text(attributes, "items_sha256"))
        quarantine = _read_columns(file["quarantine"], QUARANTINE_COLUMNS, read_text(attributes, "quarantine_sha256"))
        self._read_features(file, len(items["id"]))
        self._items = items
        self.ids, self.sha256 = items["id"], items["sha256"]
        self.labels, self.splits, self.groups = items["label"], items["split"], items["group"]
        self.sizes_px = np.stack([items["width"], items["height"]], axis=1)
        self.quarantine = list(zip(*(quarantine[name].tolist() for name in QUARANTINE_COLUMNS), strict=True))

    def _read_features(self, file: h5py.File, n_items: int) -> None:
        features = file["features"]
        self.feature_shape = tuple(int(side) for side in features.attrs["feature_shape"])
        expected = (n_items, math.prod(self.feature_shape))
        if features.shape != expected or features.dtype != np.dtype(self.spec.dtype):
            msg = f"features are {features.dtype} {features.shape}, and must be {self.spec.dtype} {expected}"
            raise ValueError(msg)
        self.features = map_dataset(self.path, features)
        self._blocks = decode_text(read_column(file, "blocks", TEXT)).tolist()
        self._block_rows = int(file["blocks"].attrs["rows_per_block"])
        if self._block_rows < 1 or len(self._blocks) != -(-n_items // self._block_rows):
            msg = f"{len(self._blocks)} checksums of {self._block_rows} rows do not fit {n_items} rows"
            raise ValueError(msg)

    @classmethod
    def find_newest(cls, folder: str | os.PathLike[str] = "features") -> Self:
        """Open the store that was written last in a folder.

        Raises:
            StoreError: If there is none.
        """
        stores = sorted(Path(folder).glob("[!.]*.h5"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        if not stores:
            msg = f"there is no feature store in {Path(folder)}/; make one with `featx embed SOURCE`, or name one"
            raise StoreError(msg)
        return cls(stores[-1])

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, items={len(self)}, dim={self.dim}, dtype={self.spec.dtype!r})"

    @property
    def dim(self) -> int:
        """Width of one row."""
        return int(self.features.shape[1])

    @property
    def classes(self) -> list[str]:
        """The distinct labels, sorted."""
        return sorted(set(self.labels.tolist()) - {""})

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """The columns of `/items`, as they are on disk."""
        return self._items

    def find_damage(self) -> list[tuple[int, int]]:
        """Read all features and list the blocks of rows, as (first, past last), that differ from their checksum."""
        starts = range(0, len(self), self._block_rows)
        return [
            (start, min(start + self._block_rows, len(self)))
            for start, checksum in zip(starts, self._blocks, strict=True)
            if digest_block(self.features[start : start + self._block_rows]) != checksum
        ]

    def describe(self) -> dict[str, Any]:
        """Return what `featx info --json` prints."""
        labels, counts = np.unique(self.labels[self.labels != ""], return_counts=True)
        splits, sizes = np.unique(self.splits[self.splits != ""], return_counts=True)
        return {
            "store": str(self.path),
            "format_version": self.format_version,
            "spec": self.spec.to_dict(),
            "spec_digest": self.spec.digest,
            "items": len(self),
            "dim": self.dim,
            "feature_shape": list(self.feature_shape),
            "dtype": self.spec.dtype,
            "classes": dict(zip(labels.tolist(), counts.tolist(), strict=True)),
            "splits": dict(zip(splits.tolist(), sizes.tolist(), strict=True)),
            "groups": len(set(self.groups.tolist()) - {""}),
            "quarantined": [{"id": name, "reason": reason} for name, _, reason in self.quarantine],
            "source": self.source,
            "runtime": self.runtime,
            "drift": self.drift,
            "created_with": dict(self.created_with),
            "file_bytes": self.path.stat().st_size,
        }


def _read_golden(group: h5py.Group, checksum: str) -> Golden:
    files = tuple(read_column(group, f"{number}", "u1").tobytes() for number in range(len(group) - 1))
    golden = Golden(files, read_column(group, "features", "<f4"))
    if digest_golden(golden) != checksum:
        msg = "the golden pictures differ from their checksum"
        raise ValueError(msg)
    return golden


def _read_columns(group: h5py.Group, kinds: Mapping[str, str], checksum: str) -> dict[str, NDArray[Any]]:
    digest = hashlib.sha256()
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in kinds.items():
        values = read_column(group, name, kind)
        update_digest(digest, name, values)
        columns[name] = decode_text(values) if kind == TEXT else values
    if digest.hexdigest() != checksum:
        msg = f"the columns of {group.name} differ from their checksum"
        raise ValueError(msg)
    return columns
