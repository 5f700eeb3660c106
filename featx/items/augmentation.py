"""Augmentation: seeded views of an image that a person would still give the same label.

A view depends only on the image's content, the seed and its number. So the same view can be made
again anywhere and in any order: while embedding in threads, in an epoch, or when a bundle predicts.
"""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling, Transform

from featx.errors import UnknownNameError, UsageError
from featx.registry import make_unknown_name_error
from featx.specs import ViewSpec

FLIPS = ("horizontal", "vertical", "both")

#: Aspect ratios of a random-resized crop (Szegedy et al. 2015, "Going deeper with convolutions", section 6),
#: and how many are tried before the whole image is taken; both as in torchvision's RandomResizedCrop.
_CROP_ASPECTS = (3 / 4, 4 / 3)
_CROP_TRIES = 10

#: Uniform numbers drawn for a view, used or not: adding a strength leaves the others as they were.
_DRAWS = 10 + 2 * _CROP_TRIES


#: Gaps and letters of a contact sheet.
_GAP_PX = 6
_TITLE_PX = 15
_LABEL_PX = 12

#: A cell of the sheet, so small that seven fit next to each other on a screen.
_CELL_PX = 224

_PAPER, _INK, _FAINT = "white", "black", "#555555"


@dataclass(frozen=True, slots=True)
class _Strength:
    default: float
    least: float
    most: float
    unit: str
    off: float = 0.0


#: Defaults and ranges of the strengths, in the order of the canonical text.
_STRENGTHS: Mapping[str, _Strength] = {
    "rotate": _Strength(15, 0, 180, "degrees, either way"),
    "zoom": _Strength(0.2, 0, 1, "in and out: 0.2 draws factors from 1/1.2 to 1.2"),
    "shear": _Strength(0.2, 0, 1, "the tangent: 0.2 moves the top edge by 0.2 of the height against the bottom edge"),
    "shift": _Strength(0.1, 0, 0.5, "the fraction of the side, either way"),
    "contrast": _Strength(0.2, 0, 1, "0.2 draws factors from 0.8 to 1.2"),
    "crop": _Strength(0.5, 0.01, 1, "the smallest fraction of the area that is kept", off=1),
}

PRESETS: Mapping[str, str] = {
    "light": "flip,zoom:0.1,shift:0.05",
    "medium": "flip,rotate:15,zoom:0.15,shift:0.1,contrast:0.2",
    "strong": "flip,rotate:30,shear:0.2,contrast:0.4,crop:0.35",
}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much views may differ from their image; see `parse_augmentation`. Its `str` is the canonical text.

    Attributes:
        flip: One of `FLIPS`, with a chance of 1/2 in each direction; empty for none.
        rotate: Largest angle in degrees, either way.
        zoom: Largest enlargement; 0.2 draws factors from 1/1.2 to 1.2, uniformly in their logarithm.
        shear: Largest tangent of the angle by which upright lines lean.
        shift: Largest fraction of the side by which the image moves, along both axes.
        contrast: Largest change of the distance from the mean; 0.2 draws factors from 0.8 to 1.2.
        crop: Smallest fraction of the area that a random-resized crop keeps; 1 for no crop.
    """

    flip: str = ""
    rotate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Refuse unknown flips and strengths that are out of range."""
        if self.flip not in {"", *FLIPS}:
            msg = f"flip:{self.flip} is not known; it must be one of {', '.join(FLIPS)}, or none"
            raise UsageError(msg)
        for name, strength in _STRENGTHS.items():
            value = getattr(self, name)
            if not strength.least <= value <= strength.most:
                allowed = f"from {strength.least:g} to {strength.most:g} ({strength.unit})"
                msg = f"{name}:{_show(value)} is out of range; it must be {allowed}"
                raise UsageError(msg)

    def __str__(self) -> str:
        """Return the canonical text, with every strength that changes something and its value."""
        flip = {"": [], "horizontal": ["flip"]}.get(self.flip, [f"flip:{self.flip}"])
        values = {name: getattr(self, name) for name in _STRENGTHS}
        return ",".join(
            [*flip, *(f"{name}:{_show(value)}" for name, value in values.items() if value != _STRENGTHS[name].off)]
        )

    def __bool__(self) -> bool:
        return bool(str(self))

    @property
    def moves(self) -> bool:
        """Whether it changes the geometry by more than a flip."""
        return any(getattr(self, name) != _STRENGTHS[name].off for name in _STRENGTHS if name != "contrast")


