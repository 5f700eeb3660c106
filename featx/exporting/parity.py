"""Parity: whether an exported model answers as featx does, by its own runtime in a process without featx."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.bundle import Bundle
from featx.errors import DataError, FeatxError, ImageError
from featx.exporting import inference
from featx.items import Manifest
from featx.items.decoding import decode, probe
from featx.prediction import Predictor
from featx.report.mistakes import find_pictures
from featx.specs import ImageSpec
from featx.wording import format_plural

#: Pictures that are compared.
MOST_PICTURES = 128

#: A larger difference of probabilities is not rounding, so the export is refused.
LIMIT = 1e-2

#: What runs each format, as it is imported.
_RUNTIMES = {
    "openvino": "openvino",
    "onnx": "onnxruntime",
    "keras": "keras",
    "savedmodel": "tensorflow",
    "litert": "ai_edge_litert",
}

#: Whole pictures that OpenVINO resizes: it takes about 0.5 s for each new size.
_MOST_WHOLE = 32

#: Formats that any build of Pillow opens to the same pixels as featx does.
_PLAIN = ("JPEG", "PNG")

_MOST_SECONDS = 600

_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8"}


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures that are compared.

    Attributes:
        ids: Their names.
        files: Their bytes.
        pixels: uint8 `(n, height, width, 3)`, as the bundle's recipe decodes them.
        source: Where they are from.
    """

    ids: tuple[str, ...]
    files: tuple[bytes, ...]
    pixels: NDArray[np.uint8]
    source: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two lists of probabilities of the same pictures agree.

    Attributes:
        images: Number of pictures.
        largest_difference: Of any probability.
        changed: The pictures with another label.
    """

    images: int
    largest_difference: float
    changed: tuple[str, ...]

    def __str__(self) -> str:
        labels = "the same labels" if not self.changed else f"{len(self.changed)} other labels"
        return (
            f"{labels} for {format_plural(self.images, 'picture')}, probabilities within {self.largest_difference:.1e}"
        )


@dataclass(frozen=True, slots=True)
class Parity:
    """How an exported model compares with featx.

    Attributes:
        source: Where the pictures are from.
        runtime: What ran the model, with its version; empty if nothing could.
        pixels: On the pixels that the bundle's recipe decodes; None if nothing could run the model.
        whole: On whole pictures, which the model, or the app, resizes itself; None where it does not.
        start_seconds: From the start of loading the model to the first answer.
        images_per_second: Of the pictures after the first batch, in batches of 8.
        reason: Why nothing was compared; empty if it was.
    """

    source: str
    runtime: str = ""
    pixels: Agreement | None = None
    whole: Agreement | None = None
    start_seconds: float | None = None
    images_per_second: float | None = None
    reason: str = ""

    def describe(self) -> list[str]:
        """Say it in one or two lines."""
        if self.pixels is None:
            return [f"not checked: {self.reason}"]
        resized = [f"whole pictures, resized without featx: {self.whole}"] if self.whole else []
        return [f"{self.runtime}, without featx: {self.pixels}", *resized]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `parity.json`."""
        return asdict(self)


def choose_pictures(bundle: Bundle, source: str | os.PathLike[str] | Manifest | None) -> Pictures:
    """Choose the pictures to compare on, evenly over a source.

    Args:
        bundle: The bundle.
        source: The source; None for that of the bundle's store, or for its golden pictures if that is gone.

    Raises:
        SourceError: If the named source cannot be read.
        DataError: If it has no picture that can be.
    """
    image = bundle.parts[0].embed_spec.image
    try:
        named = source is None or isinstance(source, Manifest)
        manifest = (
            source if isinstance(source, Manifest) else find_pictures(bundle.path, None if named else str(source))
        )
    except FeatxError:
        if source is not None:
            raise
        files = bundle.parts[0].golden.files
        ids = tuple(f"golden picture {number}" for number in range(len(files)))
        pixels = np.stack([decode(data, image).pixels for data in files])
        return Pictures(ids, files, pixels, "golden pictures of the bundle")
    found: list[tuple[str, bytes, NDArray[np.uint8]]] = []
    places = np.linspace(0, len(manifest) - 1, min(len(manifest), MOST_PICTURES)).astype(int)
    for item in (manifest.items[place] for place in places):
        try:
            data = manifest.reader.read(item.id)
            found.append((item.id, data, decode(data, image).pixels))
        except (OSError, ImageError):  # quarantined when it was embedded
            continue
    if not found:
        msg = f"none of the pictures of {manifest.source} can be read; name others with --pictures"
        raise DataError(msg)
    ids, contents, decoded = zip(*found, strict=True)
    return Pictures(ids, contents, np.stack(decoded), Path(str(manifest.source)).name)


