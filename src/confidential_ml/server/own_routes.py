"""The project's own routes: health, models, upload and predict in clear, metrics, the console (docs/http.md 1, 2)."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import confidential_ml
from confidential_ml.rows import FloatArray
from confidential_ml.server import arrow_stream, json_bodies, large_bodies, metrics
from confidential_ml.server.access import guarded
from confidential_ml.server.body import media_type, read_body
from confidential_ml.server.console import page
from confidential_ml.server.errors import ErrorBody, HttpError
from confidential_ml.server.immediate import ImmediateRoute
from confidential_ml.server.json_bodies import Cell
from confidential_ml.server.json_response import JsonResponse
from confidential_ml.server.live_models import ModelEntry
from confidential_ml.server.openapi import BINARY, JSON, Parameter, RouteDescription

if TYPE_CHECKING:
    from confidential_ml.server.serving import Serving

__all__ = ["descriptions", "routes"]

_UPLOAD_TYPES = (JSON, "application/ubjson", "application/octet-stream")
_VERSION = re.compile("[0-9]{1,20}", re.ASCII)
_MAX_VERSION = (1 << 64) - 1
_ID_OR_NONE = "the model's id; not needed if there is one model"


class PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /model/predict``: one row or a list of rows."""

    features: list[Cell | list[Cell]]
    model_id: str | None = None
    version: int | None = None
    output_margin: bool = False
    iteration_range: Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)] | None = None


class _SingleRow(msgspec.Struct, forbid_unknown_fields=True):
    """A body of one row of numbers and nothing else."""

    features: list[float]


class PredictAnswer(msgspec.Struct):
    """Answer of ``POST /model/predict``: of one row a number or its values, of rows a list of these."""

    predictions: Cell | list[Cell | list[Cell]]
    model_id: str
    version: int


_SINGLE_ROW = msgspec.json.Decoder(_SingleRow)
_LISTS_BESIDES = 2  # that of the rows, and iteration_range
_SMALL_BODY = 1 << 12


class Health(msgspec.Struct):
    """Answer of ``GET /health``."""

    status: str
    version: str
    platform: str
    mrenclave: str
    debug: bool
    unsafe: list[str]
    models: int
    protects: bool


class ModelList(msgspec.Struct):
    """Answer of ``GET /models``."""

    models: list[ModelEntry]


