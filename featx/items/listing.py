"""What to predict: pictures of any kind, and the paths of images and of folders, tables and archives of them."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeGuard

from featx.errors import SourceError, UsageError
from featx.items.columns import Columns
from featx.items.folders import FolderReader, list_folder
from featx.items.manifest import Item, Manifest, Reader
from featx.items.names import note_url
from featx.items.pictures import Picture, is_picture, make_item
from featx.items.reading import Listing
from featx.items.shards import find_shards
from featx.items.sources import ARCHIVE_SUFFIXES, TABLE_SUFFIXES, read_source
from featx.items.tables import open_reader
from featx.options import EmbedOptions
from featx.urls import find_path, find_url, hide_secrets

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_ADVICE = "name images or folders of images"
_NOTHING = f"there is nothing to predict; {_ADVICE}"

logger = logging.getLogger(__name__)


def list_sources(
    sources: Manifest | Picture | Iterable[Picture], options: EmbedOptions
) -> tuple[Listing, int, int | None]:
    """List the pictures that `Predictor.predict` takes; return their number, 0 if unknown, and `ahead` of `examine`."""
    if isinstance(sources, Manifest) or _are_paths(sources):
        manifest = sources if isinstance(sources, Manifest) else list_images(sources)
        return manifest, len(manifest), None
    pictures = _Pictures(sources)
    return pictures, pictures.count(), 2 * options.count_workers()


class _Pictures:
    """Pictures of any kind, read one after the other as they are needed.

    An iterator may close its files, or use its arrays again, when the next picture is taken from it.

    Attributes:
        reader: Reads those that are paths.
    """

    def __init__(self, sources: Any) -> None:  # noqa: ANN401 - what is neither a picture nor iterable gets an error
        self._sources = [sources] if is_picture(sources) else sources
        self.reader: Reader = FolderReader("")
        self._urls: dict[str, str] = {}
        if isinstance(sources, Mapping) or hasattr(sources, "columns") or not isinstance(self._sources, Iterable):
            kind = type(sources).__name__
            msg = (
                f"predict takes pictures or a list of pictures, not a {kind}; of a table, pass the column of the paths"
            )
            raise SourceError(msg)

    def count(self) -> int:
        """Return the number of pictures; 0 if it is not known."""
        return len(self._sources) if isinstance(self._sources, Sized) else 0

    @property
    def items(self) -> Iterator[Item]:
        """The items; a folder has several."""
        is_empty = True
        for number, picture in enumerate(self._sources):
            if isinstance(picture, str | os.PathLike):
                found = _list_path(os.fspath(picture), self._urls)
                if self._urls and isinstance(self.reader, FolderReader):
                    self.reader = open_reader("", self._urls, self._urls)
                yield from found
            else:
                yield make_item(f"image {number}", picture)
            is_empty = False
        if is_empty:
            raise SourceError(_NOTHING)


def _are_paths(sources: object) -> TypeGuard[Paths]:
    paths = [sources] if isinstance(sources, str | os.PathLike) else sources
    return isinstance(paths, list | tuple) and all(isinstance(path, str | os.PathLike) for path in paths)


def list_images(sources: Paths, *, root: Path | None = None, column: str = "") -> Manifest:
    """List images to predict: files as the user named them, and all images in folders; or a table, or an archive.

    Args:
        sources: Paths.
        root: For a table: the folder that its paths are relative to.
        column: For a table: its column of paths.

    Raises:
        SourceError: If there is nothing to predict, or a path is empty or a bundle.
        UsageError: If root or column are named, and the source is not a table.
    """
    named = [sources] if isinstance(sources, str | os.PathLike) else sources
    paths = [os.fspath(path) for path in named]
    if len(paths) == 1 and (root or column or _is_collection(paths[0])):
        return read_source(paths[0], root=root, columns=Columns(path=column or None))
    if root or column:
        msg = "--root and --path-column are for a table; name one table and nothing else"
        raise UsageError(msg)
    urls: dict[str, str] = {}
    items = tuple(item for path in paths for item in _list_path(path, urls))
    if not items:
        raise SourceError(_NOTHING)
    return Manifest(items, open_reader("", urls, urls), ", ".join(map(hide_secrets, paths)))


def _is_collection(path: str) -> bool:
    url = find_url(path)
    name = url.partition("?")[0] or path
    if name.lower().endswith(TABLE_SUFFIXES + ARCHIVE_SUFFIXES) and (url or Path(find_path(path)).is_file()):
        return True
    return not url and find_shards(os.fspath(find_path(path))) is not None


def _list_path(path: str, urls: dict[str, str]) -> list[Item]:
    """List the images of a path; where they are at URLs, add these by the images' ids."""
    path = os.fspath(find_path(path))
    if not path:
        msg = f"the path of an image is empty, which could mean any folder; {_ADVICE}"
        raise SourceError(msg)
    if (Path(path) / "bundle.json").is_file():
        msg = f"{path} is a bundle, not a folder of images; name only one bundle, then the images"
        raise SourceError(msg)
    if _is_collection(path):
        msg = f"{hide_secrets(path)} is a table or an archive; predict it alone, without other images"
        raise SourceError(msg)
    if url := find_url(path):
        from featx.items.remote import list_urls

        listed = list_urls(url)
        for item_id, one in listed.items():
            note_url(urls, item_id, one)
        return [Item(item_id) for item_id in listed]
    if not Path(path).is_dir():
        return [Item(path)]
    found = list_folder(path)
    if not found:
        logger.warning("%s holds no images", path)
    return [Item(os.path.join(path, name)) for name in found]  # noqa: PTH118 - keeps the user's spelling
