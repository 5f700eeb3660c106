"""The bundle: the folder that turns pixels into labels anywhere.

bundle.json        specs, classes, versions, split, how the head was chosen
head.skops         the fitted head; never a pickle
golden.npz         made-up pictures and the features they must give
backbone.keras     only for a user's own network (or its weights, as backbone.h5)
metrics.json       what was measured
predictions.csv    what the head said about each held-out item
items.csv          the sha256 of every item, and whether it was trained on or tested
confusion_matrix.png, .svg
"""

import contextlib
import csv
import datetime as dt
import itertools
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import BundleError
from featx.evaluation import Evaluation
from featx.specs import EmbedSpec, HeadSpec
from featx.store.durability import sync_file, sync_folder
from featx.store.sealing import Golden

FORMAT = "featx-bundle"
FORMAT_VERSION = 1

#: Columns of equal length, by name.
Table = Mapping[str, Sequence[Any] | NDArray[Any]]

_MOST_BUNDLES = 10_000

_MANIFEST = "bundle.json"
_HEAD = "head.skops"
_GOLDEN = "golden.npz"
_ITEMS = "items.csv"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk, with its head not yet loaded.

    Attributes:
        path: The folder.
        embed_spec: How pixels become features.
        head_spec: How the head was made; its params are those that were chosen.
        classes: The classes, in the order of the head's probabilities.
        golden: What the backbone must give for the golden pictures.
        backbone_file: The copy of the user's own network or weights; None if there is none.
        metrics: What `metrics.json` holds.
    """

    path: Path
    embed_spec: EmbedSpec
    head_spec: HeadSpec
    classes: tuple[str, ...]
    golden: Golden
    backbone_file: Path | None
    metrics: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read what a bundle is, without running anything in it.

        Raises:
            BundleError: If the folder is no bundle, or files are missing or damaged.
        """
        folder = Path(path)
        if not (folder / _MANIFEST).is_file():
            msg = f"{folder} is no bundle (there is no {_MANIFEST} in it); `featx fit` writes one into runs/"
            raise BundleError(msg)
        try:
            about = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                msg = f"{folder} is a bundle of {about['format']!r}, not of featx; name one that `featx fit` wrote"
                raise BundleError(msg)
            if about["format_version"] > FORMAT_VERSION:
                msg = (
                    f"{folder} has bundle format {about['format_version']}, newer than {FORMAT_VERSION}; upgrade featx"
                )
                raise BundleError(msg)
            _check_files(folder, [*about["files"], *([about["backbone_file"]] if about["backbone_file"] else [])])
            return cls(
                folder,
                EmbedSpec.from_dict(about["embed"]),
                HeadSpec.from_dict(about["head"]),
                tuple(about["classes"]),
                _read_golden(folder / _GOLDEN),
                folder / about["backbone_file"] if about["backbone_file"] else None,
                json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
            )
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            msg = f"{folder} is damaged ({type(error).__name__}: {error}); copy it again, or fit it again"
            raise BundleError(msg) from error

    def load_head(self) -> Any:  # noqa: ANN401 - a fitted scikit-learn classifier, which has no type
        """Load the fitted head.

        Raises:
            BundleError: If it holds foreign types, or does not fit the bundle's classes.
        """
        from featx.heads.persistence import load_head

        head = load_head(self.path / _HEAD)
        known = set(range(len(self.classes)))
        if not set(np.asarray(head.classes_).tolist()) <= known:
            msg = (
                f"{self.path} is damaged: its head knows other classes than bundle.json; copy it again, or fit it again"
            )
            raise BundleError(msg)
        return head

    def read_trained(self) -> frozenset[str]:
        """Read which images the head was trained on, as the sha256 of their files.

        Raises:
            BundleError: If the list is damaged.
        """
        with (self.path / _ITEMS).open(encoding="utf-8", newline="") as file:
            try:
                return frozenset(row["sha256"] for row in csv.DictReader(file) if row["role"] == "trained")
            except KeyError as error:
                msg = f"{self.path / _ITEMS} is damaged (no column {error}); copy the bundle again, or fit it again"
                raise BundleError(msg) from error


