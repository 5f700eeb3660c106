"""Restoration of a damaged store from its images."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featx.backbones.loading import rebuild_backbone
from featx.embedding import EmbedResult, embed_layers
from featx.errors import FeatxError, SourceError, StoreError, UsageError
from featx.items import Manifest
from featx.items.sources import read_source_again
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.specs import ViewSpec
from featx.store.verification import Verification, drop_damage, verify_store
from featx.urls import find_url, hide_secrets


@dataclass(frozen=True, slots=True)
class Repair:
    """The damage of a store, and the run that repaired it.

    Attributes:
        verification: The damage that was found.
        result: The run that embedded the lost items again; None if nothing was lost, or rows were only dropped.
    """

    verification: Verification
    result: EmbedResult | None

    def to_dict(self) -> dict[str, Any]:
        """Return the output of `featx repair --json`."""
        done = {"restored": self.result.new, "items_now": len(self.result.store)} if self.result else {}
        return {**self.verification.to_dict(), **done}


def repair_store(path: str | os.PathLike[str], *, drop: bool = False, options: EmbedOptions = EMBED_DEFAULTS) -> Repair:
    """Remove the damaged rows of a store, and embed their items again.

    The images are read from the source as it is now; rows that are sound are not computed
    again. The store is not touched before everything is done, so an interrupted run can be
    repeated and continues where it stopped.

    Args:
        path: The store.
        drop: Only remove the damaged rows; neither images nor backbone are needed.
        options: Options of the run.

    Returns:
        The damage and the repair; a sound store is left as it is.

    Raises:
        StoreError: If the store cannot be repaired; it is left as it is.
        SourceError: If the source is gone, or lacks items that the store holds soundly.
        BackboneError: If the backbone cannot be built.
        WeightsError: If the backbone has other weights now.

    Examples:
        >>> import featx
        >>> repair = featx.repair_store("features/colour.h5", drop=True)
        >>> repair.verification.damage
        ()
    """
    options.reporter.begin("checking")
    if find_url(path):
        msg = f"{hide_secrets(find_url(path))} is not on this machine; repair the original, and publish it again"
        raise UsageError(msg)
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
    network = rebuild_backbone(store.spec.backbone, store.spec.image, file, options.runtime)
    image = {name: value for name, value in store.spec.image.to_dict().items() if name not in {"height", "width"}}
    (result,) = embed_layers(
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
    return result


def _list_views(views: ViewSpec | None) -> dict[str, Any]:
    """Return the arguments of `embed` that make the same views again."""
    if views is None:
        return {}
    return {"views": views.count, "augmentation": views.augmentation, "view_seed": views.seed}


def _read_items(found: Verification) -> Manifest:
    """Read the items of a store from its source, without other items where the ids can be trusted."""
    store = found.store
    if store.path.suffix != ".h5":
        msg = f"{store.path} does not end in .h5, as stores must; rename it, then repair it"
        raise StoreError(msg)
    try:
        manifest = read_source_again(store.source, store.reading)
    except FeatxError as error:
        # A DataFrame cannot be brought back; its error says what to do.
        back = "or " if store.reading.get("frame") else "bring them back, or "
        back = "import the same files again, or " if store.spec.backbone.imported_from else back
        msg = (
            f"the images cannot be read again: {error}; {back}remove only the damaged rows with "
            f"`featx repair {store.path} --drop`"
        )
        raise SourceError(msg) from error
    names = {item.id for item in manifest.items}
    gone = [] if found.hopeless else [name for name in store.ids[~found.lost].tolist() if name not in names]
    if gone:
        msg = (
            f"{len(gone)} items of {store.path} are no longer in {store.source}, such as {gone[0]!r}, and repairing "
            f"from it would drop their sound rows; bring them back, or remove only the damaged rows with --drop"
        )
        raise SourceError(msg)
    if any(damage.part in {"items", "quarantine"} for damage in found.damage):
        return manifest
    known = {*store.ids.tolist(), *(name for name, *_ in store.quarantine)}
    return replace(manifest, items=tuple(item for item in manifest.items if item.id in known))
