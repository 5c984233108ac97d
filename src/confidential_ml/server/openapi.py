"""The OpenAPI 3.1 document, made from the types that read and write the bodies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["BINARY", "JSON", "Parameter", "RouteDescription", "document", "routes"]

JSON = "application/json"
BINARY: Mapping[str, Any] = {}  # the schema of a body that is no JSON: OpenAPI 3.1 says nothing of its bytes

# A type that msgspec knows, or a finished schema.
Schema: TypeAlias = Any
Schemas: TypeAlias = Callable[[Schema], dict[str, Any]]

_REFERENCE = "#/components/schemas/{name}"
_ERROR_HEADER = "Confidential-ML-Error"
# docs/http.md 6. What the HTTP parser says (431), and of a name that is not the server's (421), comes before any route.
_STATUSES = {
    400: ("body_malformed", "input_invalid", "model_invalid", "model_id_missing", "nonce_invalid", "parameter_invalid"),
    401: ("token_wrong",),
    403: ("role_wrong", "route_closed"),
    404: ("path_unknown", "model_unknown"),
    405: ("method_wrong",),
    408: ("request_timeout",),
    409: ("version_exists", "other_owner"),
    413: ("body_too_large", "too_many_rows"),
    415: ("media_type_wrong",),
    500: ("internal",),
    503: ("busy", "shutting_down"),
    507: ("store_full",),
}
_STATUS_OF = {code: status for status, codes in _STATUSES.items() for code in codes}
# What the server as a whole may answer: to everything, to bodies, to tokens.
_ALWAYS = ("internal", "busy", "shutting_down")
_WITH_BODY = ("body_too_large", "request_timeout", "media_type_wrong")
_WITH_TOKEN = ("token_wrong", "role_wrong")


@dataclass(frozen=True)
class Parameter:
    """A parameter in the path, the query or a header.

    Attributes
    ----------
    name, where
        Its name; ``"path"``, ``"query"`` or ``"header"``.
    schema
        Its type.
    summary
        What it means.
    required
        Whether it must be there; those of a path must.
    """

    name: str
    where: str
    schema: Schema
    summary: str
    required: bool = False


@dataclass(frozen=True)
class RouteDescription:
    """What the document says of one method of one route.

    Attributes
    ----------
    path, method
        As in the document: ``"/models/{model_id}"``, ``"get"``.
    summary
        One line.
    role
        ``"open"``, ``"client"``, ``"owner"`` or ``"metrics"``.
    answers
        Status -> media type -> type of the body; an empty mapping is an answer without body.
    request
        Media type -> type of the body; empty if it takes none.
    request_required
        Whether the body may be left out.
    parameters
        In the path, the query and headers.
    codes
        Error codes that the route itself has; those that any route has are added.
    clear
        The setting that opens the route, None if it is not in clear.
    error
        Type of the body of errors.
    answer_headers
        Status -> name -> what it means.
    """

    path: str
    method: str
    summary: str
    role: str
    answers: Mapping[int, Mapping[str, Schema]]
    error: Schema
    request: Mapping[str, Schema] = field(default_factory=dict)
    request_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    clear: str | None = None
    answer_headers: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def all_codes(self) -> tuple[str, ...]:
        """Every error code that this route may answer, without repetition."""
        codes = [*self.codes, *_ALWAYS]
        if self.request:
            codes += _WITH_BODY
        if self.role != "open":
            codes += _WITH_TOKEN
        if self.clear is not None:
            codes.append("route_closed")
        return tuple(dict.fromkeys(codes))


def document(
    descriptions: Sequence[RouteDescription], *, version: str, anonymous: Collection[str] = ()
) -> dict[str, Any]:
    """Make the document.

    Parameters
    ----------
    descriptions
        All routes, in the order they are to be listed.
    version
        Version of the package.
    anonymous
        Roles that need no token on this server.

    Returns
    -------
    dict
        The OpenAPI 3.1 document.

    Raises
    ------
    ValueError
        If two descriptions are of one method and path, or one has a code that docs/http.md does not know.
    """
    types = [schema for description in descriptions for schema in _schemas(description) if not _is_finished(schema)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(map(id, types), schemas, strict=True))

    def schema_of(schema: Schema) -> dict[str, Any]:
        return dict(schema) if _is_finished(schema) else by_type[id(schema)]

    paths: dict[str, dict[str, Any]] = {}
    for description in descriptions:
        methods = paths.setdefault(description.path, {})
        if description.method in methods:
            raise ValueError(f"{description.method} {description.path} is described twice")
        operation = _operation(description, schema_of)
        operation["security"] = _security(description.role, anonymous)
        methods[description.method] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "confidential_ml",
            "version": version,
            "summary": "XGBoost models inside an SGX enclave",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _security_schemes()},
    }


def routes(content: dict[str, Any]) -> list[Route]:
    """The route of a document; it is open and is written once."""
    body = msgspec.json.encode(content)

    async def answer(_: Request) -> Response:
        return Response(body, media_type=JSON)

    return [Route("/openapi.json", answer, methods=["GET"])]


def _is_finished(schema: Schema) -> bool:
    return isinstance(schema, Mapping)


def _schemas(description: RouteDescription) -> list[Schema]:
    answers = [schema for bodies in description.answers.values() for schema in bodies.values()]
    parameters = [parameter.schema for parameter in description.parameters]
    return [*description.request.values(), *answers, *parameters, description.error]


def _operation(description: RouteDescription, schema_of: Schemas) -> dict[str, Any]:
    words = description.path.replace("{", "").replace("}", "").replace(".", "/").split("/")
    operation: dict[str, Any] = {
        "operationId": "_".join([description.method, *filter(None, words)]),
        "summary": description.summary,
        "responses": {**_answers(description, schema_of), **_errors(description, schema_of)},
    }
    if description.clear is not None:
        operation["description"] = f"In clear: closed unless the server's owner has set `{description.clear}`."
    if description.parameters:
        operation["parameters"] = [_parameter(parameter, schema_of) for parameter in description.parameters]
    if description.request:
        operation["requestBody"] = {
            "required": description.request_required,
            "content": _content(description.request, schema_of),
        }
    return operation


def _parameter(parameter: Parameter, schema_of: Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required or parameter.where == "path",
        "description": parameter.summary,
        "schema": schema_of(parameter.schema),
    }


def _content(bodies: Mapping[str, Schema], schema_of: Schemas) -> dict[str, Any]:
    return {media_type: {"schema": schema_of(schema)} if schema else {} for media_type, schema in bodies.items()}


def _answers(description: RouteDescription, schema_of: Schemas) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for status, bodies in description.answers.items():
        result[str(status)] = {"description": HTTPStatus(status).phrase}
        if bodies:
            result[str(status)]["content"] = _content(bodies, schema_of)
        headers = description.answer_headers.get(status)
        if headers:
            result[str(status)]["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
            }
    return result


def _errors(description: RouteDescription, schema_of: Schemas) -> dict[str, Any]:
    codes_of: dict[int, list[str]] = {}
    for code in description.all_codes:
        if code not in _STATUS_OF:
            raise ValueError(f"{description.path}: {code} is no error code of docs/http.md")
        codes_of.setdefault(_STATUS_OF[code], []).append(code)
    return {
        str(status): {
            "description": ", ".join(codes),
            "headers": {
                _ERROR_HEADER: {
                    "description": "the error's code",
                    "required": True,
                    "schema": {"type": "string", "enum": codes},
                }
            },
            "content": {JSON: {"schema": schema_of(description.error)}},
        }
        for status, codes in sorted(codes_of.items())
    }


def _security(role: str, anonymous: Collection[str]) -> list[dict[str, list[str]]]:
    if role == "open" or role in anonymous:
        return []
    # An owner may do what a client may.
    return [{role: []}, {"owner": []}] if role == "client" else [{role: []}]


def _security_schemes() -> dict[str, Any]:
    return {
        role: {"type": "http", "scheme": "bearer", "description": f"a token of the role {role}"}
        for role in ("client", "owner", "metrics")
    }