@dataclass(frozen=True, slots=True)
class Draft:
    """What goes into a bundle.

    Attributes:
        embed_spec, head_spec, classes, golden: As in `Bundle`.
        head: The fitted classifier.
        backbone_file: Path of the user's own network or weights; empty for none.
        record: How the head was chosen, on what split, with what versions.
        test: The final evaluation.
        metrics: What `metrics.json` will hold.
        items: Columns `id, sha256, label, role`, one row for each item.
        predictions: The columns of `predictions.csv`.
    """

    embed_spec: EmbedSpec
    head_spec: HeadSpec
    classes: tuple[str, ...]
    golden: Golden
    head: Any
    backbone_file: str
    record: Mapping[str, Any]
    test: Evaluation
    metrics: Mapping[str, Any]
    items: Table
    predictions: Table


def align_probabilities(
    probabilities: NDArray[np.floating], classes: NDArray[np.integer], n_classes: int
) -> NDArray[np.float64]:
    """Return a head's probabilities `(n, n_classes)`, with zeros for classes that it was not trained on.

    Args:
        probabilities: `(n, n_trained)`, a column for each class that the head was trained on.
        classes: int `(n_trained,)`: these classes, as positions in the bundle's list.
        n_classes: Number of classes in the bundle.
    """
    aligned = np.zeros((len(probabilities), n_classes))
    aligned[:, classes] = probabilities
    return aligned


def write_bundle(draft: Draft, folder: str | os.PathLike[str], slug: str) -> Path:
    """Write a bundle as `<folder>/<date>-<slug>`, or with a number behind if that exists.

    It is written under a temporary name and renamed, so that it is there as a whole or not at all.

    Raises:
        BundleError: If the user's own network or weights are gone.
    """
    from featx.evaluation.plots import plot_confusion
    from featx.heads.persistence import dump_head

    parent = Path(folder)
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    try:
        dump_head(draft.head, temporary / _HEAD)
        _write_golden(temporary / _GOLDEN, draft.golden)
        backbone_file = _copy_backbone(draft.backbone_file, temporary)
        _write_table(temporary / _ITEMS, draft.items)
        _write_table(temporary / "predictions.csv", draft.predictions)
        _write_json(temporary / "metrics.json", draft.metrics)
        plot_confusion(draft.test, temporary / "confusion_matrix.png")
        about = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "embed": draft.embed_spec.to_dict(),
            "head": draft.head_spec.to_dict(),
            "classes": list(draft.classes),
            "backbone_file": backbone_file,
            "record": draft.record,
            "files": sorted(path.name for path in temporary.iterdir()),
        }
        _write_json(temporary / _MANIFEST, about)
        for path in temporary.iterdir():
            sync_file(path)
        temporary.chmod(0o755)
        path = _rename(temporary, parent, slug)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)
    return path


def _check_files(folder: Path, names: Sequence[str]) -> None:
    outside = [name for name in names if Path(name).name != name or (folder / name).is_symlink()]
    if outside:
        msg = f"{folder} names files outside itself ({', '.join(outside)}); do not use it"
        raise BundleError(msg)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        msg = f"{folder} lacks {', '.join(missing)}; move or copy a bundle as a whole folder"
        raise BundleError(msg)


def _rename(temporary: Path, parent: Path, slug: str) -> Path:
    stem = f"{dt.datetime.now(tz=dt.UTC).date()}-{re.sub(r'[^A-Za-z0-9_.+]+', '-', slug).strip('-')}"
    for number in itertools.count(1):
        path = parent / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists():
            with contextlib.suppress(OSError):  # another fit took the name at this moment
                return temporary.rename(path)
        if number > _MOST_BUNDLES:
            msg = f"{parent} cannot take another bundle called {stem}; choose another folder with --runs"
            raise BundleError(msg)
    raise AssertionError  # count never ends


def _copy_backbone(source: str, folder: Path) -> str:
    if not source:
        return ""
    if not Path(source).is_file():
        msg = f"the backbone's own file {source} is gone, and a bundle cannot do without it; restore it, or embed again"
        raise BundleError(msg)
    name = f"backbone{''.join(Path(source).suffixes[-2:])}"
    shutil.copyfile(source, folder / name)
    return name


def _write_golden(path: Path, golden: Golden) -> None:
    files = {f"file_{number}": np.frombuffer(data, np.uint8) for number, data in enumerate(golden.files)}
    arrays: dict[str, Any] = {"features": golden.features, **files}
    np.savez(path, **arrays)


def _read_golden(path: Path) -> Golden:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        files = [name for name in arrays.files if name.startswith("file_")]
        return Golden(tuple(arrays[f"file_{number}"].tobytes() for number in range(len(files))), arrays["features"])


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _write_table(path: Path, columns: Table) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
