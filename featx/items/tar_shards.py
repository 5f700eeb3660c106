"""Tar shards as webdataset writes them: images, each beside files of the same key that hold its label.

A key is the path of a member up to the first dot of its name, as in the format's specification. Each
shard is listed once, and its images are then read by their offset.
"""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from featx.errors import SourceError, UsageError
from featx.items.archives import ArchiveReader, Member, Tar, choose_images, open_tar
from featx.items.columns import Columns, advise
from featx.items.formats import has_image_suffix
from featx.items.manifest import FileStat, Item, Manifest
from featx.items.names import normalise_label
from featx.items.shards import Shards
from featx.wording import format_plural, join_first

#: Endings of the files with labels, in the order in which they are looked for.
_SIDECARS = ("cls", "json", "txt")
_LABEL_KEYS = ("label", "cls", "class")

_MOST_LABEL_BYTES = 2**20

#: Members of a tar that show whether it is a shard or an archive of class folders.
_FIRST_MEMBERS = 200

_NAMED_KEYS = 12


class TarShardReader:
    """Reads the images of tar shards by ids such as `train-000.tar/a/0001.jpg`; opens a shard for each reading."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._readers: dict[str, ArchiveReader] = {}
        self._lock = threading.Lock()

    def stat(self, item_id: str) -> FileStat:
        """Return the image's size, and the later of its time and the shard's own.

        Raises:
            OSError: If there is no such shard, or it has no such image.
        """
        reader, name = self._find(item_id)
        return reader.stat(name)

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of the image, or all of them if `n_bytes` is None.

        Raises:
            OSError: If there is no such shard or image, or its bytes are not all there.
        """
        reader, name = self._find(item_id)
        return reader.read(name, n_bytes)

    def list_images(self, shard: str) -> "_Listed":
        """List a shard, and keep where its images are. Raises SourceError."""
        listed = _list_shard(self._files[shard])
        self._readers[shard] = ArchiveReader(
            _Opened(self._files[shard]), listed.images, self._files[shard].stat().st_mtime_ns
        )
        return listed

    def _find(self, item_id: str) -> tuple[ArchiveReader, str]:
        shard, name = split_id(item_id, ".tar")
        if shard not in self._files:
            msg = f"the source has no shard {shard!r}"
            raise FileNotFoundError(msg)
        with self._lock:
            if shard not in self._readers:
                try:
                    self.list_images(shard)
                except SourceError as error:
                    raise OSError(str(error)) from error
            return self._readers[shard], name


