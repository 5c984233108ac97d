"""The OpenAPI document: it is one, it names what the routes have, and the server keeps to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from protocol_server import Served, served

import confidential_ml as cml
from confidential_ml.server import mlflow_scoring, open_inference, openapi

__all__ = ["served"]

schemathesis = pytest.importorskip("schemathesis")
jsonschema_rs = pytest.importorskip("jsonschema_rs")

DESCRIPTIONS = [*open_inference.descriptions(), *mlflow_scoring.descriptions()]


@pytest.fixture(scope="module")
def document(served: Served) -> dict[str, Any]:
    answer = served.ask("GET", "/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    content: dict[str, Any] = answer.json()
    return content


def test_it_is_an_openapi_document(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == cml.__version__
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split('"$ref": "')[1:]}
    assert references
    assert {f"#/components/schemas/{name}" for name in document["components"]["schemas"]} >= references
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    schemes = set(document["components"]["securitySchemes"])
    assert schemes == {"client", "owner", "metrics"}
    for operation in operations:
        assert {name for choice in operation["security"] for name in choice} <= schemes


def test_every_route_is_described_and_every_description_has_a_route(served: Served, document: dict[str, Any]) -> None:
    class NoServing:
        pass

    nothing: Any = NoServing()
    routes = [*open_inference.routes(nothing), *mlflow_scoring.routes(nothing)]
    served_paths = {
        (route.path, method.lower()) for route in routes for method in route.methods or () if method != "HEAD"
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert served_paths <= described


def test_roles_need_their_tokens() -> None:
    def security(**arguments: Any) -> Any:
        made = openapi.document(DESCRIPTIONS, version="1", **arguments)
        return made["paths"]["/v2"]["get"]["security"], made["paths"]["/invocations"]["post"]["security"]

    assert security() == ([], [{"client": []}, {"owner": []}])
    assert security(anonymous=["client"]) == ([], [])


def test_descriptions_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        openapi.document([DESCRIPTIONS[0], DESCRIPTIONS[0]], version="1")
    wrong = openapi.RouteDescription("/x", "get", "", "open", {204: {}}, open_inference.Live, codes=("oops",))
    with pytest.raises(ValueError, match="oops"):
        openapi.document([wrong], version="1")


def validator(document: dict[str, Any], name: str) -> Callable[[Any], bool]:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    check: Callable[[Any], bool] = jsonschema_rs.validator_for(schema).is_valid
    return check


def test_the_schemas_say_what_the_decoders_take(document: dict[str, Any]) -> None:
    infer, invocation = validator(document, "InferRequest"), validator(document, "Invocation")
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [[1, 2.5, None, "Infinity"]]}
    assert infer({"inputs": [tensor]})
    assert infer({"inputs": [{**tensor, "data": [True, False]}], "id": "x", "parameters": {"a": 1}})
    assert not infer({"inputs": []})
    assert not infer({"inputs": [{**tensor, "shape": [-1]}]})
    assert not infer({"inputs": [{**tensor, "data": ["x"]}]})
    assert invocation({"instances": [[1, 2]], "params": {"model_id": "x"}})
    assert invocation({"inputs": {"a": [1], "b": [[1]]}})
    assert not invocation({"inputs": "x"})
    assert not invocation({"instances": [[1]], "other": 1})


TENSOR = {"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}
MODEL, VERSION = "/v2/models/{model_id}", "/v2/models/{model_id}/versions/{version}"


@pytest.mark.parametrize(
    ("template", "method", "body", "status"),
    [
        ("/v2", "get", None, 200),
        ("/v2/health/live", "get", None, 200),
        ("/v2/health/ready", "get", None, 200),
        ("/v2/repository/index", "post", {}, 200),
        ("/v2/repository/index", "post", [], 400),
        (MODEL, "get", None, 200),
        (VERSION + "/ready", "get", None, 200),
        (MODEL + "/infer", "post", {"inputs": [TENSOR], "id": "x"}, 200),
        (VERSION + "/infer", "post", {"inputs": [TENSOR]}, 200),
        (VERSION + "/infer", "post", {"inputs": [{**TENSOR, "shape": [5]}]}, 400),
        ("/invocations", "post", {"instances": [[1, 2, 3, 4]], "params": {"model_id": "flowers"}}, 200),
        ("/invocations", "post", {"instances": [[1] * 6], "params": {"model_id": "risk"}}, 200),
        ("/invocations", "post", {"instances": 5}, 400),
        ("/invocations", "post", {"instances": [[1]], "params": {"model_id": "weeds"}}, 404),
        ("/invocations", "post", {"instances": [[1]] * 1001, "params": {"model_id": "line"}}, 413),
    ],
)
def test_answers_are_as_described(
    served: Served, document: dict[str, Any], template: str, method: str, body: Any, status: int
) -> None:
    path = template.format(model_id="flowers", version=1)
    answer = served.ask(method, path, **({} if body is None else {"json": body}))
    assert answer.status_code == status
    described = document["paths"][template][method]["responses"][str(status)]
    # Closed, so that a field that no schema has does not pass.
    components = json.loads(json.dumps(document["components"]))
    for schema in components["schemas"].values():
        schema["additionalProperties"] = False
    schema = {**described["content"]["application/json"]["schema"], "components": components}
    jsonschema_rs.validator_for(schema).validate(answer.json())
    if status >= 400:
        assert answer.headers["Confidential-ML-Error"] in described["description"].split(", ")


def cases(operation: Any, mode: Any, **fixed: Any) -> Any:
    from hypothesis import HealthCheck, Phase, given, settings

    limits = settings(
        max_examples=15,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    strategy = operation.as_strategy(generation_mode=mode, **fixed)
    return lambda keep: limits(given(case=strategy)(keep))()


def test_the_server_keeps_to_its_document(served: Served, document: dict[str, Any]) -> None:
    """Schemathesis sends what the document allows and what it does not; nothing is a 500, or not in the document."""
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_asgi("/openapi.json", served.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= len(DESCRIPTIONS)
    statuses: dict[int, int] = {}

    def keep(case: Any) -> None:
        response = case.call(headers=served.headers)
        # No schema can say that a tensor's data is as long as its shape says.
        case.validate_response(response, headers=served.headers, excluded_checks=[positive_data_acceptance])
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

    for operation in operations:
        # Those that delete get any ids.
        is_versioned = "{version}" in operation.path and operation.method.upper() != "DELETE"
        fixed = {"path_parameters": {"model_id": "flowers", "version": "1"}} if is_versioned else {}
        cases(operation, GenerationMode.POSITIVE, **fixed)(keep)
        # Of bytes of any kind there are none that the document forbids.
        if "application/json" in operation.definition.raw.get("requestBody", {}).get("content", {}):
            cases(operation, GenerationMode.NEGATIVE)(keep)
    print(statuses)
    assert {200, 400, 404} <= set(statuses)
    assert max(statuses) < 500
