"""`featx demo`: embed, compare, fit and predict, on real images that scikit-learn ships or on the user's own."""

import contextlib
import csv
import json
import shlex
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from featx.cli.output import print_text
from featx.errors import SourceError
from featx.specs import DEFAULT_BACKBONE

EXAMPLE = "featx demo photos/"

_FOLDER = "featx-demo"
_SHOWN_IMAGES = 5

#: Beside the default: a network whose weights are computed, not trained.
_OTHER = "scattering"

#: The head that is tuned fastest on features of this width.
_HEAD = "ridge"

#: A file with the source of the demo, which marks the folder as its own.
_MARK = ".featx-demo"

_COMPARISON = "comparison"

_DIGITS = """
Digits are line drawings, which suit scattering. On photos, the trained network is usually far ahead.
Next, with your own pictures in one folder per class:
  featx demo photos/          # the same commands"""
_NEXT = """  featx embed {source}         # writes into features/; again: only new and changed files
  featx compare --clf fast    # which classifier is best?
  featx finetune {source}      # is it worth training the network as well?
  featx backbones             # other networks
  featx fit --help            # other classifiers, splits, groups"""


def demo(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="PHOTOS", help="A folder with one folder per class; by default, digits that scikit-learn ships."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="FOLDER",
            show_default=_FOLDER,
            help="Folder for the features and runs, and for the digits. For your own images, the default ends in the "
            "name of their folder.",
        ),
    ] = None,
) -> None:
    """Embed, compare, fit and predict on an example.

    Two backbones are compared: EfficientNet-Lite0, which was trained on ImageNet, and a scattering network, which was
    not trained. Nothing is downloaded. Every command is shown before it runs.
    """
    started = time.perf_counter()
    if source is None:
        folder = folder or Path(_FOLDER)
        _claim(folder, "digits")
        count, images = _write_digits(folder / "digits"), Path("digits")
        where = f"in {folder / images}, one folder per class"
        print_text(f"{count:,} scanned digits (UCI, shipped by scikit-learn) are {where}\n")
    else:
        images = source.resolve()
        _check(source)
        folder = folder or Path(f"{_FOLDER}-{images.name}")
        _claim(folder, str(images))
    print_text(f"$ cd {shlex.quote(str(folder))}")
    with contextlib.chdir(folder):
        bundle = _run_all(images)
    print_text(f"\nThe bundle, with metrics.json, predictions.csv and confusion_matrix.png, is {folder / bundle}")
    print_text(f"The comparison, with a plot of accuracy against cost, is {folder / _COMPARISON}")
    print_text(f"All of this took {time.perf_counter() - started:.0f} s.")
    print_text(_DIGITS if source is None else "\nNext:")
    print_text(_NEXT.format(source="photos/" if source is None else shlex.quote(str(source))))


def _run_all(images: Path) -> Path:
    """Run the commands; return the bundle."""
    from featx.references import find_bundle

    _run("embed", str(images))
    _run("embed", str(images), "--backbone", _OTHER)
    stores = [f"features/{name}.h5" for name in (DEFAULT_BACKBONE, _OTHER)]
    _run("compare", *stores, "--clf", _HEAD, "--out", _COMPARISON)
    rows = json.loads(Path(_COMPARISON, "comparison.json").read_text("utf-8"))["rows"]
    best = next(row["store"] for row in rows if row["verdict"] == "best")
    _run("fit", f"features/{best}.h5", "--clf", _HEAD)
    bundle = find_bundle("latest")
    _run("predict", str(bundle), *_choose_tested(bundle, images), "--format", "table")
    return bundle


def _check(source: Path) -> None:
    """Check the user's images before anything is written.

    Raises:
        FeatxError: If it is not a folder, or no classifier can be fitted to its images.
    """
    from featx.fitting.preconditions import check_manifest
    from featx.items import read_source

    if not source.is_dir():
        msg = f"{source} is not a folder; the demo takes a folder with one folder per class"
        raise SourceError(msg)
    check_manifest(read_source(source))


def _run(*arguments: str) -> None:
    """Show a command and run it, so that the text and the run agree."""
    from featx.cli.app import app

    print_text(f"\n$ featx {shlex.join(arguments)}")
    if code := app(list(arguments), standalone_mode=False):
        raise typer.Exit(code)


def _claim(folder: Path, source: str) -> None:
    """Make the folder, before anything slow is imported.

    Raises:
        SourceError: If it holds files of others, or cannot be written to.
    """
    mark = folder / _MARK
    try:
        is_own = mark.is_file() and mark.read_text("utf-8") == source
        if not is_own and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            msg = f"{folder} holds files that the demo did not write; choose another folder with --into"
            raise SourceError(msg)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        mark.write_text(source, "utf-8")
    except OSError as error:
        msg = f"{folder} cannot be written to: {error.strerror}; choose another folder with --into"
        raise SourceError(msg) from error


def _name_digit(number: int, target: int) -> str:
    return f"{target}/digit-{number:04d}.png"


def _write_digits(folder: Path) -> int:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / _name_digit(number, target)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # 0 to 16 grey levels, which is what the scans were reduced to
            Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(path)
    return len(digits.target)


def _choose_tested(bundle: Path, images: Path) -> list[str]:
    """Choose held-out images, so that the demo predicts no image that it was trained on."""
    with (bundle / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    step = max(1, len(rows) // _SHOWN_IMAGES)
    return [str(images / row["id"]) for row in rows[::step][:_SHOWN_IMAGES]]
