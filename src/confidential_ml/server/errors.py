"""What a request may be refused with, and the form of an error's body on the project's own routes (docs/http.md 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec
from starlette.responses import Response

__all__ = ["ERROR_HEADER", "ErrorBody", "ErrorForm", "HttpError", "error_response", "own_form"]

ERROR_HEADER = "Confidential-ML-Error"


class HttpError(Exception):
    """A refusal of a request.

    Attributes
    ----------
    status, code
        As in the table of docs/http.md 6.
    message
        What was wrong and what to do: no rows, models, tokens or paths.
    headers
        Besides those that every error has.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


ErrorForm: TypeAlias = Callable[[HttpError], bytes]
"""Writes the body of an error, JSON, as a family of routes has it."""


class _Error(msgspec.Struct):
    code: str
    message: str


class ErrorBody(msgspec.Struct):
    """Body of an error on the project's own routes."""

    error: _Error


def own_form(error: HttpError) -> bytes:
    """The body of an error on the project's own routes."""
    return msgspec.json.encode(ErrorBody(_Error(error.code, error.message)))


def error_response(error: HttpError, form: ErrorForm) -> Response:
    """The response that tells an error."""
    headers = {ERROR_HEADER: error.code, **error.headers}
    return Response(form(error), error.status, headers, "application/json")
