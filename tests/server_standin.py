"""The rest of the server in a few lines, for the tests of its protocols: no tokens, no store, few limits.

Import it before any module of ``confidential_ml.server`` that needs the rest; it steps back if the rest is there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

import confidential_ml as cml

IS_NEEDED = importlib.util.find_spec("confidential_ml.server.serving") is None


class HttpError(Exception):
    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


def guarded(endpoint: Callable[[Request], Awaitable[Response]], *, role: str, clear: str | None = None) -> Any:
    assert role in {"open", "client"}
    assert clear in {None, "cleartext_predict"}
    return endpoint


async def read_body(request: Request, limit: int) -> bytes:
    if "content-encoding" in request.headers:
        raise HttpError(415, "media_type_wrong", "send the body as it is")
    body = await request.body()
    if len(body) > limit:
        raise HttpError(413, "body_too_large", "the body is too large")
    return body


def media_type(request: Request) -> str:
    kind, _, parameter = request.headers.get("content-type", "").partition(";")
    if parameter.strip().lower() not in {"", "charset=utf-8"}:
        raise HttpError(415, "media_type_wrong", "only charset=utf-8")
    return kind.strip().lower()


PARTS: dict[str, dict[str, Any]] = {
    "errors": {"HttpError": HttpError},
    "access": {"guarded": guarded},
    "body": {"read_body": read_body, "media_type": media_type},
    "serving": {},
}
if IS_NEEDED:
    for name, names in PARTS.items():
        module = ModuleType(f"confidential_ml.server.{name}")
        vars(module).update(names)
        sys.modules[module.__name__] = module


@dataclass(frozen=True)
class Entry:
    model_id: str
    version: int
    n_features: int
    n_values: int


class Serving:
    def __init__(self, models: dict[tuple[str, int], cml.ConfidentialModel], n_values: dict[str, int]) -> None:
        self._models = models
        self._n_values = n_values
        self.settings = SimpleNamespace(limits=SimpleNamespace(rows=1000, body_bytes=1 << 20))

    def models(self) -> list[Entry]:
        return [
            Entry(model_id, version, model.info.n_features, self._n_values[model_id])
            for (model_id, version), model in sorted(self._models.items())
        ]

    @contextlib.contextmanager
    def lease(self, model_id: str | None, version: int | None) -> Iterator[Any]:
        ids = sorted({name for name, _ in self._models})
        if model_id is None and len(ids) != 1:
            raise HttpError(400, "model_id_missing", "name a model")
        wanted = model_id or ids[0]
        found = [entry for entry in self.models() if entry.model_id == wanted and version in (None, entry.version)]
        if not found:
            raise HttpError(404, "model_unknown", "there is no such model")
        yield SimpleNamespace(entry=found[-1], model=self._models[wanted, found[-1].version])

    async def predict(
        self,
        rows: np.ndarray[Any, Any],
        *,
        model_id: str | None = None,
        version: int | None = None,
        output_margin: bool = False,
        iteration_range: tuple[int, int] | None = None,
        strict_shape: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Entry]:
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert rows.ndim == 2
        assert len(rows) <= self.settings.limits.rows
        with self.lease(model_id, version) as live:
            if rows.shape[1] != live.entry.n_features:
                raise HttpError(400, "input_invalid", "columns")
            try:
                predictions = live.model.predict(
                    rows, output_margin=output_margin, iteration_range=iteration_range, strict_shape=strict_shape
                )
            except cml.InvalidInputError as error:
                raise HttpError(400, "parameter_invalid", str(error)) from None
            return predictions, live.entry


def make_app(serving: Any) -> Starlette:
    from confidential_ml.server import mlflow_scoring, open_inference, openapi

    descriptions = [*open_inference.descriptions(), *mlflow_scoring.descriptions()]
    document = openapi.document(descriptions, version=cml.__version__, anonymous=["client"])

    async def answer_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HttpError)
        form = open_inference.error_form if request.url.path.startswith("/v2") else mlflow_scoring.error_form
        headers = {"Confidential-ML-Error": error.code, **(error.headers or {})}
        refused: Any = error
        return Response(form(refused), error.status, headers, "application/json")

    return Starlette(
        routes=[
            *open_inference.routes(serving),
            *mlflow_scoring.routes(serving),
            *openapi.routes(document),
        ],
        exception_handlers={HttpError: answer_error},
    )
