"""Sources of images of every kind: folders, tables, archives and shards."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.errors import SourceError, UsageError
from featx.items.archives import read_archive
from featx.items.columns import AmbiguousColumnError, Columns
from featx.items.folders import read_folder
from featx.items.formats import HEAD_BYTES, has_image_suffix, recognise
from featx.items.inference import AmbiguousLayoutError
from featx.items.manifest import Manifest, Reader, take_shard
from featx.items.names import normalise_label
from featx.items.parquet_images import find_image_column, make_parquet_reader, read_parquet_images
from featx.items.selection import AS_IT_IS, LEFT_OUT, SourceOptions, choose_items, keep_folders
from featx.items.shards import Shards, find_shards
from featx.items.tables import MissingFilesError, open_reader, read_table
from featx.items.tar_shards import is_shard, make_tar_reader, read_tar_shards
from featx.prefetching import prefetch
from featx.registry import find_closest
from featx.urls import find_parent, find_path, find_url, hide_secrets
from featx.wording import format_plural

if TYPE_CHECKING:
    from featx.items.remote import RemoteFolder

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

#: Bytes of a DICOM file that hold the id of the patient, unless much is stored before it.
_PATIENT_BYTES = 2**16

#: Threads that read them from a server.
_THREADS_AT_URLS = 16


def read_source(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    options: SourceOptions = AS_IT_IS,
) -> Manifest:
    """List the images of a folder, a table, an archive or shards.

    DICOM files of a source without groups are grouped by the id of the patient, unless `columns.group` is empty.

    Args:
        source: A folder (`read_folder`), a CSV, TSV or Parquet file (`read_table`), or
            a zip or tar file (`read_archive`). Its name decides which. Or shards of images: tar files as webdataset
            writes them, or Parquet files with images inside, named by a pattern such as `train-{000..003}.tar`,
            a folder that holds nothing else, or one of them. All may be at a URL, such as `s3://bucket/photos`; a
            folder of a web server cannot be listed.
        root: For a table: the folder or the URL that its paths are relative to.
        columns: For a table or shards: the names of its columns; see `docs/images.md` for those of shards.
        options: What folders mean, where the classes are, and what to leave out.

    Returns:
        The manifest.

    Raises:
        SourceError: If the source does not exist, or cannot be read.
        UsageError: If `root` or `columns` is given and the source is not a table, or an option does not fit it.
    """
    manifest = _read_source(source, root, columns or Columns(), options)
    if columns is None or columns.group is None:
        return _group_patients(manifest)
    if columns.group or manifest.reading.get("columns"):
        return manifest
    return replace(manifest, reading={**manifest.reading, "columns": {"group": ""}})


def _read_source(
    source: str | os.PathLike[str], root: str | os.PathLike[str] | None, columns: Columns, options: SourceOptions
) -> Manifest:
    _check_type(source)
    url, source = find_url(source), find_path(source)
    name = hide_secrets(url) or os.fspath(source)
    kind = _find_kind(url, name) if url else ""
    folder = _list_remote(url) if kind == "folder" else None
    if found := folder.find_shards() if folder else _find_images(url or name, columns):
        if root is not None:
            msg = f"{name!r} holds its images; leave out the root, which is for tables of paths"
            raise UsageError(msg)
        read = read_tar_shards if found.kind == ".tar" else read_parquet_images
        return _choose_rows(read(found, columns), options)
    kind = kind or _find_kind(url, name)
    if kind == "table":
        return _choose_rows(read_table(source, root=root, columns=columns), options)
    if root is not None or columns not in {Columns(), Columns(group="")}:
        msg = f"{name!r} is not a table; leave out the root and the names of columns, which are for tables only"
        raise UsageError(msg)
    if kind == "archive":
        return read_archive(source, options=options)
    if kind == "image":
        msg = f"{name!r} is a single image; name its folder, or use `featx predict` with a bundle"
        raise SourceError(msg)
    if kind == "file":
        known = ", ".join(TABLE_SUFFIXES + ARCHIVE_SUFFIXES)
        msg = f"{name!r} is neither a folder nor one of {known}; name one of these"
        raise SourceError(msg)
    return folder.read(options) if folder else read_folder(source, options=options)


def _check_type(source: object) -> None:
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        advice = (
            "pass featx.Manifest.from_frame(frame)"
            if kind == "DataFrame"
            else "pass the path of a folder, table or archive"
        )
        msg = f"the source is a {kind}; {advice}"
        raise UsageError(msg)


def _list_remote(url: str) -> "RemoteFolder":
    from featx.items.remote import RemoteFolder

    return RemoteFolder(url)


def _find_kind(url: str, name: str) -> str:
    """Return whether a source is a `table`, `archive`, `folder`, `image` or other `file`; `name` is shown of it."""
    path, spelled = Path(name), (url.partition("?")[0] or name).lower()
    if not url and not path.exists():
        close = find_closest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else []
        hint = f"did you mean {str(path.with_name(close[0]))!r}? Otherwise " if close else ""
        msg = f"{name!r} does not exist; {hint}name a folder, a table or an archive of images"
        raise SourceError(msg)
    is_file = bool(url) or path.is_file()
    if is_file and spelled.endswith(TABLE_SUFFIXES):
        return "table"
    if is_file and spelled.endswith(ARCHIVE_SUFFIXES):
        return "archive"
    is_image = has_image_suffix(spelled)
    return "folder" if path.is_dir() or (url and not is_image) else "image" if is_image else "file"


def _find_images(source: str, columns: Columns) -> Shards | None:
    """Find the shards of images that a source names; a table of paths or an archive of folders is none."""
    if (url := find_url(source)) and _find_kind(url, source) == "folder":
        return _list_remote(url).find_shards()
    found = find_shards(source)
    shard = next(iter(found.files.values())) if found and len(found.files) == 1 else None
    if found is None or shard is None or not (Path(source).is_file() or shard.where == url):
        return found
    is_one = is_shard(shard) if found.kind == ".tar" else find_image_column(shard, columns.path) is not None
    return found if is_one else None


def _group_patients(manifest: Manifest) -> Manifest:
    """Group DICOM files by patient, if the source has no groups."""
    if any(item.group for item in manifest.items):
        return manifest
    names = [item.id for item in manifest.items if _may_be_dicom(item.id)]
    if not names:
        return manifest
    workers = _THREADS_AT_URLS if getattr(manifest.reader, "is_remote", False) else 1
    answers = prefetch(lambda name: _find_patient(name, manifest.reader), names, workers=workers, ahead=16 * workers)
    found = dict(zip(names, answers, strict=True))
    patients = {name: normalise_label(patient) for name, patient in found.items() if isinstance(patient, str)}
    items = tuple(replace(item, group=patients.get(item.id, "")) for item in manifest.items)
    unread = [(name, error) for name, error in found.items() if isinstance(error, OSError)]
    notes = []
    if items != manifest.items:
        notes.append("groups: the patients of the DICOM files (PatientID), which the store keeps; --group '' uses none")
    if unread:
        name, error = unread[0]
        one = f"cannot be read, so that it has no patient as its group, such as {name!r} ({error.strerror or error})"
        notes.append(f"{format_plural(len(unread), 'file')} that may be DICOM {one}")
    return replace(manifest, items=items, notes=(*manifest.notes, *notes))


def _may_be_dicom(item_id: str) -> bool:
    name = (
        item_id.partition("?")[0] if "://" in item_id else item_id
    ).lower()  # planning does not read images inside Parquet
    return (name.endswith((".dcm", ".dicom")) or not has_image_suffix(name)) and ".parquet/" not in name


def _find_patient(item_id: str, reader: Reader) -> str | OSError:
    """Return the patient of a file; empty for one that is not a DICOM, and why if it cannot be read."""
    is_remote = getattr(reader, "is_remote", False)
    try:
        head = reader.read(item_id, _PATIENT_BYTES if is_remote else HEAD_BYTES)  # a request costs more than its bytes
        form = recognise(head)
        if form is None or form.name != "DICOM":
            return ""
        from featx.items.dicom import read_patient

        return read_patient(head if is_remote else reader.read(item_id, _PATIENT_BYTES))
    except OSError as error:
        return error
    except ImportError:  # embedding quarantines the file
        return ""


def _choose_rows(manifest: Manifest, options: SourceOptions) -> Manifest:
    """Apply the options to the items of a table."""
    if options.layout:
        msg = f"{manifest.source!r} has no folders of classes; leave out the layout, which is for folders and archives"
        raise UsageError(msg)
    kept = set(keep_folders((item.id for item in manifest.items), options, manifest.source))
    items = tuple(item for item in manifest.items if item.id in kept)
    left_out = {LEFT_OUT: len(manifest) - len(items)} if len(items) < len(manifest) else {}
    return choose_items(replace(manifest, items=items, junk={**manifest.junk, **left_out}), options)


def read_source_again(source: str, reading: Mapping[str, Any], **columns: str) -> Manifest:
    """Read a source with the arguments of an earlier reading.

    Args:
        source: The source, as `Manifest.source` named it.
        reading: `Manifest.reading` of the earlier reading.
        columns: Names of columns, by role, that replace the earlier ones.

    Raises:
        SourceError: If the source is gone, or can no longer be read in this way.
    """
    if reading.get("frame"):
        msg = "the items came from a DataFrame, which is not kept; write it with to_csv, and embed that table"
        raise SourceError(msg)
    if "imported" in reading:
        msg = f"the features were imported from {source!r}, without pictures"
        raise SourceError(msg)
    named, options = _read_record(source, reading, columns)
    without, root, shard = list_left_out(reading), reading.get("root"), _read_shard(reading)
    try:
        manifest = read_source(source, root=root, columns=named, options=options)
    except AmbiguousLayoutError as error:  # it was read before this was an error
        manifest = read_source(source, root=root, columns=named, options=replace(options, layout=error.upper))
    except MissingFilesError as error:
        raise SourceError(error.fact) from error
    except AmbiguousColumnError as error:
        earlier = {**reading.get("columns", {}), error.role: error.column}
        return read_source_again(source, {**reading, "columns": earlier}, **columns)
    if without:
        left = tuple(item for item in manifest.items if item.id not in without)
        manifest = replace(manifest, items=left, reading={**manifest.reading, "without": reading["without"]})
    return take_shard(manifest, *shard) if shard else manifest


def _read_shard(reading: Mapping[str, Any]) -> tuple[int, int] | None:
    if "shard" not in reading:
        return None
    try:
        return int(reading["shard"]["number"]), int(reading["shard"]["count"])
    except (KeyError, TypeError, ValueError) as error:
        msg = f"the record of the shard of a source is not valid: {error!r}; embed it again"
        raise SourceError(msg) from error


def list_left_out(reading: Mapping[str, Any]) -> frozenset[str]:
    """List the items that a table such as `audit.csv` left out when a source was embedded.

    Args:
        reading: `Manifest.reading`.

    Raises:
        SourceError: If the record is not valid.
    """
    try:
        return frozenset(reading.get("without", {}).get("ids", ()))
    except (AttributeError, TypeError) as error:
        msg = f"the record of what was left out of a source is not valid: {error}; embed it again"
        raise SourceError(msg) from error


def find_reader(source: str, reading: Mapping[str, Any], item_id: str) -> Reader:
    """Find what reads the files of an earlier reading, without listing a folder that still has the item.

    Args:
        source: The source, as `Manifest.source` named it.
        reading: `Manifest.reading` of the earlier reading.
        item_id: One of its items.

    Raises:
        SourceError: If the source is gone, or can no longer be read in this way.
    """
    is_beside = bool(reading.get("frame")) or source.lower().endswith(TABLE_SUFFIXES)
    base = reading.get("root") or (find_parent(source) if is_beside else source)
    reader = open_reader(base, [item_id])
    try:
        reader.stat(item_id)
    except OSError:
        named, _ = _read_record(source, reading, {})
        if not reading.get("root") and (found := _find_images(source, named)):
            return make_tar_reader(found) if found.kind == ".tar" else make_parquet_reader(found, named.path)
        return read_source_again(source, reading).reader
    return reader


def _read_record(source: str, reading: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Columns, SourceOptions]:
    """Return the columns and options of an earlier reading. Raises SourceError."""
    try:
        record = reading.get("options", {})
        if not isinstance(record.get("map_labels", {}), Mapping):
            msg = "it holds rules for the names of classes, which may name any file and are not applied"
            raise TypeError(msg)  # noqa: TRY301 - as the errors of a record of another form
        return Columns(**{**reading.get("columns", {}), **columns}), SourceOptions(**record)
    except (AttributeError, TypeError, UsageError) as error:
        msg = f"the record of how {source!r} was read is not valid: {error}; embed it again"
        raise SourceError(msg) from error
