"""The files of a keras-hub preset: which count, their digest, and checks before keras-hub reads any of them.

A preset is a folder with the config of a network, that of its image converter, and weights: as keras-hub's
`save_to_preset` writes it, or as Hugging Face's transformers and timm do. In a bundle it is a zip file of these.
"""

import hashlib
import json
import os
import re
import shutil
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featx.backbones.catalogue import BackboneInfo
from featx.errors import BackboneError, WeightsError
from featx.files import list_members

CONFIG, CONVERTER = "config.json", "image_converter.json"
#: The files that decide the numbers, besides the weights; the last is that of transformers.
SETTINGS = (CONFIG, CONVERTER, "preprocessor_config.json")
#: One of these: keras-hub's own, or that of transformers and timm.
WEIGHTS = ("model.weights.h5", "model.safetensors")

_MOST_CONFIG_BYTES = 2**20

#: The largest number in a config, by what its name ends in or begins with. The vocabulary of SigLIP 2 has 256,000
#: words; networks have up to 160 layers, windows up to 24 px, and images up to 2,048 px.
_LIMITS = ((re.compile(r".*(layers|depths?|blocks|repeats)"), 512), (re.compile(r"window.*"), 64))
_MOST, _MOST_WORDS = 65_536, 2**20

#: Settings of transformers with the names of classes, which may have any words and numbers.
_LABELS = {"label2id", "id2label"}

_PREFIX = "keras_hub>"


@dataclass(frozen=True, slots=True)
class Family:
    """A family of vision networks in keras-hub.

    Attributes:
        title: Its usual name.
        year: Of its paper.
        licence: Of the weights that its authors published; a preset of somebody else may have another.
        pooled: What its features are by default: `class token`, `pooled` by the network itself, or `average`.
        parts: Classes of networks inside it.
    """

    title: str
    year: int
    licence: str
    pooled: str = "average"
    parts: tuple[str, ...] = ()


#: By the class of the backbone in keras-hub 0.32; others are not for single images, or not frozen encoders.
FAMILIES: dict[str, Family] = {
    "CLIPBackbone": Family("CLIP", 2021, "MIT", "pooled", ("CLIPVisionEncoder", "CLIPTextEncoder")),
    "CSPNetBackbone": Family("CSPNet", 2019, "Apache-2.0"),
    "DeiTBackbone": Family("DeiT", 2020, "Apache-2.0", "class token"),
    "DenseNetBackbone": Family("DenseNet", 2016, "BSD-3-Clause"),
    "DINOV2Backbone": Family("DINOv2", 2023, "Apache-2.0", "class token"),
    "DINOV3Backbone": Family("DINOv3", 2025, "DINOv3 License", "class token"),
    "EfficientNetBackbone": Family("EfficientNet", 2019, "Apache-2.0"),
    "HGNetV2Backbone": Family("HGNetV2", 2023, "Apache-2.0"),
    "MetaCLIP2Backbone": Family(
        "MetaCLIP 2", 2025, "CC-BY-NC-4.0", "pooled", ("MetaCLIP2VisionEncoder", "MetaCLIP2TextEncoder")
    ),
    "MiTBackbone": Family("MiT (SegFormer)", 2021, "NVIDIA, research only"),
    "MobileNetBackbone": Family("MobileNetV3", 2019, "Apache-2.0"),
    "ResNetBackbone": Family("ResNet", 2015, "Apache-2.0"),
    "SigLIPBackbone": Family("SigLIP", 2023, "Apache-2.0", "pooled", ("SigLIPVisionEncoder", "SigLIPTextEncoder")),
    "SwinTransformerBackbone": Family("Swin", 2021, "MIT"),
    "ViTBackbone": Family("ViT", 2020, "Apache-2.0", "class token"),
    "VGGBackbone": Family("VGG", 2014, "CC-BY-4.0"),
    "XceptionBackbone": Family("Xception", 2016, "Apache-2.0"),
}
#: Presets to begin with: the family, the size of images in px, the number of features and, where the network is for
#: images alone, of parameters; None is not known before it is built. `keras_hub.models.Backbone.presets` has all names.
PRESETS: dict[str, tuple[str, int | None, int, int | None]] = {
    "dinov2_small": ("DINOV2Backbone", 518, 384, 22_582_656),
    "dinov2_base": ("DINOV2Backbone", 518, 768, 87_632_640),
    "dinov3_vit_small_lvd1689m": ("DINOV3Backbone", None, 384, 21_600_000),
    "clip_vit_base_patch16": ("CLIPBackbone", 224, 768, None),
    "siglip2_base_patch16_224": ("SigLIPBackbone", 224, 768, None),
    "swin_tiny_patch4_window7_224": ("SwinTransformerBackbone", 224, 768, 27_519_354),
}

_ADMITTED = {*FAMILIES, *(part for family in FAMILIES.values() for part in family.parts)}


def describe_presets() -> list[BackboneInfo]:
    """Describe the presets of `PRESETS`; their cost is not counted."""
    found = []
    for name, (family, size_px, dim, parameters) in PRESETS.items():
        known = FAMILIES[family]
        described = BackboneInfo(f"hub:{name}", known.title, known.year, size_px, dim, parameters)
        found.append(replace(described, licence=known.licence, weights="keras-hub", is_offline=False))
    return found


