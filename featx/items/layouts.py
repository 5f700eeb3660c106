"""The meaning of folders' names: split, class, group or junk.

Folders and archives share these rules, so an archive has the same items as the folder
that it was made from.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from featx.errors import SourceError, UsageError
from featx.items.manifest import SPLITS, Item
from featx.items.names import normalise_label
from featx.wording import join_first, to_printable

#: Common names of splits, and what each is called here.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}

#: Names of files and folders that operating systems and file servers create; some hold thumbnails.
SYSTEM_NAMES = frozenset(
    {
        ".ds_store",
        "thumbs.db",
        "desktop.ini",
        "dicomdir",
        "__macosx",
        "@eadir",
        "lost+found",
        "$recycle.bin",
        "system volume information",
    }
)

NO_IMAGES = "files that are not images"
UNREADABLE = "files of unknown kind that cannot be read"

#: What a level of folders may mean. A level `*` is ignored.
LEVELS = ("split", "class", "group", "*")

#: The layout of a source whose folders mean nothing.
FLAT = "flat"

#: Words that often stand next to the name of a split, as in `training_set`, `seg_train` or `test-images`.
_PLAIN_WORDS = frozenset(
    {"all", "data", "dataset", "files", "final", "full", "image", "images", "img", "imgs", "new", "photos", "pictures"}
    | {"raw", "samples", "seg", "set", "sets", "split", "subset", "the"}
)

#: A word such as `trainset` or `testdata`.
_GLUED = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_NAMES)})(sets?|data|images|imgs)(?![a-z])")

#: A word that begins or ends with the name of a split, and short forms: `mytrain`, `flowers_tr`.
_LOOSE = re.compile(
    "(?:.*(?:(?P<train>train|training)|(?P<val>val|valid|validation)|(?P<test>test|testing))"
    "|(?:(?P<train_>train|trn|tr$)|(?P<val_>valid|va$)|(?P<test_>test|tst|te$|ts$)).*)"
)

#: How many names of one level, and how many lines, a drawing shows.
_SHOWN_NAMES = 5
_SHOWN_LINES = 8


@dataclass(slots=True)
class Folder:
    """A folder of images.

    Attributes:
        n_images: Number of images directly inside.
        folders: The folders inside that hold images at any depth, by name.
    """

    n_images: int = 0
    folders: "dict[str, Folder]" = field(default_factory=dict)


def find_junk_reason(name: str, *, is_folder: bool) -> str:
    """Return why a file or folder of this name is left out.

    Args:
        name: The last part of its path.
        is_folder: Whether it is a folder.

    Returns:
        The reason, in the plural, under which the manifest counts it; empty to keep it.
    """
    kind = "folders" if is_folder else "files"
    if name.casefold() in SYSTEM_NAMES:
        return f"system {kind}"
    return f"hidden {kind}" if name.startswith(".") else ""


def parse_layout(text: str) -> tuple[str, ...]:
    """Read a layout such as `split/class`: the meaning of each level of folders, from the top.

    Returns:
        The levels; none for `flat`.

    Raises:
        UsageError: If a level is unknown, or a meaning occurs twice.
    """
    if text == FLAT:
        return ()
    levels = tuple(text.strip("/").split("/"))
    if set(levels) - set(LEVELS) or any(levels.count(level) > 1 for level in LEVELS[:-1]):
        msg = (
            f"the layout {text!r} is not known; write what each level of folders means, from the top: split, class, "
            f"group, or * for a level to ignore, each at most once except *, such as split/class; or {FLAT}"
        )
        raise UsageError(msg)
    return levels


def format_layout(levels: Sequence[str]) -> str:
    """Write levels in the form that `parse_layout` reads."""
    return "/".join(levels) or FLAT


def split_words(name: str) -> list[str]:
    """Return the words of a name in lower case: `TrainSet_2` and `trainset2` have `train`, `set` and `2`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    return re.findall(r"[^\W\d_]+|\d+", _GLUED.sub(r"\1 \2", spaced))


