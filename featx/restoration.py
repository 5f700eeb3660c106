"""Restoring a damaged store from the images that it was made of."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featx.backbones.loading import rebuild_backbone
from featx.embedding import EmbedResult, embed_layers
from featx.errors import FeatxError, SourceError, StoreError
from featx.items import Manifest
from featx.items.sources import read_source_again
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.specs import ViewSpec
from featx.store.verification import Verification, drop_damage, verify_store


@dataclass(frozen=True, slots=True)
class Repair:
    """What was wrong with a store, and what was done.

    Attributes:
        checkup: What was found.
        embedding: The run that embedded the lost items again; None if there were none, or they were only dropped.
    """

    checkup: Verification
    embedding: EmbedResult | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx repair --json` prints."""
        done = {"restored": self.embedding.new, "items_now": len(self.embedding.store)} if self.embedding else {}
        return {**self.checkup.to_dict(), **done}


def repair_store(path: str | os.PathLike[str], *, drop: bool = False, options: EmbedOptions = EMBED_DEFAULTS) -> Repair:
    """Take the damaged rows out of a store, and embed their items again.

    The images are read from the source as it is now: those that the store holds soundly are not
    computed again. Nothing of the store is touched before all is done, so that a run that
    breaks off can be repeated, and goes on where it was.

    Args:
        path: The store.
        drop: Only take the rows out; neither images nor backbone are needed.
        options: How to run.

    Returns:
        What was found and done; a sound store is left as it is.

    Raises:
        StoreError: If the store cannot be repaired; it is left as it is.
        SourceError: If the source is gone, or lacks items that the store holds soundly.
        BackboneError: If the backbone cannot be built, or has other weights now.
    """
    options.reporter.begin("checking")
    found = verify_store(path, options.reporter.advance)
    if not found.damage:
        return Repair(found, None)
    if drop:
        return Repair(drop_damage(path), None)
    return Repair(found, _embed_again(found, options))


def _embed_again(found: Verification, options: EmbedOptions) -> EmbedResult:
    store = found.store
    manifest = _read_items(found)
    file = Path(store.backbone_file) if store.backbone_file else None
    network = rebuild_backbone(store.spec.backbone, store.spec.image, file)
    image = {name: value for name, value in store.spec.image.to_dict().items() if name not in {"height", "width"}}
    (embedding,) = embed_layers(
        manifest,
        network,
        image=image,
        dtype=store.spec.dtype,
        **_list_views(store.spec.views),
        name=store.path.name,
        folder=store.path.parent,
        salvage=True,
        options=options,
    )
    return embedding


def _list_views(views: ViewSpec | None) -> dict[str, Any]:
    """List the arguments of `embed` that give the same views again."""
    if views is None:
        return {}
    return {"views": views.count, "augmentation": views.augmentation, "view_seed": views.seed}


def _read_items(found: Verification) -> Manifest:
    """Read the items of a store from its source, and no others as far as their names are known."""
    store = found.store
    if store.path.suffix != ".h5":
        msg = f"{store.path} is not called .h5, as stores are; rename it, then repair it"
        raise StoreError(msg)
    try:
        manifest = read_source_again(store.source, store.reading)
    except FeatxError as error:
        msg = f"the images cannot be read again: {error}; `featx repair {store.path} --drop` only takes the damage out"
        raise SourceError(msg) from error
    names = {item.id for item in manifest.items}
    gone = [] if found.hopeless else [name for name in store.ids[~found.lost].tolist() if name not in names]
    if gone:
        msg = (
            f"{len(gone)} items of {store.path} are no more in {store.source}, such as {gone[0]!r}, and repairing from "
            f"it would drop their sound rows; bring them back, or only take the damage out with --drop"
        )
        raise SourceError(msg)
    if any(damage.part in {"items", "quarantine"} for damage in found.damage):
        return manifest
    known = {*store.ids.tolist(), *(name for name, *_ in store.quarantine)}
    return replace(manifest, items=tuple(item for item in manifest.items if item.id in known))
