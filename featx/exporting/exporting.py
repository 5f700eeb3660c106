"""Export of a bundle: one model, from uint8 pixels to probabilities, that runs without featx."""

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx.bundle import Bundle, Part
from featx.errors import MissingExtraError, UsageError
from featx.exporting.folding import find_plain_head
from featx.files import say_failures, write_json
from featx.heads.plain import PlainHead
from featx.items import Manifest
from featx.prediction import Predictor
from featx.registry import find_versions, suggest
from featx.reporting import SILENT, Reporter
from featx.wording import join_first

FORMATS = ("openvino", "onnx", "keras", "savedmodel", "litert", "app")

#: The files next to the model.
ABOUT, PARITY, CARD = "model.json", "parity.json", "model_card.md"

#: All that an export writes into its folder.
_WRITTEN = frozenset(
    (
        *(ABOUT, PARITY, CARD, "README.md", "predict.py", "requirements.txt", "Dockerfile"),
        *("model.xml", "model.bin", "model.onnx", "model.keras", "model.tflite", "saved_model"),
    )
)

_KIND = "featx-export"

#: Files that a message names.
_LISTED = 3

#: Packages that Keras needs to export to a format.
_NEEDS = {"onnx": ("onnx", "tf2onnx")}

#: Packages whose versions decide what an export computes.
_VERSIONS = ("featx", "keras", "numpy", "onnx", "openvino", "tensorflow", "tf2onnx")


@dataclass(frozen=True, slots=True)
class Export:
    """An exported bundle.

    Attributes:
        path: The folder.
        to: The format.
        model: The file of the model; the folder of a SavedModel.
        file_bytes: Size of the model, without what is next to it.
        parity: How it compares with featx; see `featx.exporting.parity.Parity`.
    """

    path: Path
    to: str
    model: Path
    file_bytes: int
    parity: Any


def export_bundle(
    path: str | os.PathLike[str],
    to: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    pictures: str | os.PathLike[str] | Manifest | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Export:
    """Export a bundle as one model, and compare its answers with those of featx in a process without featx.

    Args:
        path: The bundle; see `Bundle.open`.
        to: `openvino`, `onnx`, `keras`, `savedmodel`, `litert`, or `app` for a folder with a program.
        folder: Where to write it; None for `exports/<bundle>-<format>`.
        pictures: A source of pictures to compare on; None for that of the bundle's store, or for the bundle's golden
            pictures if that is gone.
        overwrite: Replace an earlier export.
        reporter: Is told what is being done.

    Raises:
        BundleError: If the bundle cannot be used here.
        UsageError: If no model can hold the bundle, or the format or folder cannot be used.
        MissingExtraError: If the format needs a package that is not installed.
        DataError: If the model cannot be written, or does not answer as featx does.
        StoreError: If the folder cannot be written to.

    Examples:
        >>> import featx
        >>> export = featx.export_bundle("latest", "openvino")
        >>> sorted(file.name for file in export.path.iterdir())
        ['model.bin', 'model.json', 'model.xml', 'model_card.md', 'parity.json']
    """
    check_format(to)
    bundle = Bundle.open(path)
    part, head = find_plain_head(bundle)
    target = Path(folder) if folder is not None else Path("exports") / f"{bundle.path.resolve().name}-{to}"
    _check_target(target, overwrite=overwrite)
    with say_failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target.parent) as name:
            made = Path(name) / target.name
            made.mkdir()
            model, parity = _write(bundle, part, head, to, made, pictures, reporter)
            n_bytes = sum(file.stat().st_size for file in _list_model(model))
            if target.exists():
                shutil.rmtree(target)
            made.rename(target)
    return Export(target, to, target / model.name, n_bytes, parity)


def check_format(to: str) -> None:
    """Check the name of a format.

    Raises:
        UsageError: If there is none of that name.
    """
    if to not in FORMATS:
        hint = suggest(to, FORMATS)
        msg = f"there is no export to {to!r}; {f'{hint} It' if hint else 'it'} must be one of {', '.join(FORMATS)}"
        raise UsageError(msg)


