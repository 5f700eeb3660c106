"""Predict the classes of pictures: `python predict.py PICTURE...`, with `--json` for one JSON object a line.

It needs openvino, numpy and pillow, and the files next to it.
"""

import argparse
import json
import sys
from pathlib import Path

sys.modules["openvino_telemetry"] = None  # or OpenVINO reports its import to its makers

import numpy as np
import openvino
from PIL import Image, ImageOps, UnidentifiedImageError

FOLDER = Path(__file__).resolve().parent
ABOUT = json.loads((FOLDER / "model.json").read_text("utf-8"))
RECIPE = ABOUT["recipe"]
SIZE = (RECIPE["width"], RECIPE["height"])
FILTERS = {"bilinear": 2, "bicubic": 3, "lanczos": 1, "nearest": 0}  # as Pillow numbers them
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")  # others can run programs (EPS)

Image.MAX_IMAGE_PIXELS = 100_000_000  # Pillow refuses twice as many


def show(text):
    """Return a text in which nothing can move the cursor or break a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def fit(extent):
    """Return the size to resize to, and the box of the picture to take."""
    (width, height), whole = extent, (0, 0, *extent)
    if RECIPE["resize"] == "stretch":
        return SIZE, whole
    scales = SIZE[0] / width, SIZE[1] / height
    if RECIPE["resize"] == "pad":
        return tuple(max(1, round(side * min(scales))) for side in extent), whole
    scale = max(scales) / RECIPE.get("crop", 1.0)
    kept_width, kept_height = min(width, SIZE[0] / scale), min(height, SIZE[1] / scale)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return SIZE, (left, top, left + kept_width, top + kept_height)


def read(path):
    """Read a picture as uint8 RGB `(1, height, width, 3)`, as those that the model was trained on."""
    with Image.open(path, formats=FORMATS) as picture:
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"pictures of mode {picture.mode} are not read; convert it to 8 bits a sample")
        if RECIPE["decoder"].endswith("-scaled"):  # large JPEGs are decoded at a reduced scale, which is faster
            turned = picture.getexif().get(0x0112, 1) > 4
            wanted = [
                round(2 * side / RECIPE.get("crop", 1.0)) for side in fit(picture.size[:: -1 if turned else 1])[0]
            ]
            picture.draft(None, tuple(wanted[:: -1 if turned else 1]))
        picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data:
            paper = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(paper, picture.convert("RGBA"))
        size, box = fit(picture.size)
        small = picture.convert("RGB").resize(size, FILTERS[RECIPE["interpolation"]], box=box)
    canvas = Image.new("RGB", SIZE)
    canvas.paste(small, ((SIZE[0] - size[0]) // 2, (SIZE[1] - size[1]) // 2))
    return np.asarray(canvas)[None]


def main():
    """Read the command line, and print the prediction for each picture."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a letter of a name
    classes = show(", ".join(ABOUT["classes"])).replace("%", "%%")
    parser = argparse.ArgumentParser(description=f"Classes: {classes}")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file, or a folder of files")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    arguments = parser.parse_args()
    model = openvino.Core().compile_model(FOLDER / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    failed = 0
    for given in map(Path, arguments.pictures):
        inside = (path for path in given.rglob("*") if path.is_file() or not path.exists())  # and broken links
        for path in sorted(inside) if given.is_dir() else [given]:
            try:
                probabilities = model(read(path))[0][0].tolist()
            except (OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                failed += 1
                unknown = f"not a whole picture in a known format ({', '.join(FORMATS)}); convert it first"
                reason = unknown if isinstance(error, UnidentifiedImageError) else str(error)
                row = {"path": str(path), "error": reason}
            else:
                by_class = dict(zip(ABOUT["classes"], probabilities))
                label = max(by_class, key=by_class.get)
                row = {"path": str(path), "label": label, "probability": by_class[label], "probabilities": by_class}
            answer = f"{row['label']}  {row['probability']:.3f}" if "label" in row else f"error: {row['error']}"
            print(json.dumps(row) if arguments.json else show(f"{path}  {answer}"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
