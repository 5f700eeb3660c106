"""Specs: the frozen values that decide the numbers, and their digests.

A spec holds everything that changes a feature or a fitted head, and nothing else:
batch size, workers and runtime are options. Two specs are equal if and only if
their digests are.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from featx.errors import UsageError

#: What is embedded with and fine-tuned if no backbone is named: a network whose trained weights are always installed.
DEFAULT_BACKBONE = "efficientnet-lite0"

#: The scheme of features that another tool computed with a network that featx does not know.
IMPORTED = "imported:"

POOLINGS = ("avg", "max", "avgmax", "gem", "flatten", "none", "cls", "mean-patch", "cls+mean")
RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")
DECODERS = ("simd-scaled", "simd-full", "pillow-scaled", "pillow-full")
#: The fast one, unless the package of its resizer is missing, as on Linux on ARM.
DEFAULT_DECODER = DECODERS[0] if importlib.util.find_spec("cykooz_resizer") else "pillow-scaled"
DTYPES = ("float32", "float16")
SCALINGS = ("none", "standard", "l2")
CALIBRATIONS = ("auto", "none", "temperature", "mixture", "bias", "sigmoid", "isotonic")
BATCH_NORMS = ("inference", "train")
OPTIMIZERS = ("adam", "rmsprop", "sgd")
SCHEDULES = ("plateau", "constant", "cosine")
MONITORS = ("loss", "accuracy", "auc")

#: The least share of the shorter side that `ImageSpec.crop` keeps.
_LEAST_CROP = 0.1

#: Fields of `ImageSpec` that were added later, and the values that mean the same as their absence.
_LATER: Mapping[str, Any] = {"bits": 0, "crop": 1.0}

#: How many of 16 bits the samples of an image may use.
USED_BITS = range(8, 16)

#: More views of one image help no head, and an untrusted bundle must not ask for millions.
MOST_VIEWS = 1000

#: The generators of NumPy and scikit-learn take seeds below this.
_SEEDS = 2**32

#: With larger steps, training only reaches infinite values.
_LARGEST_RATE = 1e3

#: Digits of a digest that a message shows.
_SHOWN_DIGITS = 12


class Spec:
    """The base of all specs: JSON and a digest."""

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as nested plain values, ready for JSON."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces, ASCII only."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec from what `to_dict` returned.

        Raises:
            ValueError: If a field is missing or unknown.
        """
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if set(values) != known:
            odd = ", ".join(sorted(set(values) ^ known))
            msg = f"{cls.__name__} has the fields {', '.join(sorted(known))}; missing or unknown: {odd}"
            raise ValueError(msg)
        return cls(**values)