def _show(value: float) -> str:
    """Format a number so that it is read back exactly, whole ones without their `.0`."""
    return repr(float(value)).removesuffix(".0")


def parse_augmentation(text: str) -> Augmentation:
    """Parse an augmentation: names with or without strengths, and a preset, separated by commas.

    The names are `flip` (or `flip:vertical`, `flip:both`), `rotate:15`, `zoom:0.2`, `shear:0.2`,
    `shift:0.1`, `contrast:0.2` and `crop:0.5`; a name alone has the strength shown here. The presets
    `light`, `medium` and `strong` stand for several names. A name next to a preset replaces its part:
    `medium,rotate:0,flip:none` neither rotates nor flips.

    Args:
        text: The list, in upper or lower case; empty for no augmentation.

    Raises:
        UnknownNameError: If a name is not known; the closest known names come first.
        UsageError: If a strength is not a number or out of range, or a name occurs twice.
    """
    base, named = Augmentation(), dict[str, str]()
    presets = []
    for part in filter(None, (part.strip().lower() for part in text.split(","))):
        name, colon, value = (piece.strip() for piece in part.partition(":"))
        if name in PRESETS and not colon:
            presets.append(name)
            base = parse_augmentation(PRESETS[name])
        elif name not in {"flip", *_STRENGTHS}:
            kind = "augmentation"
            raise make_unknown_name_error(kind, name, ["flip", *_STRENGTHS, *PRESETS])
        elif name in named:
            msg = f"the augmentation {text!r} has {name} twice; name it once"
            raise UsageError(msg)
        else:
            named[name] = value
    if len(presets) > 1:
        msg = f"the augmentation {text!r} has the presets {' and '.join(presets)}; name only one"
        raise UsageError(msg)
    if "flip" in named:
        flip = named.pop("flip") or FLIPS[0]
        base = replace(base, flip="" if flip == "none" else flip)
    strengths: dict[str, Any] = {name: _read_strength(name, value) for name, value in named.items()}
    return replace(base, **strengths)


def _read_strength(name: str, value: str) -> float:
    if not value:
        return float(_STRENGTHS[name].default)
    try:
        return (
            abs(float(value)) if float(value) == 0 else float(value)
        )  # -0 would give another text, and so another digest
    except ValueError as error:
        msg = f"{name}:{value} has no number after the colon; write for example {name}:{_STRENGTHS[name].default:g}"
        raise UsageError(msg) from error


def view_image(
    pixels: NDArray[np.uint8], augmentation: Augmentation, *, seed: int, sha256: str, number: int
) -> NDArray[np.uint8]:
    """Make one view of an image; areas beyond its borders show its reflection.

    Args:
        pixels: uint8 RGB `(height, width, 3)`; left unchanged.
        augmentation: How much the view may differ.
        seed: At least 0.
        sha256: Digest of the image's file, hexadecimal: each image gets views of its own.
        number: 0 for the image itself, and from 1 a different view for each number.

    Returns:
        uint8 RGB `(height, width, 3)`, C-contiguous; `pixels` itself if nothing changes.
    """
    if number == 0 or not augmentation:
        return pixels
    # Only uniform numbers are drawn; of NumPy's distributions, they are the least likely to change with a version.
    draws = np.random.default_rng([seed, int(sha256[:16], 16), number]).random(_DRAWS)
    view = _flip(pixels, augmentation.flip, draws[:2])
    if augmentation.moves:
        view = _resample(view, _compose(augmentation, view.shape[:2], draws[3:]))
    return np.ascontiguousarray(_change_contrast(view, augmentation.contrast, draws[2]))


