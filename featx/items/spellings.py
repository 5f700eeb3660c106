"""Files under other spellings of their paths: backslashes, other suffixes, other case, folders of another machine."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from featx.items.formats import has_image_suffix
from featx.items.names import join_escapes, remove_invisible, to_native
from featx.wording import agree

#: Paths that at least one of the rewritings changes.
_REWRITTEN = re.compile(r"^[\s'\"]|\s$|^file:|^~|%|\\|[^\x00-\x7f]", re.IGNORECASE)

_ABSOLUTE = re.compile(r"/|[A-Za-z]:/")
_SHOWN = 5

_Differences = tuple[str, ...]
_NOTHING: tuple[str, ...] = ()


class _Listing:
    """The names in a folder."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    @cached_property
    def folded(self) -> dict[str, list[str]]:
        """The names by their form without case."""
        return _group(self.names, _fold)

    @cached_property
    def stems(self) -> dict[str, list[str]]:
        """The names of images by their form without case and suffix."""
        return _group(filter(has_image_suffix, self.names), lambda name: _fold(_cut_suffix(name)))


def _group(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _cut_suffix(name: str) -> str:
    return name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Found:
    """The ids of a table's files.

    Attributes:
        ids: The ids in the order of the paths; those of the real files, where these were found.
        missing: Indices of the paths whose files were not found.
        respelled: Indices of the paths whose files were found under another spelling.
        notes: Which spellings were used, and which paths fit no single file, for the user.
        spellings: The spellings that were used, and for how many files.
    """

    ids: list[str]
    missing: set[int]
    respelled: set[int]
    notes: list[str]
    spellings: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Spelling:
    """Another spelling of a path.

    Attributes:
        cleaned: The id of the path after `steps`.
        ids: The files that it may mean.
        steps: What was rewritten in the path.
        prefix: The folders of another machine that were removed.
        differences: How the names of the file and its folders differ.
    """

    cleaned: str
    ids: tuple[str, ...]
    steps: tuple[str, ...]
    prefix: str = ""
    differences: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        without = (f"without {self.prefix!r} at the start",) if self.prefix else ()
        return " and ".join((*self.steps, *without, *self.differences))


class Files:
    """The files below a folder; each folder is listed once."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._listings: dict[str, _Listing | None] = {}
        self._real: dict[str, tuple[str, _Differences] | None] = {}

    def __contains__(self, item_id: str) -> bool:
        folder, _, name = item_id.rpartition("/")
        listing = self._list(folder or ("/" if item_id.startswith("/") else ""))
        return name in listing.names if listing else os.path.lexists(self._locate_native(item_id))

    def list_names(self) -> list[str]:
        """Return the names in the folder itself, sorted."""
        listing = self._list("")
        return sorted(listing.names) if listing else []

    def locate(self, item_id: str) -> list[tuple[str, _Differences]]:
        """Return the files that an id may mean if case, Unicode form and suffix are free, and what differs."""
        folder, slash, name = item_id.rpartition("/")
        real = self._locate_folder(folder or slash)
        listing = self._list(real[0]) if real else None
        if real is None or listing is None:
            return []
        path, differences = real
        names = [name] if name in listing.names else listing.folded.get(_fold(name), [])
        if not names:
            names = listing.stems.get(_fold(_cut_suffix(name) if has_image_suffix(name) else name), [])
        return [(_join(path, other), _add(differences, _compare(name, other))) for other in sorted(names)]

    def _locate_native(self, item_id: str) -> str:
        return to_native(os.path.join(self._base, item_id))  # noqa: PTH118 - a Path for each row takes seconds

    def _list(self, folder: str) -> _Listing | None:
        """Return the names in a folder; None if it cannot be listed."""
        if folder not in self._listings:
            try:
                with os.scandir(self._locate_native(folder)) as entries:
                    self._listings[folder] = _Listing(join_escapes(entry.name) for entry in entries)
            except (OSError, ValueError):  # no such folder, or a NUL in its name
                self._listings[folder] = None
        return self._listings[folder]

    def _locate_folder(self, folder: str) -> tuple[str, _Differences] | None:
        """Return the real path of a folder; None if it does not exist, or several differ from it in their case."""
        if not folder.strip("/"):
            return folder, ()
        if folder not in self._real:
            parent, slash, name = folder.rpartition("/")
            real = self._locate_folder(parent or slash)
            listing = self._list(real[0]) if real else None
            self._real[folder] = None
            if real and listing:
                names = [name] if name in listing.names else listing.folded.get(_fold(name), [])
                if len(names) == 1:
                    self._real[folder] = _join(real[0], names[0]), _add(real[1], _compare(name, names[0]))
        return self._real[folder]


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name


def _add(differences: _Differences, difference: str) -> _Differences:
    return differences if not difference or difference in differences else (*differences, difference)


def _compare(written: str, real: str) -> str:
    """Return how a file's name differs from the name that a table has; empty if it does not."""
    if written == real:
        return ""
    if unicodedata.normalize("NFC", written) == unicodedata.normalize("NFC", real):
        return "in another Unicode form"
    old, suffix = written.rpartition(".")[2], real.rpartition(".")[2]
    if _fold(written) == _fold(real):
        is_suffix = has_image_suffix(real) and _cut_suffix(written) == _cut_suffix(real)
        return f"with .{suffix} instead of .{old}" if is_suffix else "in another case"
    return f"with .{suffix} instead of .{old}" if has_image_suffix(written) else f"with .{suffix} at the end"


def make_id(path: str, base: str) -> str:
    """Return the id of a path: relative to a normalised folder if it lies below that, otherwise absolute."""
    start = base if base.endswith(os.sep) else base + os.sep
    full = os.path.normpath(os.path.join(base, join_escapes(path)))  # noqa: PTH118 - a Path for each row takes seconds
    return full.removeprefix(start).replace(os.sep, "/")


def find_files(paths: Sequence[str], make_id: Callable[[str], str], base: str, encoding: str) -> Found:
    """Find the files of a table; those that do not exist are searched for under the usual spellings.

    A spelling is used if it fits a single file that no other path names.

    Args:
        paths: The paths as the table has them.
        make_id: Returns the id of a path.
        base: The folder that the paths are relative to.
        encoding: The encoding of the table; empty if it has none.
    """
    ids = [make_id(path) for path in paths]
    files = Files(base)
    missing = [at for at, item_id in enumerate(ids) if item_id not in files]
    spelled = {at: _respell(paths[at], ids[at], make_id, files, encoding) for at in missing}
    claims: dict[str, set[str]] = {}
    for spelling in spelled.values():
        for item_id in spelling.ids:
            claims.setdefault(item_id, set()).add(spelling.cleaned)
    for item_id in claims.keys() & set(ids):
        claims[item_id].add(item_id)
    used = {at: spelling for at, spelling in spelled.items() if _is_clear(spelling, claims)}
    steps = {step for spelling in used.values() for step in spelling.steps}
    prefixes = sorted({spelling.prefix for spelling in used.values()} - {""}, key=len, reverse=True)
    for at in missing:
        if at in used:
            (ids[at],) = used[at].ids
        elif steps or prefixes:  # so that the id of a file stays the same when the file is deleted
            ids[at] = _clean(paths[at], make_id, encoding, steps, prefixes)
    spellings = Counter(spelling.name for spelling in used.values())
    lost = [at for at in missing if at not in used]
    unclear = [(paths[at], spelled[at].ids) for at in lost if spelled[at].ids]
    notes = _describe(spellings, len(ids), unclear)
    return Found(ids, set(lost), set(used), notes, dict(spellings))


def find_cause(item_id: str, base: str) -> str:
    """Return where a missing file lies instead, as a part of a message; empty if it is neither of the usual places."""
    files = Files(base)
    inside = next((name for name in files.list_names() if f"{name}/{item_id}" in files), "")
    if inside:
        return f"it is in the folder {str(Path(base, inside))!r}: "
    outside = next((path for prefix in _list_parents(item_id) if (path := item_id.removeprefix(prefix)) in files), "")
    return f"there is {outside!r}: remove {item_id.removesuffix(outside)!r} from the paths, or " if outside else ""


def _list_parents(item_id: str) -> list[str]:
    return [item_id[: match.end()] for match in re.finditer("/+", item_id)]


def _is_clear(spelling: _Spelling, claims: dict[str, set[str]]) -> bool:
    """Return whether a spelling fits one file, which no other path means."""
    if len(spelling.ids) != 1:
        return False
    (item_id,) = spelling.ids
    return spelling.cleaned == item_id or claims[item_id] == {spelling.cleaned}


def _respell(path: str, item_id: str, make_id: Callable[[str], str], files: Files, encoding: str) -> _Spelling:
    text, cleaned, steps = path, item_id, _NOTHING
    for text, steps in _rewrite(path, encoding):
        cleaned = make_id(text)
        if cleaned in files:
            return _Spelling(cleaned, (cleaned,), steps)
    for prefix in _list_prefixes(text):
        if found := files.locate(make_id(text.removeprefix(prefix)) if prefix else cleaned):
            return _Spelling(cleaned, tuple(real for real, _ in found), steps, prefix, found[0][1])
    return _Spelling(cleaned, (), steps)


def _rewrite(path: str, encoding: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a path after one rewriting after another, and what was rewritten up to there."""
    steps = _NOTHING
    for step, rewrite in _REWRITES.items() if _REWRITTEN.search(path) else ():
        if (text := rewrite(path)) != path:
            path, steps = text, (*steps, step)
            yield path, steps
    if encoding and not encoding.startswith("utf") and not path.isascii():
        raw = path.encode(encoding).decode("utf-8", "surrogateescape")
        yield raw, (*steps, "with the bytes of the table")


def _read_url(path: str) -> str:
    scheme, _, rest = path.partition(":")
    if scheme.casefold() != "file":
        return path
    rest = unquote(re.sub("^//(localhost(?=/))?", "", rest), errors="surrogateescape")
    return rest[1:] if re.match(r"/[A-Za-z]:", rest) else rest


#: What may be rewritten in a path, in this order.
_REWRITES: dict[str, Callable[[str], str]] = {
    "without blanks at the ends": str.strip,
    "without invisible characters": remove_invisible,
    "without quotes": lambda path: re.sub(r"""^(["'])(.*)\1$""", r"\2", path),
    "as file: URLs": _read_url,
    "with % codes decoded": lambda path: unquote(path, errors="surrogateescape"),
    "with the home folder for ~": os.path.expanduser,
    "with / instead of \\ in their paths": lambda path: path.replace("\\", "/"),
}


def _list_prefixes(path: str) -> list[str]:
    """Return the beginnings of a path that may belong to another machine, the shortest first."""
    if not _ABSOLUTE.match(path):
        return [""]
    return ["", *_list_parents(path)]


def _clean(path: str, make_id: Callable[[str], str], encoding: str, used: set[str], prefixes: Sequence[str]) -> str:
    """Return the id of a missing file, rewritten as those of its table that exist."""
    text = path
    for rewritten, steps in _rewrite(path, encoding):
        if used.issuperset(steps):
            text = rewritten
    return make_id(text.removeprefix(next((prefix for prefix in prefixes if text.startswith(prefix)), "")))


def _describe(spellings: Counter[str], n_files: int, unclear: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    notes = [
        f"{count:,} of {n_files:,} files {agree(count, 'exists', 'exist')} {name}; "
        f"{agree(count, 'it is', 'they are')} used"
        for name, count in spellings.most_common()
    ]
    if more := len(notes[_SHOWN:]):
        notes[_SHOWN:] = [f"and {more:,} more {agree(more, 'spelling', 'spellings')}"]
    if unclear:
        path, ids = unclear[0]
        fit = agree(len(unclear), "fits", "fit")
        shared = ", to which another path of the table leads too" if len(ids) == 1 else ""
        notes.append(
            f"{len(unclear):,} of {n_files:,} paths {fit} no single file: {path!r} may be "
            f"{' or '.join(map(repr, ids[:_SHOWN]))}{shared}; "
            f"correct {agree(len(unclear), 'it', 'them')}"
        )
    return notes
