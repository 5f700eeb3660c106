"""What the names of files mean: junk or image, split and class.

Folders and archives share this, so that an archive gives the items of the folder
that it was made from.
"""

from collections.abc import Iterable, Sequence

from featx.errors import SourceError
from featx.items.manifest import Item
from featx.wording import to_text

#: What people call a split, and what it is called here.
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

#: Names that operating systems and file servers leave behind; some hold thumbnails.
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
    """Say why a file or folder of this name is left out.

    Args:
        name: The last part of its path.
        is_folder: Whether it is a folder.

    Returns:
        The reason, in the plural, as the manifest counts it; empty to keep it.
    """
    kind = "folders" if is_folder else "files"
    if name.casefold() in SYSTEM_NAMES:
        return f"system {kind}"
    return f"hidden {kind}" if name.startswith(".") else ""


def arrange_items(ids: Iterable[str], source: str) -> tuple[Item, ...]:
    """Give each file its split and its class from the folders it lies in.

    A source whose folders are all called like splits is `split/class/...`, any
    other is `class/...`; deeper folders mean nothing. Files beside the class
    folders have no class. The order is that of the code points of the ids, which
    for UTF-8 is the order of their bytes.

    Args:
        ids: Paths of the images, relative to the root, posix.
        source: What the user named, for messages.

    Returns:
        The items, ordered.

    Raises:
        SourceError: If folders of splits lie beside other folders of images.
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
    # One such name may be a class (trains among vehicles); two that hold folders are no classes.
    deep = named & {item_id.partition("/")[0] for item_id in ids if item_id.count("/") > 1}
    if len({SPLIT_NAMES[top.casefold()] for top in deep}) > 1:
        msg = (
            f"{source!r} has folders of splits ({', '.join(sorted(deep))}) beside others with images "
            f"({', '.join(map(repr, others[:5]))}); move those away"
        )
        raise SourceError(msg)
    return False


def find_wrapper(ids: Iterable[str]) -> str:
    """Find the single folders that an archive is wrapped in.

    The first is always taken for a wrapper, unless it is called like a split;
    further ones only while they hold nothing but folders, so that a class folder
    that is alone in there stays one.

    Args:
        ids: Paths of the images in the archive, posix.

    Returns:
        The prefix to remove, ending in `/`; empty if there is none.
    """
    rest, prefix = list(ids), ""
    while len(tops := {name.partition("/")[0] if "/" in name else "" for name in rest}) == 1:
        top = tops.pop()
        inside = [name[len(top) + 1 :] for name in rest]
        if not top or top.casefold() in SPLIT_NAMES or (prefix and not all("/" in name for name in inside)):
            break
        prefix, rest = f"{prefix}{top}/", inside
    return prefix
