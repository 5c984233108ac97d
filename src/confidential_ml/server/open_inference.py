"""The Open Inference Protocol, version 2, over HTTP, with binary tensors (docs/http.md 3.1)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

import confidential_ml
from confidential_ml.rows import FloatArray
from confidential_ml.server import json_bodies, large_bodies
from confidential_ml.server.access import guarded
from confidential_ml.server.body import media_type, read_body
from confidential_ml.server.errors import HttpError
from confidential_ml.server.immediate import ImmediateRoute
from confidential_ml.server.json_response import JsonResponse
from confidential_ml.server.openapi import BINARY, JSON, Parameter, RouteDescription
from confidential_ml.server.single_row_tensor import SMALL_BODY, read_single_row
from confidential_ml.server.tensors import InputTensor, Scalar, read_rows

if TYPE_CHECKING:
    from starlette.requests import Request

    from confidential_ml.server.live_models import Lease, LiveModel
    from confidential_ml.server.serving import ModelEntry, Serving

__all__ = ["descriptions", "error_form", "routes"]

OCTETS = "application/octet-stream"
_MEDIA_TYPES = ("", JSON, OCTETS)  # Triton's own clients name none
_HEADER_LENGTH = "Inference-Header-Content-Length"
_OUTPUT = "predict"
_EXTENSIONS = ("binary_tensor_data", "model_repository")
_DIGITS = re.compile("[0-9]{1,19}")
_MAX_INDEX_BODY = 1 << 16
_SPARE_OBJECTS = 100  # besides each input and its parameters: outputs, what other servers know
_PATH = "/v2/models/{model_id}"
_VERSION_PATH = _PATH + "/versions/{version}"
# What clients send along that changes nothing here: the form of the data for MLServer, Triton's queue.
_HINTS = frozenset({"content_type", "priority", "timeout"})


class OpenInferenceError(msgspec.Struct):
    """The body of an error."""

    error: str


class ServerMetadata(msgspec.Struct):
    """Answer of ``GET /v2``."""

    name: str
    version: str
    extensions: tuple[str, ...]


class Live(msgspec.Struct):
    """Answer of ``GET /v2/health/live``."""

    live: bool


class Ready(msgspec.Struct):
    """Answer of ``GET /v2/health/ready``."""

    ready: bool


class ModelReady(msgspec.Struct):
    """Answer of a model's ``ready``."""

    name: str
    ready: bool


class TensorMetadata(msgspec.Struct):
    """A tensor's name, type and shape, where -1 stands for any number of rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    """Answer of ``GET /v2/models/{m}``."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class RepositoryIndexRequest(msgspec.Struct):
    """Body of ``POST /v2/repository/index``, which may be left out: every model here is ready."""

    ready: bool = False


class RepositoryEntry(msgspec.Struct):
    """One model and version of the index."""

    name: str
    version: str
    state: str
    reason: str


class RequestedOutput(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Scalar] | None = None


class InferRequest(msgspec.Struct):
    """Body of ``infer``, and the part of it before the binary tensors."""

    inputs: Annotated[list[InputTensor], msgspec.Meta(min_length=1)]
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Scalar] | msgspec.UnsetType | None = msgspec.UNSET
    outputs: list[RequestedOutput] | msgspec.UnsetType | None = msgspec.UNSET


class OutputParameters(msgspec.Struct):
    """Where an output's data is, if it is not in the JSON."""

    binary_data_size: int


class OutputTensor(msgspec.Struct):
    """An output. Its data is row after row; null is NaN."""

    name: str
    datatype: str
    shape: list[int]
    parameters: OutputParameters | msgspec.UnsetType = msgspec.UNSET
    data: list[json_bodies.Cell] | msgspec.UnsetType = msgspec.UNSET


