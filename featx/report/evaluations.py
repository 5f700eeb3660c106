"""The folder of an evaluation on other images: its metrics, its predictions, and the pictures that are wrong."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featx.errors import UsageError
from featx.evaluation import Evaluation
from featx.evaluation.figure import make_title
from featx.evaluation.plots import plot_confusion
from featx.files import say_failures, write_json, write_table
from featx.items import Manifest
from featx.items.sources import read_source_again
from featx.references import MANIFEST, METRICS, read_json
from featx.report.mistakes import find_mistakes, write_mistakes
from featx.results import PREDICTIONS
from featx.wording import to_text

#: The folder of evaluations by default.
EVALUATIONS = "evaluations"


def name_folder(bundle: Path, source: str, split: str = "") -> Path:
    """Name the folder of an evaluation by the names of the bundle, the source and the split: the same every time."""
    parts = [bundle.resolve().name, Path(source).resolve().name, split]
    return Path(EVALUATIONS) / re.sub(r"[^\w.-]+", "-", to_text("-".join(filter(None, parts))))


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot hold an evaluation, before anything is computed.

    Raises:
        UsageError: If it is a bundle, or cannot be written.
    """
    if (folder / MANIFEST).exists():
        msg = f"{folder} is a bundle, which an evaluation would overwrite; name another folder with --out"
        raise UsageError(msg)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        msg = f"{folder} cannot be written, since {there} is {_describe(there)}; name another folder with --out"
        raise UsageError(msg)


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
    written = [folder / METRICS, folder / PREDICTIONS, folder / "confusion_matrix.png"]
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "errors.png").unlink(missing_ok=True)  # of an earlier evaluation; without errors there is none
        write_json({**about, **where, "test": evaluation.to_dict()}, written[0])
        write_table(predictions, written[1])
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
    """
    about = read_json(folder, METRICS)
    return read_source_again(str(about["source"]), about["reading"])