def is_local(name: str) -> bool:
    """Return whether the part of a uri after `hub:` is a path: it has a separator, or it exists."""
    if "://" in name:
        return False
    return "/" in name or os.sep in name or name.startswith(("~", ".")) or Path(name, CONFIG).is_file()


def describe_place(name: str) -> str | None:
    """Describe all but the weights that decides the network of a preset, for the cache of converted networks.

    Returns:
        The folder and the digest of its settings, or the folder of downloads for a preset whose version is fixed by
        that of keras-hub; None for others, which may change.
    """
    path = Path(name).expanduser()
    if is_local(name):
        return f"{path.resolve()} {digest_preset(path, settings_only=True)}" if (path / CONFIG).is_file() else None
    return os.environ.get("KAGGLEHUB_CACHE", "") if "://" not in name else None


def find_weights(folder: Path) -> Path:
    """Find the file of the weights of a preset.

    Raises:
        WeightsError: If there is none, or they are in several files.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    msg = f"{folder} has no weights: no {' or '.join(WEIGHTS)}; save presets of many parts again, as one file"
    raise WeightsError(msg)


def list_files(folder: Path) -> list[Path]:
    """List the files of a preset that decide its numbers; what else is in the folder is not read.

    Raises:
        WeightsError: As `find_weights`.
    """
    return [*(folder / name for name in SETTINGS if (folder / name).is_file()), find_weights(folder)]


def digest_preset(folder: Path, *, settings_only: bool = False) -> str:
    """Return the sha256 over names and contents of the files of a preset, in hexadecimal.

    Args:
        folder: The preset.
        settings_only: Leave out the weights.

    Raises:
        WeightsError: As `find_weights`.
    """
    digest = hashlib.sha256()
    for path in list_files(folder)[: -1 if settings_only else None]:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode("ascii"))
    return digest.hexdigest()


def pack_preset(folder: Path, path: Path) -> None:
    """Write the files of a preset into an uncompressed zip file, as a bundle has it.

    Raises:
        WeightsError: As `find_weights`.
    """
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for file in list_files(folder):
            archive.write(file, file.name)


def unpack_preset(path: Path, folder: Path) -> None:
    """Extract what `pack_preset` wrote into a folder.

    Raises:
        BackboneError: If it is anything else.
    """
    try:
        members = list_members(path)
        if odd := sorted(set(members) - {*SETTINGS, *WEIGHTS}):
            msg = f"it holds {', '.join(odd)[:200]}"
            raise ValueError(msg)  # noqa: TRY301 - all damages are reported alike
        with zipfile.ZipFile(path) as archive:
            for name in members:
                with archive.open(name) as source, (folder / name).open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        msg = f"{path} is not a zip file of a keras-hub preset ({error}); name the folder of the preset"
        raise BackboneError(msg) from error


def check_settings(folder: Path) -> str:
    """Check the configs of a preset, which may be untrusted, and name the class of its backbone.

    Returns:
        A key of `FAMILIES`; empty for a preset of transformers or timm, for which keras-hub names it.

    Raises:
        ValueError: If a config has a class that is neither a vision network of keras-hub nor one of Keras's own, or a
            number out of range, or is not JSON.
        OSError: If one cannot be read.
    """
    from featx.backbones.untrusted_files import check_classes  # with h5py, which whoever names a preset need not load

    family = ""
    for path in (folder / name for name in SETTINGS if (folder / name).is_file()):
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            msg = f"its {path.name} has {path.stat().st_size:,} bytes; the limit is {_MOST_CONFIG_BYTES:,}"
            raise ValueError(msg)
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            msg = f"its {path.name} does not hold names and values"
            raise ValueError(msg)  # noqa: TRY004 - the file has the wrong value, not the call
        if path.name == CONFIG and "registered_name" in config:
            family = _check_family(str(config["registered_name"]).removeprefix(_PREFIX))
        check_classes(config, _is_own)
        _check_numbers(config, path.name)
    return family


def _check_family(name: str) -> str:
    if name not in FAMILIES:
        msg = f"it holds {name[:60]}, which featx does not know as a network for single images"
        raise ValueError(msg)
    return name


def _is_own(entry: dict[str, Any]) -> bool:
    """Return whether a registered class of keras-hub builds an entry: then its module is not imported."""
    name, module = str(entry.get("class_name")), str(entry.get("module"))
    is_known = name in _ADMITTED or name.replace("ImageConverter", "Backbone") in FAMILIES
    return is_known and entry.get("registered_name") == _PREFIX + name and module.startswith("keras_hub.src.")


def _check_numbers(config: dict[str, Any], title: str) -> None:
    """Check that numbers are not so large that the network takes hours or all memory to build."""
    stack: list[tuple[str, object]] = [("", config)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            stack += (pair for pair in value.items() if pair[0] not in _LABELS)
        elif isinstance(value, list):
            stack += ((name, each) for each in value)
        elif isinstance(value, int | float):
            usual = _MOST_WORDS if name.startswith("vocab") else _MOST
            most = next((most for pattern, most in _LIMITS if pattern.fullmatch(name.lower())), usual)
            if not abs(value) <= most:  # also NaN
                msg = f"its {title} has {name[:40]} = {value:g}; the limit is {most:,}"
                raise ValueError(msg)
