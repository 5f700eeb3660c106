"""Specs: the frozen values that decide the numbers, and their digests.

A spec holds everything that changes a feature or a fitted head, and nothing that
does not (batch size, workers and runtime are options, and live elsewhere). Two
specs are the same if and only if their digests are.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from featx.errors import UsageError

POOLINGS = ("avg", "max", "avgmax", "gem", "flatten", "none")
RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")
DECODERS = ("pillow-scaled", "pillow-full")
DTYPES = ("float32", "float16")
SCALINGS = ("none", "standard", "l2")
CALIBRATIONS = ("none", "temperature", "sigmoid", "isotonic")
BATCH_NORMS = ("inference", "train")
OPTIMIZERS = ("adam", "rmsprop", "sgd")
SCHEDULES = ("plateau", "constant", "cosine")
MONITORS = ("loss", "accuracy", "auc")

#: A thousand views of one image tell no head more, and a stranger's bundle must not ask for millions.
MOST_VIEWS = 1000

#: What NumPy's and scikit-learn's generators take.
_SEEDS = 2**32

#: With larger steps, nothing is learnt but numbers without end.
_LARGEST_RATE = 1e3


class Spec:
    """What all specs share: JSON, a digest, and the fields in which two differ."""

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
            ValueError: If a field is missing or not known.
        """
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if set(values) != known:
            odd = ", ".join(sorted(set(values) ^ known))
            msg = f"{cls.__name__} has the fields {', '.join(sorted(known))}; these do not fit: {odd}"
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
        uri: What names the network: `inceptionv3`, `mobilenet?alpha=0.75`,
            `file:model.keras`, `scattering`.
        layer: Name of the layer whose output is taken, as in a freshly built model.
        pooling: How its feature map becomes a vector; one of `POOLINGS`.
        weights: Where the parameters came from: `imagenet`, `none`, `computed` or `file`.
        weights_digest: sha256 over the loaded parameters, in order, in hexadecimal.
    """

    uri: str
    layer: str
    pooling: str
    weights: str
    weights_digest: str

    def __post_init__(self) -> None:
        """Refuse a pooling that does not exist."""
        _require("pooling", self.pooling, POOLINGS)


@dataclass(frozen=True, slots=True)
class ImageSpec(Spec):
    """How the bytes of a file become pixels.

    Attributes:
        height: Rows of the decoded image, in px.
        width: Columns of the decoded image, in px.
        resize: `stretch` to the size, `crop` the middle after fitting the shorter
            side, or `pad` with black after fitting the longer side.
        interpolation: Filter of the resize; antialiased, except `nearest`.
        decoder: `pillow-scaled` lets libjpeg decode large JPEGs at a reduced scale,
            never below twice the size that is wanted; `pillow-full` never does.
    """

    height: int
    width: int
    resize: str = "stretch"
    interpolation: str = "bilinear"
    decoder: str = "pillow-scaled"

    def __post_init__(self) -> None:
        """Refuse values that no decoder knows."""
        # 224.0 equals 224, but is another text in the JSON, and so would be another digest.
        if type(self.height) is not int or type(self.width) is not int or min(self.height, self.width) < 1:
            msg = f"image size is {self.height!r}x{self.width!r} px; both must be whole numbers, at least 1"
            raise UsageError(msg)
        _require("resize", self.resize, RESIZES)
        _require("interpolation", self.interpolation, INTERPOLATIONS)
        _require("decoder", self.decoder, DECODERS)


@dataclass(frozen=True, slots=True)
class ViewSpec(Spec):
    """The augmented views of an image that are embedded beside it.

    Attributes:
        count: How many, beside the image itself; 1 to `MOST_VIEWS`.
        augmentation: How far they may go, as the text of `featx.items.augmentation.parse_augmentation`;
            in a store or a bundle, its canonical form.
        seed: Of what is drawn; a view depends on it, the content of the file and the number of the view alone.
    """

    count: int
    augmentation: str
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that no views can be made with."""
        if type(self.count) is not int or not 1 <= self.count <= MOST_VIEWS:
            msg = f"{self.count!r} views cannot be made; ask for 1 to {MOST_VIEWS:,}"
            raise UsageError(msg)
        if type(self.seed) is not int or not 0 <= self.seed < _SEEDS:
            msg = f"the seed of the views is {self.seed!r}; it must be 0 to {_SEEDS - 1}"
            raise UsageError(msg)
        if not isinstance(self.augmentation, str) or not self.augmentation:
            msg = f"{self.count} views without an augmentation are copies; name one, such as light"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class EmbedSpec(Spec):
    """Everything that decides the numbers in one feature store.

    Attributes:
        backbone: What embeds.
        image: What it is shown.
        dtype: Of the stored features; one of `DTYPES`.
        views: What is embedded of each image beside itself; None for nothing.
    """

    backbone: BackboneSpec
    image: ImageSpec
    dtype: str = "float32"
    views: ViewSpec | None = None

    def __post_init__(self) -> None:
        """Refuse a dtype that a store cannot hold."""
        _require("dtype", self.dtype, DTYPES)

    @property
    def n_views(self) -> int:
        """Images that are embedded for each item: itself, and its augmented views."""
        return 1 + (self.views.count if self.views else 0)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, without views where there are none: as specs were before there could be any."""
        values = super(EmbedSpec, self).to_dict()
        if self.views is None:
            del values["views"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec, and the two specs inside it, from plain values.

        Raises:
            ValueError: If a field is missing or not known.
        """
        nested = dict(values)
        nested["backbone"] = BackboneSpec.from_dict(nested.get("backbone") or {})
        nested["image"] = ImageSpec.from_dict(nested.get("image") or {})
        nested["views"] = ViewSpec.from_dict(nested["views"]) if nested.get("views") is not None else None
        return super(EmbedSpec, cls).from_dict(nested)


