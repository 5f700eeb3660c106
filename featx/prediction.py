"""Prediction with a bundle: its decoder, backbone and head turn images into labels, as in training."""

import contextlib
import hashlib
import importlib.util
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.backbones import Backbone, Output, cache
from featx.backbones.cache import Entry, join_digests
from featx.backbones.converted import ConvertedBackbone
from featx.backbones.loading import has_gpu, rebuild_backbone
from featx.backbones.protocol import needs_openvino, refuse_keras
from featx.backbones.running import Runner
from featx.bundle import Bundle, Part, tabulate_predictions
from featx.errors import (
    BackboneError,
    BundleError,
    DataError,
    DriftError,
    ImageError,
    UnknownNameError,
    UsageError,
)
from featx.evaluation import Evaluation, evaluate
from featx.evaluation.metrics import align_probabilities
from featx.golden import MAX_DRIFT, measure_drift
from featx.golden_features import embed_golden
from featx.heads.rows import FeatureRows
from featx.items import Item, Manifest, read_source
from featx.items.decoding import MAX_PIXELS
from featx.items.listing import list_sources
from featx.items.pictures import Picture
from featx.items.reading import Examined, Listing, count_least, count_views, examine, expand_views
from featx.measuring import Timing
from featx.options import EMBED_DEFAULTS, RUNTIMES, EmbedOptions
from featx.prediction_results import Explanation, Prediction
from featx.registry import find_versions
from featx.specs import ImageSpec, ViewSpec
from featx.splitting import read_split

#: With fewer images than this, converting the network takes longer than it saves.
FEW_IMAGES = 256

#: Packages that decode images.
_DECODERS = ("numpy", "pillow", "simplejpeg", "cykooz-resizer")

logger = logging.getLogger(__name__)