def routes(serving: Serving) -> list[Route]:
    """The routes; the busiest first."""

    async def predict(request: Request) -> Response:
        kind = media_type(request.scope["headers"])
        if kind not in (JSON, arrow_stream.MEDIA_TYPE):
            raise HttpError(415, "media_type_wrong", f"send {JSON} or {arrow_stream.MEDIA_TYPE}")
        body = await read_body(request, serving.settings.limits.body_bytes)
        if kind == arrow_stream.MEDIA_TYPE:
            return await arrow_stream.respond(serving, request, body)
        return await _predict_json(serving, body)

    def predict_at_once(_: Mapping[str, str], body: bytes) -> bytes | None:
        return _predict_single_row(serving, body)

    async def upload(request: Request) -> Response:
        if media_type(request.scope["headers"]) not in _UPLOAD_TYPES:
            raise HttpError(415, "media_type_wrong", f"send the model as one of {', '.join(_UPLOAD_TYPES)}")
        query = _query(request, ("model_id", "version"))
        version = _version(query["version"]) if "version" in query else None
        data = await read_body(request, serving.settings.limits.model_bytes)
        entry = await serving.upload(data, model_id=query.get("model_id"), version=version)
        return JsonResponse(msgspec.json.encode(entry), 201)

    async def models(_: Request) -> Response:
        return JsonResponse(msgspec.json.encode(ModelList(serving.models())))

    async def delete(request: Request) -> Response:
        version = request.path_params.get("version")
        await serving.delete(request.path_params["model_id"], None if version is None else _version_in_path(version))
        return Response(status_code=204)

    async def health(_: Request) -> Response:
        return JsonResponse(msgspec.json.encode(_health(serving)), 503 if serving.is_ending else 200)

    async def metrics_text(_: Request) -> Response:
        serving.metrics.epoch.set(await serving.epoch())
        return Response(serving.metrics.text(), media_type=metrics.CONTENT_TYPE)

    found = [
        ImmediateRoute(
            "/model/predict",
            predict,
            role="client",
            clear="cleartext_predict",
            at_once=predict_at_once,
            media_types=(JSON,),
            most_bytes=_SMALL_BODY,
            content_type=JSON,
        ),
        Route("/model/upload", guarded(upload, role="owner", clear="cleartext_upload"), methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Route("/models", guarded(models, role="client"), methods=["GET"]),
        Route("/models/{model_id}", guarded(delete, role="owner"), methods=["DELETE"]),
        Route("/models/{model_id}/versions/{version}", guarded(delete, role="owner"), methods=["DELETE"]),
        Route("/metrics", guarded(metrics_text, role="metrics"), methods=["GET"]),
    ]
    if serving.settings.console:
        found.append(_console_route())
    return found


def _console_route() -> Route:
    console = page()

    async def answer(_: Request) -> Response:
        headers = {
            "Content-Security-Policy": console.content_security_policy,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return Response(console.html, headers=headers, media_type="text/html")

    return Route("/", answer, methods=["GET"])


def _health(serving: Serving) -> Health:
    identity = serving.enclave.identity
    return Health(
        status="shutting down" if serving.is_ending else "ok",
        version=confidential_ml.__version__,
        platform=identity.platform,
        mrenclave=identity.mrenclave,
        debug=not identity.protects,  # as its evidence says: a simulation can be read as well
        unsafe=serving.settings.unsafe.in_force(),
        models=len(serving.models()),
        protects=identity.protects,
    )


# ---- predictions ----------------------------------------------------------------------------------------------------


async def _predict_json(serving: Serving, body: bytes) -> Response:
    content = _predict_single_row(serving, body)
    if content is not None:
        return JsonResponse(content)
    asked, rows, is_one_row = await large_bodies.run(len(body), lambda: _read(body, serving.settings.limits.rows))
    values, entry = await serving.predict(
        rows,
        model_id=asked.model_id,
        version=asked.version,
        output_margin=asked.output_margin,
        iteration_range=None if asked.iteration_range is None else (asked.iteration_range[0], asked.iteration_range[1]),
    )
    return JsonResponse(await large_bodies.run(values.nbytes, lambda: _written(values, entry, is_one_row=is_one_row)))


def _predict_single_row(serving: Serving, body: bytes) -> bytes | None:
    """The answer to a body of one row and nothing else, the most frequent one; None for every other."""
    row = _single_row(body)
    if row is None:
        return None
    with serving.lease(None, None) as live:
        values = serving.predict_row(live, row)
        return None if values is None else _written(values, live.entry, is_one_row=True)


def _single_row(body: bytes) -> FloatArray | None:
    """The row of a body with nothing else in it; None if it has to be read with care.

    With two quotes there is one name in it, so none is there twice, and no text among the numbers.
    """
    if len(body) > _SMALL_BODY or body.count(b'"') != 2 or body.count(b"[") != 1:
        return None
    try:
        # `array` rounds like numpy, but to infinity without a warning.
        numbers = array("f", _SINGLE_ROW.decode(body).features)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return np.frombuffer(numbers, dtype=np.float32).reshape(1, -1) if numbers else None


def _read(body: bytes, max_rows: int) -> tuple[PredictBody, FloatArray, bool]:
    """Body, rows, and whether it is one row that was not in a list."""
    # Before anything is made of them: millions of the smallest rows take seconds to read.
    if body.count(b"[") > max_rows + _LISTS_BESIDES:
        raise HttpError(413, "too_many_rows", f"these are too many rows; send at most {max_rows} in one request")
    asked = json_bodies.decode(body, PredictBody)
    features = asked.features
    if not features:
        raise HttpError(400, "input_invalid", "features is empty; send one row, or a list of rows")
    is_one_row = not isinstance(features[0], list)
    rows: Any = [features] if is_one_row else features
    if len(rows) > max_rows:
        raise HttpError(413, "too_many_rows", f"{len(rows)} rows are too many; send at most {max_rows} in one request")
    if any(isinstance(row, list) == is_one_row for row in features):
        raise HttpError(400, "input_invalid", "features is one row of numbers, or a list of rows; not some of both")
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        raise HttpError(400, "input_invalid", "the rows are not equally long")
    # To float64 first, as every JSON number is; the texts NaN and Infinity are read as well, and null as NaN.
    return asked, json_bodies.float32_array(np.array(rows, dtype=np.float64)), is_one_row


def _written(values: FloatArray, entry: ModelEntry, *, is_one_row: bool) -> bytes:
    chosen = values[0] if is_one_row else values
    written = msgspec.json.encode(PredictAnswer(chosen.tolist(), entry.model_id, entry.version))
    # So msgspec writes NaN and infinities, which must be told apart.
    if b"null" not in written:
        return written
    return msgspec.json.encode(PredictAnswer(json_bodies.values(chosen), entry.model_id, entry.version))


# ---- parameters -----------------------------------------------------------------------------------------------------


def _query(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known or name in found:
            raise HttpError(400, "parameter_invalid", f"the query takes each of {', '.join(known)} once, nothing else")
        found[name] = value
    return found


def _version(text: str) -> int:
    if not _VERSION.fullmatch(text) or int(text) > _MAX_VERSION:
        raise HttpError(400, "parameter_invalid", f"version must be a whole number from 0 to {_MAX_VERSION}")
    return int(text)


def _version_in_path(text: str) -> int:
    if not _VERSION.fullmatch(text):
        raise HttpError(404, "model_unknown", "a model's version is a whole number; GET /models lists them")
    return int(text)


# ---- OpenAPI --------------------------------------------------------------------------------------------------------


def descriptions() -> list[RouteDescription]:
    """What /openapi.json says of these routes."""
    id_in_path = Parameter("model_id", "path", str, "the model's id")
    version_in_path = Parameter("version", "path", int, "the model's version")
    query = (
        Parameter("model_id", "query", str, f"{_ID_OR_NONE}; for Arrow only"),
        Parameter("version", "query", int, "the model's version, by default the current; for Arrow only"),
        Parameter("output_margin", "query", bool, "margins instead of values; for Arrow only"),
    )
    upload_query = (
        Parameter("model_id", "query", str, "by default the attribute model_id of the model"),
        Parameter("version", "query", int, "by default the highest of that id plus one"),
    )
    predict_codes = ("body_malformed", "input_invalid", "parameter_invalid", "model_id_missing", "model_unknown")
    upload_codes = ("model_invalid", "model_id_missing", "parameter_invalid")
    return [
        RouteDescription(
            "/health", "get", "Who the server is", "open", {200: {JSON: Health}, 503: {JSON: Health}}, ErrorBody
        ),
        RouteDescription("/", "get", "The console, a page", "open", {200: {"text/html": BINARY}}, ErrorBody),
        RouteDescription("/models", "get", "Models and versions", "client", {200: {JSON: ModelList}}, ErrorBody),
        RouteDescription(
            "/models/{model_id}",
            "delete",
            "Delete a model",
            "owner",
            {204: {}},
            ErrorBody,
            parameters=(id_in_path,),
            codes=("model_unknown",),
        ),
        RouteDescription(
            "/models/{model_id}/versions/{version}",
            "delete",
            "Delete a version of a model",
            "owner",
            {204: {}},
            ErrorBody,
            parameters=(id_in_path, version_in_path),
            codes=("model_unknown",),
        ),
        RouteDescription(
            "/model/upload",
            "post",
            "Upload a model in clear",
            "owner",
            {201: {JSON: ModelEntry}},
            ErrorBody,
            request=dict.fromkeys(_UPLOAD_TYPES, BINARY),
            parameters=upload_query,
            codes=(*upload_codes, "version_exists", "other_owner", "store_full"),
            clear="cleartext_upload",
        ),
        RouteDescription(
            "/model/predict",
            "post",
            "Predict rows in clear",
            "client",
            {200: {JSON: PredictAnswer, arrow_stream.MEDIA_TYPE: BINARY}},
            ErrorBody,
            request={JSON: PredictBody, arrow_stream.MEDIA_TYPE: BINARY},
            parameters=query,
            codes=(*predict_codes, "too_many_rows"),
            clear="cleartext_predict",
        ),
        RouteDescription(
            "/metrics", "get", "Metrics for Prometheus", "metrics", {200: {"text/plain": BINARY}}, ErrorBody
        ),
    ]