def split_id(item_id: str, suffix: str) -> tuple[str, str]:
    """Split an id after the name of its shard."""
    at = item_id.lower().find(f"{suffix}/")
    return (item_id[: at + len(suffix)], item_id[at + len(suffix) + 1 :]) if at >= 0 else ("", item_id)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A shard that is opened for each reading: a source may have more shards than a process may have open files."""

    path: Path

    def read(self, member: Member, n_bytes: int) -> bytes:
        """Return the first bytes of a member. Raises OSError."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(cast("int", member.where))
            return file.read(n_bytes)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The members of a shard.

    Attributes:
        tar: The shard.
        images: The images by their path.
        sidecars: The members with labels, by their ending and then by their key.
        junk: Why others are left out.
    """

    tar: Tar
    images: dict[str, Member]
    sidecars: dict[str, dict[str, Member]]
    junk: Counter[str]


def _list_shard(path: Path, most: int | None = None) -> _Listed:
    tar = open_tar(str(path), most)
    sidecars: dict[str, dict[str, Member]] = {}
    rest = []
    for member in tar.members:
        key, ending = _split_key(member.name)
        if ending in _SIDECARS:
            sidecars.setdefault(ending, {})["/".join(part for part in key.split("/") if part not in {"", "."})] = member
        else:
            rest.append(member)
    tar.members = rest
    return _Listed(tar, *_sort(tar, str(path), sidecars))


def _sort(
    tar: Tar, name: str, sidecars: dict[str, dict[str, Member]]
) -> tuple[dict[str, Member], dict[str, dict[str, Member]], Counter[str]]:
    images, junk = choose_images(tar, name)
    if sidecars:
        keys = {_split_key(path)[0] for path in images}
        if alone := sum(key not in keys for key in set().union(*sidecars.values())):
            junk["labels without an image"] += alone
    return images, sidecars, junk


def _split_key(path: str) -> tuple[str, str]:
    """Return the key of a member, and its ending in lower case."""
    folder, slash, name = path.rpartition("/")
    key, _, ending = name.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def is_shard(path: Path) -> bool:
    """Return whether a single tar is a shard and not an archive of class folders, by its first members.

    Images beside `.cls` files are those of a shard; `.json` and `.txt` may also lie in class folders.
    """
    try:
        members = open_tar(str(path), _FIRST_MEMBERS).members
    except SourceError:
        return False  # a compressed tar is read as an archive, which also reports damage
    endings: dict[str, set[str]] = {}
    for member in members:
        key, ending = _split_key(member.name.removeprefix("./"))
        kind = "image" if has_image_suffix(member.name) else ending
        endings.setdefault(key, set()).add(kind)
    beside = [(key, found) for key, found in endings.items() if "image" in found]
    return any("cls" in found or ("/" not in key and found & {*_SIDECARS}) for key, found in beside)


def read_tar_shards(shards: Shards, columns: Columns) -> Manifest:
    """List the images of tar shards.

    Args:
        shards: The shards.
        columns: `label` is a key of the `.json` files, or `cls` or `txt` for the files of this ending; `group`
            is a key of the `.json` files.

    Raises:
        SourceError: If a shard is damaged, or there are no images, or no labels where they are named.
        UsageError: If columns are named that shards do not have.
    """
    if columns.path or columns.split:
        msg = f"{shards.source!r} is made of tar shards, which have no columns of paths and splits; leave these out"
        raise UsageError(msg)
    reader, splits = TarShardReader(shards.files), shards.find_splits()
    items: list[Item] = []
    junk: Counter[str] = Counter()
    labels = _Labels(columns)
    for shard in shards.files:
        listed = reader.list_images(shard)
        junk.update(listed.junk)
        labels.choose(listed)
        for path in listed.images:
            item_id = f"{shard}/{path}"
            items.append(Item(item_id, split=splits.get(shard, ""), **labels.read(listed, path, item_id)))
    if not items:
        msg = f"the shards of {shards.source!r} hold no images; name shards that webdataset or `tar` wrote"
        raise SourceError(msg)
    labels.check(shards.source, {item.label for item in items}, {item.group for item in items})
    notes = [f"shards: {format_plural(len(shards.files), 'tar file')}{labels.describe()}", *labels.describe_unread()]
    named = {role: name for role, name in asdict(columns).items() if name is not None}
    return Manifest(
        tuple(items), reader, shards.source, dict(junk), {"columns": named} if named else {}, notes=tuple(notes)
    )


@dataclass(slots=True)
class _Labels:
    """Reads the labels and groups beside the images.

    Attributes:
        columns: What the user named.
        kind: Ending of the files with the labels; empty until one is found.
        keys: Keys of the `.json` files so far, without those of nested values.
        unread: The items whose label cannot be read, with the reasons.
    """

    columns: Columns
    kind: str = ""
    keys: Counter[str] = field(default_factory=Counter)
    unread: list[tuple[str, str]] = field(default_factory=list)

    def choose(self, listed: _Listed) -> None:
        """Choose the files with the labels, which are those of the first shard that has any."""
        wanted = self.columns.label
        if self.kind or wanted == "":
            return
        if wanted:
            self.kind = wanted if wanted in {"cls", "txt"} and wanted in listed.sidecars else "json"
            self.kind = self.kind if self.kind in listed.sidecars else ""
        else:
            self.kind = next((ending for ending in _SIDECARS if ending in listed.sidecars), "")

    def read(self, listed: _Listed, path: str, item_id: str) -> dict[str, str]:
        """Read the label and the group of an image; empty where they are missing or cannot be read."""
        key, found = _split_key(path)[0], {"label": "", "group": ""}
        members = {
            kind: listed.sidecars.get(kind, {}).get(key) for kind in {self.kind, "json" * bool(self.columns.group)}
        }
        for kind, member in members.items():
            if member is None:
                continue
            try:
                text = listed.tar.read(member, _MOST_LABEL_BYTES).decode()
                values = self._parse(text) if kind == "json" else {"label": text.strip()}
            except (OSError, ValueError, RecursionError) as error:
                self.unread.append((item_id, str(error)))
                continue
            found.update({role: value for role, value in values.items() if value})
        return {role: normalise_label(value) for role, value in found.items()}

    def _parse(self, text: str) -> dict[str, str]:
        record = json.loads(text)
        if not isinstance(record, dict):
            msg = "its JSON is not an object"
            raise ValueError(msg)  # noqa: TRY004 - handled like other JSON that is not a label's
        self.keys.update(record.keys() - self.keys.keys())
        keys = [self.columns.label] if self.columns.label else _LABEL_KEYS
        label = next((record[key] for key in keys if key in record), None) if self.kind == "json" else None
        return {"label": _to_text(label), "group": _to_text(record.get(self.columns.group or ""))}

    def check(self, source: str, labels: set[str], groups: set[str]) -> None:
        """Refuse names that no image has.

        Raises:
            SourceError: The message lists the keys.
        """
        for role, name, found in (("label", self.columns.label, labels), ("group", self.columns.group, groups)):
            if name and not any(found):
                have = f"their keys are {self._list_keys()}" if self.keys else "the shards have none"
                msg = f"no image of {source!r} has a {role} {name!r} in a .json file beside it; {have}"
                raise SourceError(msg)

    def _list_keys(self) -> str:
        return join_first(list(map(repr, sorted(self.keys))), _NAMED_KEYS)

    def describe(self) -> str:
        """Return where the labels are from."""
        if not self.kind:
            return ""
        named = self.kind != "json" or self.columns.label or any(key in self.keys for key in _LABEL_KEYS)
        if not named and self.keys:
            return f"; the .json files have the keys {self._list_keys()}; if one is the class, add {advise('label')}"
        return f"; labels from the .{self.kind} files"

    def describe_unread(self) -> list[str]:
        """Return a note about labels that cannot be read."""
        if not self.unread:
            return []
        first, reason = self.unread[0]
        where = f"such as {first!r} ({reason})"
        return [f"without a class: {format_plural(len(self.unread), 'image')} whose label cannot be read, {where}"]


def _to_text(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value).strip()
    msg = f"its label is a {type(value).__name__}"
    raise ValueError(msg)