def measure_parity(to: str, model: Path, predictor: Predictor, pictures: Pictures, *, resizes: bool) -> Parity:
    """Run an exported model in a process without featx, and compare it with the bundle.

    Args:
        to: Its format.
        model: Its file or folder.
        predictor: The bundle.
        pictures: What to compare on.
        resizes: Whether the model takes pictures of any size.

    Raises:
        DataError: If the model does not run, or answers differently.
    """
    kind = "openvino" if to == "app" else to
    runtime = _RUNTIMES[kind]
    if find_spec(runtime) is None:
        reason = f"no runtime; pip install 'featx[export]' for {runtime}, and export again"
        return Parity(pictures.source, reason=reason)
    expected = predictor.predict_proba(pictures.pixels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "pixels.npy", pictures.pixels)
        found = _run_model(kind, model, folder / "pixels.npy")
        pixels = _compare(pictures.ids, expected, found["probabilities"])
        if not pixels.largest_difference <= LIMIT:
            msg = f"the {to} model answers differently from featx ({pixels}), so it was not kept; please report this"
            raise DataError(msg)
        plain = [at for at, data in enumerate(pictures.files) if probe(data).format in _PLAIN]
        plain = plain if to == "app" else plain[:: -(-len(plain) // _MOST_WHOLE) or 1]
        whole = None
        if plain and (resizes or to == "app"):
            files = _write_files([pictures.files[at] for at in plain], folder / "pictures")
            answers = _run_app(model.parent, files) if to == "app" else _run_model(kind, model, files[0].parent)
            whole = _compare([pictures.ids[at] for at in plain], expected[plain], answers["probabilities"])
    rate = float(found["rate"]) if len(pictures.pixels) > len(found["first"]) else None
    return Parity(pictures.source, str(found["runtime"]), pixels, whole, float(found["start"]), rate)


def list_recipe_steps(image: ImageSpec) -> str:
    """Say in words how a picture becomes the pixels of a network."""
    how = {"stretch": "resized", "crop": "resized and cropped in the middle", "pad": "resized, with black at the sides"}
    return (
        f"uint8 RGB, {how[image.resize]} to {image.height} x {image.width} px (height x width) by an antialiased "
        f"{image.interpolation} filter, upright by its EXIF orientation, transparent parts on white"
    )


def _compare(ids: Sequence[str], expected: NDArray[np.float64], found: NDArray[np.float64]) -> Agreement:
    if found.shape != expected.shape:
        msg = f"the exported model answers in the shape {found.shape} instead of {expected.shape}; please report this"
        raise DataError(msg)
    changed = np.flatnonzero(expected.argmax(axis=1) != found.argmax(axis=1)).tolist()
    return Agreement(len(ids), float(np.abs(expected - found).max()), tuple(ids[at] for at in changed))


def _write_files(files: Sequence[bytes], folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:04}" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return paths


def _run_model(kind: str, model: Path, images: Path) -> Mapping[str, Any]:
    result = images.with_suffix(".npz")
    _run([inference.__file__, kind, str(model), str(images), str(result)])
    with np.load(result) as arrays:
        found = dict(arrays)
    if "featx" in found["imported"]:
        msg = "the process that runs the exported model imported featx; please report this"
        raise DataError(msg)
    return found


def _run_app(folder: Path, files: Sequence[Path]) -> Mapping[str, Any]:
    rows = [json.loads(line) for line in _run([str(folder / "predict.py"), "--json", *map(str, files)]).splitlines()]
    return {"probabilities": np.array([list(row["probabilities"].values()) for row in rows])}


def _run(arguments: Sequence[str]) -> str:
    """Run a script in a process of its own, without its folder on the path.

    Raises:
        DataError: If it fails.
    """
    environment = {**os.environ, **_ENVIRONMENT}
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(  # noqa: S603 - this Python, and a script of featx
        command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=_MOST_SECONDS, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        msg = f"the exported model does not run without featx ({reason}), so it was not kept"
        raise DataError(msg)
    return done.stdout
