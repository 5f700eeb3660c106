"""The wrong pictures of a bundle: which tested images the head took for another class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import BundleError, FeatxError, SourceError
from featx.files import DAMAGES, say_failures, write_atomically, write_table
from featx.items import Manifest, read_source
from featx.items.manifest import Reader
from featx.items.sources import find_reader, read_source_again
from featx.items.thumbnails import format_thumbnails
from featx.records import take_part
from featx.references import MANIFEST, METRICS, read_json
from featx.report.contact_sheets import draw_contact_sheet, make_tile
from featx.results import PREDICTIONS, read_predictions
from featx.store import FeatureStore
from featx.wording import escape_html, format_html_table, format_plural

#: Pictures on a contact sheet.
MOST_SHOWN = 40

#: Predictions of so many bytes are read within a second.
_MOST_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The tested images that a head got wrong, the most confident mistake first.

    Attributes:
        bundle: The bundle.
        n_tested: Number of all tested images.
        ids: The wrong items.
        labels: Their classes.
        predicted: The classes that the head took them for.
        probabilities: float64 `(n_wrong,)`, of the predicted class.
        label_probabilities: float64 `(n_wrong,)`, of their own class.
    """

    bundle: Path
    n_tested: int
    ids: Sequence[str]
    labels: Sequence[str]
    predicted: Sequence[str]
    probabilities: NDArray[np.float64]
    label_probabilities: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        if not len(self):
            return f"none of {format_plural(self.n_tested, 'tested image')} is wrong"
        return (
            f"{len(self):,} of {format_plural(self.n_tested, 'tested image')} {'is' if len(self) == 1 else 'are'} wrong"
        )

    def _repr_html_(self) -> str:
        """Show the first mistakes in a notebook, with their pictures where they can be found."""
        columns = [*self.tabulate().values()]
        rows = [[*map(str, row[:3]), f"{row[3]:.3f}", f"{row[4]:.3f}"] for row in zip(*columns, strict=True)]
        header = ["image", "label", "predicted", "probability", "of the label"]
        table = format_html_table(header, rows[:MOST_SHOWN], n_text=3) if rows else ""
        return f"<p>{escape_html(str(self))}</p>{self.format_pictures()}{table}"

    def format_pictures(self) -> str:
        """Format the pictures of the first mistakes as HTML that holds them; empty if they cannot be found."""
        try:
            reader = _find_reader(self.bundle)
        except FeatxError:
            return ""
        captions = [
            f"{label}, not {predicted} {probability:.2f}"
            for label, predicted, probability in zip(self.labels, self.predicted, self.probabilities, strict=True)
        ]
        return format_thumbnails(reader, self.ids, captions)

    def tabulate(self) -> dict[str, Sequence[Any]]:
        """Return the columns of `errors.csv`."""
        return {
            "id": self.ids,
            "label": self.labels,
            "predicted": self.predicted,
            "probability": self.probabilities.tolist(),
            "probability_of_label": self.label_probabilities.tolist(),
        }


def find_mistakes(bundle: str | os.PathLike[str]) -> Mistakes:
    """Find the tested images that a bundle's head got wrong, the most confident mistake first.

    Args:
        bundle: The folder of the bundle.

    Raises:
        BundleError: If its predictions are missing or damaged.
    """
    tested = read_predictions(Path(bundle))
    _check_count(Path(bundle), len(tested.ids))
    place = {name: at for at, name in enumerate(tested.classes)}
    labels, predicted = (np.array(names, np.str_) for names in (tested.labels, tested.predicted))
    every = np.arange(len(labels))
    own, confidence = (
        tested.probabilities[every, [place[name] for name in names]] for names in (tested.labels, tested.predicted)
    )
    wrong = np.flatnonzero(labels != predicted)
    order = wrong[np.lexsort((wrong, -confidence[wrong]))]
    return Mistakes(
        bundle=Path(bundle),
        n_tested=len(labels),
        ids=[tested.ids[row] for row in order],
        labels=labels[order].tolist(),
        predicted=predicted[order].tolist(),
        probabilities=confidence[order],
        label_probabilities=own[order],
    )


