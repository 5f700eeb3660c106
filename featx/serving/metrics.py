"""What a server counts, for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "MOST_LABELS", "Metrics"]

disable_created_metrics()  # type: ignore[no-untyped-call]  # when each series began doubles their number, and nobody asks for it

#: Predictions are counted by class for models of so many classes; each is a time series.
MOST_LABELS = 100

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("featx_requests", "Requests", ("path", "status"), registry=own)
        self.request_seconds = Histogram(
            "featx_request_seconds", "Time of a request", ("path",), buckets=_SECONDS, registry=own
        )
        self.images = Counter("featx_images", "Images, answered or refused", ("model", "outcome"), registry=own)
        self.predictions = Counter("featx_predictions", "Answered images, by class", ("model", "label"), registry=own)
        self.probability = Histogram(
            "featx_probability",
            "Probability of the predicted class",
            ("model",),
            buckets=(0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
            registry=own,
        )
        self.unfamiliar = Counter("featx_unfamiliar", "Explained images that were unfamiliar", ("model",), registry=own)
        self.batch_images = Histogram(
            "featx_batch_images", "Images of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self.decode_seconds = Histogram("featx_decode_seconds", "Decoding one image", buckets=_SECONDS, registry=own)
        self.network_seconds = Histogram("featx_network_seconds", "One batch", buckets=_SECONDS, registry=own)
        self.waiting = Gauge("featx_queue_images", "Images that wait or are computed", registry=own)
        self.loads = Counter("featx_loads", "Loads of a bundle", ("model", "outcome"), registry=own)
        self.model_info = Gauge("featx_model_info", "The bundle that answers", ("model", "version"), registry=own)

    def format(self) -> bytes:
        """Return all of them in the text format of Prometheus."""
        return generate_latest(self._registry)
