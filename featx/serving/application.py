"""The HTTP interface: routes, and what happens around each request."""

import asyncio
import contextlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featx.serving import inference_protocol as protocol
from featx.serving.answers import format_answers
from featx.serving.batching import LateError, OverloadError, return_memory
from featx.serving.bodies import BodyReader, RequestError
from featx.serving.documents import DESCRIPTIONS, describe
from featx.serving.metrics import CONTENT_TYPE_LATEST
from featx.serving.models import MOST_EXPLANATIONS, Answer, Model, Models
from featx.serving.options import ServeOptions

_PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css")}
_PAGE_FILES["/page.js"] = ("page.js", "text/javascript")

#: Everybody may read these: the page has no data, and who watches a server has no token.
_OPEN = {*_PAGE_FILES, "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}

_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=()",
}

_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)

#: After bodies of more bytes, freed memory goes back to the system.
_LARGE_BYTES = 8 * 2**20

#: h11 has a limit only for heads that arrive in pieces.
_MOST_HEADERS, _MOST_HEADER_BYTES = 100, 16 * 2**10

#: A client that sends more than the server takes may send so much longer before the connection is closed: it would
#: else see a reset connection instead of the reason.
_DRAIN_SECONDS, _SILENT_SECONDS = 5.0, 0.5

access_log = logging.getLogger("featx.serving.access")
logger = logging.getLogger("featx.serving")


