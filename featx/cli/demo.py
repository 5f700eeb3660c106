"""`featx demo`: embed, fit and predict on real images that scikit-learn ships."""

import contextlib
import csv
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from featx.cli.output import print_text
from featx.errors import SourceError

EXAMPLE = "featx demo --into featx-demo"

_SHOWN_IMAGES = 5
_NEXT = """
Next, with your own pictures in one folder per class:
  featx embed photos/ --backbone mobilenetv2     # downloads ImageNet weights once
  featx fit --clf logreg --cv 5                  # cross-validated
  featx backbones                                # all built-in backbones
  featx fit --help                               # other classifiers, splits, groups"""


def demo(
    folder: Annotated[
        Path, typer.Option("--into", metavar="FOLDER", help="Folder for the images, features and runs.")
    ] = Path("featx-demo"),
) -> None:
    """Embed, fit and predict on an example.

    The images are the scanned digits that scikit-learn ships; nothing is downloaded. Every command is shown before it
    runs.
    """
    from featx.references import find_bundle

    _claim(folder)
    count = _write_digits(folder / "digits")
    print_text(
        f"{count:,} scanned digits (UCI, shipped by scikit-learn) are in {folder / 'digits'}, one folder per class\n"
    )
    print_text(f"$ cd {folder}")
    with contextlib.chdir(folder):
        _run("embed", "digits", "--backbone", "scattering")
        _run("fit", "--clf", "logreg")
        bundle = find_bundle("latest")
        _run("predict", str(bundle), *_choose_tested(bundle), "--format", "table")
    print_text(f"\nThe bundle, with metrics.json, predictions.csv and confusion_matrix.png, is {folder / bundle}")
    print_text(_NEXT)


def _run(*arguments: str) -> None:
    """Show a command and run it, so that the text and the run agree."""
    from featx.cli.app import app

    print_text(f"\n$ featx {shlex.join(arguments)}")
    if code := app(list(arguments), standalone_mode=False):
        raise typer.Exit(code)


def _claim(folder: Path) -> None:
    """Make the folder, before anything slow is imported.

    Raises:
        SourceError: If it holds files of others, or cannot be written to.
    """
    is_own = (folder / "digits" / _name_digit(0, 0)).is_file()  # the first file that an earlier run wrote
    try:
        if not is_own and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            msg = f"{folder} holds files that the demo did not write; choose another folder with --into"
            raise SourceError(msg)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
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


def _choose_tested(bundle: Path) -> list[str]:
    """Choose held-out images, so that the demo predicts no image that it was trained on."""
    with (bundle / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    step = max(1, len(rows) // _SHOWN_IMAGES)
    return [f"digits/{row['id']}" for row in rows[::step][:_SHOWN_IMAGES]]