def _flip(pixels: NDArray[np.uint8], flip: str, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    has_coin = draws < 1 / 2
    columns = slice(None, None, -1 if flip in {"horizontal", "both"} and has_coin[0] else 1)
    rows = slice(None, None, -1 if flip in {"vertical", "both"} and has_coin[1] else 1)
    return pixels[rows, columns]


def _compose(augmentation: Augmentation, size: tuple[int, int], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the affine map, float64 `(2, 3)`, from a point in the view to one in the image, as (x, y) in px.

    A crop is a box that fills the view. The rest is applied to the image about its middle, in the order zoom,
    shear, rotate, shift. The map goes from the view back to the image, so it consists of their inverses.
    """
    height, width = size
    turn, zoom, shear, shift_x, shift_y = 2 * draws[:5] - 1
    angle = math.radians(augmentation.rotate * turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    # y points down, so a positive angle rotates the image anticlockwise, as in Pillow's rotate.
    unrotate = np.array([[cosine, -sine], [sine, cosine]])
    unshear = np.array([[1.0, -augmentation.shear * shear], [0.0, 1.0]])
    linear = unshear @ unrotate * (1 + augmentation.zoom) ** -zoom
    middle = np.array([width / 2, height / 2])
    moved = middle + augmentation.shift * np.array([shift_x * width, shift_y * height])
    affine = np.column_stack([linear, middle - linear @ moved])
    if augmentation.crop == 1:
        return affine
    left, top, box_width, box_height = _draw_box(augmentation.crop, size, draws[5:])
    scale = np.diag([box_width / width, box_height / height])
    return np.column_stack([scale @ linear, scale @ affine[:, 2] + (left, top)])


def _draw_box(least: float, size: tuple[int, int], draws: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Draw the box of a random-resized crop: left, top, width and height in px."""
    height, width = size
    right, down, *shapes = draws.tolist()
    low, high = map(math.log, _CROP_ASPECTS)
    for area, aspect in zip(shapes[:_CROP_TRIES], shapes[_CROP_TRIES:], strict=False):
        share = least + (1 - least) * area
        ratio = math.exp(low + (high - low) * aspect)
        box_width, box_height = math.sqrt(share * height * width * ratio), math.sqrt(share * height * width / ratio)
        if box_width <= width and box_height <= height:
            return (width - box_width) * right, (height - box_height) * down, box_width, box_height
    return 0.0, 0.0, float(width), float(height)


def _resample(pixels: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Sample the image bilinearly at every pixel of the view, and its reflection beyond the borders."""
    height, width = pixels.shape[:2]
    corners = affine @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    # Bilinear weights need one pixel more on each side.
    left, top = (np.floor(corners.min(axis=1)).astype(int) - 1).tolist()
    right, bottom = (np.ceil(corners.max(axis=1)).astype(int) + 1).tolist()
    beyond = ((max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)), (0, 0))
    (above, _), (before, _), _ = beyond
    image = Image.fromarray(np.pad(pixels, beyond, mode="symmetric"))
    matrix = affine.copy()
    matrix[:, 2] += (before, above)
    if not affine[0, 1] and not affine[1, 0]:  # an upright box takes a third of the time, and shrinks without aliasing
        (across, _, x), (_, down, y) = matrix.tolist()
        box = (x, y, x + across * width, y + down * height)
        return np.asarray(image.resize((width, height), Resampling.BILINEAR, box=box))
    return np.asarray(image.transform((width, height), Transform.AFFINE, matrix.ravel().tolist(), Resampling.BILINEAR))


def _change_contrast(pixels: NDArray[np.uint8], contrast: float, draw: float) -> NDArray[np.uint8]:
    """Move all values closer to their mean, or further from it."""
    if not contrast:
        return pixels
    factor = 1 + contrast * (2 * draw - 1)
    mean = float(pixels.mean())
    table = np.rint(np.clip(mean + factor * (np.arange(256) - mean), 0, 255)).astype(np.uint8)
    changed: NDArray[np.uint8] = table.take(pixels)
    return changed


def plan_views(count: int, augmentation: str, seed: int = 0) -> ViewSpec | None:
    """Return the spec of views in canonical form; None for no views.

    Args:
        count: Augmented views of each image, in addition to the image.
        augmentation: The text that `parse_augmentation` reads.
        seed: Seed of the views.

    Raises:
        UsageError: If there are views without an augmentation or the reverse, or a number is out of range.
        UnknownNameError: If the augmentation is not known.
    """
    canonical = str(parse_augmentation(augmentation))
    if count == 0 and canonical:
        msg = f"the augmentation {augmentation!r} needs views; add their number, such as --views 4"
        raise UsageError(msg)
    if count and not canonical:
        msg = f"{count} views without an augmentation would be copies; add one, such as --augment light"
        raise UsageError(msg)
    return ViewSpec(count, canonical, seed) if count else None


def is_canonical(text: str) -> bool:
    """Return whether a text is the canonical text of an augmentation."""
    try:
        return str(parse_augmentation(text)) == text
    except (UnknownNameError, UsageError):
        return False


def make_views(pixels: NDArray[np.uint8], spec: ViewSpec, sha256: str) -> NDArray[np.uint8]:
    """Make all views of an image, the image itself first.

    Args:
        pixels: uint8 RGB `(height, width, 3)`.
        spec: Their number and kind.
        sha256: Digest of the image's file, hexadecimal.

    Returns:
        uint8 `(1 + spec.count, height, width, 3)`.
    """
    augmentation = _parse_once(spec.augmentation)
    numbers = range(spec.count + 1)
    return np.stack([view_image(pixels, augmentation, seed=spec.seed, sha256=sha256, number=n) for n in numbers])


_parse_once = functools.lru_cache(maxsize=16)(parse_augmentation)


def draw_contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    augmentation: Augmentation,
    *,
    seed: int,
    sha256s: Sequence[str],
    path: str | os.PathLike[str],
    views: int = 6,
) -> Path:
    """Draw images and their views on one page, to look at before use: a row for each image, itself first.

    Args:
        images: uint8 RGB `(height, width, 3)` each; sizes may differ.
        augmentation: How much views may differ.
        seed: Seed of the views.
        sha256s: Digest of each image's file, as `view_image` takes it.
        path: The PNG to write; its folder is created, and an existing file is replaced.
        views: Views of each image, at least 1.

    Returns:
        The path.

    Raises:
        UsageError: If there are no images, no views, or not one sha256 for each image.
    """
    if not images or views < 1 or len(images) != len(sha256s):
        msg = (
            f"a contact sheet cannot show {len(images)} images with {len(sha256s)} sha256 and {views} views; "
            f"it needs at least one image, one sha256 for each image, and at least one view"
        )
        raise UsageError(msg)
    rows = [
        [view_image(pixels, augmentation, seed=seed, sha256=sha256, number=number) for number in range(views + 1)]
        for pixels, sha256 in zip(images, sha256s, strict=True)
    ]
    labels = ["the image", *(f"view {number}" for number in range(1, views + 1))]
    sheet = _lay_out_sheet(rows, labels, f"{str(augmentation) or 'no augmentation'}   (seed {seed})")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, "PNG")
    return target


def _lay_out_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], labels: Sequence[str], title: str) -> Image.Image:
    """Lay out rows of images under a title; the first column, with which the others are compared, stands apart.

    Args:
        rows: uint8 RGB `(height, width, 3)` each, one image for each label in every row; sizes may differ.
        labels: One for each column.
        title: Text above the rows; it is broken after commas where it is too wide.
    """
    small = [[_shrink(Image.fromarray(pixels)) for pixels in row] for row in rows]
    width = max(image.width for row in small for image in row)
    heights = [max(image.height for image in row) for row in small]
    title_font, label_font = ImageFont.load_default(_TITLE_PX), ImageFont.load_default(_LABEL_PX)
    columns = len(labels)
    lefts = [_GAP_PX + column * (width + _GAP_PX) + (2 * _GAP_PX if column else 0) for column in range(columns)]
    lines = _wrap(title, title_font, lefts[-1] + width - _GAP_PX)
    top = 2 * _GAP_PX + len(lines) * (_TITLE_PX + _GAP_PX) + _LABEL_PX + _GAP_PX
    size = (lefts[-1] + width + _GAP_PX, top + sum(heights) + _GAP_PX * len(heights))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((_GAP_PX, _GAP_PX + number * (_TITLE_PX + _GAP_PX)), line, _INK, title_font)
    for label, left in zip(labels, lefts, strict=True):
        draw.text((left, top - _LABEL_PX - _GAP_PX), label, _FAINT, label_font)
    for row, height in zip(small, heights, strict=True):
        for image, left in zip(row, lefts, strict=True):
            sheet.paste(image, (left, top))
        top += height + _GAP_PX
    return sheet


def _wrap(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a title after commas where it is wider than the sheet."""
    lines = [""]
    for part in title.replace(",", ",\0").split("\0"):
        if lines[-1] and font.getlength(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _shrink(image: Image.Image) -> Image.Image:
    scale = min(1.0, _CELL_PX / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
