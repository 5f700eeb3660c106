"""The layout of a source that does not state one, inferred from the names of its folders.

Where the names fit two layouts, the error names both, since a wrong guess would be trained on in silence.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from featx.errors import SourceError
from featx.items.layouts import (
    SPLIT_NAMES,
    Folder,
    find_affixes,
    find_prefix,
    find_split,
    format_layout,
    guess_split,
    is_plain_name,
    merge_folders,
    quote,
)
from featx.wording import join_first

#: Fewer shared names than this are not the sign of a second level of classes: one of them may be `images`.
_LEAST_SHARED = 2

#: Share of the folders that must have shared names.
_MOSTLY = 2 / 3

_SHOWN_NAMES = 3

#: Names of folders of images, and of what belongs to these image by image, without case, blanks and marks.
_IMAGES = {"image", "images", "img", "imgs", "input", "inputs", "jpegimages", "photo", "photos", "pictures", "rgb"}
_MASKS = {"annotation", "annotations", "depth", "groundtruth", "gt", "label", "labels", "mask", "masks"} | {
    "segmentation",
    "segmentationclass",
    "segmentationobject",
    "segmentations",
    "target",
    "targets",
}


class AmbiguousLayoutError(SourceError):
    """Folders that all contain the same folders, so that either level may name the classes.

    Attributes:
        upper: The layout in which the upper level names them, as it was read before this was an error.
    """

    def __init__(self, message: str, upper: str) -> None:
        super().__init__(message)
        self.upper = upper


def infer_layout(tree: Folder, source: str, *, has_labels: bool = False) -> tuple[str, ...]:
    """Infer what each level of folders means.

    A folder that holds everything else is looked through at any depth, except a split, and except a folder with
    images of its own and at most one folder: that is a class.

    Args:
        tree: The folders.
        source: The source's name, for messages.
        has_labels: Whether the classes come from elsewhere, so that no level needs to name them.

    Returns:
        The levels.

    Raises:
        SourceError: If the folders fit several layouts.
    """
    root = tree
    ignored: tuple[str, ...] = ()
    while inside := _look_through(tree):
        ignored, tree = (*ignored, "*"), inside
    if not tree.folders:
        return ()
    if _are_splits(tree.folders):
        ignored = (*ignored, "split", *["*"] * _count_wrappers(tree.folders, source))
        classes = merge_folders(tree.folders.values())
        for _ in range(ignored[::-1].index("split")):
            classes = merge_folders(classes.folders.values())
    else:
        _refuse_others(tree, find_prefix(root, ignored), source)
        classes = tree
    below = merge_folders(classes.folders.values())
    _refuse_masks(root, ignored, source)
    if "split" not in ignored and len(_name_splits(below.folders)) > 1 and _are_splits(below.folders):
        _refuse_loose_images(classes, ignored, source)
        if not has_labels:
            _refuse_classes_below(classes, ignored, source)
        return (*ignored, "class", "split")
    if not has_labels:
        _refuse_second_level(classes, ignored, find_prefix(root, ignored), source)
        _refuse_splits_in_names(classes.folders, ignored, source)
    return (*ignored, "class")


def find_deeper_classes(tree: Folder, levels: tuple[str, ...]) -> str:
    """Find a sign that the classes lie one level deeper: class folders that hold only folders, and several of them.

    Returns:
        The path of an example from the level of the classes; empty if there is no such sign.
    """
    if "class" not in levels or levels[-1] != "class":
        return ""
    for _ in levels[:-1]:
        tree = merge_folders(tree.folders.values())
    classes = tree.folders
    if not classes or any(folder.n_images for folder in classes.values()):
        return ""
    if all(len(folder.folders) == 1 for folder in classes.values()):
        return ""
    first = min(name for name, folder in classes.items() if len(folder.folders) > 1)
    return f"{first}/{min(classes[first].folders)}"


def _look_through(tree: Folder) -> Folder | None:
    """Return the content of a single folder that wraps everything else; None if there is no such folder."""
    return None if any(map(_is_split, tree.folders)) else _find_wrapped(tree)


def _is_split(name: str) -> bool:
    return name.casefold() in SPLIT_NAMES


def _find_wrapped(tree: Folder) -> Folder | None:
    """Return the content of the only folder, unless that is a class: it has images and at most one folder."""
    if tree.n_images or len(tree.folders) != 1:
        return None
    (inside,) = tree.folders.values()
    is_class = not inside.folders or (inside.n_images and len(inside.folders) == 1)
    return None if is_class else inside


def _are_splits(folders: Mapping[str, Folder]) -> bool:
    """Return whether all folders are splits.

    A name with other words is one only if the folders inside are named alike, or if there are
    several splits and the other words are common or the same: `train_station` and `test_tube` are classes.
    """
    if not folders or not all(map(find_split, folders)):
        return False
    if all(map(_is_split, folders)):
        return True
    deep = [folder for folder in folders.values() if folder.folders]
    if len(deep) > 1 and _find_shared(deep):
        return True
    affixes = {find_affixes(name) for name in folders}
    return len(_name_splits(folders)) > 1 and (len(affixes) == 1 or not frozenset().union(*affixes))


def _refuse_splits_in_names(folders: Mapping[str, Folder], ignored: tuple[str, ...], source: str) -> None:
    """Refuse class folders such as `cats_train`, `cats_test`, `dogs_train` and `dogs_test`.

    Raises:
        AmbiguousLayoutError: If several names occur with the same several splits.
    """
    splits: dict[frozenset[str], set[str]] = {}
    for name in folders:
        splits.setdefault(find_affixes(name), set()).add(find_split(name))
    held = next(iter(splits.values()), set())
    if min(len(splits), len(held)) < _LEAST_SHARED or "" in held or any(found != held for found in splits.values()):
        return
    first, *_, last = sorted(folders)
    upper = format_layout((*ignored, "class"))
    msg = (
        f"the folders of {source!r}, such as {first!r} and {last!r}, are named after a class and a split: move them "
        f"into split folders, such as {find_split(first)}/NAME, or write a table with a split column; if each "
        f"is a class, add --layout {quote(upper)}"
    )
    raise AmbiguousLayoutError(msg, upper)


def _name_splits(folders: Iterable[str]) -> set[str]:
    return {split for name in folders if (split := find_split(name))}


def _count_wrappers(splits: Mapping[str, Folder], source: str) -> int:
    """Count the levels that have a single folder in every split, as in `train/train/cats`."""
    level = {name: folder for name, folder in splits.items() if folder.folders}
    count = 0
    while level and all(map(_is_wrapped, level.values())):
        level = {
            f"{name}/{next(iter(folder.folders))}": next(iter(folder.folders.values()))
            for name, folder in level.items()
        }
        level = {name: folder for name, folder in level.items() if folder.folders}
        count += 1
    deeper = {name: inside for name, folder in level.items() if (inside := _find_wrapped(folder))}
    others = {inner for name, folder in level.items() if name not in deeper for inner in folder.folders}
    for name, inside in deeper.items():
        (inner,) = level[name].folders
        if inner not in others and others & inside.folders.keys():
            msg = (
                f"the split folders of {source!r} are nested differently: {f'{name}/{inner}'!r} holds only folders, "
                f"and {min(set(level) - set(deeper))!r} holds {_list(others)}; move what {f'{name}/{inner}'!r} holds "
                "one level up"
            )
            raise SourceError(msg)
    return count


def _is_wrapped(folder: Folder) -> bool:
    """Return whether the content of a split lies in one folder, which is not a class."""
    if folder.n_images or len(folder.folders) != 1:
        return False
    ((name, inside),) = folder.folders.items()
    return is_plain_name(name) if not inside.folders else not inside.n_images


def _refuse_others(tree: Folder, around: str, source: str) -> None:
    """Refuse split folders next to other folders; one such name may be a class (trains among vehicles)."""
    named = {name: folder for name, folder in tree.folders.items() if folder.folders and find_split(name)}
    others = sorted(name for name in tree.folders if not find_split(name))
    if others and len(_name_splits(named)) > 1 and _are_splits(named):
        msg = (
            f"{source!r} has split folders ({_list(named)}) and other folders with images "
            f"({_list(others)}); leave the others out with --except {quote(_leave_out(around, others))}, or move "
            "them elsewhere"
        )
        raise SourceError(msg)


def _refuse_loose_images(tree: Folder, above: tuple[str, ...], source: str) -> None:
    """Refuse class folders that hold split folders and also images outside of these."""
    loose = [name for name, folder in tree.folders.items() if folder.n_images]
    if loose:
        one, two = (format_layout((*above, *levels)) for levels in (("class", "split"), ("class",)))
        msg = (
            f"the class folders of {source!r} hold split folders, but {_list(loose)} also holds images directly: add "
            f"--layout {quote(one)} to leave these without a split, or --layout {quote(two)} to ignore the split "
            "folders"
        )
        raise SourceError(msg)


def _refuse_classes_below(tree: Folder, above: tuple[str, ...], source: str) -> None:
    """Refuse split folders inside other folders if they hold folders again, as in `fold1/train/cats`."""
    splits = merge_folders(tree.folders.values())
    below = merge_folders(splits.folders.values())
    if not below.n_images and not all(map(is_plain_name, below.folders)):
        upper, lower = _list(tree.folders), _list(below.folders)
        one, two = (format_layout((*above, *levels)) for levels in (("class", "split"), ("*", "split", "class")))
        msg = (
            f"{source!r} can be read in two ways, because its folders {upper} hold split folders with the folders "
            f"{lower}: add --layout {quote(one)} if {upper} are the classes, or --layout {quote(two)} if {lower} are"
        )
        raise AmbiguousLayoutError(msg, format_layout((*above, "class")))


def _refuse_second_level(tree: Folder, above: tuple[str, ...], around: str, source: str) -> None:
    """Refuse folders that all contain the same folders: either level may name the classes."""
    folders = tree.folders
    shared = _find_shared(list(folders.values()))
    if len(folders) < _LEAST_SHARED or len(shared) < _LEAST_SHARED or any(f.n_images for f in folders.values()):
        return
    upper, lower = _list(folders), _list(shared)
    first, second, third, fourth = (
        format_layout((*above, *levels))
        for levels in (("class",), ("*", "class"), ("group", "class"), ("split", "class"))
    )
    guessed = {name: guess_split(name) for name in folders if "split" not in above}
    named, others = [name for name in guessed if guessed[name]], [name for name in guessed if not guessed[name]]
    hint = ""
    if named and others:
        hint = f"; leave folders out with, for example, --except {quote(_leave_out(around, others))}"
    elif len({*guessed.values()}) > 1:
        hint = f"; --layout {quote(fourth)} if {upper} are splits"
    msg = (
        f"{source!r} can be read in two ways, because its folders {upper} contain the same folders, {lower}: add "
        f"--layout {quote(first)} if {upper} are the classes; --layout {quote(second)} if {lower} are the classes (or "
        f"{third} to also keep the images of each upper folder in one split){hint}"
    )
    raise AmbiguousLayoutError(msg, first)


def _refuse_masks(root: Folder, above: tuple[str, ...], source: str) -> None:
    """Refuse class folders that are named as images and their masks are, such as `images` and `labels`."""
    parents = {"": root}
    for _ in above:
        parents = {
            f"{path}{name}/": inner for path, folder in parents.items() for name, inner in folder.folders.items()
        }
    tree = merge_folders(parents.values())
    plain = {name: re.sub(r"[\W_]+", "", name.casefold()) for name in tree.folders}
    masks = {name for name in plain if plain[name] in _MASKS}
    if not masks or _IMAGES.isdisjoint(plain.values()) or set(plain.values()) - _IMAGES - _MASKS:
        return
    below = merge_folders(tree.folders.values()).folders
    levels = format_layout((*above, "class", *(["split"] if "split" not in above and _are_splits(below) else [])))
    others = [path + name for path, folder in parents.items() for name in masks & {*folder.folders}]
    msg = (
        f"{source!r} has the folders {_list(tree.folders)}, which do not name classes: leave out what belongs to the "
        f"images, such as masks, with --except {quote(_leave_out('', others))}; if they are the classes, add --layout "
        f"{quote(levels)}"
    )
    raise AmbiguousLayoutError(msg, levels)


def _find_shared(folders: list[Folder]) -> list[str]:
    """Return the names that most of the folders contain, if most of what they contain has such names."""
    counts = Counter(name for folder in folders for name in folder.folders)
    shared = {name for name, count in counts.items() if 2 * count > len(folders)}
    usual = sum(counts[name] for name in shared)
    everywhere = all(shared & folder.folders.keys() for folder in folders)
    return sorted(shared) if everywhere and usual >= _MOSTLY * counts.total() else []


def _leave_out(around: str, names: Iterable[str]) -> str:
    """Return the rule of `--except` for folders."""
    return f"folder={','.join(sorted(around + name for name in names))}"


def _list(names: Iterable[str]) -> str:
    return join_first(list(map(repr, sorted(names))), _SHOWN_NAMES)
