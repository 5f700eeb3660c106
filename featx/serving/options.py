"""Options of a server, with their defaults and limits."""

from dataclasses import dataclass

from featx.errors import UsageError
from featx.options import RUNTIMES


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve; the limits hold for every client, with a token or without.

    Attributes:
        host: Address to listen on. With a loopback address, only this machine reaches the server.
        port: Port to listen on; 0 for any that is free.
        tokens: Each request needs one of these as `Authorization: Bearer TOKEN`; with none, everybody is answered.
        tls_cert: File of the certificate, for https; empty for http.
        tls_key: File of its key.
        max_batch: Most images that one pass takes.
        max_wait_ms: How long an image waits for others, in ms, while the network is idle.
        queue: Most images that wait or are computed at one time; requests beyond that get 503.
        max_bytes: Most bytes of the body of a request.
        max_pixels: Most pixels of one image.
        max_images: Most images of a request, and no more than may wait.
        timeout: Seconds after which a request is given up.
        training_pictures: Whether explanations show small pictures of similar training images, to whoever may ask.
        runtime: As in `EmbedOptions`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    max_batch: int = 8
    max_wait_ms: float = 1.0
    queue: int = 256
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_images: int = 64
    timeout: float = 30.0
    training_pictures: bool = False
    runtime: str = RUNTIMES[0]

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            UsageError: The message names the option and what it takes.
        """
        for name in ("max_batch", "queue", "max_bytes", "max_pixels", "max_images"):
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}; it must be at least 1"
                raise UsageError(msg)
        if not (0 <= self.max_wait_ms <= 1000 and 0 < self.timeout <= 3600):  # noqa: PLR2004 - a second; an hour
            msg = (
                f"max_wait_ms is {self.max_wait_ms} and timeout {self.timeout}; they must be 0 to 1000, and up to 3600"
            )
            raise UsageError(msg)
        if bool(self.tls_cert) != bool(self.tls_key):
            msg = "https needs both files: name --tls-cert and --tls-key"
            raise UsageError(msg)
        if any(not token.isascii() or not token.isprintable() or " " in token for token in self.tokens):
            msg = "a token has a blank, or a letter that is not ASCII; HTTP cannot send it"
            raise UsageError(msg)
        if self.runtime not in RUNTIMES:
            msg = f"runtime is {self.runtime!r}; it must be one of {', '.join(RUNTIMES)}"
            raise UsageError(msg)

    @property
    def most_images(self) -> int:
        """Most images of a request: one with more than may wait would never be answered."""
        return min(self.max_images, self.queue)

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")


SERVE_DEFAULTS = ServeOptions()
