"""Features in HDF5 files: those of TRIDENT, CLAM, hloc and AnnData.

- TRIDENT and CLAM: a file for each slide, with `features` `(n, dim)`, `(1, n, dim)` or, for a whole slide,
  `(dim,)`, and `coords` `(n, 2)` in px of level 0; `trident/IO.py` and `trident/wsi_objects/WSI.py`, and
  `utils/file_utils.py` of CLAM, in their repositories.
- hloc: a group for each image, named by its path, with `global_descriptor`; its `hloc/extract_features.py`.
- AnnData (0.8 and later): https://anndata.readthedocs.io/en/stable/fileformat-prose.html

Files are not trusted: links and other files are not followed, and what a file declares it must hold.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.backbones.untrusted_files import list_datasets
from featx.importing.parts import Part, check_matrix, check_size, cut_rows
from featx.store.layout import FORMAT, open_here

_DESCRIPTOR = "/global_descriptor"

#: What TRIDENT records of the patches.
_ABOUT = ("patch_size", "patch_size_level0", "patch_level", "level0_magnification", "target_magnification", "overlap")


def open_hdf5(path: Path) -> Part:
    """Open a file of TRIDENT, CLAM or hloc.

    Raises:
        ValueError: If it is none of these.
    """
    with _open(path) as file:
        if str(file.attrs.get("format", b"")).find(FORMAT) >= 0:
            msg = "it is a feature store of featx already; use it as it is"
            raise ValueError(msg)
        if {"features", "coords"} <= set(file):
            return _open_slide(path, file)
        descriptors = sorted(
            where.removesuffix(_DESCRIPTOR).strip("/")
            for where, _ in list_datasets(file)
            if where.endswith(_DESCRIPTOR)
        )
        if descriptors:
            return _open_hloc(path, file, descriptors)
        has_local = any(where.endswith("/keypoints") for where, _ in list_datasets(file))
    msg = "its root has neither features and coords, nor groups of images with global_descriptor"
    if has_local:
        msg = "it has local features (keypoints and descriptors), of which an image has thousands; extract one global "
        msg += "descriptor for each image with hloc, such as --conf netvlad"
    raise ValueError(msg)


def _open(path: Path) -> h5py.File:
    return h5py.File(path, "r", locking=False)


def _open_slide(path: Path, file: h5py.File) -> Part:
    features, coords = _open_numbers(file, "features"), _open_numbers(file, "coords")
    tool = "trident" if "target_magnification" in coords.attrs else "clam"
    about = {name: _to_plain(coords.attrs[name]) for name in _ABOUT if name in coords.attrs}
    if features.shape[:-2] not in {(), (1,)}:
        msg = f"features is {features.shape}, where one slide has (n, dim) or (1, n, dim)"
        raise ValueError(msg)
    n_rows, dim = check_matrix((1, *features.shape)[-2:], features.dtype, "features")
    places = coords[...].reshape(-1, 2).tolist() if features.ndim > 1 else []  # a whole slide is one row
    ids = [f"{path.stem}:{x:.0f},{y:.0f}" for x, y in places] or [path.stem] * n_rows
    columns = {"id": ids, "group": [path.stem] * n_rows}
    return Part(path, tool, n_rows, dim, features.dtype, _read_by(path, "features", n_rows, dim), columns, about)


def _read_by(path: Path, where: str, n_rows: int, dim: int) -> Callable[[], Iterator[NDArray[Any]]]:
    """Return what reads the rows of a dataset, which may have an axis of one around them, or be a single row."""

    def read() -> Iterator[NDArray[Any]]:
        with _open(path) as file:
            rows = _open_numbers(file, where)
            for first, past in cut_rows(n_rows, dim, rows.dtype):
                part = rows[first:past] if len(rows) == n_rows else rows[0, first:past] if rows.ndim > 1 else rows[...]
                yield part.reshape(past - first, dim)

    return read


def _open_hloc(path: Path, file: h5py.File, ids: Sequence[str]) -> Part:
    found = [_open_numbers(file, f"{name}{_DESCRIPTOR}") for name in ids]
    shapes = {(one.shape, one.dtype) for one in found}
    if len(shapes) > 1 or found[0].ndim != 1:
        msg = f"its global descriptors are {', '.join(f'{dtype} {shape}' for shape, dtype in shapes)}, not of one width"
        raise ValueError(msg)
    n_rows, dim = check_matrix((len(ids), *found[0].shape), found[0].dtype)
    dtype = found[0].dtype

    def read() -> Iterator[NDArray[Any]]:
        with _open(path) as again:
            for first, past in cut_rows(n_rows, dim, dtype):
                yield np.stack([_open_numbers(again, f"{name}{_DESCRIPTOR}")[...] for name in ids[first:past]])

    return Part(path, "hloc", n_rows, dim, dtype, read, {"id": ids})


def open_anndata(path: Path, element: str = "") -> Part:
    """Open an AnnData file: its `X`, or the element of `obsm` that is named, or the only one if there is no `X`."""
    with _open(path) as file:
        obs = open_here(file, "obs")
        if not isinstance(obs, h5py.Group) or "_index" not in obs.attrs:
            msg = "its obs is not a table of anndata 0.8 or later; read and write it again with a newer anndata"
            raise ValueError(msg)
        index = str(obs.attrs["_index"])
        columns = {name: _read_column(obs, name) for name in obs if name != index} | {"id": _read_column(obs, index)}
        where = element if element == "X" else f"obsm/{element}" if element else _find_element(file)
        matrix = _open_path(file, where)
        if isinstance(matrix, h5py.Group):
            msg = f"{where} is a {matrix.attrs.get('encoding-type')}; save it dense, with toarray()"
            raise TypeError(msg)
        n_rows, dim = check_matrix(matrix.shape, matrix.dtype, where)
        dtype = matrix.dtype
        kept = {name: cells for name, cells in columns.items() if cells is not None}
    return Part(path, "anndata", n_rows, dim, dtype, _read_by(path, where, n_rows, dim), kept, {"element": where})


def _find_element(file: h5py.File) -> str:
    others = sorted(open_here(file, "obsm")) if "obsm" in file else []
    if "X" in file and 0 not in getattr(open_here(file, "X"), "shape", (1,)):  # a sparse one is a group
        return "X"
    if len(others) != 1:
        msg = f"it has no X, and obsm has {', '.join(others) or 'nothing'}; choose one with --format anndata:NAME"
        raise ValueError(msg)
    return f"obsm/{others[0]}"


def _open_path(file: h5py.File, where: str) -> Any:  # noqa: ANN401 - a group or a dataset
    found = file
    for name in where.split("/"):
        found = open_here(found, name)
    return found


def _read_column(obs: h5py.Group, name: str) -> list[str] | None:
    """Read a column of a table as text; None for a kind of column that holds neither names nor numbers."""
    found = open_here(obs, name)
    if isinstance(found, h5py.Dataset):
        return _read_text(found)
    if "codes" in found:
        values = [*_read_text(open_here(found, "categories")), ""]  # the code of a missing value is -1, the last one
        return [values[code] for code in _open_numbers(found, "codes")[...].tolist()]
    return None


def _read_text(dataset: h5py.Dataset) -> list[str]:
    text = h5py.check_string_dtype(dataset.dtype)
    values = _check(dataset, "biufOS" if text else "biuf")
    return [str(value) for value in (values.asstr("utf-8", "replace") if text else values)[...].tolist()]


def _open_numbers(group: h5py.Group, name: str) -> h5py.Dataset:
    return _check(_open_path(group, name))


def _check(dataset: Any, kinds: str = "fiu") -> h5py.Dataset:  # noqa: ANN401 - whatever a file has under a name
    """Check that a dataset has all its values, and in this file.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in kinds or dataset.shape is None:
        msg = f"{dataset.name} is not an array of {'numbers' if kinds == 'fiu' else 'names or numbers'}"
        raise ValueError(msg)
    if dataset.is_virtual or dataset.external:
        msg = f"{dataset.name} is stored in another file"
        raise ValueError(msg)
    held = dataset.id.get_storage_size()
    n_chunks = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks or (), strict=False))
    if dataset.size and (not held or (dataset.chunks and dataset.id.get_num_chunks() < n_chunks)):
        msg = f"{dataset.name} declares values that were never written"
        raise ValueError(msg)
    check_size(dataset.nbytes, min(held, dataset.file.id.get_filesize()))
    check_size(math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize, held)
    return dataset


def _to_plain(value: Any) -> Any:  # noqa: ANN401 - an attribute
    return value.item() if isinstance(value, np.generic) else str(value)
