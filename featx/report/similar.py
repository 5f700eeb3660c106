"""The items of a store that are most similar to some pictures."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones.loading import rebuild_backbone
from featx.errors import SourceError, SpecMismatchError
from featx.files import say_failures
from featx.golden import MAX_DRIFT, measure_drift
from featx.golden_features import embed_golden
from featx.heads.rows import FeatureRows
from featx.items.listing import list_sources
from featx.items.manifest import Reader
from featx.items.pictures import Picture
from featx.items.reading import Listing
from featx.items.thumbnails import format_thumbnails
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.prediction import embed_listing
from featx.report.contact_sheets import Tile, draw_contact_sheet, find_pictures, make_tile
from featx.store import FeatureStore
from featx.wording import escape_html, format_html_table

#: Neighbours by default, and the most pictures in a row and rows of a contact sheet.
TOP, MOST_COLUMNS, MOST_ROWS = 10, 12, 40

#: Neighbours that are named in one line of text, and results that a notebook shows.
_NAMED, _SHOWN = 3, 5


@dataclass(frozen=True, slots=True)
class Similar:
    """The items of a store that are most similar to one picture.

    Attributes:
        image: The picture, as the user named it; `image 3` for the fourth one without a path.
        ids: The items, the most similar first.
        similarities: float64 `(n,)`, cosines.
        labels, splits: Those of the items; empty where they have none.
        same_file: Whether each item has the same bytes as the picture.
        error: Why the picture cannot be read; empty if it can.
        reader: Reads the picture itself.
        store: The store, for the pictures in a notebook.
    """

    image: str
    ids: Sequence[str] = ()
    similarities: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    labels: Sequence[str] = ()
    splits: Sequence[str] = ()
    same_file: Sequence[bool] = ()
    error: str = ""
    reader: Reader | None = field(default=None, compare=False)
    store: FeatureStore | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        if self.error:
            return f"Similar({str(self.image)!r}, error={self.error!r})"
        nearest = zip(self.ids[:_NAMED], self.similarities, strict=False)
        more = f" and {len(self.ids) - _NAMED} more" if len(self.ids) > _NAMED else ""
        return f"Similar({str(self.image)!r}: {', '.join(f'{name} {cosine:.3f}' for name, cosine in nearest)}{more})"

    def _repr_html_(self) -> str:
        """Show the items in a notebook, with their pictures where they are still there."""
        if self.error:
            return f"<p>{escape_html(f'{self.image}: {self.error}')}</p>"
        rows = list(zip(self.ids, (f"{one:.3f}" for one in self.similarities), self.labels, self.splits, strict=True))
        captions = [f"{cosine} {label}" for _, cosine, label, _ in rows]
        pictures = ""
        if self.store:
            with contextlib.suppress(SourceError):  # the table is there without them
                pictures = format_thumbnails(find_pictures(self.store), self.ids, captions)
        table = format_html_table(("image", "similarity", "label", "split"), rows, n_text=1)
        return f"<p>{escape_html(self.image)}</p>{pictures}{table}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        names = ("id", "similarity", "label", "split", "same_file")
        columns = (self.ids, self.similarities.tolist(), self.labels, self.splits, self.same_file)
        nearest = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return {"image": self.image, "error": self.error} if self.error else {"image": self.image, "nearest": nearest}


class SimilarList(list[Similar]):
    """Results of `find_similar`; a notebook shows the first of them."""

    def _repr_html_(self) -> str:
        more = f"<p>and {len(self) - _SHOWN:,} more</p>" if len(self) > _SHOWN else ""
        return f"<div>{''.join(one._repr_html_() for one in self[:_SHOWN])}{more}</div>"


def find_similar(
    store: FeatureStore | str | os.PathLike[str],
    images: Picture | Iterable[Picture],
    *,
    top: int = TOP,
    options: EmbedOptions = EMBED_DEFAULTS,
) -> SimilarList:
    """Find the items of a store that are most similar to some pictures.

    The pictures are embedded as the store was. An id of the store, unless it is also a path, takes its row instead.

    Args:
        store: The store, or its path.
        images: As in `Predictor.predict`, and ids of the store.
        top: Items for each picture; all if the store has fewer.
        options: How to run the network.

    Returns:
        One result for each picture: first for ids of the store, then for the others in their order. One that cannot
        be read has an error.

    Raises:
        StoreError: If there is no such store, or this machine computes other features than those in it.
        SourceError: If there is no picture.
        BackboneError: If the backbone cannot be built.

    Examples:
        >>> import featx
        >>> store = featx.FeatureStore("features/colour.h5")
        >>> found = featx.find_similar(store, store.ids[0], top=3)
        >>> found[0].same_file[0]
        True
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    listed = [images] if isinstance(images, str | os.PathLike) else images
    known = {name: row for row, name in enumerate(opened.ids.tolist())}
    own: list[int] = []
    if isinstance(listed, list | tuple):
        own = [known[one] for one in listed if _is_id(one, known)]
        listed = [one for one in listed if not _is_id(one, known)]
    found = []
    if own:
        queries = FeatureRows(opened.features, np.array(own, np.intp), opened.n_views)[:]
        names = [(str(opened.ids[row]), str(opened.sha256[row]), "") for row in own]
        found = _search(opened, names, queries, None, top)
    return SimilarList(found if own and not listed else found + _embed_and_search(opened, listed, top, options))


