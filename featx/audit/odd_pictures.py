"""Pictures that are poor or odd: blank, wrongly exposed, blurred, tiny, of odd shape, or gone.

Exposure and blur are judged twice: by a fixed limit, and beside the other pictures of the store. Night shots are not
too dark among night shots, and a microscope's soft pictures are not blurred among others of the same.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featx.audit.findings import Finding
from featx.audit.looks import Looks
from featx.ledger import guess_bits
from featx.store import FeatureStore

Floats = NDArray[np.float64]

#: A picture is blank below this standard deviation of grey levels, tiny below this side in px if most are twice as
#: large, and odd in shape above this ratio of its sides if most are not. A thin line on a plain ground is below the
#: first; below the second standard deviation there is nothing to see.
_BLANK, _TINY_PX, _ODD = 4.0, 32, 4.0
_EMPTY = 1.0

#: A dark picture hardly reaches this level, which is a quarter of the light of white (2 stops less; IEC 61966-2-1), and
#: a bright one has this share of clipped pixels. Of 398 photographs, 2 are darker and 15 have more clipped pixels, most
#: of them a white background; 5 of these are also much brighter than most.
_DARK, _CLIPPED = 137.0, 0.3

#: Sharpness of a blurred picture. Of 998 photographs none has less; with a Gaussian blur whose standard deviation is
#: 1 % of the shorter side, half of them have less than 0.24.
_BLURRED = 0.4

#: How many standard deviations from the median exposure and blur begin, and the least standard deviations, in stops
#: and in natural logarithms, for stores whose pictures are all alike.
_EXPOSURE_APART, _BLUR_APART, _LEAST_STOPS, _LEAST_LOGARITHM = 2.5, 4.0, 0.1, 0.05

#: The limits, by kind.
LIMITS = {
    "blank": _BLANK,
    "under-exposed": _DARK,
    "over-exposed": _CLIPPED,
    "blur": _BLURRED,
    "tiny": _TINY_PX,
    "odd shape": _ODD,
}


def find_odd_pictures(store: FeatureStore, looks: Looks) -> list[Finding]:
    """Find pictures that are blank, wrongly exposed, blurred, tiny, of odd shape, or cannot be read.

    Args:
        store: The store.
        looks: The looks of its items.

    Returns:
        The findings, those of each kind with the strongest first.
    """
    blank = looks.contrasts < _BLANK
    found = [*_find_unusable(store, looks), *_find_exposed(store, looks, blank), *_find_blurred(store, looks, blank)]
    return sorted([*found, *_find_odd_sizes(store)], key=lambda finding: -finding.score)


def _find_unusable(store: FeatureStore, looks: Looks) -> Iterator[Finding]:
    bits = 0 if store.spec.image.bits else guess_bits(int(looks.peaks.max()))
    for row, name in enumerate(store.ids.tolist()):
        contrast = float(looks.contrasts[row])
        if contrast < _BLANK:
            words = f"standard deviation of {contrast:.1f} grey levels"
            dark = bits > 0 and looks.peaks[row] > 0
            words += f"; looks like {bits}-bit data: embed again with --bits {bits}" if dark else ""
            yield Finding(
                name, "blank", _BLANK - contrast, "check" if dark or contrast >= _EMPTY else "leave out", "", words
            )
        if name in looks.missing:
            yield Finding(name, "unreadable", 1.0, "check", "", looks.missing[name])


def _find_exposed(store: FeatureStore, looks: Looks, blank: NDArray[np.bool_]) -> Iterator[Finding]:
    """Find pictures that are dark or clipped, and darker or brighter than most."""
    darker = -_compare(np.log2(1 + looks.highlights.astype(np.float64)), _LEAST_STOPS)
    # Stops of what is missing to white.
    brighter = -_compare(np.log2(256 - looks.colours.mean(axis=1, dtype=np.float64)), _LEAST_STOPS)
    for row in np.flatnonzero((darker > _EXPOSURE_APART) & (looks.highlights < _DARK) & ~blank):
        words = f"under-exposed: 95 % of the pixels have no channel above {looks.highlights[row]:.0f} of 255"
        yield Finding(str(store.ids[row]), "exposure", float(darker[row]), "check", "", words)
    for row in np.flatnonzero((brighter > _EXPOSURE_APART) & (looks.clipped > _CLIPPED) & ~blank):
        words = f"over-exposed: {looks.clipped[row]:.0%} of the pixels are clipped"
        yield Finding(str(store.ids[row]), "exposure", float(brighter[row]), "check", "", words)


def _find_blurred(store: FeatureStore, looks: Looks, blank: NDArray[np.bool_]) -> Iterator[Finding]:
    """Find pictures with little detail, and less than most."""
    softer = -_compare(np.log(np.maximum(looks.sharpness.astype(np.float64), 1e-3)), _LEAST_LOGARITHM)
    usual = np.nanmedian(looks.sharpness) if np.isfinite(looks.sharpness).any() else np.nan
    for row in np.flatnonzero((softer > _BLUR_APART) & (looks.sharpness < _BLURRED) & ~blank):
        width, height = store.sizes_px[row].tolist()
        words = f"sharpness {looks.sharpness[row]:.2f}, half of all have {usual:.2f} or more; {width} x {height} px"
        yield Finding(str(store.ids[row]), "blur", float(softer[row]), "check", "", words)


def _compare(values: Floats, least: float) -> Floats:
    """Return by how many standard deviations values are above the median, float64 `(n,)`; NaN where they are NaN.

    The standard deviation is that of the median absolute deviation, which single odd pictures do not change (Hampel
    1974, "The influence curve and its role in robust estimation").
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return values
    middle = np.median(known)
    return np.asarray((values - middle) / max(1.4826 * np.median(np.abs(known - middle)), least))


def _find_odd_sizes(store: FeatureStore) -> Iterator[Finding]:
    sizes = store.sizes_px.astype(np.float64)
    shapes = sizes.max(axis=1) / np.maximum(sizes.min(axis=1), 1)
    least_px = min(_TINY_PX, np.median(sizes.min(axis=1)) / 2)
    longest = max(_ODD, 2 * np.median(shapes))
    for row, name in enumerate(store.ids.tolist()):
        width, height = (int(side) for side in sizes[row])
        if min(width, height) < least_px:
            yield Finding(name, "tiny", 1 / max(1, min(width, height)), "check", "", f"{width} x {height} px")
        if shapes[row] > longest:
            yield Finding(name, "odd shape", float(shapes[row]), "check", "", f"{width} x {height} px")
