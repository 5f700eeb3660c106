"""A sealed feature store, opened for reading."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import FeatxError, StoreError, StoreFormatError
from featx.golden import Golden
from featx.reporting import Progress
from featx.specs import EmbedSpec
from featx.store.index import ShardedFeatures, read_index
from featx.store.journal import describe_unfinished, list_unfinished
from featx.store.layout import (
    ATTRIBUTES_SHA256,
    FORMAT,
    FORMAT_VERSIONS,
    INDEX_VERSION,
    ITEM_COLUMNS,
    QUARANTINE_COLUMNS,
    ROWS_PER_BLOCK,
    TEXT,
    decode_text,
    digest_attributes,
    digest_columns,
    encode_column,
    map_dataset,
    open_dataset,
    open_group,
    read_column,
    read_columns,
    read_numbers,
    read_seconds,
    read_text,
)
from featx.store.neighbours import find_nearest, measure_lengths
from featx.store.sealing import digest_golden, read_golden
from featx.store.shards import Row, ShardFile
from featx.urls import find_path, find_url, hide_secrets
from featx.wording import escape_html, format_html_table

if TYPE_CHECKING:
    import pandas as pd

    from featx.report.maps import StoreMap

#: The columns that identify an item and describe it come first, those that serve only to embed again last.
_FRAME_COLUMNS = ("id", "label", "split", "group", "sha256", "width", "height", "bytes", "mtime_ns")

#: Classes and splits that a notebook shows by name.
_SHOWN_NAMES = 10

#: What h5py, NumPy and Python raise on files whose bytes were changed at random.
DAMAGES = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(OSError, RuntimeError, TypeError, ValueError),
)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a store that differ from their checksum.

    Attributes:
        part: `features`, `items`, `quarantine` or `golden`.
        first, past: The rows that one checksum covers: the first, and the one after the last; all
            rows where the part has a single checksum.
    """

    part: str
    first: int
    past: int

    def __str__(self) -> str:
        """Return the place, such as `rows 128 to 255 of /features`."""
        return f"rows {self.first} to {self.past - 1} of /{self.part}"