class InferAnswer(msgspec.Struct):
    """Answer of ``infer``, and the part of it before the binary tensors."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class _Asked:
    """What a body asks for: rows, and in what form which predictions."""

    rows: FloatArray
    request_id: str | msgspec.UnsetType
    is_binary: bool
    output_margin: bool
    iteration_range: tuple[int, int] | None


def error_form(error: HttpError) -> bytes:
    """The body of an error on these routes."""
    return msgspec.json.encode(OpenInferenceError(error.message))


def routes(serving: Serving) -> list[Route]:
    """The routes of the protocol."""
    protocol = _OpenInference(serving)
    found = [
        Route("/v2", guarded(protocol.server, role="open"), methods=["GET"]),
        Route("/v2/health/live", guarded(protocol.live, role="open"), methods=["GET"]),
        Route("/v2/health/ready", guarded(protocol.ready, role="open"), methods=["GET"]),
        Route("/v2/repository/index", guarded(protocol.index, role="client"), methods=["POST"]),
    ]
    for path in (_PATH, _VERSION_PATH):
        found += [
            Route(path, guarded(protocol.model, role="client"), methods=["GET"]),
            Route(f"{path}/ready", guarded(protocol.model_ready, role="client"), methods=["GET"]),
            ImmediateRoute(
                f"{path}/infer",
                protocol.infer,
                role="client",
                clear="cleartext_predict",
                at_once=protocol.infer_at_once,
                media_types=_MEDIA_TYPES,
                most_bytes=SMALL_BODY,
                content_type=JSON,
            ),
        ]
    return found


class _OpenInference:
    """The endpoints."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def server(self, _: Request) -> Response:
        return _json(ServerMetadata("confidential_ml", confidential_ml.__version__, _EXTENSIONS))

    async def live(self, _: Request) -> Response:
        return _json(Live(live=True))

    async def ready(self, _: Request) -> Response:
        return _json(Ready(ready=True))

    async def model_ready(self, request: Request) -> Response:
        return _json(ModelReady(self._entry(request).model_id, ready=True))

    async def model(self, request: Request) -> Response:
        entry = self._entry(request)
        versions = [str(other.version) for other in self._serving.models() if other.model_id == entry.model_id]
        return _json(
            ModelMetadata(
                entry.model_id,
                versions,
                "xgboost_sealed",
                inputs=[TensorMetadata("input", "FP32", [-1, entry.n_features])],
                outputs=[TensorMetadata(_OUTPUT, "FP32", [-1, entry.n_values])],
            )
        )

    async def index(self, request: Request) -> Response:
        body = await read_body(request, _MAX_INDEX_BODY)
        if body:
            json_bodies.decode(body, RepositoryIndexRequest)
        entries = self._serving.models()
        return _json([RepositoryEntry(entry.model_id, str(entry.version), "READY", "") for entry in entries])

    async def infer(self, request: Request) -> Response:
        self._entry(request)  # no body is read for a model that there is not
        limits = self._serving.settings.limits
        _check_media_type(request)
        header_length = _header_length(request)
        body = await read_body(request, limits.body_bytes)
        # To the end: the version that was current may be deleted meanwhile, which must not fail who named none.
        with self._lease(request.path_params) as live:
            content = self._infer_single_row(live, body) if header_length is None else None
            if content is not None:
                return JsonResponse(content)
            entry = live.entry
            read = functools.partial(_read, body, header_length, entry.n_features, limits.rows)
            asked = await large_bodies.run(len(body), read)
            predictions = await self._serving.predict_with(
                live,
                asked.rows,
                output_margin=asked.output_margin,
                iteration_range=asked.iteration_range,
                strict_shape=True,
            )
        return await large_bodies.run(predictions.nbytes, functools.partial(_answer, predictions, entry, asked))

    def infer_at_once(self, parameters: Mapping[str, str], body: bytes) -> bytes | None:
        with self._lease(parameters) as live:
            return self._infer_single_row(live, body)

    def _infer_single_row(self, live: LiveModel, body: bytes) -> bytes | None:
        """The answer to a body of one row of FP32 in one input, the most frequent one; None for every other."""
        found = read_single_row(body, live.entry.n_features)
        values = None if found is None else self._serving.predict_row(live, found[0])
        if found is None or values is None:
            return None
        output = OutputTensor(_OUTPUT, "FP32", [1, values.size])
        answer = InferAnswer(live.entry.model_id, str(live.entry.version), [output], found[1])
        return _written(answer, output, values.reshape(-1))

    def _entry(self, request: Request) -> ModelEntry:
        with self._lease(request.path_params) as live:
            return live.entry

    def _lease(self, parameters: Mapping[str, str]) -> Lease:
        """The model that the path names."""
        version = parameters.get("version")
        if version is not None and not _DIGITS.fullmatch(version):
            raise HttpError(404, "model_unknown", "a model's version is a whole number; GET /models lists them")
        number = None if version is None else int(version)
        return self._serving.lease(parameters["model_id"], number)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


