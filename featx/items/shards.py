"""Shards: tar and Parquet files of many images each, named by a pattern, a folder or one of them."""

import glob
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featx.errors import SourceError, UsageError
from featx.items.folders import list_folder
from featx.items.layouts import find_split

SUFFIXES = (".tar", ".parquet")

#: `{000..003}` and `{a,b}`, as shells and webdataset expand them.
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")

#: How many shards a pattern may stand for.
MAX_SHARDS = 100_000

#: Folders of data sets of Hugging Face: `data/train-00000-of-00002.parquet`, `train/0000.parquet`.
_DATA, _MOST_DEEP = "data", 2


@dataclass(frozen=True, slots=True)
class Shards:
    """Files of one kind that hold images.

    Attributes:
        source: What the user named.
        kind: One of `SUFFIXES`.
        files: The files by their names, which are relative to the folder or the fixed part of the pattern; in order.
    """

    source: str
    kind: str
    files: Mapping[str, Path]

    def find_splits(self) -> dict[str, str]:
        """Find the split of each shard by the names of the file and its folders; none unless each shard has one."""
        splits = {name: _find_split(name) for name in self.files}
        return splits if all(splits.values()) else {}


def _find_split(name: str) -> str:
    *folders, file = name.split("/")
    return next(filter(None, map(find_split, (Path(file).stem, *reversed(folders)))), "")


def find_shards(source: str) -> Shards | None:
    """Find the shards that a source names; None if it names none.

    A folder that holds images is no folder of shards: its tables and archives are left out, as before.

    Args:
        source: A pattern such as `train-{000..003}.tar` or `data/*.parquet`, a folder, or a tar or Parquet file.

    Raises:
        SourceError: If shards of the pattern do not exist, or they are of several kinds.
        UsageError: If the pattern stands for too many.
    """
    path = Path(source)
    if path.is_dir():
        found = list(_walk(path, 0))
        base = path
        if not found or list_folder(source):
            return None
    elif path.exists():
        found, base = [path] if source.lower().endswith(SUFFIXES) else [], path.parent
    else:
        found, base = _expand(source)
    kinds = {file.suffix.lower() for file in found}
    if len(kinds) > 1:
        msg = f"{source!r} holds tar and Parquet files; name those of one kind, such as {os.path.join(base, '*.tar')!r}"  # noqa: PTH118 - as it was typed
        raise SourceError(msg)
    files = {Path(os.path.relpath(file, base)).as_posix(): file for file in found}
    return Shards(source, kinds.pop(), files) if kinds else None


def is_pattern(source: str) -> bool:
    """Return whether a source that does not exist is a pattern of shards."""
    return source.lower().endswith(SUFFIXES) and bool(_BRACES.search(source) or glob.has_magic(source))


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
    if not is_pattern(source):
        return [], Path()
    fixed = re.split(r"[{*?\[]", source, maxsplit=1)[0]
    base, found = Path(f"{fixed}x").parent, list[str]()
    for name in expand_braces(source):
        found += sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]  # noqa: PTH207 - the pattern may be absolute
    missing = [name for name in found if not Path(name).is_file()]
    if not found:
        msg = f"there is no file of the pattern {source!r}; change it, or name the folder"
        raise SourceError(msg)
    if missing:
        first = f"{len(missing):,} of its {len(found):,} shards, such as {missing[0]!r}, do not exist"
        msg = f"{source!r}: {first}; download them, or change the pattern"
        raise SourceError(msg)
    return [Path(name) for name in dict.fromkeys(found)], base


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
