"""Restoring a damaged store from the images that it was made of."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx.delivery.prediction import rebuild_backbone
from featx.embedding import Embedding, embed
from featx.items.sources import read_source_again
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.store.checking import Checkup, check_store, drop_damage


@dataclass(frozen=True, slots=True)
class Repair:
    """What was wrong with a store, and what was done.

    Attributes:
        checkup: What was found.
        embedding: The run that embedded the lost items again; None if there were none, or they were only dropped.
    """

    checkup: Checkup
    embedding: Embedding | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx repair --json` prints."""
        done = {"restored": self.embedding.new, "items_now": len(self.embedding.store)} if self.embedding else {}
        return {**self.checkup.to_dict(), **done}


def repair_store(path: str | os.PathLike[str], *, drop: bool = False, options: EmbedOptions = EMBED_DEFAULTS) -> Repair:
    """Take the damaged rows out of a store, and embed their items again.

    The images are read from the source as it is now, as `embed` does: unchanged ones that the
    store holds soundly are not computed again, and what changed since is brought up to date.

    Args:
        path: The store.
        drop: Only take the rows out; neither images nor backbone are needed.
        options: How to run.

    Returns:
        What was found and done; a sound store is left as it is.

    Raises:
        StoreError: If the store cannot be repaired; it is left as it is.
        SourceError: If the source is gone.
        BackboneError: If the backbone cannot be built.
        BundleError: If the backbone has other weights now.
    """
    found = check_store(path, options.progress)
    if not found.damage:
        return Repair(found, None)
    if drop:
        return Repair(drop_damage(path), None)
    return Repair(found, _embed_again(found, options))


def _embed_again(found: Checkup, options: EmbedOptions) -> Embedding:
    store = found.store
    # All that can fail comes before the store is touched.
    manifest = read_source_again(store.source, store.reading)
    file = Path(store.backbone_file) if store.backbone_file else None
    network = rebuild_backbone(store.spec.backbone, store.spec.image, file)
    image = {name: value for name, value in store.spec.image.to_dict().items() if name not in {"height", "width"}}
    aside = _take_out(found)
    (embedding,) = embed(
        manifest,
        network,
        image=image,
        dtype=store.spec.dtype,
        name=store.path.name,
        folder=store.path.parent,
        options=options,
    )
    if aside:
        aside.unlink()
    return embedding


def _take_out(found: Checkup) -> Path | None:
    """Drop what is damaged; where that is all, move the store aside until another has taken its place."""
    path = found.store.path
    if not found.hopeless:
        drop_damage(path)
        return None
    return path.rename(path.with_name(f"{path.name}.damaged"))
