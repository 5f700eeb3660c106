"""`featx demo`: embed, fit and predict on real images that scikit-learn ships."""

import contextlib
import csv
import shlex
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
    count = _write_digits(folder / "digits")
    print_text(
        f"{count:,} scanned digits (UCI, shipped by scikit-learn) are in {folder / 'digits'}, one folder per class\n"
    )
    print_text(f"$ cd {folder}")
    with contextlib.chdir(folder):
        _run("embed", "digits", "--backbone", "scattering")
        _run("fit", "--clf", "logreg")
        bundle = max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        _run("predict", str(bundle), *_choose_tested(bundle), "--format", "table")
    print_text(f"\nThe bundle, with metrics.json, predictions.csv and confusion_matrix.png, is {folder / bundle}")
    print_text(_NEXT)


def _run(*arguments: str) -> None:
    """Show a command and run it, so that the text and the run agree."""
    from featx.cli.app import app

    print_text(f"\n$ featx {shlex.join(arguments)}")
    if code := app(list(arguments), standalone_mode=False):
        raise typer.Exit(code)


def _write_digits(folder: Path) -> int:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    if folder.exists() and not (folder / "0").is_dir():
        msg = f"{folder} exists and was not made by the demo; choose another folder with --into"
        raise SourceError(msg)
    for number, (pixels, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(target) / f"digit-{number:04d}.png"
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
