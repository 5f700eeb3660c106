"""Items, the images to embed: where they are, what they are called, and which belong together."""

from featx.items.archives import ArchiveReader, read_archive
from featx.items.columns import Columns
from featx.items.folders import FolderReader, read_folder
from featx.items.manifest import FileStat, Item, Manifest, Reader, take_shard
from featx.items.selection import SourceOptions
from featx.items.sources import read_source
from featx.items.tables import read_table

__all__ = [
    "ArchiveReader",
    "Columns",
    "FileStat",
    "FolderReader",
    "Item",
    "Manifest",
    "Reader",
    "SourceOptions",
    "read_archive",
    "read_folder",
    "read_source",
    "read_table",
    "take_shard",
]
