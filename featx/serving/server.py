"""The process: sockets, connections that are slow or silent, signals, and the end."""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from featx.errors import FeatxError, UsageError
from featx.serving.application import make_application
from featx.serving.logs import log_as_json
from featx.serving.models import Models, name_models
from featx.serving.options import ServeOptions

#: A client that is silent, or sends the head of a request byte by byte, is dropped after so many seconds.
_HEAD_SECONDS = 10.0

#: Most open connections; each takes some 30 kB, and up to 130 with the start of a body.
_MOST_CONNECTIONS = 1000

#: Most bytes of the head of a request.
_MOST_HEAD_BYTES = 16 * 2**10

#: When the listening socket is closed, requests that were sent before still arrive.
_LAST_SECONDS = 0.2

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b'Content-Length: 47\r\n\r\n{"error": "too many connections are open now" }'
)


class BoundedProtocol(H11Protocol):
    """A connection that cannot stay without a request.

    Attributes:
        head_seconds: How long it may take until the head of a request is there.
    """

    head_seconds = _HEAD_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.write(_FULL)
            transport.close()
            return
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; after the head of a request, the application watches the time."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; where a response has begun, there is no place for the reason."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Process(uvicorn.Server):
    """The server, which ends when a signal asks for it, and not by that signal.

    Args:
        config: Settings of uvicorn.
        models: Are loaded again on SIGHUP.
        on_ready: Called once when the server listens.
        on_stop: Called when the server is asked to stop.
    """

    def __init__(
        self, config: uvicorn.Config, models: Models, on_ready: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._models, self._on_ready, self._on_stop = models, on_ready, on_stop
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):  # Windows has none
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        self._on_ready()

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._models.reload(only_changed=False))
        self._reloads.add(task)  # the loop itself does not keep it
        task.add_done_callback(self._reloads.discard)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on Ctrl-C and SIGTERM."""
        names = [name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
        before = {name: signal.signal(getattr(signal, name), self.handle_exit) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ANN401 - a frame of Python
        """Ask the server to stop; the second Ctrl-C does not wait for requests."""
        self._on_stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections, answer what has arrived, then close."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_SECONDS)
        await super().shutdown(sockets)


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        FeatxError: If it cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, proto))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            msg = f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another --port or --host"
            raise FeatxError(msg) from error
        stack.pop_all()  # it stays open
    return listener


def run_server(bundles: Sequence[str], options: ServeOptions, on_ready: Callable[[str], None]) -> None:
    """Serve bundles until a signal ends the process; see `featx.serve`."""
    references = name_models(bundles)
    _check_certificate(options)
    listener = open_socket(options.host, options.port)  # before the bundles are loaded, which takes longer
    with listener:
        models = Models(references, options)
        app = make_application(models, options)
        config = uvicorn.Config(
            app,
            http=type("Protocol", (BoundedProtocol,), {"head_seconds": min(_HEAD_SECONDS, options.timeout)}),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=round(options.timeout) + 1,
            h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
            ssl_certfile=options.tls_cert or None,
            ssl_keyfile=options.tls_key or None,
        )
        log_as_json()
        url = _format_url(options, listener)
        process = _Process(
            config,
            models,
            on_ready=lambda: on_ready(url),
            on_stop=lambda: setattr(app.state.server, "is_stopping", True),
        )
        process.run([listener])


def _check_certificate(options: ServeOptions) -> None:
    """Refuse a certificate and a key that cannot be used, before anything is loaded.

    Raises:
        UsageError: If a file cannot be read, or they do not belong together.
    """
    if not options.tls_cert:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:  # also of OpenSSL
        msg = (
            f"the certificate {options.tls_cert} and the key {options.tls_key} cannot be used "
            f"({error.strerror or error}); name two PEM files that belong together"
        )
        raise UsageError(msg) from error


def _format_url(options: ServeOptions, listener: socket.socket) -> str:
    scheme = "https" if options.tls_cert else "http"
    host = "localhost" if options.is_local else options.host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
