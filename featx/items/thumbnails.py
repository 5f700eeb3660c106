"""Small pictures: for contact sheets, and inside the HTML of a notebook."""

import base64
import io
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.errors import ImageError
from featx.items.decoding import decode, probe
from featx.items.manifest import Reader
from featx.specs import USED_BITS, ImageSpec
from featx.wording import escape_html

#: A notebook shows so many pictures, of so many px, and does not wait longer for them, or read larger files.
MOST_SHOWN, _SIDE_PX, _MOST_SECONDS, _MOST_BYTES = 12, 96, 1.0, 20 * 2**20


def read_thumbnail(data: bytes, side_px: int) -> NDArray[np.uint8]:
    """Decode an image so that its longer side has at most so many px, uint8 RGB `(height, width, 3)`.

    A file of 16 bits whose samples use only the lowest ones, as cameras with 12 bits write it, would look black: it is
    shown as bright as these bits allow.

    Raises:
        ImageError: If it cannot be decoded.
    """
    header = probe(data)
    scale = min(1.0, side_px / max(header.width_px, header.height_px))
    height, width = (max(1, round(side * scale)) for side in (header.height_px, header.width_px))
    decoded = decode(data, ImageSpec(height, width))
    bits = max(decoded.peak.bit_length(), USED_BITS[0])
    if decoded.peak and bits in USED_BITS:
        decoded = decode(data, ImageSpec(height, width, bits=bits))
    return decoded.pixels


def encode_thumbnail(data: bytes, side_px: int, form: str, *, quality: int) -> str:
    """Reduce an image to a small file in base64.

    Args:
        data: The file of the image.
        side_px: Its longer side afterwards.
        form: `JPEG` or `WEBP`.
        quality: 0 to 100.

    Raises:
        ImageError: If it cannot be decoded.
    """
    content = io.BytesIO()
    Image.fromarray(read_thumbnail(data, side_px)).save(content, form, quality=quality)
    return base64.b64encode(content.getvalue()).decode("ascii")


def format_thumbnails(reader: Reader, ids: Sequence[str], captions: Sequence[str]) -> str:
    """Return pictures with their captions as HTML that holds them, at most 12 and within a second.

    What is gone, damaged or large is left out; all that is shown in a notebook is there without it.

    Args:
        reader: Reads the files.
        ids: The items.
        captions: The text below each picture.
    """
    started, parts = time.monotonic(), []
    for name, caption in list(zip(ids, captions, strict=True))[:MOST_SHOWN]:
        if time.monotonic() - started > _MOST_SECONDS:
            break
        try:
            large = reader.stat(name).size_bytes > _MOST_BYTES
            source = "" if large else encode_thumbnail(reader.read(name), _SIDE_PX, "JPEG", quality=85)
        except (ImageError, OSError):
            continue
        if source:
            text, title = escape_html(caption), escape_html(name)
            parts.append(
                f'<figure style="display:inline-block;margin:4px;width:{_SIDE_PX}px;font-size:11px;vertical-align:top;'
                f'overflow-wrap:anywhere"><img src="data:image/jpeg;base64,{source}" alt="{title}" title="{title}" '
                f'style="width:100%;max-height:{_SIDE_PX}px;object-fit:contain">'
                f"<figcaption>{text}</figcaption></figure>"
            )
    return f"<div>{''.join(parts)}</div>" if parts else ""
