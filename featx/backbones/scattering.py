"""Wavelet scattering as a frozen Keras network: a backbone whose weights are computed.

Second-order scattering (Bruna & Mallat 2013, "Invariant Scattering Convolution
Networks", eq. 6 to 9) has three orders, each averaged over `2**J` px: the image, the
moduli of its wavelet transform, and the moduli of the wavelet transforms of these at
coarser scales. Every filter is a strided depthwise convolution onto the grid of its
own scale, so that only the values that are kept are computed.

Beyond its borders, the image is mirrored without limit. A mirrored image has mirrored
wavelet coefficients with mirrored orientations, so the maps can be extended exactly
too: mirror the pixels and exchange orientations `l` and `L - l`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones.networks import KerasBackbone, make_backbone
from featx.backbones.protocol import BackboneRequest
from featx.errors import BackboneError, WeightsError
from featx.frameworks import keras, ops

#: Width of the Gaussian envelope at scale 0 in px, and the wavelet's centre frequency there in
#: radians per px: Andreux et al. 2020, "Kymatio: Scattering Transforms in Python"; Bruna & Mallat 2013, sec. 2.1.
SIGMA_PX = 0.8
XI = 3 * np.pi / 4

#: Radius of kernels, in standard deviations of their longer axis; the envelope has fallen to 1 % there.
CUTOFF = 3.0

#: Kernels are rounded to this many decimals. The sine may differ in its last bit between processors, and rounding
#: keeps weights and digest equal. (Adding 0.0 turns negative zeros into zeros.)
DECIMALS = 10

Kernel = NDArray[np.float64]
ComplexKernel = NDArray[np.complex128]


@dataclass(frozen=True, slots=True)
class FilterBank:
    """The filters between dyadic grids.

    The points of a grid of spacing `2**d` are the centres of cells of `2**d` px, so a kernel with
    stride `2**d` has an odd side for `d = 0` and an even one for larger `d`.

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


#: Weights of red, green and blue in grey: ITU-R BT.601, sec. 2.5.1; Pillow's `convert("L")` uses them too.
LUMINANCE = (0.299, 0.587, 0.114)

COLOURS = ("grey", "rgb")

_DEFAULT_SIDE_PX = 32
_ARGUMENTS = ("J", "L", "colour")


@dataclass(frozen=True)
class _Map:
    """Channels on the grid of spacing `2**level`.

    `mirrored[i]` is the channel that channel `i` becomes where the image is mirrored.
    """

    values: Any
    level: int
    mirrored: NDArray[np.int64]
    path: str


def load_scattering(request: BackboneRequest) -> KerasBackbone:
    """Build the scattering backbone: `scattering`, or `scattering?J=3&L=8&colour=rgb`.

    The default layer is the last one, `scattering`; `order0`, `order1` and `order2` are its parts.
    The default pooling is `flatten`, which keeps positions in the image.

    Args:
        request: `J` scales, `L` angles, and `colour`: `grey` or `rgb` (each channel separately).

    Raises:
        BackboneError: If an argument, the weights or the image size is not supported.
    """
    unknown = sorted(set(request.arguments) - set(_ARGUMENTS))
    if unknown:
        msg = f"scattering has no argument {', '.join(unknown)}; known: {', '.join(_ARGUMENTS)}"
        raise BackboneError(msg)
    if request.weights not in {None, "computed"}:
        msg = f"the weights of scattering are computed, not loaded; leave out --weights {request.weights}"
        raise WeightsError(msg)
    network = build_scattering(
        request.height or _DEFAULT_SIDE_PX,
        request.width or _DEFAULT_SIDE_PX,
        scales=_read_count(request, "J", 3),
        angles=_read_count(request, "L", 8),
        colour=request.arguments.get("colour", "grey"),
    )
    return make_backbone(
        network,
        uri=request.uri,
        weights="computed",
        layers=request.layers,
        pooling=request.pooling,
        default_pooling="flatten",
    )