def _check_media_type(request: Request) -> None:
    if media_type(request.scope["headers"]) not in _MEDIA_TYPES:
        raise HttpError(415, "media_type_wrong", f"send {JSON}, or {OCTETS} for binary tensors")


def _header_length(request: Request) -> int | None:
    """How long the JSON before the binary tensors is; None if it is the whole body."""
    given = request.headers.getlist(_HEADER_LENGTH)
    if not given:
        return None
    if len(given) > 1 or not _DIGITS.fullmatch(given[0]):
        raise HttpError(400, "parameter_invalid", f"{_HEADER_LENGTH} must be one whole number of bytes")
    return int(given[0])


def _read(body: bytes, header_length: int | None, n_features: int, max_rows: int) -> _Asked:
    if header_length == 0:
        # The extension's raw request: the body is the only input, and the answer is binary.
        tensor = InputTensor("input", [len(body) // (4 * n_features), n_features], "FP32", {})
        tensor.parameters = {"binary_data_size": len(body)}
        rows = read_rows([tensor], b"", body, n_features, max_rows)
        return _Asked(rows, msgspec.UNSET, is_binary=True, output_margin=False, iteration_range=None)
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise HttpError(
            400, "body_malformed", f"{_HEADER_LENGTH} is {length}, but the body has {len(body)} bytes; count again"
        )
    header = body[:length]
    # Many small inputs would take long to read only to be refused.
    if header.count(b"{") > 2 * n_features + _SPARE_OBJECTS:
        raise HttpError(400, "input_invalid", f"the request has too many inputs for a model of {n_features} features")
    request = json_bodies.decode(header, InferRequest)
    output_margin, iteration_range, binary_output = _parameters(request.parameters or {})
    is_binary = _is_binary(request.outputs or (), binary_output)
    rows = read_rows(request.inputs, header, memoryview(body)[length:], n_features, max_rows)
    return _Asked(rows, request.id, is_binary, output_margin, iteration_range)


def _parameters(given: dict[str, Scalar]) -> tuple[bool, tuple[int, int] | None, bool]:
    """Margins or values, the boosting rounds, and whether outputs are binary."""
    known: dict[str, type] = {
        "output_margin": bool,
        "binary_data_output": bool,
        "iteration_begin": int,
        "iteration_end": int,
    }
    for name, value in given.items():
        if name in _HINTS:
            continue
        if name not in known:
            raise HttpError(400, "parameter_invalid", f"unknown parameter; known are {', '.join(known)}")
        if type(value) is not known[name]:
            raise HttpError(400, "parameter_invalid", f"parameter {name} must be of type {known[name].__name__}")
    begin, end = given.get("iteration_begin", 0), given.get("iteration_end", 0)
    has_rounds = "iteration_begin" in given or "iteration_end" in given
    return (
        bool(given.get("output_margin", False)),
        (int(begin), int(end)) if has_rounds else None,
        bool(given.get("binary_data_output", False)),
    )


def _is_binary(outputs: Sequence[RequestedOutput], by_default: bool) -> bool:
    """Whether the one output is to be binary."""
    if any(output.name != _OUTPUT for output in outputs) or len(outputs) > 1:
        raise HttpError(400, "input_invalid", f"the only output is {_OUTPUT}; ask for it once, or leave outputs out")
    parameters = outputs[0].parameters or {} if outputs else {}
    is_binary = parameters.get("binary_data", by_default)
    if not isinstance(is_binary, bool):
        raise HttpError(400, "parameter_invalid", "parameter binary_data of an output must be true or false")
    if any(name.startswith("shared_memory") for name in parameters) or "classification" in parameters:
        raise HttpError(400, "parameter_invalid", "outputs come as binary_data or in the JSON, in no other way")
    return is_binary


def _answer(predictions: FloatArray, entry: ModelEntry, asked: _Asked) -> Response:
    output = OutputTensor(_OUTPUT, "FP32", list(predictions.shape))
    answer = InferAnswer(entry.model_id, str(entry.version), [output], asked.request_id)
    if not asked.is_binary:
        return JsonResponse(_written(answer, output, predictions.reshape(-1)))
    data = predictions.astype("<f4", copy=False).tobytes()
    output.parameters = OutputParameters(len(data))
    header = msgspec.json.encode(answer)
    return Response(header + data, media_type=OCTETS, headers={_HEADER_LENGTH: str(len(header))})


def _written(answer: InferAnswer, output: OutputTensor, predictions: FloatArray) -> bytes:
    output.data = predictions.tolist()
    written = msgspec.json.encode(answer)
    # So msgspec writes NaN and infinities, which must be told apart.
    if b"null" not in written:
        return written
    output.data = json_bodies.values(predictions)
    return msgspec.json.encode(answer)


def descriptions() -> list[RouteDescription]:
    """What /openapi.json says of these routes."""

    def get(path: str, summary: str, role: str, kind: type, **more: Any) -> RouteDescription:
        return RouteDescription(path, "get", summary, role, {200: {JSON: kind}}, OpenInferenceError, **more)

    found = [
        get("/v2", "Name, version and extensions of the server", "open", ServerMetadata),
        get("/v2/health/live", "Whether the server answers", "open", Live),
        get("/v2/health/ready", "Whether the server takes requests", "open", Ready),
        RouteDescription(
            "/v2/repository/index",
            "post",
            "The models and their versions",
            "client",
            {200: {JSON: list[RepositoryEntry]}},
            OpenInferenceError,
            request={JSON: RepositoryIndexRequest},
            request_required=False,
            codes=("body_malformed",),
        ),
    ]
    for path, names in ((_PATH, ["model_id"]), (_VERSION_PATH, ["model_id", "version"])):
        parameters = tuple(Parameter(name, "path", str, f"the model's {name}") for name in names)
        more: dict[str, Any] = {"parameters": parameters, "codes": ("model_unknown",)}
        found += [
            get(path, "Names, types and shapes of a model's tensors", "client", ModelMetadata, **more),
            get(f"{path}/ready", "Whether a model takes requests", "client", ModelReady, **more),
            _infer_description(f"{path}/infer", parameters),
        ]
    return found


def _infer_description(path: str, parameters: tuple[Parameter, ...]) -> RouteDescription:
    length = Parameter(
        _HEADER_LENGTH,
        "header",
        Annotated[int, msgspec.Meta(ge=0)],
        "bytes of JSON before the binary tensors; 0 for a body that is one FP32 tensor without JSON",
    )
    return RouteDescription(
        path,
        "post",
        "Predict",
        "client",
        {200: {JSON: InferAnswer, OCTETS: BINARY}},
        OpenInferenceError,
        request={JSON: InferRequest, OCTETS: BINARY},
        parameters=(*parameters, length),
        codes=("body_malformed", "input_invalid", "parameter_invalid", "model_unknown", "too_many_rows"),
        clear="cleartext_predict",
        answer_headers={200: {_HEADER_LENGTH: "bytes of JSON before the binary output, if that was asked for"}},
    )
