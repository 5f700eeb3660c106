"""Shards at a URL, for workers that share no file system with the driver."""

import hashlib
from pathlib import Path

from featx.errors import StoreError
from featx.files import make_folder, say_failures, write_atomically
from featx.remote import open_location, say_unread, say_unwritten


class Handover:
    """The folder at a URL that the shards of a store go through.

    Args:
        url: The folder.
    """

    def __init__(self, url: str) -> None:
        self._folder = open_location(url)

    def fetch(self, path: Path) -> bool:
        """Fetch the shard of a name, unless it is here; return whether there is one.

        Raises:
            StoreError: If it cannot be read or written.
        """
        if path.exists():
            return True
        location = self._folder.join(path.name)
        with say_unread(location, StoreError):
            try:
                data = location.read()
            except FileNotFoundError:
                return False
        with say_failures(path):
            make_folder(path.parent)
            with write_atomically(path) as temporary:
                temporary.write_bytes(data)
        return True

    def pass_on(self, path: Path) -> None:
        """Write a shard there, whole or not at all.

        Raises:
            StoreError: If it cannot be written.
        """
        location = self._folder.join(path.name)
        with say_unwritten(location, StoreError):
            location.write(path, hashlib.sha256(path.read_bytes()).hexdigest())

    def clear(self) -> None:
        """Remove the folder.

        Raises:
            StoreError: If it cannot be removed.
        """
        try:
            self._folder.remove()
        except OSError as error:
            msg = f"{self._folder.name} cannot be removed: {error.strerror or error}; delete it"
            raise StoreError(msg) from error