def _write(
    bundle: Bundle,
    part: Part,
    head: PlainHead,
    to: str,
    folder: Path,
    pictures: Any,  # noqa: ANN401 - a source
    reporter: Reporter,
) -> tuple[Path, Any]:
    """Write the model and what is next to it."""
    from featx.exporting.model_card import write_model_card
    from featx.exporting.parity import choose_pictures, measure_parity

    predictor, compared = Predictor.load(bundle.path), choose_pictures(bundle, pictures)
    about = _describe(bundle, part, to)
    reporter.begin("exporting")
    model = _write_model(bundle, part, head, about, folder)
    write_json(about, folder / ABOUT)
    if to == "app":
        from featx.exporting.app import write_app

        write_app(about, folder)
    reporter.begin("comparing")
    parity = measure_parity(to, model, predictor, compared, resizes=about["resizes"])
    write_json(parity.to_dict(), folder / PARITY)
    (folder / CARD).write_text(write_model_card(bundle, about, parity), "utf-8")
    return model, parity


def _write_model(bundle: Bundle, part: Part, head: PlainHead, about: Mapping[str, Any], folder: Path) -> Path:
    if about["to"] in {"openvino", "app"}:
        from featx.exporting.openvino_model import write_openvino

        return write_openvino(bundle, part, head, about, folder)
    if about["to"] == "onnx" and part.embed_spec.backbone.uri.startswith("onnx:"):
        _check_packages("onnx", ("onnx",))
        from featx.exporting.onnx_model import append_head

        path = append_head(bundle, part, head, folder)
    else:
        _check_packages(about["to"], _NEEDS.get(about["to"], ()))
        from featx.exporting.keras_model import write_keras

        path = write_keras(bundle, part, head, about, folder)
    if about["to"] == "onnx":
        _describe_onnx(path, about)
    return path


def _check_packages(to: str, names: Sequence[str]) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"an export to {to} needs {' and '.join(missing)}: pip install 'featx[export]'"
        raise MissingExtraError(msg)


def _describe_onnx(path: Path, about: Mapping[str, Any]) -> None:
    """Write what a model says of itself into its metadata."""
    import onnx

    model = onnx.load(path)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)


def _describe(bundle: Bundle, part: Part, to: str) -> dict[str, Any]:
    """Describe an export: what the model itself, if it can, and `model.json` hold."""
    image = part.embed_spec.image
    is_whole = image.resize == "stretch" and image.interpolation in {"bilinear", "bicubic"}
    resizes = to in {"openvino", "app"} and is_whole
    size = f"{image.height} x {image.width} px"
    sizes = (
        f"The model takes pictures of any size, and resizes them to {size} itself" if resizes else f"It takes {size}"
    )
    return {
        "format": _KIND,
        "format_version": 1,
        "to": to,
        "bundle": bundle.path.resolve().name,
        "classes": list(bundle.classes),
        "input": {"name": "pixels", "dtype": "uint8", "shape": ["n", image.height, image.width, 3], "colour": "RGB"},
        "output": {"name": "probabilities", "dtype": "float32", "shape": ["n", len(bundle.classes)]},
        "resizes": resizes,
        "sizes": sizes,
        "recipe": image.to_dict(),
        "backbone": part.embed_spec.backbone.to_dict(),
        "head": bundle.head_spec.to_dict(),
        "versions": find_versions(_VERSIONS),
    }


def _check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but an export, over one without a word, and over what was put beside it.

    Raises:
        UsageError: If something is there.
    """
    if not target.exists():
        return
    is_export = False
    with contextlib.suppress(OSError, ValueError):  # what cannot be read was not written by an export
        about = json.loads((target / ABOUT).read_text("utf-8"))
        is_export = isinstance(about, dict) and about.get("format") == _KIND
    added = sorted({file.name for file in target.iterdir()} - _WRITTEN) if is_export else []
    if is_export and overwrite and not added:
        return
    advice = "add --overwrite to replace it" if is_export else "it is not an export, so name another folder"
    if overwrite and added:
        advice = f"no export wrote {join_first(added, _LISTED)} in it, so move that first, or name another folder"
    msg = f"{target} exists already; {advice}"
    raise UsageError(msg)


def _list_model(model: Path) -> list[Path]:
    if model.is_dir():
        return [file for file in model.rglob("*") if file.is_file()]
    weights = model.with_suffix(".bin")
    return [model, weights] if weights.is_file() else [model]
