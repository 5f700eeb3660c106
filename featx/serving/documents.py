"""The OpenAPI document: what each route takes and returns."""

from typing import Any

DESCRIPTIONS = {
    "server": (
        "Predicts the classes of pictures. `/predict` takes files, base64 or the bytes of one image; `/v2` is the Open "
        "Inference Protocol. Where the server has a token, all paths but health checks need it."
    )
}

_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_FLAG: dict[str, Any] = {"type": "boolean"}
_TOP: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 999_999}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_BASE64 = {"type": "string", "contentEncoding": "base64"}
_SHARE = _object({"label": _TEXT, "probability": _NUMBER})
_EXPLANATION: dict[str, Any] = {
    "set": _list(_TEXT),
    "note": _TEXT,
    "unfamiliar": {"type": ["boolean", "null"]},
    "unfamiliarity": {"type": ["number", "null"]},
    "neighbours": _list(_object({"item": _TEXT, "label": _TEXT, "similarity": _NUMBER}, {"jpeg": _BASE64})),
    "heat": {"type": ["array", "null"], "items": _list(_NUMBER)},
    "heat_method": _TEXT,
    "heat_box": _list(_NUMBER),
}
_PREDICTION = {
    "oneOf": [
        _object(
            {"path": _TEXT, "label": _TEXT, "probability": _NUMBER},
            {
                "probabilities": {"type": "object", "additionalProperties": _NUMBER},
                "top": _list(_SHARE),
                **_EXPLANATION,
            },
        ),
        _object({"path": _TEXT, "error": _TEXT}),
    ]
}
_PREDICTIONS = _object({"model": _TEXT, "version": _TEXT, "predictions": _list(_PREDICTION)})
_ERROR = _object({"error": _TEXT})
_ASKED = {"top": _TOP, "explain": _FLAG, "model": _TEXT}
_TENSOR = _object(
    {"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})},
    {"data": {}, "parameters": {"type": "object"}},
)
_MODEL = _object(
    {
        "name": _TEXT,
        "version": _TEXT,
        "classes": _list(_TEXT),
        "test": {"type": "object"},
        "explains": _FLAG,
        "max_images": {"type": "integer"},
        "max_bytes": {"type": "integer"},
    }
)
_METADATA = _object(
    {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(_TENSOR), "outputs": _list(_TENSOR)},
    {"parameters": {"type": "object"}},
)
_BINARY = {"type": "string", "format": "binary"}

_PREDICT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {**_object({"images": _list(_BINARY)}, _ASKED), "additionalProperties": False}
        },
        "application/json": {
            "schema": {
                **_object({"images": {**_list(_BASE64), "minItems": 1}}, _ASKED),
                "additionalProperties": False,
            }
        },
        "application/octet-stream": {"schema": _BINARY},
        "image/*": {"schema": _BINARY},
    },
}
_INFER_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _object(
                {"inputs": {**_list(_TENSOR), "minItems": 1, "maxItems": 1}},
                {"id": _TEXT, "parameters": {"type": "object"}, "outputs": _list(_object({"name": _TEXT}))},
            )
        },
        "application/octet-stream": {"schema": _BINARY},
    },
}
_OUTPUTS = _object({"model_name": _TEXT, "model_version": _TEXT, "outputs": _list(_TENSOR)}, {"id": _TEXT})

#: For each route: its summary, the schema of its answer, its other statuses, and its body.
_ROUTES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], dict[str, Any] | None]] = {
    "predict": ("Predict pictures", _PREDICTIONS, (400, 401, 403, 404, 408, 413, 415, 422, 503), _PREDICT_BODY),
    "infer": ("Infer", _OUTPUTS, (400, 401, 403, 404, 408, 413, 415, 422, 503), _INFER_BODY),
    "models": ("List the models", _object({"models": _list(_MODEL)}), (401, 403), None),
    "metadata": ("Describe a model", _METADATA, (401, 403, 404), None),
    "model_ready": ("Is a model ready?", _object({"name": _TEXT, "ready": _FLAG}), (401, 403, 404), None),
    "v2": (
        "Describe the server",
        _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
        (401, 403),
        None,
    ),
    "live": ("Is the server alive?", _object({"live": _FLAG}), (403,), None),
    "ready": ("Does the server take work?", _object({"ready": _FLAG}), (403, 503), None),
    "metrics": ("Counters for Prometheus", _TEXT, (401, 403), None),
}

_MEANINGS = {
    400: "the request is malformed",
    401: "the token is missing or wrong",
    403: "the request comes from another site",
    404: "there is no such model",
    408: "the body took too long",
    413: "the body, an image or their number is too large",
    415: "the content type is not known, or the body is compressed",
    422: "no image can be read",
    503: "too many images wait, or the server stops; try again later",
}


def describe(route: str, *path: str) -> dict[str, Any]:
    """Return the arguments with which FastAPI documents a route.

    Args:
        route: One of the routes.
        path: The parameters in its path.
    """
    summary, schema, statuses, body = _ROUTES[route]
    kind = "text/plain" if route == "metrics" else "application/json"
    responses: dict[int | str, dict[str, Any]] = {200: {"description": "OK", "content": {kind: {"schema": schema}}}}
    if route == "infer":
        responses[200]["content"]["application/octet-stream"] = {"schema": _BINARY}
    for status in statuses:
        # A request of which no picture can be read has the answer of each, as one that succeeds.
        own = {"oneOf": [_PREDICTIONS, _ERROR]} if (route, status) == ("predict", 422) else _ERROR
        own = schema if (route, status) == ("ready", 503) else own
        responses[status] = {"description": _MEANINGS[status], "content": {"application/json": {"schema": own}}}
    parameters = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in path]
    if route == "predict":
        parameters += [{"name": name, "in": "query", "required": False, "schema": own} for name, own in _ASKED.items()]
    extra: dict[str, Any] = {"parameters": parameters}
    if body:
        extra["requestBody"] = body
    return {"summary": summary, "responses": responses, "openapi_extra": extra}