@dataclass(frozen=True, slots=True)
class HeadSpec(Spec):
    """A trainable classifier on features, before it has seen any.

    Attributes:
        name: Name in the table of heads, such as `logreg`.
        params: Hyper-parameters that are fixed; the rest are tuned or defaults.
        scaling: One of `SCALINGS`, or None to let the folds choose.
        seed: Seed of everything random in the head.
        calibration: One of `CALIBRATIONS`, or None for what the head needs: `temperature` where
            it has no probabilities of its own, or none to trust.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    scaling: str | None = None
    seed: int = 0
    calibration: str | None = None

    def __post_init__(self) -> None:
        """Refuse a calibration that does not exist."""
        if self.calibration is not None:
            _require("calibration", self.calibration, CALIBRATIONS)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec; those written before there was a choice of calibration have none.

        Raises:
            ValueError: If a field is missing or not known.
        """
        return super(HeadSpec, cls).from_dict({"calibration": None, **values})


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSpec(Spec):
    """How a backbone and its head are trained end to end; its fields are given by name.

    Attributes:
        head: What is put on the backbone and trained first, on frozen features: a Keras head, or `logreg`,
            whose coefficients the last layer then starts from (Kumar et al. 2022, "Fine-tuning can distort
            pretrained features and underperform out-of-distribution").
        unfreeze: Which layers learn: `last:N`, `from:LAYER`, `blocks:N`, `gradual`, `gradual:N` or `all`;
            see `featx.finetuning.unfreezing`.
        batch_norm: `inference` keeps the statistics of batch normalisation as they are, while its scale and
            offset learn in unfrozen layers; `train` takes those of each batch, and updates them.
        augmentation: How training images are varied; see `featx.items.augmentation`. Empty for not at all.
        views: How many varied views each training image has; 0 for another one in every epoch.
        optimizer: One of `OPTIMIZERS`; `sgd` has momentum 0.9.
        learning_rate: Step size of the backbone; of each later stage of `gradual`, half of the one before.
        head_learning_rate: Step size of the head.
        schedule: `plateau` halves both when what is monitored has not improved for half of `patience`
            epochs; `cosine` lowers them to a hundredth over all epochs; both let them rise from nothing in the
            first epoch of each stage. `constant` leaves them as they are.
        epochs: The most passes over the training items, in each stage.
        batch_size: Items of one step.
        patience: Epochs without improvement after which a stage ends.
        monitor: What of the validation items must improve: one of `MONITORS`.
        class_weight: `balanced`, or None for equal weights.
        label_smoothing: Share of the target that is spread over all classes.
        seed: Of split, order, augmentation, dropout and first weights.
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
        """Refuse what nothing can be trained with.

        Raises:
            UsageError: The message names the field and what it takes.
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
            "learning_rate": (0 < self.learning_rate <= _LARGEST_RATE, f"above 0, and {_LARGEST_RATE:g} at most"),
            "head_learning_rate": (
                0 < self.head_learning_rate <= _LARGEST_RATE,
                f"above 0, and {_LARGEST_RATE:g} at most",
            ),
            "label_smoothing": (0 <= self.label_smoothing < 1, "a share from 0 to below 1"),
        }
        for name, (fit, words) in fits.items():
            if not fit:
                msg = f"{name} is {getattr(self, name)!r}; it must be {words}"
                raise UsageError(msg)
        if self.views and not self.augmentation:
            msg = f"{self.views} views without an augmentation are copies; name one, such as light"
            raise UsageError(msg)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the spec, and that of the head inside it, from plain values.

        Raises:
            ValueError: If a field is missing or not known.
        """
        return super(FineTuneSpec, cls).from_dict({**values, "head": HeadSpec.from_dict(values.get("head") or {})})


def find_differences(ours: Spec, theirs: Spec) -> list[str]:
    """Name the fields in which two specs differ, each with both values.

    Args:
        ours: The spec that is asked for.
        theirs: The spec that was found.

    Returns:
        Lines such as `image.height: asked 224, found 299`, where a field that one of them
        lacks is None; empty if they are equal.
    """
    asked, found = _flatten(ours.to_dict()), _flatten(theirs.to_dict())
    return [
        f"{name}: asked {asked.get(name)!r}, found {found.get(name)!r}"
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