@lru_cache(maxsize=2**16)
def find_split(name: str) -> str:
    """Return the split that a folder's name contains, such as `train` for `training_set`; empty if there is none."""
    found = {SPLIT_NAMES[word] for word in split_words(name) if word in SPLIT_NAMES}
    if found == {"train", "val"} or "trainval" in split_words(name):
        return "train"  # for both, as in Pascal VOC: validation is drawn from it
    return found.pop() if len(found) == 1 else ""


def guess_split(name: str) -> str:
    """Return the split that a name may stand for where folders are known to be splits: `train` for `flowers_tr`."""
    found = {
        split.rstrip("_")
        for word in split_words(name)
        if (match := _LOOSE.fullmatch(word))
        for split, part in match.groupdict().items()
        if part
    }
    if any("trainval" in word for word in split_words(name)):
        return "train"  # as in find_split
    return find_split(name) or (found.pop() if len(found) == 1 else "")


def find_affixes(name: str) -> frozenset[str]:
    """Return the words of a split's name that carry a meaning of their own: `station` for `train_station`."""
    words = {word for word in split_words(name) if not word.isdigit()}
    return frozenset(words - SPLIT_NAMES.keys() - _PLAIN_WORDS - {"trainval"})


def is_plain_name(name: str) -> bool:
    """Return whether a name says only that there are images, or which split they are: `images`, `test_data`."""
    return bool(name) and not find_affixes(name) and not name.isdigit()


def quote(text: str) -> str:
    """Return a text as it is typed in a shell."""
    return to_printable(shlex.quote(text))


def build_tree(ids: Iterable[str]) -> Folder:
    """Build the tree of folders that hold images.

    Args:
        ids: Paths of the images, posix.
    """
    tree = Folder()
    for path, n_images in Counter(item_id.rpartition("/")[0] for item_id in ids).items():
        folder = tree
        for name in path.split("/") if path else ():
            folder = folder.folders.setdefault(name, Folder())
        folder.n_images = n_images
    return tree


def merge_folders(folders: Iterable[Folder]) -> Folder:
    """Merge folders, and those inside that have the same name."""
    merged = Folder()
    inside: dict[str, list[Folder]] = {}
    for folder in folders:
        merged.n_images += folder.n_images
        for name, inner in folder.folders.items():
            inside.setdefault(name, []).append(inner)
    merged.folders = {name: merge_folders(parts) for name, parts in inside.items()}
    return merged


def find_prefix(tree: Folder, levels: Sequence[str]) -> str:
    """Return the path of the folders that hold all images and that a layout ignores, ending in `/` if there are any.

    The ids of items do not contain it, so that an archive with such a folder around its content has
    the ids of the content.
    """
    prefix = ""
    for level in levels:
        if level != "*" or tree.n_images or len(tree.folders) != 1:
            break
        ((name, tree),) = tree.folders.items()
        prefix += f"{name}/"
    return prefix


def arrange_items(ids: Iterable[str], levels: Sequence[str], source: str) -> tuple[Item, ...]:
    """Give each image the split, class and group of the folders that it lies in.

    Folders below the last level have no meaning. An image that lies above a level has no value for it. Items are
    ordered by the code points of their ids, which for UTF-8 is the order of their bytes.

    Args:
        ids: Paths of the images, relative to the first level, posix.
        levels: The layout.
        source: The source's name, for messages.

    Returns:
        The items, ordered.

    Raises:
        SourceError: If a folder at the level of splits is not named like one, or no image lies in a class folder
            although the layout has a level for it.
    """
    meanings: dict[str, tuple[str, str, str]] = {}
    items = []
    for item_id in sorted(ids):
        folder = item_id.rpartition("/")[0]
        if folder not in meanings:
            meanings[folder] = _interpret(folder, levels, source)
        label, split, group = meanings[folder]
        items.append(Item(item_id, label, split, group))
    return tuple(items)


