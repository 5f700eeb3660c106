"""What wrote a file or a folder of features, by its name and by what is in it."""

import contextlib
import csv
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from featx.errors import FeatxError, SourceError, UsageError
from featx.importing.array_files import open_clip_retrieval, open_npy, open_npz, open_thingsvision
from featx.importing.hdf5_files import open_anndata, open_hdf5
from featx.importing.parquet_files import open_parquet
from featx.importing.parts import AGAIN, Part
from featx.registry import suggest

FORMATS = ("trident", "clam", "hloc", "thingsvision", "clip-retrieval", "npy", "npz", "parquet", "anndata", "featx")

_FILES: Mapping[str, Callable[[Path], Part]] = {
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".npy": open_npy,
    ".npz": open_npz,
    ".parquet": open_parquet,
    ".h5ad": open_anndata,
}

#: Those of other tools that run code when they are read.
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib")

#: What the readers raise on files that are damaged or something else.
DAMAGES = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RuntimeError),
    *(TypeError, ValueError, csv.Error, zipfile.BadZipFile, zlib.error),
)


@contextlib.contextmanager
def say_damage(path: Path) -> Iterator[None]:
    """Turn what readers raise into an error that names the file.

    Raises:
        SourceError: If the block raises one of `DAMAGES`.
    """
    try:
        yield
    except FeatxError:  # a ValueError or an OSError by its class, with a message of its own
        raise
    except DAMAGES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if type(error) not in {ValueError, TypeError}:  # of a library, which says neither what is wrong nor what to do
            reason = f"it is damaged, cut, or of another format than its name says ({reason}); {AGAIN}"
        if isinstance(error, OSError) and error.errno is not None:
            reason = f"{error.strerror}; check its permissions and its disk"
        msg = f"{path} cannot be imported: {reason}"
        raise SourceError(msg) from error


def open_parts(paths: Sequence[Path], format_: str = "") -> list[Part]:
    """Open files and folders of features.

    Args:
        paths: The files and folders.
        format_: One of `FORMATS`, or empty if the files decide; `anndata:NAME` chooses an element of `obsm`.

    Returns:
        Their parts, all of one tool and one width, at least one.

    Raises:
        UsageError: If there is no such format.
        SourceError: If a file cannot be read, or is of another tool or width than the first, or there are no rows.
    """
    wanted, _, element = format_.partition(":")
    if wanted and wanted not in FORMATS:
        hint = suggest(wanted, FORMATS)
        msg = f"there is no format {wanted!r}; {f'{hint} It' if hint else 'it'} must be one of {', '.join(FORMATS)}"
        raise UsageError(msg)
    parts: list[Part] = []
    for path in paths:
        with say_damage(path):
            parts += _open(path, wanted, element)
    parts = [part for part in parts if part.n_rows]
    if not parts:
        msg = f"{paths[0]} has no rows of features; name other files"
        raise SourceError(msg)
    first = parts[0]
    for part in parts:
        for what, own, other in (("format", part.tool, first.tool), ("width", part.dim, first.dim)):
            if own != other:
                msg = f"{part.path} has the {what} {own} and {first.path} has {other}; import them into two stores"
                raise SourceError(msg)
    if wanted and first.tool != wanted:
        msg = f"{first.path} has the format {first.tool}, not {wanted}; leave out --format"
        raise SourceError(msg)
    return parts


def _open(path: Path, wanted: str, element: str) -> list[Part]:
    if path.is_dir():
        if (path / "img_emb").is_dir() or wanted == "clip-retrieval":
            return open_clip_retrieval(path)
        if wanted in {"", "thingsvision"} and (path / "file_names.txt").is_file():
            return open_thingsvision(path)
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _FILES and file.is_file())
        if not files:
            msg = f"the folder has no file that ends in {', '.join(_FILES)}"
            raise ValueError(msg)
        return [part for file in files for part in _open(file, wanted, element)]
    suffix = path.suffix.lower()
    if not path.is_file():
        msg = f"there is no file or folder {path}; name one with features"
        raise SourceError(msg)
    if suffix in _PICKLES:
        msg = f"a {suffix} file may run code when it is read; load it where you made it, and save a .npy or .npz file"
        raise ValueError(msg)
    if suffix not in _FILES:
        msg = f"its name ends in none of {', '.join(_FILES)}"
        raise ValueError(msg)
    with say_damage(path):
        return [open_anndata(path, element) if element else _FILES[suffix](path)]
