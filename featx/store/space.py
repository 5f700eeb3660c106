"""Room on the disk: what a run will write, said before it starts, and refused if it cannot fit."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from featx.errors import StoreError
from featx.store.writing import StoreWriter

#: Below that, nobody wonders where the disk went.
_WORTH_SAYING_BYTES = 100_000_000

#: Beside the features: names, checksums and the file system's own.
_SPARE_BYTES = 1_000_000

logger = logging.getLogger(__name__)


def check_space(writers: Sequence[StoreWriter], n_items: int, n_new: int) -> None:
    """Say how large stores will be, if that is much, and refuse to begin what the disk has no room for.

    While a store is sealed, the disk holds the rows of the run beside the file that is made of them, and an older
    store as well: so much must be free, not the size of the store alone.

    Args:
        writers: The stores, in one folder.
        n_items: Items that each will hold.
        n_new: How many of these it does not hold already, at most.

    Raises:
        StoreError: If less is free.
    """
    if not n_new:
        return
    item_bytes = sum(writer.row_bytes for writer in writers)
    unwritten = sum(writer.row_bytes * max(0, n_new - writer.n_unfinished) for writer in writers)
    store_bytes, needed = n_items * item_bytes, n_items * item_bytes + unwritten + _SPARE_BYTES
    folder = writers[0].path.parent
    free = shutil.disk_usage(_find_existing(folder)).free
    size = f"{n_items:,} items of {_show(item_bytes)} each: {_show(store_bytes)} in {folder}"
    if needed > free:
        msg = (
            f"{size}, and {_show(needed)} while it is written; only {_show(free)} are free there: make room, name "
            f"another disk by --features, or store less (fewer --views, another --pooling, --dtype float16)"
        )
        raise StoreError(msg)
    if store_bytes > _WORTH_SAYING_BYTES:
        logger.warning("%s, and up to %s while it is written; %s are free", size, _show(needed), _show(free))


def _find_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _show(n_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"
