"""A bundle that answers pictures of many requests: decoded in any thread, computed in batches."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featx.backbones.running import Runner
from featx.errors import ImageError
from featx.explaining.basis import BASIS
from featx.explaining.explaining import Explainer, Network, Wanted
from featx.items.decoding import Probe, decode, probe
from featx.items.reading import count_views, expand_views, limit_ahead
from featx.options import EmbedOptions, count_cores
from featx.prediction import Predictor
from featx.prediction_results import Explanation, Prediction

#: A JPEG of more scans than this only serves to keep decoders busy: libjpeg reads the whole picture for each. Cameras
#: and encoders write up to 12.
_MOST_SCANS = 200

#: One image in each form that the networks take, uint8 `(n_views, height, width, 3)`.
Forms = tuple[NDArray[np.uint8], ...]


class ServedPredictor(Predictor):
    """A bundle whose networks stay compiled, which `Predictor.predict` compiles for each call."""

    _explainer: Explainer | None

    def prepare(self, runtime: str) -> int:
        """Compile the networks, and run each once.

        Args:
            runtime: As in `EmbedOptions`.

        Returns:
            The number of batches that keep the machine busy.
        """
        self._runtime, self._explainer = runtime, None
        views = self.bundle.views
        self._views = [] if views is None else [views]
        # OpenVINO runs single images, each core its own: as fast as pairs within 5 % (MobileNetV2, two cores), and
        # a picture that comes alone is answered in half the time.
        options = [
            EmbedOptions(runtime=runtime, batch_size=1 if hasattr(backbone, "runtime") else None)
            for backbone in self._backbones
        ]
        self._runners = [Runner(backbone, own) for backbone, own in zip(self._backbones, options, strict=True)]
        blank = tuple(self._expand(np.zeros((one.height, one.width, 3), np.uint8), "") for one in self._images)
        for part, runner in zip(self.bundle.parts, self._runners, strict=True):
            # Through its stream, which compares the first images with Keras if it converted the network.
            list(runner.stream((0, image) for image in blank[self._images.index(part.embed_spec.image)]))
        self.answer([blank])
        return max(runner.prepare().parallel for runner in self._runners)

    @property
    def ahead(self) -> int:
        """How many images may be decoded ahead of the networks, so that they take up to 64 MiB."""
        n_views = len(self._images) * count_views(self._views)
        return min(limit_ahead(image, count_cores(), n_views) for image in self._images)

    def decode(self, data: bytes, sha256: str) -> Forms:
        """Decode an image file as in training.

        Args:
            data: The bytes of the file.
            sha256: Their digest, hexadecimal.

        Raises:
            ImageError: If it cannot be decoded.
        """
        return tuple(self._expand(decode(data, image).pixels, sha256) for image in self._images)

    def _expand(self, pixels: NDArray[np.uint8], sha256: str) -> NDArray[np.uint8]:
        return expand_views(pixels, self._views, sha256)

    def answer(self, pictures: Sequence[Forms]) -> NDArray[np.float64]:
        """Return class probabilities `(n, n_classes)` of decoded images; safe in several threads."""
        return self._classify(self._embed_forms(pictures))

    @property
    def can_explain(self) -> bool:
        """Whether the bundle has what explanations are based on."""
        return BASIS in self.bundle.files

    def explain_one(self, data: bytes, sha256: str, size: tuple[int, int]) -> Explanation:
        """Explain the prediction of one image file; not safe in several threads.

        Args:
            data: The bytes of the file.
            sha256: Their digest, hexadecimal.
            size: Width and height of the image as displayed, in pixels.

        Raises:
            ImageError: If it cannot be decoded.
        """
        forms = self.decode(data, sha256)
        features = self._embed_forms([forms])
        probabilities = self._classify(features)[0]
        prediction = Prediction.choose("", self.classes, probabilities, sha256)
        if self._explainer is None:  # once: it reads the training items, and compiles the network for heat maps
            predict = self.predict_proba if len(self._images) == 1 else None
            network = Network(self._backbones, self._head, predict, self._runtime)
            self._explainer = Explainer.open(self.bundle, network, Wanted())
        return self._explainer.explain(prediction, features[0], forms[0], size)

    def _embed_forms(self, pictures: Sequence[Forms]) -> NDArray[np.float32]:
        """Return features `(n, dim)`."""
        features = []
        for part, runner in zip(self.bundle.parts, self._runners, strict=True):
            place = self._images.index(part.embed_spec.image)
            images = np.concatenate([forms[place] for forms in pictures])
            features.append(runner.embed(images)[0].reshape(len(pictures), -1))
        return self._take_means(features)


def check_picture(data: bytes, max_pixels: int) -> Probe:
    """Refuse an image that would take too long, by its header, and return that.

    Raises:
        ImageError: If it has too many pixels or scans, or is not an image.
    """
    header = probe(data)
    if header.width_px * header.height_px > max_pixels:
        msg = f"{header.width_px}x{header.height_px} px are more than the {max_pixels:,} that this server takes"
        raise ImageError(msg)
    if header.format == "JPEG" and data.count(b"\xff\xda") > _MOST_SCANS:
        msg = f"a JPEG of more than {_MOST_SCANS} scans, which this server does not read; save it again"
        raise ImageError(msg)
    return header