class Server:
    """The state that routes share.

    Attributes:
        models: The models.
        options: How to serve.
        bodies: Reads bodies.
        is_stopping: Whether new work is no longer sent here.
    """

    def __init__(self, models: Models, options: ServeOptions) -> None:
        self.models, self.options = models, options
        self.bodies = BodyReader(options.max_bytes, options.most_images)
        self.is_stopping = False

    def find_model(self, name: str) -> Model:
        """Return a model; the first if the name is empty.

        Raises:
            RequestError: If there is none of that name.
        """
        model = self.models.get(name)
        if model is None:
            raise RequestError(404, f"there is no model {name[:60]!r}; the models are {', '.join(self.models.names)}")
        return model

    async def predict(self, request: HttpRequest, body: bytes, deadline: float) -> Response:
        """Answer `POST /predict`."""
        query = dict(request.query_params)
        content_type = request.headers.get("content-type", "")
        asked = await _offload(len(body), lambda: self.bodies.parse(body, content_type, query))
        model = self.find_model(asked.model)
        if asked.explain and not model.can_explain:
            raise RequestError(400, f"{model.name} has nothing to explain predictions with; leave out explain")
        if asked.explain and len(asked.pictures) > MOST_EXPLANATIONS:
            raise RequestError(413, f"at most {MOST_EXPLANATIONS} images of a request are explained; send fewer")
        request.scope["featx.images"] = len(asked.pictures)
        answers = await model.answer([data for _, data in asked.pictures], deadline, explain=asked.explain)
        values = format_answers(model, [name for name, _ in asked.pictures], answers, asked.top)
        return _respond(422 if all(one.prediction.error for one in answers) else 200, values)

    async def infer(self, request: HttpRequest, body: bytes, deadline: float) -> Response:
        """Answer `POST /v2/models/NAME/infer`."""
        options, length = self.options, request.headers.get(protocol.LENGTH_HEADER, "")
        asked = await _offload(
            len(body), lambda: protocol.read_request(body, length, options.most_images, options.max_pixels)
        )
        model = self.find_version(request)
        request.scope["featx.images"] = len(asked.pictures)
        answers = await model.answer(asked.pictures, deadline, explain=False)
        probabilities = [_take(at, one) for at, one in enumerate(answers)]
        content, head_bytes = protocol.format_response(
            asked, model.name, model.version, model.classes, np.stack(probabilities)
        )
        if head_bytes is None:
            return Response(content, media_type="application/json")
        headers = {"Inference-Header-Content-Length": str(head_bytes)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    def find_version(self, request: HttpRequest) -> Model:
        """Return the model that a path names.

        Raises:
            RequestError: If there is none of that name and version.
        """
        model, wanted = self.find_model(request.path_params["name"]), request.path_params.get("version", "")
        if wanted not in {"", model.version}:
            raise RequestError(404, f"the version of {model.name} is {model.version}, not {wanted[:60]!r}")
        return model


def _take(number: int, answer: Answer) -> Any:  # noqa: ANN401 - an array
    """Return probabilities.

    Raises:
        RequestError: If the picture cannot be read; the protocol has no place for an error of one of several.
    """
    if answer.prediction.error:
        raise RequestError(422, f"image {number}: {answer.prediction.error}")
    return answer.prediction.probabilities


async def _offload(size: int, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the function returns
    """Call a function, in a thread if it has much to read."""
    return function() if size < 2**18 else await asyncio.to_thread(function)


def _respond(status: int, values: Any, headers: dict[str, str] | None = None) -> Response:  # noqa: ANN401 - any JSON
    content = json.dumps(values, allow_nan=False).encode()
    return Response(content, status, headers=headers, media_type="application/json")


def _refuse(status: int, reason: str, *, closes: bool = False) -> Response:
    """Return an error; close the connection if the body of the request was not read."""
    headers = {"Retry-After": "1"} if status == 503 else {}  # noqa: PLR2004 - Service Unavailable
    if status == 401:  # noqa: PLR2004 - Unauthorized
        headers["WWW-Authenticate"] = "Bearer"
    if closes:
        headers["Connection"] = "close"
    return _respond(status, {"error": reason}, headers)


async def _explain_status(request: HttpRequest, error: Exception) -> Response:
    """Answer what has no route, or no model."""
    if isinstance(error, RequestError):
        return _refuse(error.status, str(error))
    status = error.status_code if isinstance(error, HTTPException) else 500
    known = "/predict, /models, /v2, /metrics, /healthz, /readyz and /openapi.json"
    reasons = {404: f"there is nothing at this path; there are {known}", 405: "this path takes another method"}
    response = _refuse(status, reasons.get(status, "the request failed"), closes=request.method not in {"GET", "HEAD"})
    response.headers.update(getattr(error, "headers", None) or {})
    return response


Handler = Callable[[HttpRequest, bytes, float], Awaitable[Response]]


def make_application(models: Models, options: ServeOptions) -> FastAPI:
    """Make the application.

    Args:
        models: What it serves.
        options: How to serve.
    """
    server = Server(models, options)

    @contextlib.asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(models.follow())
        yield
        following.cancel()
        await asyncio.to_thread(models.close)

    app = FastAPI(
        title="featx serve",
        version=version("featx"),
        description=DESCRIPTIONS["server"],
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=run,
        redirect_slashes=False,
    )
    app.state.server = server
    app.add_exception_handler(HTTPException, _explain_status)
    app.add_exception_handler(RequestError, _explain_status)
    _add_pages(app)
    _add_health(app, server)
    _add_models(app, server)
    app.add_api_route("/predict", _limit(server, server.predict), methods=["POST"], **describe("predict"))
    app.add_middleware(Surroundings, server=server)
    return app


def _add_pages(app: FastAPI) -> None:
    for path, (name, kind) in _PAGE_FILES.items():
        content = (_PAGE / name).read_bytes()

        async def show(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        app.add_route(path, _without_arguments(show), methods=["GET"], include_in_schema=False)


def _without_arguments(show: Callable[[], Awaitable[Response]]) -> Callable[[HttpRequest], Awaitable[Response]]:
    async def endpoint(_: HttpRequest) -> Response:
        return await show()

    return endpoint


def _add_health(app: FastAPI, server: Server) -> None:
    async def live() -> Response:
        return _respond(200, {"live": True})

    async def ready() -> Response:
        return _respond(503 if server.is_stopping else 200, {"ready": not server.is_stopping})

    async def show_metrics() -> Response:
        return Response(server.models.metrics.format(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    for endpoint, paths in ((live, ("/healthz", "/v2/health/live")), (ready, ("/readyz", "/v2/health/ready"))):
        for path in paths:
            _add_reading(app, path, endpoint, endpoint.__name__)
    _add_reading(app, "/metrics", show_metrics, "metrics")


def _add_reading(app: FastAPI, path: str, endpoint: Callable[..., Awaitable[Response]], name: str, *own: str) -> None:
    """Add a route that reads, for GET and for the HEAD that some watchers and proxies send."""
    app.add_api_route(path, endpoint, methods=["GET"], **describe(name, *own))
    app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


def _add_models(app: FastAPI, server: Server) -> None:
    async def describe_server() -> Response:
        return _respond(200, {"name": "featx", "version": version("featx"), "extensions": ["binary_tensor_data"]})

    async def list_models() -> Response:
        found = [server.find_model(name) for name in server.models.names]
        return _respond(200, {"models": [_describe_model(one, server.options) for one in found]})

    async def show_model(request: HttpRequest) -> Response:
        model = server.find_version(request)
        return _respond(200, protocol.describe_model(model.name, model.version, model.classes))

    async def check_model(request: HttpRequest) -> Response:
        model = server.find_version(request)
        return _respond(200, {"name": model.name, "ready": True})

    _add_reading(app, "/models", list_models, "models")
    _add_reading(app, "/v2", describe_server, "v2")
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        own = ("name", "version") if path.endswith("{version}") else ("name",)
        _add_reading(app, path, show_model, "metadata", *own)
        _add_reading(app, f"{path}/ready", check_model, "model_ready", *own)
        app.add_api_route(f"{path}/infer", _limit(server, server.infer), methods=["POST"], **describe("infer", *own))


def _describe_model(model: Model, options: ServeOptions) -> dict[str, Any]:
    test = {name: value for name, value in model.metrics_of_test.items() if name.startswith("accuracy")}
    return {
        "name": model.name,
        "version": model.version,
        "classes": list(model.classes),
        "test": test,
        "explains": model.can_explain,
        "max_images": options.most_images,
        "max_bytes": options.max_bytes,
    }


def _limit(server: Server, handler: Handler) -> Callable[[HttpRequest], Awaitable[Response]]:
    """Read the body of a request within the limits, and answer it within its time."""

    async def endpoint(request: HttpRequest) -> Response:
        taken: list[int] = []
        refused = 0
        deadline = time.monotonic() + server.options.timeout
        is_read = False
        try:
            async with asyncio.timeout(server.options.timeout):
                server.bodies.check_length(request.headers)
                body = await server.bodies.read(request.stream(), taken)
                is_read = True
                request.scope["featx.body_bytes"] = len(body)
                return await handler(request, body, deadline)
        except (RequestError, OverloadError) as error:
            refused = sum(taken)
            server.bodies.room.give_back(refused)  # at once, so that other bodies have the room
            taken.clear()
            if not is_read and "expect" not in request.headers:  # else reading would ask for the body
                await _drain(request)
            return _refuse(getattr(error, "status", 503), str(error), closes=not is_read)
        except (TimeoutError, LateError):
            seconds = f"{server.options.timeout:g} s"
            if not is_read:
                return _refuse(408, f"the body was not there within {seconds}", closes=True)
            return _refuse(503, f"there was no answer within {seconds}; send fewer images, or try again later")
        finally:
            server.bodies.room.give_back(sum(taken))
            if max(refused, sum(taken)) > _LARGE_BYTES:
                return_memory()

    return endpoint


async def _drain(request: HttpRequest) -> None:
    """Read what a client goes on to send, for a moment, and forget it."""
    until = time.monotonic() + _DRAIN_SECONDS
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < until:
            message = await asyncio.wait_for(request.receive(), _SILENT_SECONDS)
            if not message.get("more_body"):
                return


class Surroundings:
    """What happens around each request: access, headers, counters, and a line in the log.

    Args:
        app: The application inside.
        server: The state.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server
        self._tokens = [token.encode() for token in server.options.tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, has_left = time.perf_counter(), 500, False
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        found = headers.get("x-request-id", "")
        request_id = found if _REQUEST_ID.fullmatch(found) else secrets.token_hex(8)

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {**_SECURITY_HEADERS, "X-Request-ID": request_id}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in own.items()),
                ]
            await send(message)

        try:
            refusal = self._check_access(scope, headers)
            await (refusal or self._app)(scope, receive, send_on)
        except ClientDisconnect:
            has_left = True
        except Exception:
            logger.exception("request %s failed", request_id)
            await _respond(500, {"error": f"the server failed; its log says why, at {request_id}"})(
                scope, receive, send_on
            )
        finally:
            self._record(scope, 499 if has_left else status, time.perf_counter() - started, request_id)

    def _check_access(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """Return the refusal of a request; None if it is answered."""
        if len(scope["headers"]) > _MOST_HEADERS or sum(map(len, headers.values())) > _MOST_HEADER_BYTES:
            return _refuse(431, "the head of the request has too many fields, or too long ones", closes=True)
        if self._server.options.is_local:
            host = headers.get("host", "").rpartition(":")
            name = host[0] if host[1] and host[2].isdigit() else "".join(host)
            if name.lower() not in _LOCAL_HOSTS:
                # Otherwise a web page whose name is made to lead to 127.0.0.1 could read answers.
                return _refuse(
                    403, "this server answers requests to localhost; start it with --host for others", closes=True
                )
        if scope["method"] == "POST" and headers.get("sec-fetch-site", "") in {"cross-site", "same-site"}:
            return _refuse(403, "the page of another site sent this request", closes=True)
        if self._tokens and scope["path"] not in _OPEN:
            kind, _, token = headers.get("authorization", "").partition(" ")
            given = token.strip().encode()
            matches = [hmac.compare_digest(given, own) for own in self._tokens]
            if kind.lower() != "bearer" or not any(matches):
                reason = "send the token of this server as the header Authorization: Bearer TOKEN"
                return _refuse(401, reason, closes=True)
        return None

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        metrics = self._server.models.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        client = scope.get("client") or ("", 0)
        about = {
            "id": request_id,
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 4),
            "images": scope.get("featx.images", 0),
            "body_bytes": scope.get("featx.body_bytes", 0),
            "client": client[0],
        }
        access_log.info("request", extra={"about": about})
