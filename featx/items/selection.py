"""What a user states about a source: what its folders mean, where its classes are, and what to leave out."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from featx.errors import SourceError, UsageError
from featx.items.inference import find_deeper_classes, infer_layout
from featx.items.layouts import (
    SPLIT_NAMES,
    Folder,
    arrange_items,
    build_tree,
    draw_tree,
    drop_unlike_labels,
    find_prefix,
    find_split,
    format_layout,
    list_merged,
    merge_folders,
    parse_layout,
)
from featx.items.manifest import Item, Manifest
from featx.items.names import normalise_label
from featx.items.renaming import list_names, rename_labels
from featx.items.searching import find_labels
from featx.registry import find_closest, make_unknown_name_error
from featx.wording import join_first, to_printable

#: What `only` and `except_` can name.
KINDS = ("class", "split", "folder")

#: Why items are not in a manifest that `only` or `except_` made.
LEFT_OUT = "images not selected by --only or --except"

#: Layouts that are not recorded.
_PLAIN_LAYOUTS = {(), ("class",), ("split", "class")}

_SHOWN_PATHS = 3

#: Characters of an expression, which is compiled without a limit of time.
_MOST_CHARACTERS = 1000

#: How many known names an error lists.
_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to read a source: what its folders mean, where its classes are, and what to leave out.

    Attributes:
        layout: What each level of folders means, from the top: `split`, `class`, `group` or `*` for a level to
            ignore, such as `split/*/class`; or `flat`. If empty, the names of the folders decide. For folders and
            archives.
        label_pattern: Regular expression that is searched in each path; its group `label`, or its first group, is the
            class. If empty, the folders or the table name the classes.
        map_labels: Rules for the names of classes, or the new names by the old ones; see
            `featx.items.renaming.rename_labels`.
        only: What to keep, such as `class=cat,dog`, `split=train` or `folder=photos/2020`; several of one kind add up.
        except_: What to leave out, in the same form.
    """

    layout: str = ""
    label_pattern: str = ""
    map_labels: Sequence[str] | Mapping[str, str] = ()
    only: Sequence[str] = ()
    except_: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        for name in ("layout", "label_pattern"):
            if not isinstance(getattr(self, name), str):
                msg = f"{name} is {getattr(self, name)!r}; it must be text"
                raise UsageError(msg)
        for name in ("map_labels", "only", "except_"):
            value = getattr(self, name)
            if name == "map_labels" and isinstance(value, Mapping):
                _check_names(value)
                continue
            if not isinstance(value, str) and not all(isinstance(rule, str) for rule in value):
                msg = f"{name} is {value!r}; it must be a text, or a list of texts"
                raise UsageError(msg)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.layout:
            parse_layout(self.layout)
        if self.label_pattern:
            _check_pattern(self.label_pattern)
        for rule in (*self.only, *self.except_):
            kind, _, names = rule.partition("=")
            if kind not in KINDS or not names:
                msg = f"{rule!r} does not say what to keep or leave out; write class=NAME, split=NAME or folder=PATH"
                raise UsageError(msg)

    def to_reading(self, renamed: Mapping[str, str]) -> dict[str, Any]:
        """Return the options that differ from their defaults, in the form that `Manifest.reading` records.

        Args:
            renamed: What `map_labels` did. It replaces the rules: whoever reads the source again opens no file that
                a stranger may have named.
        """
        values = {**asdict(self), "map_labels": dict(sorted(renamed.items()))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value}