def build_scattering(height: int, width: int, *, scales: int = 3, angles: int = 8, colour: str = "grey") -> keras.Model:
    """Build the network.

    Args:
        height: Rows of the images, in px; a multiple of `2**scales`.
        width: Columns of the images, in px; a multiple of `2**scales`.
        scales: `J`, the number of dyadic scales; one output cell spans `2**J` px.
        angles: `L`, the number of wavelet orientations in the half circle.
        colour: `grey` scatters the luminance; `rgb` red, green and blue separately.

    Returns:
        A model from uint8 `(n, height, width, 3)` to float32 `(n, height / 2**J, width / 2**J,
        c * (1 + J L + L**2 J (J - 1) / 2))` with c = 1 or 3. Its channels are ordered by order,
        then path of scales (coarsest last), then colour, then angles.

    Raises:
        BackboneError: If the size is not a multiple of `2**scales`, or there is no such colour.
    """
    cell = 2**scales
    if height % cell or width % cell:
        msg = f"scattering with J={scales} takes images whose sides are multiples of {cell} px, not {height}x{width}"
        raise BackboneError(msg)
    if colour not in COLOURS:
        msg = f"scattering has no colour {colour!r}; known: {', '.join(COLOURS)}"
        raise BackboneError(msg)
    filters = make_filters(scales, angles)
    pixels = keras.Input((height, width, 3), dtype="uint8", name="pixels")
    image = _make_image(pixels, colour)
    first = [_scatter(image, level, filters) for level in range(scales)]
    second = [_scatter(one, level, filters) for one in first for level in range(one.level + 1, scales)]
    orders = [
        _concatenate([_average(one, filters) for one in maps], f"order{order}")
        for order, maps in enumerate([[image], first, second])
        if maps
    ]
    network = keras.Model(pixels, _concatenate(orders, "scattering"), name="scattering")
    network.trainable = False
    return network


def _read_count(request: BackboneRequest, name: str, default: int) -> int:
    text = request.arguments.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        msg = f"scattering's {name} is {text!r}; it must be a whole number of at least 1"
        raise BackboneError(msg)
    return int(text)


def _make_image(pixels: Any, colour: str) -> _Map:  # noqa: ANN401 - a symbolic tensor of an untyped library
    image = keras.layers.Rescaling(1 / 255, name="scaled")(pixels)
    if colour == "grey":
        mix = keras.layers.Conv2D(1, 1, use_bias=False, name="luminance")
        image = mix(image)
        mix.set_weights([np.reshape(LUMINANCE, (1, 1, 3, 1))])
    return _Map(image, 0, np.arange(image.shape[-1]), "")


def _scatter(source: _Map, level: int, filters: FilterBank) -> _Map:
    """Convolve with the wavelets between two levels, and take the modulus."""
    wavelets = filters.wavelets[level - source.level]
    angles, side, _ = wavelets.shape
    stride = 2 ** (level - source.level)
    path = f"{source.path}_{level}"
    parts = np.concatenate([wavelets.real, wavelets.imag])
    complexes = _convolve(_mirror(source, (side - stride) // 2), parts, stride, f"wavelet{path}")
    _, height, width, channels = complexes.shape
    complexes = ops.reshape(complexes, (-1, height, width, len(source.mirrored), 2, angles))
    moduli = ops.sqrt(ops.sum(ops.square(complexes), axis=4))
    turned = -np.arange(angles) % angles
    return _Map(
        values=ops.reshape(moduli, (-1, height, width, channels // 2)),
        level=level,
        mirrored=(source.mirrored[:, None] * angles + turned).ravel(),
        path=path,
    )


def _average(source: _Map, filters: FilterBank) -> Any:  # noqa: ANN401 - a symbolic tensor
    """Average over the last grid's cells."""
    steps = len(filters.lowpasses) - source.level
    lowpass = filters.lowpasses[steps - 1]
    stride = 2**steps
    return _convolve(_mirror(source, (len(lowpass) - stride) // 2), lowpass[None], stride, f"mean{source.path}")


def _convolve(values: Any, kernels: NDArray[np.float64], stride: int, name: str) -> Any:  # noqa: ANN401 - as above
    """Apply each of `kernels` `(m, side, side)` to each channel.

    This is a correlation, while the definition has a convolution. The point reflection of a wavelet
    is its conjugate, and both have the same moduli on real maps.
    """
    layer = keras.layers.DepthwiseConv2D(
        kernels.shape[1], strides=stride, depth_multiplier=len(kernels), use_bias=False, name=name
    )
    result = layer(values)
    kernel = np.moveaxis(kernels, 0, -1)[:, :, None, :]
    layer.set_weights([np.broadcast_to(kernel, layer.kernel.shape)])
    return result


def _mirror(source: _Map, margin: int) -> Any:  # noqa: ANN401 - a symbolic tensor
    """Extend a map by `margin` on each side, as that of an image that is mirrored without limit."""
    values = source.values
    for axis in (1, 2):
        side = values.shape[axis]
        period = np.arange(-margin, side + margin) % (2 * side)
        # Positions in the map and in its copy with exchanged channels, which follows it.
        positions = np.where(period < side, period, 3 * side - 1 - period)
        exchanged = ops.take(values, source.mirrored.tolist(), axis=-1)
        values = ops.take(ops.concatenate([values, exchanged], axis=axis), positions.tolist(), axis=axis)
    return values


def _concatenate(maps: list[Any], name: str) -> Any:  # noqa: ANN401 - symbolic tensors
    return keras.layers.Concatenate(name=name)(maps)
