"""Shards: tar and Parquet files of many images each, named by a pattern, a folder or one of them."""

import glob
import itertools
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from featx.errors import SourceError, UsageError
from featx.items.folders import list_folder
from featx.items.layouts import find_split
from featx.items.manifest import FileStat, Reader
from featx.items.opening import open_file
from featx.prefetching import prefetch
from featx.urls import find_url, hide_secrets

SUFFIXES = (".tar", ".parquet")

#: `{000..003}` and `{a,b}`, as shells and webdataset expand them.
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")

#: What stands for several files of a folder at a URL, where `?` begins the query.
_WILD = re.compile(r"[*\[]")

#: How many shards a pattern may stand for.
MAX_SHARDS = 100_000

#: Folders of data sets of Hugging Face: `data/train-00000-of-00002.parquet`, `train/0000.parquet`.
_DATA, _MOST_DEEP = "data", 2

#: Shards at URLs whose sizes are asked for at one time.
_ASKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A shard: its path or its URL, and what is known of one at a URL, as `Location.stat` returns it."""

    where: str
    known: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return hide_secrets(self.where)

    def open(self) -> tuple[IO[bytes], int, int]:
        """Open it, as `open_file` does. Raises SourceError."""
        return open_file(self.where, self.known)


@dataclass(frozen=True, slots=True)
class Shards:
    """Files of one kind that hold images: what the user named, one of `SUFFIXES`, and the files by relative names."""

    source: str
    kind: str
    files: Mapping[str, ShardFile]

    @property
    def is_remote(self) -> bool:
        """Whether they are at URLs."""
        return any(find_url(file.where) for file in self.files.values())

    def find_splits(self) -> dict[str, str]:
        """Find the split of each shard by the names of the file and its folders; none unless each shard has one."""
        splits = {}
        for name in self.files:
            *folders, file = name.split("/")
            words = map(find_split, (Path(file).stem, *reversed(folders)))
            splits[name] = next(filter(None, words), "")
        return splits if all(splits.values()) else {}


class ShardReader:
    """Reads images by ids such as `train-000.tar/0001.jpg`, with a reader for each shard, made when it is needed.

    Args:
        shards: The shards.
        make: Makes the reader of a shard.
        most: How many readers are kept; None for all.
    """

    def __init__(self, shards: Shards, make: Callable[[ShardFile], Reader], most: int | None = None) -> None:
        self._shards, self._make, self._most = shards, make, most
        self.is_remote = shards.is_remote and most is None  # those of Parquet are read by one thread at a time
        self.readers: dict[str, Reader] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process make the readers of shards for itself."""
        return ShardReader, (self._shards, self._make, self._most)

    def stat(self, item_id: str) -> FileStat:
        """Return size and time of an image. Raises OSError."""
        reader, name = self._find(item_id)
        return reader.stat(name)

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of an image, or all of them if `n_bytes` is None. Raises OSError."""
        reader, name = self._find(item_id)
        return reader.read(name, n_bytes)

    def _find(self, item_id: str) -> tuple[Reader, str]:
        end = item_id.lower().find(f"{self._shards.kind}/") + len(self._shards.kind)
        shard, name = item_id[:end], item_id[end + 1 :]
        if shard not in self._shards.files:
            msg = f"the source has no shard with {item_id!r}"
            raise FileNotFoundError(msg)
        with self._lock:
            if shard not in self.readers:
                try:
                    self.readers[shard] = self._make(self._shards.files[shard])
                except SourceError as error:
                    # A failure of the disk or the network may be gone in the next run.
                    raise OSError(getattr(error.__cause__, "errno", None), str(error)) from error
                if self._most and len(self.readers) > self._most:
                    del self.readers[next(iter(self.readers))]
            return self.readers[shard], name


def find_shards(source: str) -> Shards | None:
    """Find the shards that a source names; None if it names none.

    A folder that holds images is no folder of shards.

    Args:
        source: A pattern such as `train-{000..003}.tar` or `data/*.parquet`, a folder, or a tar or Parquet file.

    Raises:
        SourceError: If shards of the pattern do not exist or cannot be listed, or they are of several kinds.
        UsageError: If the pattern stands for too many.
    """
    if url := find_url(source):
        return _find_remote(url)
    path = Path(source)
    if path.is_dir():
        found, base = list(_walk(path, 0)), path
        found = [] if found and list_folder(source) else found
    elif path.exists():
        found, base = [path] if source.lower().endswith(SUFFIXES) and path.is_file() else [], path.parent
    else:
        found, base = _expand(source)
    files = {Path(os.path.relpath(file, base)).as_posix(): ShardFile(str(file)) for file in found}
    return _gather(source, str(base), files)


def _gather(source: str, base: str, files: Mapping[str, ShardFile]) -> Shards | None:
    """Put shards together by their names relative to the base; None if there are none. Raises SourceError."""
    kinds = {name[name.rindex(".") :].lower() for name in files}
    if len(kinds) > 1:
        msg = f"{source!r} holds tar and Parquet files; name those of one kind, such as {os.path.join(base, '*.tar')!r}"  # noqa: PTH118 - as it was typed
        raise SourceError(msg)
    return Shards(source, kinds.pop(), files) if kinds else None


def choose_shards(url: str, files: Mapping[str, tuple[int, int]]) -> Shards | None:
    """Choose the shards among the files of a folder at a URL, as `find_shards` does, by size and version by path."""
    found = {}
    for path, known in files.items():
        *folders, file = path.split("/")
        is_near = len(folders) <= _MOST_DEEP and all(name == _DATA or find_split(name) for name in folders)
        if is_near and file.lower().endswith(SUFFIXES) and not file.startswith("."):
            found[path] = ShardFile(f"{url.rstrip('/')}/{path}", known)
    return _gather(hide_secrets(url), hide_secrets(url), found)


def _find_remote(url: str) -> Shards | None:
    from featx.remote import open_location, say_unread

    pattern, mark, query = url.partition("?")
    if not pattern.lower().endswith(SUFFIXES):  # folders are listed by `featx.items.remote`
        return None
    base, name = _WILD.split(pattern.replace("{", "*"), maxsplit=1)[0].rpartition("/")[0], hide_secrets(url)
    folder = open_location(base)
    with say_unread(folder, SourceError):
        names = [one.removeprefix(f"{base}/") for one in expand_braces(pattern)]
        if f"{base}/{names[0]}" == pattern and not _WILD.search(pattern):
            stat = open_location(url).stat()
            return _gather(name, base, {names[0]: ShardFile(url, stat)} if stat[0] else {})  # ranges need a size
        wild = [one for one in names if _WILD.search(one)]
        if wild and folder.is_web:
            msg = f"{name!r} has wildcards, and web servers list no folders; name a range such as {{000..099}}"
            raise SourceError(msg)
        wheres = {one: f"{base}/{one}{mark}{query}" for one in names if one not in wild}
        answers = prefetch(_ask, wheres.values(), workers=_ASKED_AT_ONCE, ahead=_ASKED_AT_ONCE)
        known = dict(zip(wheres, answers, strict=True))
        for one in wild:
            known.update(folder.list_matches(one))
    _check_missing(name, list(known), [wheres[one] for one, stat in known.items() if stat is None])
    files = {one: ShardFile(f"{base}/{one}{mark}{query}", stat) for one, stat in known.items()}
    return _gather(name, base, files)


def _ask(url: str) -> tuple[int, int] | None:
    """Ask for size and version of a file; None if there is none. Raises OSError."""
    from featx.remote import open_location

    try:
        return open_location(url).stat()
    except FileNotFoundError:
        return None


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """List the shards directly in a folder, in `data`, and in folders that are named like splits."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # listing its images reports it
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            yield Path(entry.path)
        elif depth < _MOST_DEEP and (entry.name == _DATA or find_split(entry.name)) and entry.is_dir():
            yield from _walk(Path(entry.path), depth + 1)