def _require(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{name} is {value!r}; it must be one of {', '.join(allowed)}"
        raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class BackboneSpec(Spec):
    """A frozen network, cut at one layer and pooled.

    Attributes:
        uri: Name of the network: `inceptionv3`, `mobilenet?alpha=0.75`,
            `file:model.keras`, `hub:dinov2_small`, `scattering`; `imported:TOOL` for features that were imported.
        layer: Name of the layer that gives the features, as in a newly built model.
        pooling: How its feature map becomes a vector; one of `POOLINGS`.
        weights: Origin of the parameters: `imagenet`, `none`, `computed`, `preset` or `file`; `unknown` if imported.
        weights_digest: sha256 of the loaded parameters, in order, in hexadecimal.
    """

    uri: str
    layer: str
    pooling: str
    weights: str
    weights_digest: str

    def __post_init__(self) -> None:
        """Refuse an unknown pooling."""
        _require("pooling", self.pooling, POOLINGS)

    @property
    def imported_from(self) -> str:
        """The tool whose features were imported, such as `trident`; empty for those that featx computed."""
        return self.uri.removeprefix(IMPORTED).partition("?")[0] if self.uri.startswith(IMPORTED) else ""


@dataclass(frozen=True, slots=True)
class ImageSpec(Spec):
    """How a file is decoded into pixels.

    Attributes:
        height: Rows of the decoded image, in px.
        width: Columns of the decoded image, in px.
        resize: `stretch` to the size, `crop` the centre after fitting the shorter
            side, or `pad` with black after fitting the longer side.
        interpolation: Filter of the resize; antialiased, except `nearest`.
        decoder: `simd-scaled` and `pillow-scaled` let libjpeg decode large JPEGs at a reduced scale, never below
            twice the requested size; `simd-full` and `pillow-full` decode at full scale. The first word is what
            resizes: SIMD instructions, or Pillow; their pixels differ by about one grey level. If not given, that of
            an existing store, else `simd-scaled`, or `pillow-scaled` on machines without the package of the resizer.
        bits: Number of used bits in files with 16 bits a sample, 8 to 15; 0 if all are.
        crop: With `crop`, the share of the shorter side that is kept, 0.1 to 1: 0.875 is a resize to 256 px, and
            a crop to 224.
    """

    height: int
    width: int
    resize: str = "stretch"
    interpolation: str = "bilinear"
    decoder: str = DEFAULT_DECODER
    bits: int = 0
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Refuse unknown values."""
        # 224.0 equals 224, but is another text in the JSON, and so has another digest.
        if type(self.height) is not int or type(self.width) is not int or min(self.height, self.width) < 1:
            msg = f"image size is {self.height!r}x{self.width!r} px; both must be whole numbers, at least 1"
            raise UsageError(msg)
        _require("resize", self.resize, RESIZES)
        _require("interpolation", self.interpolation, INTERPOLATIONS)
        _require("decoder", self.decoder, DECODERS)
        if type(self.bits) is not int or (self.bits != 0 and self.bits not in USED_BITS):
            msg = f"bits is {self.bits!r}; it must be {USED_BITS[0]} to {USED_BITS[-1]}, or 0 for all 16"
            raise UsageError(msg)
        # 1 equals 1.0, and is another text in the JSON.
        if (
            type(self.crop) is not float
            or not _LEAST_CROP <= self.crop <= 1
            or (self.crop < 1 and self.resize != "crop")
        ):
            msg = f"crop is {self.crop!r}; below 1 it needs the resize crop, and must be at least {_LEAST_CROP}"
            raise UsageError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; without `bits` or `crop` the key is absent, as before it could be set."""
        values = super(ImageSpec, self).to_dict()
        for name, usual in _LATER.items():
            if values[name] == usual:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec; `bits` and `crop` may be absent.

        Raises:
            ValueError: If another field is missing, or one is unknown.
        """
        return super(ImageSpec, cls).from_dict({**_LATER, **values} if isinstance(values, Mapping) else values)


@dataclass(frozen=True, slots=True)
class ViewSpec(Spec):
    """The augmented views of an image that are embedded with it.

    Attributes:
        count: Number of views, without the image itself; 1 to `MOST_VIEWS`.
        augmentation: The augmentation, as a text that `featx.items.augmentation.parse_augmentation` reads;
            in a store or a bundle, its canonical form.
        seed: Seed of the random draws. A view depends only on it, the content of the file and the view's number.
    """

    count: int
    augmentation: str
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if type(self.count) is not int or not 1 <= self.count <= MOST_VIEWS:
            msg = f"the number of views is {self.count!r}; it must be 1 to {MOST_VIEWS:,}"
            raise UsageError(msg)
        if type(self.seed) is not int or not 0 <= self.seed < _SEEDS:
            msg = f"the seed of the views is {self.seed!r}; it must be 0 to {_SEEDS - 1}"
            raise UsageError(msg)
        if not isinstance(self.augmentation, str) or not self.augmentation:
            msg = f"{self.count} views without an augmentation would be copies; name one, such as light"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class EmbedSpec(Spec):
    """Everything that decides the numbers in one feature store.

    Attributes:
        backbone: The backbone.
        image: How its images are decoded.
        dtype: Dtype of the stored features; one of `DTYPES`.
        views: The augmented views that are embedded with each image; None for none.
    """

    backbone: BackboneSpec
    image: ImageSpec
    dtype: str = "float32"
    views: ViewSpec | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown dtype."""
        _require("dtype", self.dtype, DTYPES)

    @property
    def n_views(self) -> int:
        """Number of embedded images per item: the item itself and its augmented views."""
        return 1 + (self.views.count if self.views else 0)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values; without views the key is absent, as before there were views."""
        values = super(EmbedSpec, self).to_dict()
        values["image"] = self.image.to_dict()
        if self.views is None:
            del values["views"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec, and the specs inside it, from plain values.

        Raises:
            ValueError: If a field is missing or unknown.
        """
        nested = dict(values)
        nested["backbone"] = BackboneSpec.from_dict(nested.get("backbone") or {})
        nested["image"] = ImageSpec.from_dict(nested.get("image") or {})
        nested["views"] = ViewSpec.from_dict(nested["views"]) if nested.get("views") is not None else None
        return super(EmbedSpec, cls).from_dict(nested)


@dataclass(frozen=True, slots=True)
class HeadSpec(Spec):
    """A classifier on features, before it is fitted.

    Attributes:
        name: Name in the table of heads, such as `logreg`.
        params: Fixed hyper-parameters; the others are tuned or have their defaults.
        scaling: One of `SCALINGS`, or None to let the folds choose.
        seed: Seed of everything random in the head.
        calibration: One of `CALIBRATIONS`. `auto` becomes None: tuning chooses by held-out items, and
            records its choice. Without tuning, it is `temperature` for a head whose own probabilities are
            missing or unreliable, else `none`.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    scaling: str | None = None
    seed: int = 0
    calibration: str | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown calibration."""
        if self.calibration is not None:
            _require("calibration", self.calibration, CALIBRATIONS)
        if self.calibration == CALIBRATIONS[0]:
            object.__setattr__(self, "calibration", None)  # one meaning has one digest

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec; specs from before there was a choice of calibration lack it.

        Raises:
            ValueError: If a field is missing or unknown.
        """
        return super(HeadSpec, cls).from_dict({"calibration": None, **values})


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSpec(Spec):
    """How a backbone and its head are trained end to end; its fields are given by name.

    Attributes:
        head: The head, which is trained first, on frozen features: a Keras head, or `logreg`, whose
            coefficients then initialise the last layer (Kumar et al. 2022, "Fine-tuning can distort
            pretrained features and underperform out-of-distribution").
        unfreeze: The layers that are trained: `last:N`, `from:LAYER`, `blocks:N`, `gradual`, `gradual:N` or
            `all`; see `featx.finetuning.unfreezing`.
        batch_norm: `inference` keeps the statistics of batch normalisation, while its scale and offset are
            trained in unfrozen layers; `train` uses the statistics of each batch, and updates them.
        augmentation: How training images are augmented; see `featx.items.augmentation`. Empty for none.
        views: Number of augmented views of each training image; 0 for a new one in every epoch.
        optimizer: One of `OPTIMIZERS`; `sgd` has momentum 0.9.
        learning_rate: Step size of the backbone; each later stage of `gradual` has half that of the one before.
        head_learning_rate: Step size of the head.
        schedule: `plateau` halves both rates when the monitored value has not improved for half of `patience`
            epochs; `cosine` lowers them to a hundredth over all epochs; both raise them from 0 in the first
            epoch of each stage. `constant` does not change them.
        epochs: Maximum number of passes over the training items, in each stage.
        batch_size: Number of items in one step.
        patience: Number of epochs without improvement after which a stage ends.
        monitor: The value on validation items that must improve: one of `MONITORS`.
        class_weight: `balanced`, or None for equal weights.
        label_smoothing: Share of the target that is spread over all classes.
        seed: Seed of split, order, augmentation, dropout and initial weights.
    """

    head: HeadSpec = field(default_factory=lambda: HeadSpec("logreg"))
    unfreeze: str = "blocks:1"
    batch_norm: str = BATCH_NORMS[0]
    augmentation: str = ""
    views: int = 0
    optimizer: str = OPTIMIZERS[0]
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3
    schedule: str = SCHEDULES[0]
    epochs: int = 30
    batch_size: int = 32
    patience: int = 10
    monitor: str = MONITORS[0]
    class_weight: str | None = None
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that nothing can be trained with.

        Raises:
            UsageError: If a value is unknown or out of range; the message names the field.
        """
        for name, allowed in (
            ("batch_norm", BATCH_NORMS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("monitor", MONITORS),
        ):
            _require(name, getattr(self, name), allowed)
        if self.class_weight not in {None, "balanced"}:
            msg = f"class_weight is {self.class_weight!r}; it must be balanced, or None"
            raise UsageError(msg)
        fits = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "patience": (self.patience >= 1, "at least 1"),
            "views": (0 <= self.views <= MOST_VIEWS, f"0 to {MOST_VIEWS:,}"),
            "seed": (0 <= self.seed < _SEEDS, f"0 to {_SEEDS - 1}"),
            "learning_rate": (0 < self.learning_rate <= _LARGEST_RATE, f"above 0 and at most {_LARGEST_RATE:g}"),
            "head_learning_rate": (
                0 < self.head_learning_rate <= _LARGEST_RATE,
                f"above 0 and at most {_LARGEST_RATE:g}",
            ),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
        }
        for name, (fit, words) in fits.items():
            if not fit:
                msg = f"{name} is {getattr(self, name)!r}; it must be {words}"
                raise UsageError(msg)
        if self.views and not self.augmentation:
            msg = f"{self.views} views without an augmentation would be copies; name one, such as light"
            raise UsageError(msg)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec, and that of the head inside it, from plain values.

        Raises:
            ValueError: If a field is missing or unknown.
        """
        return super(FineTuneSpec, cls).from_dict({**values, "head": HeadSpec.from_dict(values.get("head") or {})})


def find_differences(ours: Spec, theirs: Spec) -> list[str]:
    """Name the fields in which two specs differ, each with both values.

    Args:
        ours: The requested spec.
        theirs: The spec that was found.

    Returns:
        Lines such as `image.height: asked 224, found 299`; a field that one of them lacks
        is None. Empty if they are equal.
    """
    asked, found = _flatten(ours.to_dict()), _flatten(theirs.to_dict())

    def show(values: Mapping[str, Any], name: str) -> str:
        value = values.get(name)
        return repr(value[:_SHOWN_DIGITS] if name.endswith("_digest") and isinstance(value, str) else value)

    return [
        f"{name}: asked {show(asked, name)}, found {show(found, name)}"
        for name in sorted({*asked, *found})
        if asked.get(name) != found.get(name)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
