"""Items at URLs: folders of an object store, and single files that tables and commands name."""

import errno
import functools
from collections import Counter
from collections.abc import Mapping

from featx.errors import SourceError
from featx.items.archives import find_junk_folder
from featx.items.folders import FolderReader
from featx.items.formats import HEAD_BYTES, has_image_suffix, looks_like_image
from featx.items.layouts import NO_IMAGES, UNREADABLE, find_junk_reason
from featx.items.manifest import MAX_FILE_BYTES, FileStat, Manifest, list_junk
from featx.items.selection import LEFT_OUT, SourceOptions, arrange, choose_items
from featx.items.shards import SUFFIXES, Shards, choose_shards
from featx.prefetching import prefetch
from featx.remote import Location, open_location
from featx.urls import find_url, hide_secrets

_WEB = ("http:", "https:")

#: Files whose first bytes are read at one time.
_PEEKED_AT_ONCE = 16


class RemoteReader:
    """Reads items at URLs, and those on disk that a table may name beside them.

    Args:
        base: The URL or the folder that relative ids are below.
        urls: The URL of an item with what must not be in its id: user, password, signature.
        stats: What a listing has told of items, so that nobody asks again.
    """

    is_remote = True

    def __init__(
        self, base: str, urls: Mapping[str, str] | None = None, stats: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self._base = open_location(base) if find_url(base) else None
        self._local = FolderReader(base)
        self._urls, self._stats = urls or {}, stats or {}

    def stat(self, item_id: str) -> FileStat:
        """Return size and the number of the version, which takes the place of the time; see docs/format.md.

        Raises:
            OSError: If it does not exist, is too large, or cannot be asked for.
        """
        location = self._locate(item_id)
        if location is None:
            return self._local.stat(item_id)
        size_bytes, version = self._stats.get(item_id) or location.stat()
        if size_bytes > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES:,} bytes", location.name)
        return FileStat(size_bytes, version)

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of the file, or all of them if `n_bytes` is None. Raises OSError."""
        location = self._locate(item_id)
        return self._local.read(item_id, n_bytes) if location is None else location.read(n_bytes)

    def _locate(self, item_id: str) -> Location | None:
        """Return where an item is; None if it is on disk."""
        if url := find_url(self._urls.get(item_id, item_id)):
            try:
                return open_location(url)
            except SourceError as error:  # one bad row of a table
                raise OSError(errno.EINVAL, str(error), item_id) from error
        return self._base.join(item_id) if self._base else None


class RemoteFolder:
    """A folder at a URL, as it is listed once.

    Raises:
        SourceError: If it cannot be listed, as no web server can.
    """

    def __init__(self, url: str) -> None:
        self._url, self._name, self._location = url, hide_secrets(url), open_location(url)
        if self._location.is_web:
            msg = (
                f"{self._name} is not the URL of a table or an archive, and folders of web servers cannot be listed; "
                "name a table of URLs, or of paths relative to the table (.csv, .tsv, .parquet), or a .zip or .tar"
            )
            raise SourceError(msg)
        try:
            self._files = self._location.list_files()
        except OSError as error:
            msg = (
                f"the folder {self._name!r} cannot be listed: {error.strerror or error}; check the URL, and that your "
                "credentials may list it"
            )
            raise SourceError(msg) from error

    def find_shards(self) -> Shards | None:
        """Find the shards in it, as `featx.items.shards.find_shards`; None if it holds images. Raises SourceError."""
        found = choose_shards(self._url, self._files)
        return None if found is None or self.images[0] else found

    def read(self, options: SourceOptions) -> Manifest:
        """List the images by the rules of `read_folder`.

        Raises:
            SourceError: If it holds no images, or can be read in two ways.
            UsageError: If an option does not fit what it holds.
        """
        stats, junk = self.images
        if not stats:
            left_out = f" (left out: {list_junk(junk)})" if junk else ""
            msg = (
                f"the folder {self._name!r} does not exist or holds no images{left_out}; name the one with the class "
                "folders"
            )
            raise SourceError(msg)
        found = arrange(stats, options, self._name)
        if n_left_out := len(stats) - len(found.items):
            junk[LEFT_OUT] += n_left_out
        inner = {path.removeprefix(found.prefix): stat for path, stat in stats.items()}
        reader = RemoteReader(f"{self._url.rstrip('/')}/{found.prefix}", stats=inner)
        return choose_items(Manifest(found.items, reader, self._name, dict(junk), notes=found.notes), found.options)

    @functools.cached_property
    def images(self) -> tuple[dict[str, tuple[int, int]], Counter[str]]:
        """The images with size and version, and how many other files are left out for each reason."""
        junk: Counter[str] = Counter()
        junk_folders: set[str] = set()
        kept, unknown = set(), []
        for path in self._files:
            if folder := find_junk_folder(path):
                junk_folders.add(folder)
            elif reason := find_junk_reason(path.rpartition("/")[2], is_folder=False):
                junk[reason] += 1
            elif has_image_suffix(path):
                kept.add(path)
            elif path.lower().endswith(SUFFIXES):
                junk[NO_IMAGES] += 1
            else:
                unknown.append(path)
        junk.update(find_junk_reason(folder.rpartition("/")[2], is_folder=True) for folder in junk_folders)
        for path, head in zip(unknown, prefetch(self._peek, unknown, workers=_PEEKED_AT_ONCE, ahead=256), strict=True):
            if head is None or not looks_like_image(head):
                junk[UNREADABLE if head is None else NO_IMAGES] += 1
            else:
                kept.add(path)
        return {path: stat for path, stat in self._files.items() if path in kept}, junk

    def _peek(self, path: str) -> bytes | None:
        """Return the first bytes of a file; None if they cannot be read."""
        try:
            return self._location.join(path).read(HEAD_BYTES) if self._files[path][0] else b""
        except OSError:  # the user is told how many
            return None


def list_urls(url: str) -> dict[str, str]:
    """List the images that a URL names: a single file, or those in a folder of an object store.

    Returns:
        The URL of each image by its id, which is the same without secrets.

    Raises:
        SourceError: If a folder cannot be listed.
    """
    paths = [] if url.startswith(_WEB) or has_image_suffix(url.partition("?")[0]) else list(RemoteFolder(url).images[0])
    found = [f"{url.rstrip('/')}/{path}" for path in paths] or [url]
    return {hide_secrets(one): one for one in found}