def _expand(source: str) -> tuple[list[Path], Path]:
    """Return the files of a pattern, and the folder in front of its first variable part."""
    if not source.lower().endswith(SUFFIXES) or not (_BRACES.search(source) or glob.has_magic(source)):
        return [], Path()
    fixed = re.split(r"[{*?\[]", source, maxsplit=1)[0]
    base, found = Path(f"{fixed}x").parent, list[str]()
    for name in expand_braces(source):
        found += sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]  # noqa: PTH207 - the pattern may be absolute
    _check_missing(source, found, [name for name in found if not Path(name).is_file()])
    return [Path(name) for name in dict.fromkeys(found)], base


def _check_missing(source: str, found: Sequence[str], missing: Sequence[str]) -> None:
    if not found:
        msg = f"there is no file of the pattern {source!r}; change it, or name the folder"
        raise SourceError(msg)
    if missing:
        first = f"{len(missing):,} of its {len(found):,} shards, such as {hide_secrets(missing[0])!r}, do not exist"
        msg = f"{source!r}: {first}; download them, or change the pattern"
        raise SourceError(msg)


def expand_braces(pattern: str) -> list[str]:
    """Expand ranges such as `{000..003}` and lists such as `{a,b}`, the last one fastest.

    Raises:
        UsageError: If the pattern stands for more than `MAX_SHARDS` names.
    """
    choices = [_list_choices(match) for match in _BRACES.finditer(pattern)]
    if math.prod(map(len, choices)) > MAX_SHARDS:
        msg = f"the pattern {pattern!r} stands for more than {MAX_SHARDS:,} files; name fewer"
        raise UsageError(msg)
    fixed = _BRACES.sub("\0", pattern).split("\0")
    return [
        "".join(itertools.chain.from_iterable(zip(fixed, [*chosen, ""], strict=True)))
        for chosen in itertools.product(*choices)
    ]


def _list_choices(match: re.Match[str]) -> Sequence[str]:
    first, last, listed = match.groups()
    if listed is not None:
        return str(listed).split(",")
    begin, end = int(first), int(last)
    step = 1 if begin <= end else -1
    # As in shells: a range is padded where one of its ends is.
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 1
    numbers = itertools.islice(range(begin, end + step, step), MAX_SHARDS + 1)
    return [f"{number:0{width}d}" for number in numbers]
