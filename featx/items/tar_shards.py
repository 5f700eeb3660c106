"""Tar shards as webdataset writes them: images, each beside files of the same key that hold its label.

A key is the path of a member up to the first dot of its name, as in webdataset's description of its
format. Each shard is listed once, and its images are then read by their offset.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from featx.errors import SourceError, UsageError
from featx.items.archives import ArchiveReader, Member, Tar, choose_images, open_tar
from featx.items.columns import Columns, advise
from featx.items.formats import HEAD_BYTES, has_image_suffix
from featx.items.manifest import Item, Manifest, Reader
from featx.items.names import normalise_label
from featx.items.shards import ShardFile, ShardReader, Shards
from featx.prefetching import prefetch
from featx.wording import format_plural, join_first

if TYPE_CHECKING:
    from featx.remote import Location

#: Endings of the files with labels, in the order in which they are looked for.
_SIDECARS = ("cls", "json", "txt")
_LABEL_KEYS = ("label", "cls", "class")

_MOST_LABEL_BYTES = 2**20

#: Labels of a shard at a URL that are kept as its headers pass: each, and all of them. Shards that are listed at once.
_KEPT_LABEL_BYTES, _KEPT_BYTES, _LISTED_AT_ONCE = 2**14, 2**25, 8

#: Members of a tar that show whether it is a shard or an archive of class folders.
_FIRST_MEMBERS = 200

_NAMED_KEYS = 12


@dataclass(frozen=True, slots=True)
class _ClosedTar:
    """A shard that is opened for each reading: a source may have more shards than a process may have open files."""

    path: str
    location: "Location | None" = None

    def read(self, member: Member, n_bytes: int) -> bytes:
        """Return the first bytes of a member. Raises OSError."""
        where = cast("int", member.where)
        if self.location:
            return self.location.read(n_bytes, where)
        with Path(self.path).open("rb", buffering=0) as file:
            file.seek(where)
            return file.read(n_bytes)


class _Shard:
    """A listed shard: its images by path, the members with labels by ending and key, and what is left out."""

    def __init__(self, shard: ShardFile) -> None:
        file, size_bytes, version = shard.open()
        location = getattr(file, "location", None)  # of one at a URL
        self._left = _KEPT_BYTES
        self.tar: Tar = open_tar(file, shard.name, keep=self._keep if location else None)
        self.sidecars: dict[str, dict[str, Member]] = {}
        rest = []
        for member in self.tar.members:
            key, ending = _split_key(member.name)
            if ending in _SIDECARS:
                self.sidecars.setdefault(ending, {})[key] = member
            else:
                rest.append(member)
        self.tar.members = rest
        self.images, self.junk = choose_images(self.tar, size_bytes, shard.name)
        keys = {_split_key(image)[0] for image in self.images}
        if alone := sum(key not in keys for key in set().union(*self.sidecars.values())):
            self.junk["labels without an image"] += alone
        self.reader = ArchiveReader(
            _ClosedTar(shard.where, location), self.images, version, is_remote=location is not None
        )

    def _keep(self, name: str, size_bytes: int) -> int:
        """Return how much to keep of a member at a URL, which would take a request: labels, and the head of others."""
        most = _KEPT_LABEL_BYTES if _split_key(name)[1] in _SIDECARS else HEAD_BYTES
        wanted = 0 if has_image_suffix(name) else min(most, size_bytes, self._left)
        self._left -= wanted
        return wanted


def _split_key(path: str) -> tuple[str, str]:
    """Return the key of a member, and its ending in lower case."""
    folder, slash, name = path.removeprefix("./").rpartition("/")
    key, _, ending = name.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def is_shard(shard: ShardFile) -> bool:
    """Return whether a single tar is a shard and not an archive of class folders, by its first members.

    Images beside `.cls` files are those of a shard; `.json` and `.txt` may also lie in class folders.

    Raises:
        SourceError: If it cannot be opened.
    """
    file, _, _ = shard.open()
    try:
        members = open_tar(file, shard.name, _FIRST_MEMBERS).members
    except SourceError:
        return False  # a compressed tar is read as an archive, which also reports damage
    endings: dict[str, set[str]] = {}
    for member in members:
        key, ending = _split_key(member.name)
        endings.setdefault(key, set()).add("image" if has_image_suffix(member.name) else ending)
    beside = [(key, found) for key, found in endings.items() if "image" in found]
    return any("cls" in found or ("/" not in key and found & {*_SIDECARS}) for key, found in beside)


def make_tar_reader(shards: Shards) -> ShardReader:
    """Make the reader of tar shards, each of which is listed when it is first needed."""
    return ShardReader(shards, _make_reader)


def _make_reader(file: ShardFile) -> Reader:
    return _Shard(file).reader


def read_tar_shards(shards: Shards, columns: Columns) -> Manifest:
    """List the images of tar shards.

    Args:
        shards: The shards.
        columns: `label` is a key of the `.json` files, or `cls` or `txt` for the files of this ending; `group`
            is a key of the `.json` files.

    Raises:
        SourceError: If a shard is damaged, there are no images, or no image has a label or group that is named.
        UsageError: If columns are named that shards do not have.
    """
    if columns.path or columns.split:
        msg = f"{shards.source!r} is made of tar shards, which have no columns of paths and splits; leave these out"
        raise UsageError(msg)
    reader, splits, labels = make_tar_reader(shards), shards.find_splits(), _Labels(columns)
    items: list[Item] = []
    junk: Counter[str] = Counter()
    at_once = _LISTED_AT_ONCE if shards.is_remote else 1
    listed = prefetch(_Shard, shards.files.values(), workers=at_once, ahead=at_once)
    for name, shard in zip(shards.files, listed, strict=True):
        reader.readers[name] = shard.reader
        junk.update(shard.junk)
        labels.choose(shard)
        for image in shard.images:
            item = Item(f"{name}/{image}", split=splits.get(name, ""))
            items.append(labels.add(item, shard, _split_key(image)[0]))
    if not items:
        msg = f"the shards of {shards.source!r} hold no images; name shards that webdataset or `tar` wrote"
        raise SourceError(msg)
    labels.check(shards.source, items)
    named = {role: name for role, name in asdict(columns).items() if name is not None}
    reading = {"columns": named} if named else {}
    return Manifest(tuple(items), reader, shards.source, dict(junk), reading, labels.describe(len(shards.files)))


@dataclass(slots=True)
class _Labels:
    """Reads the labels and groups beside the images.

    Attributes:
        columns: What the user named.
        kind: Ending of the files with the labels; empty until one is found.
        keys: Keys of the `.json` files so far.
        n_unread: Number of images whose label cannot be read.
        unread: The first of them, with the reason.
    """

    columns: Columns
    kind: str = ""
    keys: set[str] = field(default_factory=set)
    n_unread: int = 0
    unread: str = ""

    def choose(self, shard: _Shard) -> None:
        """Choose the files with the labels, which are those of the first shard that has any."""
        wanted = self.columns.label
        kinds = _SIDECARS if wanted is None else [wanted] * (wanted in {"cls", "txt"}) + ["json"] * bool(wanted)
        self.kind = self.kind or next((kind for kind in kinds if kind in shard.sidecars), "")

    def add(self, item: Item, shard: _Shard, key: str) -> Item:
        """Return the item with its label and group; without those that are missing or cannot be read."""
        label = group = ""
        try:
            if self.kind and self.kind != "json":
                label = _read(shard, self.kind, key).strip()
            if self.kind == "json" or self.columns.group:
                record = json.loads(_read(shard, "json", key) or "{}")
                self.keys |= record.keys()
                group = _to_text(record.get(self.columns.group or ""))
                keys = [self.columns.label] if self.columns.label else _LABEL_KEYS
                if self.kind == "json":
                    label = _to_text(next((record[key] for key in keys if key in record), None))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            self.n_unread += 1
            self.unread = self.unread or f"{item.id!r}: {error}"
        return Item(item.id, normalise_label(label), item.split, normalise_label(group))

    def check(self, source: str, items: list[Item]) -> None:
        """Refuse names that no image has.

        Raises:
            SourceError: The message lists the keys.
        """
        for role in ("label", "group"):
            name = getattr(self.columns, role)
            if name and not any(getattr(item, role) for item in items):
                msg = f"no image of {source!r} has a {role} {name!r} beside it; the keys of the .json files are "
                raise SourceError(msg + (self._list_keys() or "none"))

    def _list_keys(self) -> str:
        return join_first(list(map(repr, sorted(self.keys))), _NAMED_KEYS)

    def describe(self, n_shards: int) -> tuple[str, ...]:
        """Return where the labels are from, and which cannot be read."""
        origin = f"; labels from the .{self.kind} files" if self.kind else ""
        if self.kind == "json" and not self.columns.label and not self.keys & {*_LABEL_KEYS}:
            origin = f"; the .json files have the keys {self._list_keys()}; if one is the class, add {advise('label')}"
        count = format_plural(self.n_unread, "image")
        unread = f"the label of {count} cannot be read and is left out, such as that of {self.unread}"
        return (f"shards: {format_plural(n_shards, 'tar file')}{origin}", *[unread] * bool(self.n_unread))


def _read(shard: _Shard, kind: str, key: str) -> str:
    """Return the text of the file of a key; empty if it has none. Raises OSError and ValueError."""
    member = shard.sidecars.get(kind, {}).get(key)
    return shard.tar.read(member, _MOST_LABEL_BYTES).decode() if member else ""


def _to_text(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(value, str | int | float | None):
        msg = f"it is a {type(value).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - handled as JSON that is damaged
    return (
        "" if value is None else str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    )
