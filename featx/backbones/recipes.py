"""The recipe of a network's input: which values of a pixel it was trained on, and how images are made to fit.

A network in a file that Keras did not write does not scale its own pixels, and seldom says how it wants them. The
values are part of the backbone's uri, and so of its spec; size, resize and filter belong to the `ImageSpec`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featx.errors import UsageError
from featx.registry import suggest
from featx.specs import INTERPOLATIONS

#: The arguments of a uri that a recipe takes.
ARGUMENTS = ("recipe", "mean", "std", "scale", "channels")
CHANNELS = ("rgb", "bgr")

#: The filters of Pillow's numbers, as Hugging Face writes them.
_PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

#: Larger files are not a recipe.
_MOST_BYTES = 2**20

_SAME = 1e-7


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recipe of a network's input: `(pixel * scale - mean) / std`, in the network's order of channels.

    Attributes:
        mean: Of each channel.
        std: Of each channel; above 0.
        scale: What pixels of 0 to 255 are multiplied by first.
        channels: One of `CHANNELS`.
        image: The fields of `ImageSpec` that belong to it.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    channels: str = CHANNELS[0]
    image: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, str]:
        """The values as arguments of a uri: the first name with these values, or numbers."""
        for name, known in RECIPES.items():
            if known.channels == self.channels and _are_close(known._numbers, self._numbers):  # noqa: SLF001 - its own kind
                return {"recipe": name}
        numbers = {"mean": self.mean, "std": self.std, "scale": (self.scale,)}
        return {name: _write_numbers(values) for name, values in numbers.items()} | {"channels": self.channels}

    @property
    def _numbers(self) -> tuple[float, ...]:
        return (*self.mean, *self.std, self.scale)

    def describe(self) -> str:
        """Describe the values in words."""
        if self == Recipe(image=self.image):
            return "pixels of 0 to 255, RGB"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"(pixel * {self.scale:.6g} - ({mean})) / ({std}), {self.channels.upper()}"


_IMAGENET = Recipe((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
_CENTRE = {"resize": "crop", "crop": 0.875}

#: Recipes by name. Sources: torchvision's and timm's `IMAGENET_DEFAULT_MEAN`; `preprocess_cfg` of OpenAI's CLIP in
#: open_clip; `preprocessor_config.json` of google/siglip-base-patch16-224 and facebook/dinov2-small; `tf` and `caffe`
#: of `keras.applications.imagenet_utils.preprocess_input`, which says nothing about the resize.
RECIPES: dict[str, Recipe] = {
    "imagenet": Recipe(_IMAGENET.mean, _IMAGENET.std, 1 / 255, image=_CENTRE),
    "clip": Recipe(
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        1 / 255,
        image={"resize": "crop", "interpolation": "bicubic"},
    ),
    "inception": Recipe((0.5,) * 3, (0.5,) * 3, 1 / 255),
    "siglip": Recipe((0.5,) * 3, (0.5,) * 3, 1 / 255, image={"interpolation": "bicubic"}),
    "dinov2": Recipe(_IMAGENET.mean, _IMAGENET.std, 1 / 255, image={**_CENTRE, "interpolation": "bicubic"}),
    "unit": Recipe(scale=1 / 255),
    "caffe": Recipe((103.939, 116.779, 123.68), channels="bgr"),
    "none": Recipe(),
}


def has_recipe(arguments: Mapping[str, str]) -> bool:
    """Return whether the arguments of a uri say how pixels are scaled."""
    return bool({"recipe", "mean", "std", "scale"} & set(arguments))


def read_recipe(arguments: Mapping[str, str], found: Recipe | None = None) -> Recipe:
    """Read the recipe that the arguments of a uri give.

    Args:
        arguments: Those of `ARGUMENTS` that were given; `recipe` is a name or the path of a JSON file, and the others
            replace its values.
        found: The recipe inside the network's file, if it has one, for what the arguments leave open.

    Raises:
        UsageError: If a value is not a number or out of range, or the scale is left open.
    """
    if "recipe" in arguments:
        base = find_recipe(arguments["recipe"])
    else:
        base = found or Recipe()
        if found is None and "scale" not in arguments:
            msg = "a mean or deviation needs a scale: add --scale 1/255 for those of pixels from 0 to 1, or --scale 1"
            raise UsageError(msg)
    channels = arguments.get("channels", base.channels).lower()
    if channels not in CHANNELS:
        msg = f"channels is {channels!r}; it must be rgb or bgr"
        raise UsageError(msg)
    mean = _parse_three("mean", arguments["mean"]) if "mean" in arguments else base.mean
    std = _parse_three("std", arguments["std"]) if "std" in arguments else base.std
    scale = _parse_number("scale", arguments["scale"]) if "scale" in arguments else base.scale
    return _check(Recipe(mean, std, scale, channels, base.image))


def find_recipe(name: str) -> Recipe:
    """Find a recipe by its name, or read it from a JSON file.

    Raises:
        UsageError: If there is neither.
    """
    if name.lower() in RECIPES:
        return RECIPES[name.lower()]
    path = Path(name).expanduser()
    if path.is_dir():
        msg = f"the recipe {name} is a folder; name its preprocessor_config.json, open_clip_config.json or config.json"
        raise UsageError(msg)
    if not path.is_file():
        hint = suggest(name, RECIPES)
        msg = f"there is no recipe or file called {name!r}; {f'{hint} ' if hint else ''}known: {', '.join(RECIPES)}"
        raise UsageError(msg)
    if path.stat().st_size > _MOST_BYTES:
        msg = f"{path} has {path.stat().st_size:,} bytes, too many for a recipe; name a preprocessor_config.json"
        raise UsageError(msg)
    try:
        return parse_config(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        msg = f"{path} is not a recipe that featx reads ({reason}); give --mean, --std, --scale and --channels instead"
        raise UsageError(msg) from error


def parse_config(config: Mapping[str, Any]) -> Recipe:
    """Read the configuration of an image processor: of Hugging Face, open_clip or timm.

    Raises:
        ValueError: If it does something that featx cannot.
        KeyError: If it has none of their keys.
    """
    if "preprocess_cfg" in config:
        return _check(_parse_open_clip(config))
    if "pretrained_cfg" in config or "crop_pct" in config and "input_size" in config:  # noqa: RUF021 - and binds first
        return _check(_parse_timm(config.get("pretrained_cfg", config)))
    if not {"image_mean", "do_normalize", "do_rescale"} & set(config):
        msg = "it has none of image_mean, preprocess_cfg and pretrained_cfg"
        raise ValueError(msg)
    return _check(_parse_hugging_face(config))


def _parse_hugging_face(config: Mapping[str, Any]) -> Recipe:
    odd = [key for key in ("rescale_offset", "keep_aspect_ratio", "do_pad") if config.get(key)]
    if odd:
        msg = f"{odd[0]} is set, which featx cannot do"
        raise ValueError(msg)
    is_scaled, is_normal = config.get("do_rescale", True), config.get("do_normalize", True)
    scale = float(config.get("rescale_factor", 1 / 255)) if is_scaled else 1.0
    mean, std = (config["image_mean"], config["image_std"]) if is_normal else ((0.0,) * 3, (1.0,) * 3)
    channels = CHANNELS[1] if config.get("do_flip_channel_order") else CHANNELS[0]
    image: dict[str, Any] = {}
    if config.get("do_resize", True) and "size" in config:
        image = _fit_hugging_face(config)
        image["interpolation"] = _PILLOW_FILTERS[int(config.get("resample", 2))]
    return Recipe(_read_three(mean), _read_three(std), scale, channels, image)


def _fit_hugging_face(config: Mapping[str, Any]) -> dict[str, Any]:
    size, cropped = config["size"], config.get("crop_size")
    crops = config.get("do_center_crop", "crop_size" in config)
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size if crops or "crop_pct" in config else None
    if edge is None:
        height, width = (size["height"], size["width"]) if isinstance(size, Mapping) else (size, size)
        image = {"height": int(height), "width": int(width)}
        if crops and cropped and _read_pair(cropped) != (height, width):
            msg = "it stretches an image and then crops it, which featx cannot do"
            raise ValueError(msg)
        return image
    if config.get("crop_pct") and not crops:  # ConvNeXT: below 384 px, the shorter side is made longer, and cropped
        fraction = float(config["crop_pct"]) if edge < 384 else 1.0  # noqa: PLR2004 - in transformers' source
        resize = "crop" if edge < 384 else "stretch"  # noqa: PLR2004 - as above
        return {"height": int(edge), "width": int(edge), "resize": resize} | _keep_fraction(fraction)
    height, width = _read_pair(cropped) if crops and cropped else (edge, edge)
    return {"height": int(height), "width": int(width), "resize": "crop"} | _keep_fraction(max(height, width) / edge)


def _parse_open_clip(config: Mapping[str, Any]) -> Recipe:
    cfg = config["preprocess_cfg"]
    size = cfg.get("size") or config.get("model_cfg", {}).get("vision_cfg", {}).get("image_size")
    resize = {"shortest": "crop", "squash": "stretch", "longest": "pad"}[cfg.get("resize_mode", "shortest")]
    image: dict[str, Any] = {"resize": resize, "interpolation": _read_filter(cfg.get("interpolation", "bicubic"))}
    if size:
        image["height"], image["width"] = map(int, _read_pair(size))
    return Recipe(_read_three(cfg["mean"]), _read_three(cfg["std"]), 1 / 255, image=image)


def _parse_timm(cfg: Mapping[str, Any]) -> Recipe:
    fraction, mode = float(cfg.get("crop_pct", 0.875)), cfg.get("crop_mode", "center")
    if mode not in {"center", "squash"} or (mode == "squash" and not math.isclose(fraction, 1)):
        msg = f"crop_mode is {mode!r} with crop_pct {fraction:g}, which featx cannot do"
        raise ValueError(msg)
    image: dict[str, Any] = {"resize": "stretch"} if mode == "squash" else {"resize": "crop"} | _keep_fraction(fraction)
    _, height, width = cfg["input_size"]
    image |= {"height": int(height), "width": int(width)}
    image["interpolation"] = _read_filter(cfg.get("interpolation", "bilinear"))
    return Recipe(_read_three(cfg["mean"]), _read_three(cfg["std"]), 1 / 255, image=image)


def _keep_fraction(fraction: float) -> dict[str, Any]:
    if not 0 < fraction <= 1:
        msg = f"it keeps {fraction:g} of the shorter side, which featx cannot do"
        raise ValueError(msg)
    return {} if math.isclose(fraction, 1) else {"crop": fraction}


def _read_filter(name: str) -> str:
    name = name if name in INTERPOLATIONS else "bicubic" if name == "random" else name
    if name not in INTERPOLATIONS:
        msg = f"its filter is {name!r}; featx has {', '.join(INTERPOLATIONS)}"
        raise ValueError(msg)
    return name


def _read_pair(size: Any) -> tuple[float, float]:  # noqa: ANN401 - a number, a list or an object
    if isinstance(size, Mapping):
        return (size["height"], size["width"])
    return (size[0], size[-1]) if isinstance(size, list | tuple) else (size, size)


def _read_three(values: Any) -> tuple[float, float, float]:  # noqa: ANN401 - of a JSON file
    if not isinstance(values, list | tuple) or len(values) != 3:  # noqa: PLR2004 - red, green, blue
        msg = f"{values!r} is not one number for each of three channels"
        raise ValueError(msg)
    first, second, third = map(float, values)
    return first, second, third


def _parse_three(name: str, text: str) -> tuple[float, float, float]:
    values = [_parse_number(name, part) for part in text.replace(" ", ",").split(",") if part]
    if len(values) == 1:
        values *= 3
    if len(values) != 3:  # noqa: PLR2004 - red, green, blue
        msg = f"{name} is {text!r}; write one number, or three joined by commas"
        raise UsageError(msg)
    return values[0], values[1], values[2]


def _write_numbers(values: tuple[float, ...]) -> str:
    """Write numbers as they are read; one stands for three equal ones."""
    texts = [repr(value).removesuffix(".0") for value in values]
    return ",".join(texts[:1] if len(set(texts)) == 1 else texts)


def _parse_number(name: str, text: str) -> float:
    """Read a number, or a fraction such as 1/255."""
    above, slash, below = text.partition("/")
    try:
        value = float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        msg = f"{name} is {text!r}; write a number such as 0.5, or a fraction such as 1/255"
        raise UsageError(msg)
    return value


def _check(recipe: Recipe) -> Recipe:
    """Refuse values that give no finite input."""
    if min(recipe.std) <= 0 or recipe.scale <= 0 or not all(map(math.isfinite, recipe._numbers)):  # noqa: SLF001 - of this module
        msg = f"std is {', '.join(map(repr, recipe.std))} and scale {recipe.scale!r}; all must be finite and above 0"
        raise UsageError(msg)
    return recipe


def _are_close(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    return all(math.isclose(a, b, rel_tol=_SAME, abs_tol=_SAME) for a, b in zip(ours, theirs, strict=True))
