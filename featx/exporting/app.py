"""The app: a folder with an OpenVINO model and a script, which predicts pictures without featx."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featx.registry import find_versions
from featx.wording import escape_markdown

_FILES = Path(__file__).parent / "app_files"

_README = """# {title}

A classifier of pictures: {classes}. It runs without the program that made it.

    pip install -r requirements.txt
    python predict.py picture.jpg folder-of-pictures/
    python predict.py --json picture.jpg

Or in a container:

    docker build -t classifier .
    docker run --rm -v "$PWD/pictures:/pictures:ro" classifier /pictures

With `--json`, each line is an object with `path`, `label`, `probability` and `probabilities`, or with `path` and
`error`. The exit status is 1 if a picture could not be read.

It reads JPEG, PNG, GIF, WebP, BMP, TIFF, JPEG 2000, AVIF and PPM files, of 8 bits a sample. Convert others first, such
as the HEIC files of phones.

| file | what it is |
| :--- | :--- |
| `predict.py` | the program |
| `model.xml`, `model.bin` | the model, from uint8 pixels to probabilities, for OpenVINO |
| `model.json` | the classes, and how a picture becomes pixels |
| `model_card.md` | what the model was trained and tested on |
| `parity.json` | how its answers compare with those of featx |
"""


def write_app(about: Mapping[str, Any], folder: Path) -> None:
    """Write the files around the model of an app.

    Args:
        about: What the model says of itself.
        folder: The folder, in which the model is.
    """
    for name in ("predict.py", "Dockerfile"):
        shutil.copyfile(_FILES / name, folder / name)
    versions = find_versions(("numpy", "openvino", "pillow"))
    (folder / "requirements.txt").write_text("".join(f"{name}=={versions[name]}\n" for name in versions), "utf-8")
    classes = ", ".join(map(escape_markdown, about["classes"]))
    (folder / "README.md").write_text(_README.format(title=escape_markdown(about["bundle"]), classes=classes), "utf-8")
