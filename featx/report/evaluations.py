"""The folder of an evaluation on other images: its metrics, its predictions, and the pictures that are wrong."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featx.errors import BundleError, UsageError
from featx.evaluation import Evaluation
from featx.evaluation.figure import make_title
from featx.evaluation.plots import plot_confusion
from featx.files import DAMAGES, say_failures, write_atomically, write_json, write_table
from featx.items import Manifest
from featx.items.sources import read_source_again
from featx.references import MANIFEST, METRICS, read_json
from featx.report.mistakes import find_mistakes, write_mistakes
from featx.results import PREDICTIONS
from featx.wording import to_text

#: The folder of evaluations by default, and the bytes of a name in it, so that a part of it is a name too.
EVALUATIONS, _MOST_NAME_BYTES = "evaluations", 200

_MATRIX, _ERRORS = "confusion_matrix.png", ("errors.csv", "errors.png")


def name_folder(bundle: Path, source: str, split: str = "") -> Path:
    """Name the folder of an evaluation by the names of the bundle, the source and the split: the same every time."""
    path = Path(source).resolve()
    # A folder named cohort.csv looks like a table.
    own = re.sub(r"(?<=.)(\.tar)?\.\w+$", "", path.name) if path.is_file() else path.name
    parts = [bundle.resolve().name, own, split]
    name = re.sub(r"[^\w.-]+", "-", to_text("-".join(filter(None, parts))))
    return Path(EVALUATIONS) / name.encode()[:_MOST_NAME_BYTES].decode(errors="ignore")


def check_folder(folder: Path, source: str = "") -> None:
    """Refuse a folder that cannot hold an evaluation, before anything is computed.

    Args:
        folder: The folder.
        source: The source, unless the user named the folder, so that an evaluation of another one in it stays.

    Raises:
        UsageError: If it is a bundle, holds other files of the names of an evaluation's, or cannot be written.
    """
    if (folder / MANIFEST).exists():
        msg = f"{folder} is a bundle, which an evaluation would overwrite; name another folder with --out"
        raise UsageError(msg)
    files = [name for name in (METRICS, PREDICTIONS, _MATRIX, *_ERRORS) if os.path.lexists(folder / name)]
    if files and METRICS not in files:
        msg = f"{folder} has a file {files[0]} of something else; name another folder with --out"
        raise UsageError(msg)
    if source and files:
        earlier = _read_source(folder)
        if earlier and Path(earlier).absolute() != Path(to_text(source)).absolute():
            msg = f"{folder} holds the evaluation of {earlier}; name another folder with --out"
            raise UsageError(msg)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        msg = f"{folder} cannot be written, since {there} is {_describe(there)}; name another folder with --out"
        raise UsageError(msg)


def _read_source(folder: Path) -> str:
    """Return the source of an evaluation; empty if it is damaged, so that it may be replaced."""
    try:
        return str(read_json(folder, METRICS)["source"])
    except (BundleError, *DAMAGES, TypeError):
        return ""


def _describe(path: Path) -> str:
    return "read-only" if path.is_dir() else "not a folder"


def is_evaluation(folder: Path) -> bool:
    """Return whether a folder is that of an evaluation, and not a bundle."""
    return (folder / PREDICTIONS).is_file() and (folder / METRICS).is_file() and not (folder / MANIFEST).exists()


def write_evaluation(
    evaluation: Evaluation, predictions: Mapping[str, Any], manifest: Manifest, about: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write an evaluation; files of an earlier one in the same folder are replaced.

    Args:
        evaluation: The metrics.
        predictions: The columns of `predictions.csv`.
        manifest: Where the pictures are.
        about: More for `metrics.json`: the bundle and the split.
        folder: The folder; it is made if it does not exist.

    Returns:
        The files that were written.

    Raises:
        BundleError: If a file cannot be written.
    """
    where = {"source": to_text(manifest.source), "reading": dict(manifest.reading)}
    written = [folder / METRICS, folder / PREDICTIONS, folder / _MATRIX]
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Of an earlier evaluation; stopped on the way, the folder must not hold some files of each.
        for name in (PREDICTIONS, _MATRIX, *_ERRORS):
            (folder / name).unlink(missing_ok=True)
        with write_atomically(written[0]) as temporary:
            write_json({**about, **where, "test": evaluation.to_dict()}, temporary)
        with write_atomically(written[1]) as temporary:
            write_table(predictions, temporary)
        title = make_title(
            Path(about["bundle"]).name,
            source=str(where["source"]),
            split=about["split"],
            n_items=evaluation.n_items,
        )
        plot_confusion(evaluation, written[2], title=title)
    return [*written, *write_mistakes(find_mistakes(folder), manifest, folder)]


def find_tested(folder: Path) -> Manifest:
    """Find the pictures of an evaluation, where they were then.

    Raises:
        SourceError: If they are not there any more.
        BundleError: If the evaluation is damaged.
    """
    try:
        about = read_json(folder, METRICS)
        source, reading = str(about["source"]), dict(about["reading"])
    except (*DAMAGES, TypeError) as error:
        msg = f"{folder / METRICS} is damaged ({type(error).__name__}: {error}); evaluate again"
        raise BundleError(msg) from error
    return read_source_again(source, reading)
