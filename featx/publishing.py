"""Publishing of stores and bundles to URLs: whole objects, verified before and read back after."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.bundle import Bundle, describe_file
from featx.errors import BundleError, StoreError, StoreFormatError, UsageError
from featx.references import MANIFEST
from featx.reporting import SILENT, Reporter
from featx.store.verification import verify_store
from featx.urls import find_path, find_url, find_writable_url, hide_secrets

if TYPE_CHECKING:
    from featx.remote import Location


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published.

    Attributes:
        url: Where it is, without secrets: what other commands take for the store or the bundle.
        files: The files that were written, in this order; none if the same bundle was there.
        n_bytes: Their size in bytes.
    """

    url: str
    files: tuple[str, ...]
    n_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the output of `featx publish --json`."""
        return {"url": self.url, "files": list(self.files), "bytes": self.n_bytes}


def publish(what: str | os.PathLike[str], url: str | os.PathLike[str], *, reporter: Reporter = SILENT) -> Publication:
    """Write a store or a bundle to a URL.

    Readers never see a part of it: each file appears whole, and the description of a bundle, without which there is
    no bundle, comes last. Every file is read back and compared.

    Args:
        what: A store (`.h5`), or a bundle as `featx.references.find_bundle` finds it.
        url: Where to write it; if it ends in `/`, in this folder under its own name. A store that is there is
            replaced.
        reporter: Receives the progress, in files.

    Raises:
        UsageError: If it is not a URL that can be written to.
        StoreError: If the store is damaged, or cannot be written.
        BundleError: If the bundle is damaged, cannot be written, or another one is there.
    """
    named = find_writable_url(url)
    if not named:
        msg = f"{hide_secrets(os.fspath(url))!r} is not a URL that can be written to; name one such as s3://bucket/features/"
        raise UsageError(msg)
    from featx.remote import open_location, say_unwritten

    source = Path(find_path(what))
    is_store = source.suffix == ".h5"
    if find_url(what):
        msg = f"{hide_secrets(os.fspath(what))!r} is a URL; name a store or a bundle on this machine"
        raise UsageError(msg)
    reporter.begin("publishing")
    files = _verify_store(source) if is_store else (bundle := Bundle.open(what)).files
    source = source if is_store else bundle.path.resolve()
    target = open_location(f"{named.rstrip('/')}/{source.name}" if str(url).endswith("/") else named)
    with say_unwritten(target, StoreError if is_store else BundleError):
        if is_store:
            target.write(source, files[source.name])
            return Publication(target.name, (source.name,), source.stat().st_size)
        return _write_bundle(source, dict(files), target, reporter)


def _verify_store(path: Path) -> dict[str, str]:
    """Compare a store with its checksums; return the sha256 of its file by its name."""
    found = verify_store(path)
    if found.store.is_index:
        msg = f"{path} is an index of shards; make one file of it with `featx pack {path}`, and publish that"
        raise StoreError(msg)
    if found.damage:
        msg = f"{path} is damaged: {found.damage[0]} differ from their checksum; run `featx repair {path}` first"
        raise StoreFormatError(msg)
    return {path.name: str(describe_file(path)["sha256"])}


def _write_bundle(folder: Path, files: dict[str, str], target: "Location", reporter: Reporter) -> Publication:
    index = (folder / MANIFEST).read_bytes()
    try:
        there = target.join(MANIFEST).read()
    except FileNotFoundError:
        there = None
    if there == index:
        return Publication(target.name, (), 0)
    if there is not None:
        msg = f"{target.name} is another bundle, which is never changed; name another URL"
        raise BundleError(msg)
    # Without the last of them, there is no bundle.
    files[MANIFEST] = str(describe_file(folder / MANIFEST)["sha256"])
    for done, (name, sha256) in enumerate(files.items(), 1):
        target.join(name).write(folder / name, sha256)
        reporter.advance(done, len(files))
    return Publication(target.name, tuple(files), sum((folder / name).stat().st_size for name in files))