def _check_count(folder: Path, n_predictions: int) -> None:
    """Refuse predictions that were cut off at the end of a line, and others than those that were counted.

    Raises:
        BundleError: If their number is not that of `metrics.json`.
    """
    try:
        counted = read_json(folder, METRICS)["test"]["items"]
    except (*DAMAGES, TypeError) as error:
        msg = f"{folder / METRICS} cannot be read ({type(error).__name__}: {error}); copy the bundle again"
        raise BundleError(msg) from error
    if counted != n_predictions:
        msg = (
            f"{folder / PREDICTIONS} has {n_predictions:,} predictions, and {METRICS} counts {counted}; copy the "
            "bundle again, or repeat the run"
        )
        raise BundleError(msg)


def write_mistakes(mistakes: Mistakes, manifest: Manifest | None, folder: Path, most: int = MOST_SHOWN) -> list[Path]:
    """Write the wrong pictures as `errors.csv` and, if there are any, as the contact sheet `errors.png`.

    Args:
        mistakes: The mistakes.
        manifest: Where the pictures are; None if nowhere, so that only the table is written.
        folder: The folder; it is made if it does not exist.
        most: Pictures on the sheet.

    Returns:
        The files that were written.

    Raises:
        BundleError: If a file cannot be written.
    """
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(folder / "errors.csv") as temporary:
            write_table(mistakes.tabulate(), temporary)
        if manifest is None or not len(mistakes):
            return [folder / "errors.csv"]
        captions = [
            (label, f"taken for {predicted} {probability:.2f}", name)
            for label, predicted, probability, name in zip(
                mistakes.labels, mistakes.predicted, mistakes.probabilities, mistakes.ids, strict=True
            )
        ]
        tiles = [make_tile(manifest.reader, lines[-1], lines) for lines in captions[:most]]
        first = f"; the {most} most confident mistakes" if len(mistakes) > most else "; the most confident first"
        draw_contact_sheet(tiles, f"{mistakes}{first}", folder / "errors.png")
    return [folder / "errors.csv", folder / "errors.png"]


def find_pictures(bundle: Path, source: str | None = None) -> Manifest:
    """Find the pictures that a bundle was tested on.

    Args:
        bundle: The folder of the bundle.
        source: Where they are now; None for where they were when the head was trained.

    Raises:
        FeatxError: If they are not there any more.
    """
    if source:
        return read_source(source)
    found = _find_store(bundle)
    return read_source(found) if isinstance(found, str) else read_source_again(found.source, found.reading)


def _find_reader(bundle: Path) -> Reader:
    """Find what reads the pictures that a bundle was tested on, without a list of them where that is possible."""
    found = _find_store(bundle)
    if isinstance(found, str):
        return read_source(found).reader
    return find_reader(found.source, found.reading, str(found.ids[0]))


def _find_store(bundle: Path) -> FeatureStore | str:
    """Find the store of a bundle, or the source that it records if the store is gone.

    Raises:
        SourceError: If it records none.
    """
    about = take_part(take_part(read_json(bundle, MANIFEST), "record"), "store")
    path, source = about.get("path"), about.get("source")
    try:
        return FeatureStore(str(path))
    except (FeatxError, ValueError) as error:
        if isinstance(source, str) and source:
            return source
        msg = f"{bundle / MANIFEST} records no source of its pictures"
        raise SourceError(msg) from error


def show_mistakes(bundle: Path | None, name: str = "") -> str:
    """Show in a notebook some pictures that a bundle's head got wrong; nothing without a bundle or its pictures.

    Of a file of predictions so large that it would take seconds, nothing is read.

    Args:
        bundle: The folder of the bundle.
        name: What the first line begins with.
    """
    if bundle is None:
        return ""
    try:
        if (bundle / PREDICTIONS).stat().st_size > _MOST_BYTES:
            return ""
        mistakes = find_mistakes(bundle)
    except (FeatxError, OSError):
        return ""
    pictures = mistakes.format_pictures()
    return f"<p>{escape_html(f'{name}{mistakes}')}</p>{pictures}" if pictures else ""
