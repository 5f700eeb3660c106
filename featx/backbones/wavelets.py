"""Morlet wavelets and Gaussian low-passes, sampled in space for strided convolutions.

A wavelet scattering network (Mallat 2012; Bruna & Mallat 2013, "Invariant
Scattering Convolution Networks", eq. 4 to 9) needs `J` dyadic scales of one
oriented wavelet and a low-pass at the coarsest scale. All scales are one shape
dilated, so the filter that leads from a grid of spacing `2**j` to one of
`2**(j + d)` depends on `d` alone: `J` wavelets and `J` low-passes serve all paths.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Width of the Gaussian envelope at scale 0 in px, and the wavelet's centre frequency there in
#: radians per px: Andreux et al. 2020, "Kymatio: Scattering Transforms in Python"; Bruna & Mallat 2013, sec. 2.1.
SIGMA_PX = 0.8
XI = 3 * np.pi / 4

#: Where kernels are cut off, in standard deviations of their longer axis: the envelope is down to 1 %.
CUTOFF = 3.0

#: Kernels are rounded to this many decimals, so that the sine of another processor, which may differ
#: in its last bit, leaves weights and digest as they are. (Adding 0.0 makes zeros of negative ones.)
DECIMALS = 10

Kernel = NDArray[np.float64]
ComplexKernel = NDArray[np.complex128]


@dataclass(frozen=True, slots=True)
class FilterBank:
    """The filters between dyadic grids.

    A grid of spacing `2**d` has its points in the middle of the cells of `2**d` px,
    so a kernel with stride `2**d` has an odd side for `d = 0` and an even one after.

    Attributes:
        wavelets: For `d = 0 .. J-1` complex kernels `(L, side, side)`, rows before columns;
            orientation `l` oscillates along `(cos, sin)(pi * l / L)` in `(column, row)`.
        lowpasses: For `d = 1 .. J` (from a grid of spacing `2**(J-d)` to the last) kernels `(side, side)` of sum 1.
    """

    wavelets: tuple[ComplexKernel, ...]
    lowpasses: tuple[Kernel, ...]


def make_filters(J: int, L: int) -> FilterBank:
    """Make the filters of a scattering network.

    The parameters at scale `d` are sigma `0.8 * 2**d`, centre frequency `3/4 pi / 2**d`
    and slant `4 / L` (Andreux et al. 2020, sec. 2); the low-pass has the sigma of the coarsest wavelet.

    Args:
        J: Number of scales; the last grid has a spacing of `2**J` px.
        L: Number of orientations in the half circle.

    Returns:
        The filters.
    """
    angles = np.pi * np.arange(L) / L
    wavelets = tuple(
        np.stack([_make_morlet(SIGMA_PX * 2**d, XI / 2**d, 4 / L, angle, even=d > 0) for angle in angles])
        for d in range(J)
    )
    return FilterBank(wavelets, tuple(_make_gaussian(SIGMA_PX * 2 ** (d - 1)) for d in range(1, J + 1)))


def _make_morlet(sigma: float, xi: float, slant: float, angle: float, *, even: bool) -> ComplexKernel:
    """Sample `envelope * (exp(i xi u) - beta)` with beta such that the kernel sums to 0.

    Bruna & Mallat 2013, eq. 3, on an elongated envelope: Oyallon & Mallat 2015,
    "Deep roto-translation scattering for object classification", sec. 2.1.
    """
    row, column = _make_grid(CUTOFF * sigma * max(1.0, 1 / slant), even=even)
    along = column * np.cos(angle) + row * np.sin(angle)
    across = row * np.cos(angle) - column * np.sin(angle)
    envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2)) * slant / (2 * np.pi * sigma**2)
    wave = np.exp(1j * xi * along)
    kernel: ComplexKernel = envelope * (wave - (envelope * wave).sum() / envelope.sum())
    return kernel.round(DECIMALS) + 0.0


def _make_gaussian(sigma: float) -> Kernel:
    row, column = _make_grid(CUTOFF * sigma, even=True)
    bump: Kernel = np.exp(-(row**2 + column**2) / (2 * sigma**2))
    kernel: Kernel = bump / bump.sum()
    return kernel.round(DECIMALS)


def _make_grid(radius: float, *, even: bool) -> tuple[Kernel, Kernel]:
    half = int(np.ceil(radius))
    offsets = np.arange(-half + 0.5, half) if even else np.arange(-half, half + 1.0)
    return offsets[:, None], offsets[None, :]
