"""Planning shards: contiguous parts of what a run has to embed, made one by one, so that a plan takes no memory."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from featx.items.manifest import Item
from featx.prefetching import gather
from featx.store.shards import SHARD_BYTES

#: A shard has a multiple of so many items: whole batches of every runtime.
_STEP = 64

#: A worker that dies loses minutes and not hours.
_MOST_ITEMS = 4096

#: Each worker gets at least so many shards, so that none waits long for the last one.
_SHARDS_PER_WORKER = 8


@dataclass(eq=False, slots=True)
class Shard:
    """A part of the items that are to be embedded.

    Attributes:
        places: Place of each item in the manifest.
        items: The items.
        deaths: How many workers died while they embedded it.
        is_done: Whether it is written.
    """

    places: Sequence[int]
    items: Sequence[Item]
    deaths: int = 0
    is_done: bool = False

    def name(self, run: int, spec_digest: str) -> str:
        """Return the name of its file: the same for every worker that embeds these items in a run."""
        digest = hashlib.sha256(spec_digest.encode())
        for item in self.items:
            digest.update(item.id.encode("utf-8", "surrogateescape") + b"\0")
        return f"{run:06d}-{digest.hexdigest()[:16]}"

    def halve(self) -> list["Shard"]:
        """Cut it into two, to find the item on which workers die."""
        middle = len(self.items) // 2
        parts = (slice(None, middle), slice(middle, None))
        # Half of a shard is cut at its next death. A single item must cause all of its deaths itself.
        halves = [Shard(self.places[part], self.items[part], self.deaths - 1) for part in parts]
        for half in halves:
            half.deaths *= len(half.items) > 1
        return halves


def choose_size(n_items: int, n_workers: int, row_bytes: int) -> int:
    """Choose how many items a shard has.

    Args:
        n_items: Number of items to embed.
        n_workers: Number of workers.
        row_bytes: Size of an item's row, in bytes.
    """
    most = max(1, min(_MOST_ITEMS, SHARD_BYTES // row_bytes))
    size = min(most, math.ceil(max(1, n_items) / (n_workers * _SHARDS_PER_WORKER)))
    return _STEP * math.ceil(size / _STEP)


def plan(items: Iterable[tuple[int, Item]], size: int) -> Iterator[Shard]:
    """Plan shards.

    Args:
        items: The items that are to be embedded, each after its place in the manifest.
        size: Items of each shard but the last one.
    """
    for chunk in gather(items, size):
        places, chosen = zip(*chunk, strict=True)
        yield Shard(places, chosen)