#: Options that state nothing: the names in the source decide.
AS_IT_IS = SourceOptions()


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The items of a folder or an archive.

    Attributes:
        items: The items; their ids are relative to `prefix`.
        prefix: The folders around everything that are not part of the ids, ending in `/` if there are any.
        notes: How the folders were read, for the user.
        options: The options that read the same items again.
    """

    items: tuple[Item, ...]
    prefix: str
    notes: tuple[str, ...]
    options: SourceOptions


def arrange(paths: Iterable[str], options: SourceOptions, source: str) -> Arrangement:
    """Arrange images by the layout that the options state, or else by the one that the folders' names show.

    Args:
        paths: Paths of the images, relative to the root of the source, posix.
        options: The options; only the layout and the folders to keep are applied here.
        source: The source's name, for messages.

    Raises:
        SourceError: If the folders fit several layouts, or the stated one does not fit.
        UsageError: If a folder to keep or to leave out does not exist.
    """
    paths = list(paths)
    kept = keep_folders(paths, options, source)
    whole, tree = build_tree(paths), build_tree(kept)
    has_labels = bool(options.label_pattern)
    levels = (
        parse_layout(options.layout) if options.layout else _infer_layout(whole, tree, source, has_labels=has_labels)
    )
    prefix = find_prefix(whole, levels)  # ids do not depend on what is left out
    inner = levels[prefix.count("/") :]
    items = arrange_items((path.removeprefix(prefix) for path in kept), inner, source)
    items, bare = drop_unlike_labels(items)
    if options.only or options.except_:
        tree = build_tree(prefix + item.id for item in _select(items, options, source)[0])
    notes = _describe_layout(tree, levels, options)
    notes += [f"the images of {split} have no class, since {label!r} is not a class of train" for split, label in bare]
    if "class" in levels and options.layout and not has_labels and not any(item.label for item in items):
        msg = (
            f"no image of {source!r} lies in a class folder of the layout {options.layout}; change --layout to fit "
            f"paths such as {min(kept)!r}"
        )
        raise SourceError(msg)
    if not options.layout and not _is_plain(whole, levels, inner):
        is_bare = not any(item.label for item in items)  # a stated level of classes must have some
        options = replace(options, layout=format_layout(levels[:-1] if is_bare else levels))
    return Arrangement(items, prefix, tuple(notes), options)


def _infer_layout(whole: Folder, kept: Folder, source: str, *, has_labels: bool) -> tuple[str, ...]:
    """Infer the layout of the whole source, or of what is kept of it if the whole fits none."""
    try:
        return infer_layout(whole, source, has_labels=has_labels)
    except SourceError:
        if whole == kept:
            raise
        return infer_layout(kept, source, has_labels=has_labels)


def _is_plain(tree: Folder, levels: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    """Return whether the same layout is inferred again even if folders are removed, so that it is not recorded."""
    for _ in levels[: len(levels) - len(inner)]:
        tree = merge_folders(tree.folders.values())
    exact = "split" not in inner or all(name.casefold() in SPLIT_NAMES for name in tree.folders)
    return inner in _PLAIN_LAYOUTS and exact


def _describe_layout(tree: Folder, levels: tuple[str, ...], options: SourceOptions) -> list[str]:
    is_plain = levels == ("class",) and not any(folder.folders for folder in tree.folders.values())
    if is_plain or not levels:
        return []  # the list of classes says it all
    notes = [f"layout: {format_layout(levels)}", *(f"  {line}" for line in draw_tree(tree, levels))]
    notes += list_merged(tree, levels)
    is_inferred = not options.layout and not options.label_pattern
    if is_inferred and (example := find_deeper_classes(tree, levels)):
        deeper = format_layout((*levels[:-1], "*", "class"))
        notes.append(
            f"the class folders hold only folders, such as {example}; if these are the classes, add --layout '{deeper}'"
        )
    return notes


def keep_folders(ids: Iterable[str], options: SourceOptions, source: str) -> list[str]:
    """Keep the images in the folders that `only` and `except_` allow.

    Raises:
        UsageError: If they name a folder without images.
        SourceError: If no image is left.
    """
    paths = list(ids)
    if not any(rule.startswith("folder=") for rule in (*options.only, *options.except_)):
        return paths
    known = {folder for path in paths for folder in _list_parents(path)}
    only, without = (_list_names(rules, "folder", known) for rules in (options.only, options.except_))
    kept = []
    for path in paths:
        parents = set(_list_parents(path))
        if (not only or parents & only) and not parents & without:
            kept.append(path)
    _check_left(kept, source)
    return kept


def choose_items(manifest: Manifest, options: SourceOptions) -> Manifest:
    """Apply the options to items: the splits and folders to keep, then the classes by pattern, by name, and to keep.

    Args:
        manifest: The items as their folders or their table describe them.
        options: The options; `layout` has been applied.

    Returns:
        The manifest of the items that are left, with notes about what was done.

    Raises:
        UsageError: If an option does not fit the items.
        SourceError: If the pattern does not fit some names, or no item is left.
    """
    items, notes, renamed = _select(manifest.items, options, manifest.source)
    junk = Counter(manifest.junk)
    if len(items) < len(manifest):
        junk[LEFT_OUT] += len(manifest) - len(items)
    reading = {**manifest.reading, **({"options": found} if (found := options.to_reading(renamed)) else {})}
    return replace(manifest, items=tuple(items), junk=dict(junk), notes=(*manifest.notes, *notes), reading=reading)


def _select(
    items: Sequence[Item], options: SourceOptions, source: str
) -> tuple[Sequence[Item], list[str], dict[str, str]]:
    """Return the items that the options keep, with their classes; notes about these; and the renamed classes."""
    items = _keep(items, options, "split", source)
    notes: list[str] = []
    renamed: dict[str, str] = {}
    if options.label_pattern:
        items, notes = _label_by_pattern(items, options.label_pattern)
    if options.map_labels:
        labels = {item.label for item in items if item.label}
        renamed, new = rename_labels(labels, options.map_labels)
        notes += new
        items = [replace(item, label=renamed.get(item.label, item.label)) for item in items]
        if left := labels - renamed.keys():
            notes.append(f"classes that --map-labels leaves as they are: {list_names(left)}")
    return _keep(items, options, "class", source), notes, renamed


def _keep(items: Sequence[Item], options: SourceOptions, kind: str, source: str) -> Sequence[Item]:
    field = {"class": "label", "split": "split"}[kind]
    known = {value for item in items if (value := getattr(item, field))}
    only, without = (_list_names(rules, kind, known) for rules in (options.only, options.except_))
    if not only and not without:
        return items
    kept = [
        item for item in items if (not only or getattr(item, field) in only) and getattr(item, field) not in without
    ]
    _check_left(kept, source)
    return kept


def _check_left(kept: Sequence[Any], source: str) -> None:
    if not kept:
        msg = f"--only and --except leave no image of {source!r}; remove some of these rules"
        raise SourceError(msg)


def _list_parents(path: str) -> list[str]:
    """Return the paths of all folders that an image lies in."""
    names = path.split("/")[:-1]
    return ["/".join(names[:depth]) for depth in range(1, len(names) + 1)]


def _list_names(rules: Iterable[str], kind: str, known: set[str]) -> set[str]:
    """Return the names that the rules of one kind list.

    Raises:
        UnknownNameError: If the source does not have one of them.
    """
    names: set[str] = set()
    for rule in rules:
        own, _, value = rule.partition("=")
        if own != kind:
            continue
        for part in [value] if value in known else value.split(","):
            name = part.strip().strip("/") if kind == "folder" else part.strip()
            spellings = (name, normalise_label(name), find_split(name) if kind == "split" else name)
            found = next((spelling for spelling in spellings if spelling in known), "")
            if not found:
                shown = [*find_closest(name, known), *sorted(known)[:_SHOWN_NAMES]]
                raise make_unknown_name_error(kind, name, dict.fromkeys(map(to_printable, shown)))
            names.add(found)
    return names


def _check_names(names: Mapping[Any, Any]) -> None:
    if not all(isinstance(name, str) and name.strip() for pair in names.items() for name in pair):
        msg = f"map_labels is {names!r}; it must give a new name, a text, for each old one"
        raise UsageError(msg)


def _check_pattern(pattern: str) -> None:
    if len(pattern) > _MOST_CHARACTERS:
        msg = f"--label-pattern {pattern[:20]!r}... has {len(pattern):,} characters; write at most {_MOST_CHARACTERS:,}"
        raise UsageError(msg)
    try:
        n_groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"--label-pattern {pattern!r} is not a valid expression: {error}"
        raise UsageError(msg) from error
    if not n_groups:
        msg = f"--label-pattern {pattern!r} has no group; put parentheses around the class, such as '([a-z]+)[^/]*$'"
        raise UsageError(msg)


def _label_by_pattern(items: Sequence[Item], pattern: str) -> tuple[list[Item], list[str]]:
    """Label items by their paths; a split in which no path matches has no classes.

    Raises:
        UsageError: If no path matches, or the search takes too long.
        SourceError: If a part of the paths does not match.
    """
    found = find_labels(pattern, [item.id for item in items])
    labelled = [replace(item, label=normalise_label(label.strip())) for item, label in zip(items, found, strict=True)]
    without = [item for item in labelled if not item.label]
    if len(without) == len(items):
        msg = f"--label-pattern {pattern!r} matches no image; write an expression for paths such as {items[0].id!r}"
        raise UsageError(msg)
    bare = {item.split for item in without} - {item.split for item in labelled if item.label} - {"train"}
    odd = [item.id for item in without if item.split not in bare]
    if odd:
        msg = (
            f"--label-pattern {pattern!r} does not match {len(odd):,} of {len(items):,} images, such as "
            f"{join_first(list(map(repr, odd)), _SHOWN_PATHS)}; change it, or leave these out with --except folder=PATH"
        )
        raise SourceError(msg)
    return labelled, [
        f"--label-pattern matches no image of {split or 'those without a split'}" for split in sorted(bare)
    ]