class FeatureStore:
    """The features of one spec and the items they belong to, read-only.

    Everything but the features is read at once. The features are mapped into memory, so
    opening is cheap and workers share one copy. The file may be replaced while it is
    open: an open store stays as it was, unless it is an index and shards of it were removed.

    Attributes:
        path: The file; of a store at a URL, the copy in the cache.
        place: The URL, or the path.
        spec: What the features are.
        features: `(n_items, dim)` float32 or float16, mapped from the file, or read from its shards.
        index: The features, if they are in shards; None if they are in the file.
        feature_shape: Shape of one item's features before they became a row.
        ids, sha256, labels, splits, groups: Text `(n_items,)`; empty where an item has none.
        sizes_px: int `(n_items, 2)`: width and height of each image.
        quarantine: `(id, sha256, reason)` of every item that could not be embedded.
        source: Absolute path of the folder, table or archive.
        created_with: Versions of what computed the features.
        runtime: The runtime of the network.
        drift: Largest relative difference of that runtime from Keras.
        backbone_file: The user's file that the backbone's parameters came from, if any.
        golden: Pictures for which any later software stack must compute the same features.
        reading: Arguments of `featx.read_source` that differ from its defaults.
        started_ns: Start of the run that read the files, in nanoseconds since 1970.
        embed_seconds: Time of the runs that computed the rows; None if unknown, as in older stores.

    Args:
        path: The file, or its URL: it is then fetched whole, checked, and kept in the cache.
        allow_damage: Open the file even if items, quarantine or golden pictures differ from
            their checksums, so that the rest can be saved; `find_damage` lists the damage.

    Raises:
        StoreError: If there is no such file.
        StoreFormatError: If it is not a feature store, has a newer format, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_damage: bool = False) -> None:
        url = find_url(path)
        self.path = _fetch(url) if url else Path(find_path(path))
        self.place = hide_secrets(url) or str(self.path)
        if not self.path.exists():
            msg = describe_unfinished(self.path) or f"there is no store {self.path}; `featx embed SOURCE` makes one"
            raise StoreError(msg)
        if not self.path.is_file() or not h5py.is_hdf5(self.path):
            msg = f"{self.path} is not a feature store (not an HDF5 file); name another one"
            raise StoreFormatError(msg)
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                self._read(file)
        except DAMAGES as error:
            if isinstance(error, StoreError):
                raise
            reason = " ".join(str(error).split())
            if cut := re.search(r"truncated file.*stored_eof = (\d+)", reason):
                size = self.path.stat().st_size
                msg = (
                    f"{self.path} is cut off: it has {size:,} of {int(cut[1]):,} bytes; copy it again, or delete it "
                    f"and embed again"
                )
                raise StoreFormatError(msg) from error
            if reason.startswith("Unable to"):  # what follows is for the authors of HDF5
                reason = f"the structure of its {self.path.stat().st_size:,} bytes cannot be read"
            msg = (
                f"{self.path} is damaged or not a feature store of featx: {reason}; embed again, after deleting it or "
                f"with another --name"
            )
            raise StoreFormatError(msg) from error
        if self.index and not allow_damage:
            self.index.refuse_missing(self.path)
        if self._damage and not allow_damage:
            damage = self._damage[0]
            msg = f"{self.path} is damaged: {damage} differ from their checksum; run `featx repair {self.path}`"
            raise StoreFormatError(msg)

    def _read(self, file: h5py.File) -> None:
        attributes = file.attrs
        if "format" not in attributes or read_text(attributes, "format") != FORMAT:
            msg = f"{self.path} is an HDF5 file, but not a feature store of featx; name another one"
            raise StoreFormatError(msg)
        version = int(read_numbers(attributes, "format_version"))
        if version not in FORMAT_VERSIONS:
            msg = (
                f"{self.path} has format version {version}, but this featx reads up to {max(FORMAT_VERSIONS)}; upgrade "
                f"featx"
            )
            raise StoreFormatError(msg)
        if digest_attributes(attributes) != read_text(attributes, ATTRIBUTES_SHA256):
            msg = "its attributes differ from their checksum"
            raise ValueError(msg)
        self.format_version = version
        self._read_attributes(attributes)
        self._damage: list[Damage] = []
        self.golden = self._read_golden(file, read_text(attributes, "golden_sha256"))
        quarantine = self._read_quarantine(file, read_text(attributes, "quarantine_sha256"))
        self.quarantine = list(zip(*(quarantine[name].tolist() for name in QUARANTINE_COLUMNS), strict=True))
        self._raw = self._read_items(file)
        self._read_features(file)

    def _read_attributes(self, attributes: h5py.AttributeManager) -> None:
        self.spec = EmbedSpec.from_dict(_read_json(attributes, "spec"))
        if self.spec.digest != read_text(attributes, "spec_digest"):
            msg = "the spec differs from its digest"
            raise ValueError(msg)
        self.created_with: Mapping[str, str] = _read_json(attributes, "created_with")
        self.source = read_text(attributes, "source")
        self.reading: Mapping[str, Any] = _read_json(attributes, "reading")
        self.backbone_file = read_text(attributes, "backbone_file")
        self.runtime = read_text(attributes, "runtime")
        self.drift = float(read_numbers(attributes, "drift"))
        self.started_ns = int(read_numbers(attributes, "started_ns"))
        self.embed_seconds = read_seconds(attributes, "embed_seconds")
        self.feature_shape = tuple(int(side) for side in read_numbers(attributes, "feature_shape").tolist())
        self._block_rows = int(read_numbers(attributes, ROWS_PER_BLOCK))

    def _read_golden(self, file: h5py.File, checksum: str) -> Golden:
        golden = read_golden(open_group(file, "golden"))
        if digest_golden(golden) != checksum:
            self._damage.append(Damage("golden", 0, len(golden.files)))
        return golden

    def _read_quarantine(self, file: h5py.File, checksum: str) -> dict[str, NDArray[Any]]:
        columns = read_columns(open_group(file, "quarantine"), QUARANTINE_COLUMNS)
        if digest_columns(columns) != [checksum]:
            self._damage.append(Damage("quarantine", 0, len(columns["id"])))
        return _decode_columns(columns, QUARANTINE_COLUMNS)

    def _read_items(self, file: h5py.File) -> dict[str, NDArray[Any]]:
        columns = read_columns(open_group(file, "items"), ITEM_COLUMNS)
        n_items = len(columns["id"])
        blocks = open_group(file, "blocks")
        checksums = {name: decode_text(read_column(blocks, name, TEXT)).tolist() for name in ("features", "items")}
        n_blocks = -(-n_items // self._block_rows) if self._block_rows > 0 else -1
        in_order = [checksums["items"]] if self.format_version == INDEX_VERSION else list(checksums.values())
        if any(len(values) != n_blocks for values in in_order):
            msg = f"the number of checksums, one per {self._block_rows} rows, does not match {n_items} rows"
            raise ValueError(msg)
        self._blocks = checksums["features"]
        found = digest_columns(columns, self._block_rows)
        self._damage += [
            Damage("items", first, past)
            for (first, past), *both in zip(self._list_blocks(n_items), found, checksums["items"], strict=True)
            if both[0] != both[1]
        ]
        return columns

    def _list_blocks(self, n_items: int) -> list[tuple[int, int]]:
        step = self._block_rows
        return [(first, min(first + step, n_items)) for first in range(0, n_items, step)]

    def _read_features(self, file: h5py.File) -> None:
        self._checked: dict[tuple[ShardFile, int], bool] = {}
        self._lengths: NDArray[np.float32] | None = None
        expected = (len(self), math.prod(self.feature_shape))
        self.index: ShardedFeatures | None = None
        if self.format_version == INDEX_VERSION:
            dtype = np.dtype(self.spec.dtype).newbyteorder("<")
            self.index = read_index(file, self.path, expected, dtype, self._block_rows, self._blocks)
            self.features: NDArray[np.floating] | ShardedFeatures = self.index
            return
        features = open_dataset(file, "features")
        if features.shape != expected or features.dtype != np.dtype(self.spec.dtype):
            msg = f"features are {features.dtype} {features.shape}, but must be {self.spec.dtype} {expected}"
            raise ValueError(msg)
        self.features = mapped = map_dataset(features)
        found, offset = os.fstat(file.id.get_vfd_handle()), features.id.get_offset() or 0
        inode, sizes = (found.st_dev, found.st_ino), (len(self), found.st_size, offset, self._block_rows)
        self._file = ShardFile(self.path, lambda: mapped, *sizes, self._blocks, inode)

    @classmethod
    def find_newest(cls, folder: str | os.PathLike[str] = "features", *, allow_damage: bool = False) -> Self:
        """Open the store in a folder that was written last.

        Raises:
            StoreError: If the folder has no store.
        """
        there = [path for path in Path(folder).glob("[!.]*.h5") if path.exists()]  # a link may be broken
        stores = sorted(there, key=lambda path: (path.stat().st_mtime_ns, path.name))
        if not stores:
            unfinished = [describe_unfinished(path) for path in list_unfinished(Path(folder))]
            make = f"there is no feature store in {Path(folder)}/; make one with `featx embed SOURCE`, or name one"
            raise StoreError(unfinished[0] if unfinished else make)
        return cls(stores[-1], allow_damage=allow_damage)

    def __len__(self) -> int:
        return len(self._raw["id"])

    # Text takes four times as much memory as the bytes on disk, so a column is decoded when it is needed.

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Id of each item."""
        return decode_text(self._raw["id"])

    @cached_property
    def sha256(self) -> NDArray[np.str_]:
        """Checksum of each item's file, in hexadecimal."""
        return decode_text(self._raw["sha256"])

    @cached_property
    def labels(self) -> NDArray[np.str_]:
        """Label of each item; empty for none."""
        return decode_text(self._raw["label"])

    @cached_property
    def splits(self) -> NDArray[np.str_]:
        """Split of each item; empty for none."""
        return decode_text(self._raw["split"])

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """Group of each item; empty for none."""
        return decode_text(self._raw["group"])

    @cached_property
    def sizes_px(self) -> NDArray[np.int32]:
        """Width and height of each image, int `(n_items, 2)`."""
        return np.stack([self._raw["width"], self._raw["height"]], axis=1)

    @property
    def contents(self) -> NDArray[np.bytes_]:
        """The column `sha256` as bytes."""
        return self._raw["sha256"]

    def has_column(self, name: str, values: Sequence[Any] | NDArray[Any]) -> bool:
        """Return whether a column of `/items` has these values."""
        return np.array_equal(self._raw[name], encode_column(values, ITEM_COLUMNS[name]))

    def read_ids(self, rows: NDArray[np.intp]) -> NDArray[np.str_]:
        """Return the ids of some rows, without decoding all."""
        return decode_text(self._raw["id"][rows])

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, items={len(self)}, dim={self.dim}, dtype={self.spec.dtype!r})"

    @property
    def is_index(self) -> bool:
        """Whether the features are in shards beside the file."""
        return self.index is not None

    @property
    def dim(self) -> int:
        """Width of one row."""
        return int(self.features.shape[1])

    @property
    def parts(self) -> tuple[Self, ...]:
        """The store itself; see `featx.store.joining.JoinedStore`."""
        return (self,)

    @property
    def notes(self) -> list[str]:
        """Nothing; see `featx.store.joining.JoinedStore`."""
        return []

    @property
    def n_views(self) -> int:
        """Images of each item that were embedded: itself, and its views."""
        return self.spec.n_views

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of the features of one view."""
        return (self.dim // self.n_views,)

    @property
    def classes(self) -> list[str]:
        """The distinct labels, sorted."""
        return sorted(set(self.labels.tolist()) - {""})

    @property
    def raw_columns(self) -> Mapping[str, NDArray[Any]]:
        """The columns of `/items` as they are on disk: text as bytes of UTF-8."""
        return self._raw

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """The columns of `/items`, as they are on disk, with text decoded."""
        text = {"id": self.ids, "sha256": self.sha256, "label": self.labels, "split": self.splits, "group": self.groups}
        return {**self._raw, **text}

    @property
    def items(self) -> "pd.DataFrame":
        """The items as a new DataFrame: row `k` describes row `k` of `features`.

        The columns are `id`, `label`, `split`, `group`, `sha256` (text), `width`, `height` (px),
        `bytes` and `mtime_ns`. File names that are not UTF-8 keep their surrogate escapes, which
        pandas can hold only as objects.
        """
        import pandas as pd

        columns = self.columns
        columns = {
            name: columns[name].astype(object) if ITEM_COLUMNS[name] == TEXT else columns[name].copy()
            for name in _FRAME_COLUMNS
        }
        return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})

    def to_frame(self, *, features: bool = False) -> "pd.DataFrame":
        """Return the items as a DataFrame, and the features on request.

        Args:
            features: Add the columns `f0`, `f1` and so on, as one block; all features are then in memory.

        Examples:
            >>> import featx
            >>> store = featx.FeatureStore("features/colour.h5")
            >>> store.to_frame(features=True)[["id", "label", "f0"]].shape
            (400, 3)
        """
        if not features:
            return self.items
        import pandas as pd

        block = pd.DataFrame(np.array(self.features), columns=[f"f{number}" for number in range(self.dim)])
        return pd.concat([self.items, block], axis=1)

    def map(self, *, method: str = "pca", by: str = "label") -> "StoreMap":
        """Project the items to two dimensions, as `featx.map_store` does; a notebook shows the map.

        Args:
            method: `pca`, or `umap` with the extra `map`.
            by: What colours the items: `label`, `split` or `group`.

        Raises:
            FeatxError: As `featx.map_store`.
        """
        from featx.report.maps import map_store

        return map_store(self, method=method, by=by)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what the features are, and the counts by class and split."""
        backbone = self.spec.backbone
        rows = {
            "items": f"{len(self):,}",
            "features": f"{self.dim:,} of {self.spec.dtype}",
            "backbone": f"{backbone.uri}, layer {backbone.layer}",
            "classes": _list_counts(self.labels),
            "splits": _list_counts(self.splits),
            "quarantined": f"{len(self.quarantine):,}",
        }
        shown = [[name, text] for name, text in rows.items() if text]
        return f"<p>{escape_html(str(self.path))}</p>{format_html_table(['', ''], shown, n_text=2)}"

    def find_damage(self, progress: Progress | None = None) -> list[Damage]:
        """Read everything and list the parts that differ from their checksums, features in blocks of rows.

        Args:
            progress: Called with the rows read so far and in total.
        """
        if self.index:
            bad = self.index.find_damage(progress)
            return [*self._damage, *(Damage("features", first, past) for first, past in bad)]
        damage = self._damage.copy()
        for block, (first, past) in enumerate(self._list_blocks(len(self))):
            if not self._file.is_sound(block):
                damage.append(Damage("features", first, past))
            if progress:
                progress(past, len(self))
        return damage

    def is_sound(self, row: int) -> bool:
        """Return whether the block of rows that a row belongs to has its checksum; a block is read once."""
        file, at = self.index.locate(row) if self.index else (self._file, row)
        block = file, at // self._block_rows
        if block not in self._checked:
            self._checked[block] = file.is_sound(block[1])
        return self._checked[block]

    def list_shards(self) -> list[str]:
        """List the names of the shards of an index; a plain store has none."""
        return [shard.path.name for shard in self.index.shards] if self.index else []

    def group_rows(self, rows: NDArray[np.intp]) -> Iterator[tuple[ShardFile, NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the files that the features of some items are in, with the rows of these items here, and there."""
        return self.index.group_rows(rows) if self.index else iter([(self._file, rows, rows)])

    def list_rows(self, rows: NDArray[np.intp] | None = None) -> list[Row]:
        """List the places of the features of some items, or of all: in this file, or in shards of an index."""
        chosen = np.arange(len(self)) if rows is None else rows
        return self.index.list_rows(chosen) if self.index else [Row(self._file, row) for row in chosen.tolist()]

    def describe_uniform(self) -> str:
        """Describe features that are the same for all items, although these have different bytes; empty if they differ.

        Reading ends at the first block of rows that differ.
        """
        if len(set(self.sha256.tolist())) < 2:  # noqa: PLR2004 - one content has one row
            return ""
        first = self.features[0]
        if any((self.features[start:past] != first).any() for start, past in self._list_blocks(len(self))):
            return ""
        what = "zero" if not first.any() else "equal"
        return (
            f"the features of all {len(self):,} items of {self.path} are {what}, so nothing can tell the items apart; "
            f"check the weights and the layer of {self.spec.backbone.uri}, and whether it scales its images"
        )

    def nearest(self, X: ArrayLike, k: int = 10) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Find the items with the most similar features, exactly, by one pass over the file.

        Args:
            X: Features of this spec, float `(n, dim)`; if the store has views, means over them.
            k: Items for each row of `X`; all if the store has fewer.

        Returns:
            Their rows in the store, int `(n, k)`, the most similar first and equal ones in the store's order; and
            their cosine similarities, float64 `(n, k)`, 0 for features that are all zero.

        Raises:
            UsageError: If `k` is less than 1.
            DataError: If `X` has another width, or values that are not finite.

        Examples:
            >>> import featx
            >>> store = featx.FeatureStore("features/colour.h5")
            >>> rows, similarities = store.nearest(store.features[:2], k=3)
            >>> store.ids[rows].shape
            (2, 3)
        """
        if self._lengths is None:  # kept for the next call: 4 bytes of each item
            self._lengths = measure_lengths(self.features, self.n_views)
        return find_nearest(self.features, self._lengths, X, k, self.n_views)

    def find_duplicates(self) -> list[list[int]]:
        """List the rows of the items that have the same bytes, a list for each content that occurs more than once."""
        _, contents = np.unique(self.sha256, return_inverse=True)
        order = np.argsort(contents, kind="stable")
        starts = np.flatnonzero(np.diff(contents[order]) > 0) + 1
        return sorted(rows.tolist() for rows in np.split(order, starts) if len(rows) > 1)

    def count_bytes(self) -> int:
        """Count the bytes of the file, and of the shards of an index."""
        return self.path.stat().st_size + sum(shard.n_bytes for shard in (self.index.shards if self.index else ()))

    def describe(self) -> dict[str, Any]:
        """Return the output of `featx info --json`."""
        labels, counts = np.unique(self.labels[self.labels != ""], return_counts=True)
        splits, sizes = np.unique(self.splits[self.splits != ""], return_counts=True)
        return {
            "store": self.place,
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
            "duplicate_groups": len(self.find_duplicates()),
            "quarantined": [{"id": name, "reason": reason} for name, _, reason in self.quarantine],
            "source": self.source,
            "reading": dict(self.reading),
            "runtime": self.runtime,
            "drift": self.drift,
            "embed_seconds": self.embed_seconds,
            "created_with": dict(self.created_with),
            "shards": len(self.list_shards()),
            "file_bytes": self.count_bytes(),
        }


def _fetch(url: str) -> Path:
    """Return the copy of a store in the cache; a new one is compared with all its checksums first."""
    from featx.remote import fetch_file

    def check(copy: Path) -> None:
        name = hide_secrets(url)
        try:
            store = FeatureStore(copy, allow_damage=True)
        except StoreError as error:
            raise type(error)(str(error).replace(str(copy), name)) from error
        if store.is_index:
            msg = f"{name} is an index without its shards; publish what `featx pack` makes of the original"
            raise StoreFormatError(msg)
        if damage := store.find_damage():
            msg = (
                f"{name} is damaged: {damage[0]} differ from their checksum; repair the original, and publish it again"
            )
            raise StoreFormatError(msg)

    return fetch_file(url, StoreError, check)


def read_spec(path: Path) -> EmbedSpec | None:
    """Read the spec of a store, and nothing else; None if it cannot be read."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return EmbedSpec.from_dict(_read_json(file.attrs, "spec"))
    except (FeatxError, *DAMAGES):
        return None


def _read_json(attributes: h5py.AttributeManager, name: str) -> dict[str, Any]:
    return dict(json.loads(read_text(attributes, name)))


def _decode_columns(columns: Mapping[str, NDArray[Any]], kinds: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    return {name: decode_text(values) if kinds[name] == TEXT else values for name, values in columns.items()}


def _list_counts(column: NDArray[np.str_]) -> str:
    """List the distinct values of a column with their counts, without the empty one: `cat 12, dog 8`."""
    names, counts = np.unique(column[column != ""], return_counts=True)
    listed = [f"{name} {count:,}" for name, count in zip(names[:_SHOWN_NAMES], counts[:_SHOWN_NAMES], strict=True)]
    more = len(names) - len(listed)
    return ", ".join(listed) + (f" and {more:,} more" if more else "")
