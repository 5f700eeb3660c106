"""The meaning of folders' names: split, class or junk.

Folders and archives share these rules, so an archive has the same items as the folder
that it was made from.
"""

from collections.abc import Iterable, Sequence

from featx.errors import SourceError
from featx.items.manifest import Item
from featx.wording import to_text

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
        "__macosx",
        "@eadir",
        "lost+found",
        "$recycle.bin",
        "system volume information",
    }
)

NO_IMAGES = "files that are not images"


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


def arrange_items(ids: Iterable[str], source: str) -> tuple[Item, ...]:
    """Find the split and the class of each file from the folders that it lies in.

    If all top folders are named like splits, the layout is `split/class/...`, and
    otherwise `class/...`. Deeper folders have no meaning. Files outside the class
    folders have no class. Items are ordered by the code points of their ids, which
    for UTF-8 is the order of their bytes.

    Args:
        ids: Paths of the images, relative to the root, posix.
        source: The source's name, for messages.

    Returns:
        The items, ordered.

    Raises:
        SourceError: If there are both split folders and other folders of images.
    """
    ordered = sorted(ids)
    depth = 1 if _has_split_folders(ordered, source) else 0
    items = []
    for item_id in ordered:
        folders = item_id.split("/")[:-1]
        split = SPLIT_NAMES[folders[0].casefold()] if depth and folders else ""
        label = to_text(folders[depth]) if len(folders) > depth else ""
        items.append(Item(item_id, label=label, split=split))
    return tuple(items)


def _has_split_folders(ids: Sequence[str], source: str) -> bool:
    tops = {item_id.partition("/")[0] for item_id in ids if "/" in item_id}
    named = {top for top in tops if top.casefold() in SPLIT_NAMES}
    others = sorted(tops - named)
    if not others:
        return bool(named)
    # One such name may be a class (trains among vehicles); two that contain folders are not classes.
    deep = named & {item_id.partition("/")[0] for item_id in ids if item_id.count("/") > 1}
    if len({SPLIT_NAMES[top.casefold()] for top in deep}) > 1:
        msg = (
            f"{source!r} has split folders ({', '.join(sorted(deep))}) and other folders with images "
            f"({', '.join(map(repr, others[:5]))}); move the others elsewhere"
        )
        raise SourceError(msg)
    return False


def find_wrapper(ids: Iterable[str]) -> str:
    """Find the folders that an archive's content is wrapped in.

    A single top folder is always a wrapper, unless it is named like a split. A single
    folder inside it is a wrapper only if it holds nothing but folders, so that the only
    class folder of an archive stays a class.

    Args:
        ids: Paths of the images in the archive, posix.

    Returns:
        The prefix to remove, ending in `/`; empty if there is no wrapper.
    """
    rest, prefix = list(ids), ""
    while len(tops := {name.partition("/")[0] if "/" in name else "" for name in rest}) == 1:
        top = tops.pop()
        inside = [name[len(top) + 1 :] for name in rest]
        if not top or top.casefold() in SPLIT_NAMES or (prefix and not all("/" in name for name in inside)):
            break
        prefix, rest = f"{prefix}{top}/", inside
    return prefix