def _interpret(folder: str, levels: Sequence[str], source: str) -> tuple[str, str, str]:
    """Return the class, split and group of the images in a folder."""
    names = dict(zip(levels, folder.split("/") if folder else (), strict=False))
    split = names.get("split", "")
    if split and not guess_split(split):
        path = "/".join([*folder.split("/")[: levels.index("split")], split])
        msg = (
            f"the layout {format_layout(levels)} reads the folder {split!r} of {source!r} as a split, but its name "
            f"contains none of {', '.join(SPLIT_NAMES)}; rename it, leave it out with --except "
            f"{quote(f'folder={path}')}, or change --layout"
        )
        raise SourceError(msg)
    return normalise_label(names.get("class", "")), guess_split(split), normalise_label(names.get("group", ""))


def drop_unlike_labels(items: tuple[Item, ...]) -> tuple[tuple[Item, ...], list[tuple[str, str]]]:
    """Drop the labels of a split whose only folder is not a class: `images` or `test` in `test/`, which train lacks.

    Returns:
        The items, and the splits concerned, each with the name of its folder.
    """
    labels: dict[str, set[str]] = {}
    for item in items:
        labels.setdefault(item.split, set()).add(item.label)
    trained = labels.pop("train", set())
    bare = [
        (split, label)
        for split, found in sorted(labels.items())
        for label in found
        if split and trained - {""} and len(found) == 1 and label not in trained and is_plain_name(label)
    ]
    dropped = {split for split, _ in bare}
    return tuple(replace(item, label="") if item.split in dropped else item for item in items), bare


def draw_tree(tree: Folder, levels: Sequence[str]) -> list[str]:
    """Draw what a layout means for a tree of folders, one line for each split folder."""
    at = levels.index("split") if "split" in levels and "class" not in levels[: levels.index("split")] else -1
    if at < 0:
        return [_draw_names([tree], len(levels))]
    folders, start = [tree], ""
    for _ in levels[:at]:
        start += _draw_level(folders)
        folders = [inner for folder in folders for inner in folder.folders.values()]
    splits = merge_folders(folders).folders
    lines = [
        f"{start}{name}/{_draw_names([folder], len(levels) - at - 1)} ({guess_split(name)}"
        + ("" if folder.folders else ", without classes")
        + ")"
        for name, folder in sorted(splits.items(), key=lambda pair: (SPLITS.index(guess_split(pair[0])), pair[0]))
    ]
    more = len(lines) - _SHOWN_LINES
    return lines[:_SHOWN_LINES] + ([f"and {more:,} more folders"] if more > 0 else [])


def list_merged(tree: Folder, levels: Sequence[str]) -> list[str]:
    """List the splits that several folders with different names are read as, for the user."""
    if "split" not in levels:
        return []
    for _ in range(levels.index("split")):
        tree = merge_folders(tree.folders.values())
    names: dict[str, list[str]] = {}
    for name in sorted(tree.folders):
        names.setdefault(guess_split(name), []).append(name)
    return [
        f"several folders are read as {split}: {join_first(found, _SHOWN_NAMES)}"
        for split in SPLITS
        if len(found := names.get(split, [])) > 1
    ]


def _draw_names(folders: Sequence[Folder], n_levels: int) -> str:
    """Draw the levels of a layout, and the level below them, which has no meaning."""
    drawn = ""
    for _ in range(n_levels + 1):
        drawn += _draw_level(folders)
        folders = [inner for folder in folders for inner in folder.folders.values()]
    return drawn


def _draw_level(folders: Sequence[Folder]) -> str:
    names = sorted({name for folder in folders for name in folder.folders})
    more = [f"{len(names) - _SHOWN_NAMES:,} more"] if len(names) > _SHOWN_NAMES else []
    if len(names) == 1:
        return f"{names[0]}/"
    return f"{{{', '.join([*names[:_SHOWN_NAMES], *more])}}}/" if names else ""
