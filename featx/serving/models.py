"""The models that a server has: each a bundle that can be exchanged while requests are answered."""

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.errors import FeatxError, ImageError, UsageError
from featx.explaining.explaining import read_neighbour
from featx.items.thumbnails import encode_thumbnail
from featx.prediction_results import Explanation, Prediction
from featx.references import LATEST, MANIFEST, find_bundle
from featx.serving.batching import Batcher, LateError, OverloadError, Room
from featx.serving.metrics import MOST_LABELS, Metrics
from featx.serving.network import ServedPredictor, check_picture
from featx.serving.options import ServeOptions
from featx.urls import hide_secrets

#: Explanations that may wait; each takes as long as many pictures.
MOST_EXPLANATIONS = 8

#: Longer side of the picture of a similar training image.
_THUMBNAIL_PX = 128

#: How often a reference such as `runs/latest` is looked up.
FOLLOW_SECONDS = 2.0

logger = logging.getLogger("featx.serving")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one picture.

    Attributes:
        prediction: The prediction, or the explanation if that was asked for.
        neighbours: Pictures of its neighbours as JPEG in base64, or empty.
    """

    prediction: Prediction
    neighbours: tuple[str, ...] = ()


class Model:
    """One loaded bundle.

    Attributes:
        name: The name under which it is served.
        version: The name of its folder.
        classes: Its classes.
        path: Its folder.
    """

    def __init__(self, name: str, path: Path, options: ServeOptions, room: Room, metrics: Metrics) -> None:
        self.name, self.path, self.version = name, path, path.resolve().name
        self._options, self._metrics = options, metrics
        self._predictor = predictor = ServedPredictor.load(path, runtime=options.runtime)
        parallel = predictor.prepare(options.runtime)
        self.classes = predictor.classes
        self.metrics_of_test = dict(predictor.bundle.metrics.get("test") or {})
        self._batcher = Batcher(
            predictor,
            room,
            max_batch=options.max_batch,
            max_wait_ms=options.max_wait_ms,
            max_pixels=options.max_pixels,
            parallel=parallel,
            metrics=metrics,
        )
        self._explanations = Room(MOST_EXPLANATIONS)
        self._explain_pool = ThreadPoolExecutor(1, thread_name_prefix="featx-explain")

    @property
    def can_explain(self) -> bool:
        """Whether it explains its predictions."""
        return self._predictor.can_explain

    async def answer(self, pictures: Sequence[bytes], deadline: float, *, explain: bool) -> list[Answer]:
        """Answer pictures, each with its error if it cannot be read.

        Must be called without an `await` after the model was looked up, so that it cannot be closed in between.

        Raises:
            OverloadError: If the queue is full.
            LateError: If the deadline passed.
        """
        if not explain:
            futures = self._batcher.submit(pictures, deadline)
            found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
            answers = [_read_outcome(one, self.classes) for one in found]
        else:
            answers = await self._explain(pictures, deadline)
        self._count(answers)
        return answers

    async def _explain(self, pictures: Sequence[bytes], deadline: float) -> list[Answer]:
        if not self._explanations.take(len(pictures)):
            msg = f"at most {MOST_EXPLANATIONS} explanations may wait; try again later"
            raise OverloadError(msg)
        futures: list[Future[Answer]] = []
        for data in pictures:
            future = self._explain_pool.submit(self._explain_one, data, deadline)
            future.add_done_callback(lambda _: self._explanations.give_back(1))
            futures.append(future)
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    def _explain_one(self, data: bytes, deadline: float) -> Answer:
        if time.monotonic() > deadline:
            raise LateError
        try:
            header = check_picture(data, self._options.max_pixels)
            size = (header.width_px, header.height_px)
            found = self._predictor.explain_one(data, hashlib.sha256(data).hexdigest(), size)
        except ImageError as error:
            return Answer(Prediction("", error=str(error)))
        return Answer(found, self._show_neighbours(found))

    def _show_neighbours(self, found: Explanation) -> tuple[str, ...]:
        """Return small JPEGs of the similar training images in base64; empty for those that are gone."""
        pictures = []
        for neighbour in found.neighbours if self._options.training_pictures else ():
            data = read_neighbour(neighbour)
            pictures.append(encode_thumbnail(data, _THUMBNAIL_PX, "JPEG", quality=80) if data else "")
        return tuple(pictures)

    def _count(self, answers: Sequence[Answer]) -> None:
        for one in answers:
            found = one.prediction
            self._metrics.images.labels(self.name, "refused" if found.error else "answered").inc()
            if found.error:
                continue
            self._metrics.probability.labels(self.name).observe(found.probability)
            if len(self.classes) <= MOST_LABELS:
                self._metrics.predictions.labels(self.name, found.label).inc()
            if isinstance(found, Explanation) and found.unfamiliar:
                self._metrics.unfamiliar.labels(self.name).inc()

    def close(self) -> None:
        """Answer what was admitted, and free the threads."""
        self._batcher.close()
        self._explain_pool.shutdown()


def _read_outcome(outcome: NDArray[np.float64] | BaseException, classes: Sequence[str]) -> Answer:
    """Turn what a future returned into an answer.

    Raises:
        BaseException: What is not about the picture.
    """
    if not isinstance(outcome, BaseException):
        return Answer(Prediction.choose("", classes, outcome))
    if isinstance(outcome, FeatxError) and not isinstance(outcome, LateError):
        return Answer(Prediction("", error=str(outcome)))
    raise outcome


class Models:
    """All models of a server, by name.

    Args:
        references: For each name, what `find_bundle` takes.
        options: How to serve.
    """

    def __init__(self, references: dict[str, str], options: ServeOptions) -> None:
        self.metrics, self.room = Metrics(), Room(options.queue)
        self._references, self._options = references, options
        self._lock = threading.Lock()  # one bundle is loaded at a time
        self._failed: dict[str, tuple[Path, int]] = {}
        self._said: dict[str, str] = {}  # so that the log does not repeat a reason every two seconds
        self._models = {name: self._load(name, find_bundle(reference)) for name, reference in references.items()}
        self.metrics.waiting.set_function(lambda: self.room.taken)

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return list(self._models)

    def get(self, name: str) -> Model | None:
        """Return a model; the first one if the name is empty."""
        return self._models.get(name or self.names[0])

    def _load(self, name: str, path: Path) -> Model:
        try:
            model = Model(name, path, self._options, self.room, self.metrics)
        except Exception:
            self.metrics.loads.labels(name, "failed").inc()
            raise
        self.metrics.loads.labels(name, "loaded").inc()
        self.metrics.model_info.labels(name, model.version).set(1)
        return model

    async def reload(self, *, only_changed: bool) -> None:
        """Load bundles again, and answer with the old ones until the new ones are ready.

        Args:
            only_changed: Only those whose reference, such as `runs/latest`, leads to another bundle now.
        """
        for name, reference in self._references.items():
            if only_changed and not reference.rpartition("/")[2].startswith(LATEST):
                continue
            try:
                path = await asyncio.to_thread(find_bundle, reference)
                mark = (path, (path / MANIFEST).stat().st_mtime_ns)
                self._said.pop(name, None)
                old = self._models[name]
                if only_changed and (path.resolve() == old.path.resolve() or self._failed.get(name) == mark):
                    continue
                self._failed[name] = mark
                new = await asyncio.to_thread(self._load_alone, name, path)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the new bundle, the old one answers
                reason = str(error) if isinstance(error, FeatxError | OSError) else repr(error)
                if not only_changed or self._said.get(name) != reason:
                    logger.error("%s is not loaded again, and the old bundle answers: %s", name, reason)  # noqa: TRY400 - one line
                self._said[name] = reason
                continue
            del self._failed[name]
            self._models[name] = new
            if new.version != old.version:
                self.metrics.model_info.remove(name, old.version)
            logger.warning("%s is answered by %s, which was loaded in place of %s", name, new.path, old.path)
            await asyncio.to_thread(old.close)

    def _load_alone(self, name: str, path: Path) -> Model:
        with self._lock:
            return self._load(name, path)

    async def follow(self) -> None:
        """Load what `runs/latest` names whenever that changes, until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            await self.reload(only_changed=True)

    def close(self) -> None:
        """Answer what was admitted, and free all threads."""
        for model in self._models.values():
            model.close()


def name_models(bundles: Sequence[str]) -> dict[str, str]:
    """Name bundles: `NAME=BUNDLE` as it says, others by the last part of the reference.

    Raises:
        UsageError: If two have one name, or a name cannot be part of a URL.
    """
    references: dict[str, str] = {}
    for bundle in bundles:
        name, equals, reference = bundle.partition("=")
        if not equals or os.sep in name:
            reference = bundle
            name = Path(bundle).resolve().name if bundle in {".", ".."} else Path(bundle).name.replace(":", "-")
        if not name or not all(char.isalnum() or char in "-_." for char in name) or not name.isascii():
            msg = f"{name!r} cannot be part of a URL; name the model, such as flowers={hide_secrets(reference)}"
            raise UsageError(msg)
        if name in references:
            msg = f"two models would be called {name}; name them, such as {name}-2={hide_secrets(reference)}"
            raise UsageError(msg)
        references[name] = reference
    if not references:
        msg = "there is nothing to serve; name a bundle, such as runs/latest"
        raise UsageError(msg)
    return references