def _is_id(image: object, known: dict[str, int]) -> bool:
    return isinstance(image, str) and image in known and not Path(image).exists()


def _embed_and_search(store: FeatureStore, images: Any, top: int, options: EmbedOptions) -> list[Similar]:  # noqa: ANN401 - pictures of any kind
    listing, total, ahead = list_sources(images, options)
    spec, views = store.spec, [store.spec.views] if store.spec.views else []
    file = Path(store.backbone_file) if store.backbone_file else None
    backbone = rebuild_backbone(spec.backbone, spec.image, file, options.runtime)
    (golden,) = embed_golden(backbone, spec.image, store.golden.files)
    drift = measure_drift(store.golden, golden)
    if not drift <= MAX_DRIFT:
        msg = (
            f"{store.path} holds features that this machine does not reproduce: they differ by {drift:.1e} of their "
            f"range (limit {MAX_DRIFT:.0e}); install the versions that `featx info` lists, or embed again"
        )
        raise SpecMismatchError(msg)
    options.reporter.begin("embedding")
    names, vectors = [], [np.empty((0, store.dim), np.float32)]
    batches = embed_listing(listing, [backbone], [spec.image], options, total=total, views=views, ahead=ahead)
    with contextlib.closing(batches):
        for one, features in (row for batch in batches for row in batch):
            names.append((one.item.id, one.stamp.sha256 if one.stamp else "", one.reason))
            vectors += [rows.reshape(1, -1) for rows in features]
    return _search(store, names, FeatureRows(np.concatenate(vectors), views=store.n_views)[:], listing, top)


def _search(
    store: FeatureStore,
    names: Sequence[tuple[str, str, str]],
    queries: NDArray[np.float32],
    listing: Listing | None,
    top: int,
) -> list[Similar]:
    """Make the results for pictures: their names, sha256 and errors; `queries` has those without an error."""
    nearest = iter(zip(*store.nearest(queries, top), strict=True))
    found = []
    for name, sha256, reason in names:
        if reason:
            found.append(Similar(name, error=reason))
            continue
        rows, similarities = next(nearest)
        labels, splits = store.labels[rows].tolist(), store.splits[rows].tolist()
        same = (store.sha256[rows] == sha256).tolist()
        reader = listing.reader if listing else None
        found.append(
            Similar(name, store.ids[rows].tolist(), similarities, labels, splits, same, reader=reader, store=store)
        )
    return found


def draw_similar(found: Sequence[Similar], store: FeatureStore, path: Path, source: str = "") -> list[str]:
    """Draw pictures, each in a row with the items that are most similar to it, as a PNG file.

    Args:
        found: The results.
        store: The store.
        path: The file.
        source: Where the pictures of the store are now, if they were moved.

    Returns:
        What the user should know: which pictures the sheet lacks.

    Raises:
        SourceError: If the pictures of the store are gone, or none of the named ones can be read.
        BundleError: If the file cannot be written.
    """
    shown = [one for one in found if not one.error][:MOST_ROWS]
    if not shown:
        return ["no contact sheet is written, since none of the pictures can be read"]
    reader = find_pictures(store, source)
    tiles: list[Tile] = []
    for one in shown:
        tiles.append(make_tile(one.reader or reader, one.image, ("query", one.image)))
        nearest = list(zip(one.ids, one.similarities, one.labels, one.same_file, strict=True))
        for name, similarity, label, same in nearest[: MOST_COLUMNS - 1]:
            lines = (f"{similarity:.3f} {label}", name, *(["the same file"] if same else []))
            tiles.append(make_tile(reader, name, lines))
    columns = min(MOST_COLUMNS, 1 + len(shown[0].ids))
    title = f"the nearest of {len(store):,} items of {store.path.name} to each query"
    with say_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_contact_sheet(tiles, title, path, columns=columns)
    notes = []
    if columns <= len(shown[0].ids):
        notes.append(f"the contact sheet shows the first {columns - 1} items of each query")
    n_read = sum(not one.error for one in found)
    return notes + (
        [f"the contact sheet shows the first {MOST_ROWS} of {n_read:,} queries"] if n_read > MOST_ROWS else []
    )