class Predictor:
    """A loaded bundle; see `Predictor.load`.

    Attributes:
        bundle: The bundle that it was loaded from.
        classes: The classes, in the order of the probabilities.
    """

    def __init__(self, bundle: Bundle, backbones: Sequence[Backbone], head: Any) -> None:  # noqa: ANN401 - a scikit-learn classifier
        self.bundle = bundle
        self.classes = bundle.classes
        self._backbones = backbones
        self._head = head
        #: The forms in which an image is decoded, each once.
        self._images = tuple(dict.fromkeys(part.embed_spec.image for part in bundle.parts))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, runtime: str = RUNTIMES[0]) -> Self:
        """Load a bundle and check that this machine computes the features that it was trained on.

        Args:
            path: The bundle; see `Bundle.open`.
            runtime: As in `EmbedOptions`; `keras` builds the backbone with Keras.

        Raises:
            BundleError: If files are missing, damaged or foreign, the weights differ, or the backbone cannot be
                built here.
            DriftError: If the features of the golden pictures differ from those in training.
        """
        bundle = Bundle.open(path)
        head = bundle.load_head(plain=True)
        try:
            backbones = [_load_backbone(bundle, part, runtime) for part in bundle.parts]
            for part, backbone in zip(bundle.parts, backbones, strict=True):
                check_golden(bundle.path, part, backbone)
        except (BackboneError, ImageError, UnknownNameError, UsageError) as error:
            msg = f"{bundle.path} cannot be used here: {error}"
            raise BundleError(msg) from error
        except ModuleNotFoundError as error:
            msg = (
                f"{bundle.path} cannot be used here: without OpenVINO and a network of its own it needs {error.name}, "
                f"which is missing; run `featx bundle complete` where it is installed"
            )
            raise BundleError(msg) from error
        return cls(bundle, backbones, head)

    def embed(self, images: NDArray[np.uint8], sha256s: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Embed decoded images.

        Args:
            images: uint8 RGB `(n, height, width, 3)`.
            sha256s: The sha256 of each image's file, hexadecimal; only a head that was trained on the mean over
                views uses them, to make the same views as from the file. None to use those of the pixels.

        Returns:
            float32 `(n, dim)`.

        Raises:
            UsageError: If the networks of the bundle take images of several forms.
        """
        if len(self._images) > 1:
            forms = ", ".join(f"{image.height}x{image.width} px" for image in self._images)
            msg = (
                f"the networks of {self.bundle.path} take images of several forms ({forms}); use `predict`, which "
                f"decodes each image for each of them"
            )
            raise UsageError(msg)
        views = self.bundle.views
        if views is None or not len(images):
            features = [backbone.embed(images)[0] for backbone in self._backbones]
            return self._take_means(features) if views is None else np.concatenate(features, axis=1)
        keys = [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in images] if sha256s is None else sha256s
        expanded = [expand_views(pixels, [views], key) for pixels, key in zip(images, keys, strict=True)]
        return self._take_means(
            [
                np.concatenate([backbone.embed(one)[0].reshape(1, -1) for one in expanded])
                for backbone in self._backbones
            ]
        )

    def predict_proba(self, images: NDArray[np.uint8], sha256s: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Return class probabilities `(n, n_classes)` of decoded images; see `embed`."""
        return self._classify(self.embed(images, sha256s))

    def _take_means(self, features: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Round features as in training, take the mean over views if the head was trained on it, and join the networks.

        Args:
            features: For each network, float32 `(n, n_views * dim)`.

        Returns:
            float32 `(n, dim)`, the features of all networks side by side.
        """
        taken = [
            FeatureRows(found.astype(np.dtype(part.embed_spec.dtype)), views=part.embed_spec.n_views)[:]
            for part, found in zip(self.bundle.parts, features, strict=True)
        ]
        return np.concatenate(taken, axis=1)

    def _classify(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        probabilities = self._head.predict_proba(features)
        return align_probabilities(probabilities, self._head.classes_, len(self.classes))

    def _answer(
        self, rows: Sequence[Sequence[NDArray[np.float32]]], n_views: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return features `(n, dim)` and probabilities `(n, n_classes)`, the mean over the predicted views of an image.

        Args:
            rows: For each image, the features of each network, float32 `(n_views * dim,)`.
            n_views: Predicted views of an image.
        """
        features = [np.stack(found).reshape(len(rows) * n_views, -1) for found in zip(*rows, strict=True)]
        taken = self._take_means(features)
        answers = self._classify(taken)
        return taken[::n_views], np.asarray(
            answers.reshape(len(rows), n_views, -1).mean(axis=1)
        ) if n_views > 1 else answers

    def predict(
        self,
        sources: Manifest | Picture | Iterable[Picture],
        options: EmbedOptions = EMBED_DEFAULTS,
        *,
        views: ViewSpec | None = None,
    ) -> Iterator[Prediction]:
        """Predict images, in order; one that cannot be read gets an error, and the rest are still predicted.

        The same pixels have the same prediction in every form, except for large JPEGs: files, and images of Pillow
        that are not loaded yet, may be decoded at a reduced scale, as in training (see `ImageSpec.decoder`).

        Args:
            sources: A manifest; one picture; or a list or an iterator of pictures, which may be of different kinds:
                the path of an image or of a folder of images, the bytes of an image file, a file object, an image
                of Pillow, or a uint8 array of shape (height, width, 3), (height, width, 4) with alpha, or
                (height, width). A single path may also be a table or an archive, as in `featx.read_source`.
            options: How to run.
            views: Also predict these views of each image, and take the mean of the probabilities.

        Raises:
            SourceError: If there is nothing to predict, or a path is a bundle.
        """
        listing, total, ahead = list_sources(sources, options)
        for examined, _, probabilities in self._run(listing, total, options, views, ahead=ahead):
            yield self._make_prediction(examined, probabilities)

    def _make_prediction(self, examined: Examined, probabilities: NDArray[np.float64] | None) -> Prediction:
        name, sha256 = examined.item.id, examined.stamp.sha256 if examined.stamp else ""
        if probabilities is None:
            return Prediction(name, error=examined.reason, sha256=sha256)
        return Prediction.choose(name, self.classes, probabilities, sha256)

    def explain(
        self,
        sources: Manifest | Picture | Iterable[Picture],
        options: EmbedOptions = EMBED_DEFAULTS,
        *,
        coverage: float = 0.9,
        neighbours: int = 5,
        heat: bool = True,
        threshold: float = 0.95,
    ) -> Iterator[Explanation]:
        """Predict images as `predict` does, and say how far each prediction can be trusted.

        Args:
            sources: As in `predict`.
            options: How to run.
            coverage: The conformal sets of this share of new images have the true class.
            neighbours: Number of similar training items; 0 for none.
            heat: Whether heat maps are made; without them, each image takes one pass through the network.
            threshold: An image is unfamiliar if it is farther from the training items than this share of them.

        Raises:
            BundleError: If the bundle has nothing to explain predictions with: an older featx wrote it.
            SourceError: If there is nothing to predict, or a path is a bundle.
            UsageError: If an argument is out of range.
        """
        from featx.explaining.explaining import Explainer, Network, Wanted, copy_fields

        predict = self.predict_proba if len(self._images) == 1 else None
        network = Network(self._backbones, self._head, predict, options.runtime)
        explainer = Explainer.open(self.bundle, network, Wanted(coverage, neighbours, heat, threshold))
        listing, total, ahead = list_sources(sources, options)

        def explain_each() -> Iterator[Explanation]:
            for examined, features, probabilities in self._run(listing, total, options, None, ahead=ahead):
                prediction = self._make_prediction(examined, probabilities)
                if features is None or examined.image is None:
                    yield Explanation(**copy_fields(prediction))
                else:
                    image = examined.image
                    yield explainer.explain(prediction, features, image.pixels, (image.width_px, image.height_px))

        return explain_each()

    def evaluate(
        self,
        source: Manifest | str | os.PathLike[str],
        *,
        split: str = "",
        options: EmbedOptions = EMBED_DEFAULTS,
        views: ViewSpec | None = None,
    ) -> Evaluation:
        """Evaluate on labelled images.

        Args:
            source: A manifest, or any source that `featx.read_source` reads.
            split: Evaluate only items of this split, such as `val` or `validation`; all if empty.
            options: How to run.
            views: As in `predict`.

        Raises:
            DataError: If no item has a label, or one has a class that the bundle was not trained on.
            UsageError: If there is no split of that name.
        """
        return self.evaluate_items(source, split=split, options=options, views=views)[0]

    def evaluate_items(
        self,
        source: Manifest | str | os.PathLike[str],
        *,
        split: str = "",
        options: EmbedOptions = EMBED_DEFAULTS,
        views: ViewSpec | None = None,
    ) -> tuple[Evaluation, dict[str, Any]]:
        """Evaluate on labelled images, as `evaluate` does, and return the prediction of each as well.

        Arguments and errors are those of `evaluate`.

        Returns:
            The evaluation, and the columns of a bundle's `predictions.csv`.
        """
        split = read_split(split)
        manifest = source if isinstance(source, Manifest) else read_source(source)
        items = choose_items(manifest, split)
        self._check_labels(items, manifest)
        trained = self.bundle.read_trained()
        tested, rows, seen, failed = [], [], 0, 0
        chosen = Manifest(items, manifest.reader, manifest.source)
        for examined, _, probabilities in self._run(chosen, len(chosen), options, views):
            if probabilities is None:
                failed += 1
                logger.warning("%s is left out: %s", examined.item.id, examined.reason)
                continue
            tested.append(examined.item)
            rows.append(probabilities)
            seen += examined.stamp is not None and examined.stamp.sha256 in trained
        if not rows:
            msg = f"none of the {failed} labelled images of {manifest.source} can be read"
            raise DataError(msg)
        if seen:
            logger.warning(
                "%d of %d images were used in training, so these numbers are too optimistic", seen, len(rows)
            )
        stacked, groups = np.stack(rows), [item.group for item in tested]
        ids, labels = (np.array([getattr(item, name) for item in tested], np.str_) for name in ("id", "label"))
        targets = np.array([self.classes.index(item.label) for item in tested])
        evaluation = evaluate(stacked, targets, self.classes, groups=groups if any(groups) else None)
        return evaluation, tabulate_predictions(ids, labels, np.arange(len(ids)), stacked, self.classes)

    def _check_labels(self, items: Sequence[Item], manifest: Manifest) -> None:
        unknown = sorted({item.label for item in items} - set(self.classes))
        if unknown:
            msg = (
                f"{manifest.source} has classes that the bundle was not trained on: {', '.join(unknown[:8])}; "
                f"its classes are {', '.join(self.classes[:20])}"
            )
            raise DataError(msg)

    def _run(
        self, listing: Listing, total: int, options: EmbedOptions, views: ViewSpec | None, *, ahead: int | None = None
    ) -> Iterator[tuple[Examined, NDArray[np.float32] | None, NDArray[np.float64] | None]]:
        """Yield each image with the features of its first predicted view, and its probabilities; None if unreadable."""
        options.reporter.begin("predicting")
        # A head that was trained on means over views gets the mean over its own views of each of these.
        wanted = [each for each in (views, self.bundle.views) if each is not None]
        n_views = _count_images(wanted, self._images)
        specs = [part.embed_spec.image for part in self.bundle.parts]
        batches = embed_listing(listing, self._backbones, specs, options, total=total, views=wanted, ahead=ahead)
        with contextlib.closing(batches):
            for batch in batches:
                found = [features for _, features in batch if features]
                rows = zip(*self._answer(found, n_views // _count_own(self.bundle.views)), strict=True) if found else ()
                answers = iter(rows)
                for examined, features in batch:
                    yield (examined, *(next(answers) if features else (None, None)))


#: An item, and its features by each network that has run, float32 `(n_views * dim,)`; none if it has no image.
_Row = tuple[Examined, tuple[NDArray[np.float32], ...]]


def embed_listing(
    listing: Listing,
    backbones: Sequence[Backbone],
    specs: Sequence[ImageSpec],
    options: EmbedOptions,
    *,
    total: int,
    views: Sequence[ViewSpec] = (),
    ahead: int | None = None,
) -> Generator[list[_Row]]:
    """Embed images by one or more networks, in order, without a store.

    Args:
        listing: The images.
        backbones: The networks.
        specs: For each network, how images are decoded.
        options: How to run.
        total: Number of images; 0 if it is not known.
        views: As in `examine`.
        ahead: As in `examine`.

    Yields:
        Batches of items, each with its features by every network; with none if it cannot be read.
    """
    images = tuple(dict.fromkeys(specs))  # each form is decoded once
    timing, done, n_views = Timing(), 0, count_views(views)
    workers = options.count_workers(count_least(listing))
    examined_items = examine(
        listing, images, known=None, stamps=(), workers=workers, timing=timing, views=views, ahead=ahead
    )
    runners = [Runner(backbone, options, expected=total, few=FEW_IMAGES, views=n_views) for backbone in backbones]
    with contextlib.ExitStack() as stack:
        batches: Iterable[list[_Row]] = ([(one, ())] for one in stack.enter_context(contextlib.closing(examined_items)))
        for runner, spec in zip(runners, specs, strict=True):
            place = images.index(spec)
            batches = stack.enter_context(contextlib.closing(_add_features(runner, place, batches, timing)))
        for batch in batches:
            yield batch
            done += len(batch)
            options.reporter.advance(done, max(done, total))


def _add_features(runner: Runner, place: int, batches: Iterable[list[_Row]], timing: Timing) -> Generator[list[_Row]]:
    """Add the features of one network to those of the networks before it, in batches of its own."""
    images = (
        (row, None if row[0].image is None else (row[0].image, *row[0].others)[place].pixels)
        for batch in batches
        for row in batch
    )
    with contextlib.closing(runner.stream(images, timing)) as embedded:
        for rows, (features,) in embedded:
            found = iter(features)
            yield [(one, (*before, next(found)) if one.image else ()) for one, before in rows]


def _count_own(views: ViewSpec | None) -> int:
    return count_views([views]) if views else 1


def _load_backbone(bundle: Bundle, part: Part, runtime: str) -> Backbone:
    """Take the network that the bundle holds; build it if there is none, or if Keras is faster here or asked for."""
    spec = part.embed_spec
    refuse_keras(spec.backbone.uri, runtime)
    can_use_keras = not needs_openvino(spec.backbone.uri)
    with_keras = runtime == "keras" or (
        can_use_keras and has_gpu() and importlib.util.find_spec("tensorflow") is not None
    )
    if bundle.holds_network(part) and not with_keras and importlib.util.find_spec("openvino"):
        return read_network(bundle, part)
    return rebuild_backbone(spec.backbone, spec.image, part.backbone_file, runtime)


def read_network(bundle: Bundle, part: Part) -> ConvertedBackbone:
    """Return the network that a bundle holds, which is read and checked when it is first used."""
    spec, image, dim = part.embed_spec.backbone, part.embed_spec.image, part.golden.features.shape[1]
    entry = Entry(
        folder=bundle.path,
        request=spec.uri,
        uri=spec.uri,
        weights=spec.weights,
        weights_digest=spec.weights_digest,
        source_file="",
        height=image.height,
        width=image.width,
        outputs=(Output(spec.layer, spec.pooling, dim, (dim,)),),
        layers=(),
        drift=0.0,
        digest=join_digests(bundle.files[file] for file in part.network),
        file=part.network[0],
    )
    return ConvertedBackbone(entry, is_trusted=False)


def check_golden(path: Path, part: Part, backbone: Backbone) -> None:
    """Check that this machine computes the features of the golden pictures that a bundle has.

    For a converted network, this is done once on each machine and noted in the cache.

    Args:
        path: The bundle, for messages.
        part: The network of it.
        backbone: What computes it here.

    Raises:
        DriftError: If it computes other features.
    """
    fact: dict[str, Any] = {}
    if isinstance(backbone, ConvertedBackbone):
        golden = hashlib.sha256(part.golden.features.tobytes())
        for data in part.golden.files:
            golden.update(hashlib.sha256(data).digest())
        spec = part.embed_spec.image.to_dict()
        fact = {
            "network": backbone.digest,
            "golden": golden.hexdigest(),
            "image": spec,
            "decoders": find_versions(_DECODERS),
        }
        if cache.is_noted(fact):
            backbone.is_trusted = True  # a network with this digest was checked here before
            return
    (found,) = embed_golden(backbone, part.embed_spec.image, part.golden.files)
    drift = measure_drift(part.golden, found)
    if not drift <= MAX_DRIFT:
        msg = (
            f"{path} was trained on features that this machine does not reproduce: they differ by "
            f"{drift:.1e} of their range (limit {MAX_DRIFT:.0e}); install the versions that it was made with"
        )
        raise DriftError(msg)
    if fact:
        cache.note(fact)


def choose_items(manifest: Manifest, split: str) -> tuple[Item, ...]:
    """Choose the labelled items of a split, or of all splits if it is empty.

    Raises:
        DataError: If there are none.
    """
    items = tuple(item for item in manifest.items if item.label and split in {"", item.split})
    if items:
        return items
    splits = manifest.count_splits()
    if not manifest.count_classes():
        msg = f"{manifest.source} has no labelled images to evaluate on; use predict, or name a source with classes"
    elif not splits:
        msg = (
            f"{manifest.source} has no splits, so there is no {split} split; leave out --split to evaluate on all of it"
        )
    else:
        known = ", ".join(f"{name} {count:,}" for name, count in splits.items())
        msg = f"{manifest.source} has no labelled images in the {split} split; its splits are {known}"
    raise DataError(msg)


def _count_images(wanted: Sequence[ViewSpec], images: Sequence[ImageSpec]) -> int:
    """Count the views per image; views of views multiply, and all are in memory at once.

    Raises:
        UsageError: If together they have more pixels than a single image may have.
    """
    n_views = count_views(wanted)
    if n_views * sum(image.height * image.width for image in images) > MAX_PIXELS:
        product = " times ".join(f"{1 + spec.count:,}" for spec in wanted)
        sizes = " and ".join(f"{image.height}x{image.width}" for image in images)
        msg = (
            f"the views of each image would be {product} images of {sizes} px, more than the "
            f"limit of {MAX_PIXELS:,} px; use fewer --views"
        )
        raise UsageError(msg)
    return n_views
