"""The project's own routes: every answer and every error code of docs/http.md, without sockets."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

import httpx
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client.parser import text_string_to_metric_families
from server_process import JSON, OCTETS, TOKENS, UNSAFE, bearer, settings_for
from starlette.applications import Starlette
from starlette.routing import Route

import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.attestation import ANY, AttestationPolicy, Collateral, attest
from confidential_ml.attestation.collateral_cache import earliest_expiry
from confidential_ml.server import Serving, create_app, load_settings
from confidential_ml.server.connection import ConnectionLimits
from confidential_ml.server.errors import HttpError
from confidential_ml.server.run import _Server

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
REGRESSION = (FIXTURES / "xgb-3.4.1.reg.ubj").read_bytes()
CLASSIFIER = (FIXTURES / "xgb-3.4.1.softprob.ubj").read_bytes()
ROWS = np.load(FIXTURES / "X.npy")
IRIS = Path(__file__).parent.parent / "examples" / "data" / "iris_model.json"
FLOWER = [5.1, 3.5, 1.4, 0.2]


class Asked:
    """An application and how to ask it."""

    def __init__(self, app: Starlette, run: Callable[..., Any]) -> None:
        self.app = app
        self.serving: Serving = app.state.serving
        self.run = run

    def __call__(self, method: str, path: str, role: str | None = "owner", **arguments: Any) -> httpx.Response:
        answer: httpx.Response = self.run(self.ask(method, path, role, **arguments))
        return answer

    async def ask(self, method: str, path: str, role: str | None = "owner", **arguments: Any) -> httpx.Response:
        headers = {**({} if role is None else bearer(role)), **arguments.pop("headers", {})}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False) as client:
            return await client.request(method, path, headers=headers, **arguments)

    def upload(self, data: bytes = REGRESSION, **query: Any) -> httpx.Response:
        return self("POST", "/model/upload", params=query, content=data, headers=OCTETS)

    def predict(self, body: Any, role: str | None = "client") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self("POST", "/model/predict", role, content=content, headers=JSON)

    def remote(self, role: str = "client", **policy: Any) -> cml.RemoteModel:
        """A remote client; may be used in a thread while the event loop runs here."""
        wanted = {"mrenclave": self.serving.enclave.identity.mrenclave, "model_digest": ANY, "allow_debug": True}

        def carry(message: bytes) -> bytes:
            answer = self("POST", "/confidential", role, content=message, headers=OCTETS)
            assert answer.status_code == 200
            return answer.content

        root = simulated_platform.of_this_installation().root
        return cml.RemoteModel(carry, AttestationPolicy(**{**wanted, **policy}), root=root)


@pytest.fixture
def ask_with(tmp_path: Path) -> Iterator[Callable[..., Asked]]:
    """Makes applications with other settings."""
    made: list[Asked] = []
    with asyncio.Runner() as runner:

        def make(**changes: Any) -> Asked:
            settings = load_settings(**settings_for(tmp_path / f"store-{len(made)}", **changes))
            made.append(Asked(create_app(settings), runner.run))
            return made[-1]

        yield make
        for one in made:
            one.serving.close()


@pytest.fixture
def ask(ask_with: Callable[..., Asked]) -> Asked:
    return ask_with()


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code, which stands in the header and in the body."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert answer.headers["Confidential-ML-Error"] == body["error"]["code"]
    assert len(body["error"]["message"]) > 10
    return answer.status_code, body["error"]["code"]


# ---- who the server is ----------------------------------------------------------------------------------------------


def test_health(ask: Asked) -> None:
    identity = ask.serving.enclave.identity
    expected = {
        "status": "ok",
        "version": cml.__version__,
        "platform": identity.platform,
        "mrenclave": identity.mrenclave,
        "debug": True,
        "unsafe": ["simulation", "cleartext_predict", "cleartext_upload"],
        "models": 0,
        "protects": False,
    }
    answer = ask("GET", "/health", None)
    assert (answer.status_code, answer.json()) == (200, expected)
    ask.upload(model_id="m")
    assert ask("GET", "/health", None).json()["models"] == 1
    ask.serving.is_ending = True
    assert ask("GET", "/health", None).status_code == 503
    refused = ask("GET", "/models")
    assert error_of(refused) == (503, "shutting_down")
    assert refused.headers["Connection"] == "close"


def test_from_the_signal_on_nothing_new_is_taken(ask: Asked) -> None:
    server = _Server(uvicorn.Config(ask.app), ask.serving, ConnectionLimits(1, 1.0))
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert error_of(ask("GET", "/models")) == (503, "shutting_down")


def test_the_report_is_evidence_with_the_nonce(ask: Asked) -> None:
    body = ask("GET", "/attestation/report?nonce=00fF", None).json()
    document = ask("GET", "/attestation/collateral", None)
    root = simulated_platform.of_this_installation().root
    policy = AttestationPolicy(mrenclave=body["mrenclave"], model_digest=ANY, allow_debug=True)
    evidence = base64.b64decode(body["evidence"], validate=True)
    result = attest(evidence, Collateral.from_json(document.text), policy, nonce=b"\x00\xff", root=root)
    assert (result.mrenclave, result.mrsigner) == (body["mrenclave"], body["mrsigner"])
    assert body["nonce"] == "00ff"
    assert "SIMULATION" in body["warning"]
    assert ask("GET", "/attestation/report", None).json()["nonce"] == ""
    assert ask("GET", f"/attestation/report?nonce={'00' * 64}", None).status_code == 200
    for nonce in ("0", "0x00", "00" * 65, "0g"):
        assert error_of(ask("GET", f"/attestation/report?nonce={nonce}", None)) == (400, "nonce_invalid")
    for query in ("nonce=00&nonce=00", "nonse=00"):
        assert error_of(ask("GET", f"/attestation/report?{query}", None)) == (400, "parameter_invalid")


def test_new_models_are_in_the_evidence_at_once(ask: Asked) -> None:
    def digests() -> set[str]:
        return {model.model_digest for model in ask.remote().attest().claims.models}

    def cached() -> bytes:
        return base64.b64decode(ask("GET", "/attestation/report", None).json()["evidence"])

    assert digests() == set()
    digest = ask.upload(model_id="m").json()["model_digest"]
    assert digests() == {digest}
    assert bytes.fromhex(digest) in cached()
    ask("DELETE", "/models/m")
    assert digests() == set()
    assert bytes.fromhex(digest) not in cached()


def test_the_console_and_openapi(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with()
    page = ask("GET", "/", None)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert page.headers.get_list("x-content-type-options") == ["nosniff"]
    assert page.headers.get_list("cache-control") == ["no-cache"]
    paths = ask("GET", "/openapi.json", None).json()["paths"]
    served = {
        (route.path, method.lower())
        for route in ask.app.routes
        if isinstance(route, Route) and route.path != "/openapi.json"
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert {(path, method) for path, methods in paths.items() for method in methods} == served
    without = ask_with(console=False)
    assert error_of(without("GET", "/", None)) == (404, "path_unknown")
    assert set(paths) - set(without("GET", "/openapi.json", None).json()["paths"]) == {"/"}


def test_metrics(ask: Asked) -> None:
    ask.upload(model_id="m")
    ask.predict({"features": ROWS[:3].tolist()})
    ask("GET", "/models/../etc/passwd")
    ask("BREW", "/pot")
    ask("GET", "/attestation/report", None)
    assert error_of(ask("GET", "/metrics", "client")) == (403, "role_wrong")
    answer = ask("GET", "/metrics", "metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for line in (
        'confidential_ml_requests_total{method="POST",route="/model/predict",status="200"} 1.0',
        'confidential_ml_requests_total{method="GET",route="none",status="404"} 1.0',
        'confidential_ml_requests_total{method="other",route="none",status="404"} 1.0',
        'confidential_ml_request_seconds_count{route="/model/predict"} 1.0',
        "confidential_ml_rows_total 3.0",
        "confidential_ml_models 1.0",
        "confidential_ml_epoch 1.0",
        "confidential_ml_attestations_total 1.0",
        "confidential_ml_busy_total 0.0",
        "confidential_ml_requests_in_progress 0.0",
        'confidential_ml_unsafe{setting="simulation"} 1.0',
        "confidential_ml_collateral_expiry_timestamp_seconds 0.0",
    ):
        assert line in lines
    assert "passwd" not in answer.text


def test_metrics_know_when_collateral_expires(
    ask_with: Callable[..., Asked], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "collateral.json"
    found = simulated_platform.of_this_installation().collateral()
    found.save(file)
    ask = ask_with(collateral={"file": file})
    for collateral, expiry in [
        (found, earliest_expiry(found).timestamp()),
        (dataclasses.replace(found, tcb_info="no JSON"), 0.0),
    ]:
        collateral.save(file)
        assert Collateral.from_json(ask("GET", "/attestation/collateral", None).text) == collateral
        families = text_string_to_metric_families(ask("GET", "/metrics", "metrics").text)
        values = {sample.name: sample.value for family in families for sample in family.samples}
        assert values["confidential_ml_collateral_expiry_timestamp_seconds"] == expiry
    assert "clients will refuse it" in caplog.text


# ---- models ---------------------------------------------------------------------------------------------------------


def test_a_model_that_is_uploaded_twice_is_two_versions(ask: Asked) -> None:
    first, second = (ask("POST", "/model/upload", content=IRIS.read_bytes(), headers=JSON) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    entry = first.json()
    assert (entry["model_id"], entry["version"], entry["current"], entry["owner"]) == ("iris-classifier", 1, True, None)
    shape = (entry["n_features"], entry["n_groups"], entry["n_values"], entry["n_trees"], entry["n_rounds"])
    assert shape == (4, 3, 3, 30, 10)
    assert (entry["objective"], entry["booster"], entry["policy"]) == ("multi:softprob", "gbtree", "mrenclave")
    assert second.json() == {**entry, "version": 2}
    listed = ask("GET", "/models", "client").json()
    assert listed == {"models": [{**entry, "current": False}, {**entry, "version": 2}]}
    answer = ask.predict({"features": FLOWER}).json()
    assert (answer["model_id"], answer["version"]) == ("iris-classifier", 2)
    assert np.argmax(answer["predictions"]) == 0


def test_ids_and_versions_of_uploads(ask: Asked) -> None:
    assert ask.upload(model_id="m", version=5).json()["version"] == 5
    assert ask.upload(model_id="m").json()["version"] == 6
    assert ask.upload(model_id="m", version=2).json()["current"] is False
    assert ask.upload(model_id="m", version=(1 << 64) - 1).status_code == 201
    assert error_of(ask.upload(model_id="m")) == (409, "version_exists")
    assert error_of(ask.upload(model_id="m", version=5)) == (409, "version_exists")
    assert error_of(ask.upload()) == (400, "model_id_missing")
    for query in ({"model_id": "../m"}, {"model_id": "m", "version": 1 << 64}, {"model_id": "m", "versoin": 1}):
        assert error_of(ask.upload(**query)) == (400, "parameter_invalid")
    for data in (b"", b"{}", b"no model", REGRESSION[:-9]):
        assert error_of(ask.upload(data, model_id="m")) == (400, "model_invalid")
    assert [one["version"] for one in ask("GET", "/models").json()["models"]] == [2, 5, 6, (1 << 64) - 1]


def test_deleting(ask: Asked) -> None:
    for version in (1, 2, 3):
        ask.upload(model_id="m", version=version)
    assert ask("DELETE", "/models/m/versions/3").status_code == 204
    assert ask.predict({"features": ROWS[0].tolist()}).json()["version"] == 2
    for path in ("/models/m/versions/3", "/models/other", "/models/m/versions/x", "/models/m/versions/-1"):
        assert error_of(ask("DELETE", path)) == (404, "model_unknown")
    assert error_of(ask("DELETE", "/models/m", "client")) == (403, "role_wrong")
    answer = ask("DELETE", "/models/m")
    assert (answer.status_code, answer.content) == (204, b"")
    assert ask("GET", "/models").json() == {"models": []}
    assert error_of(ask.predict({"features": ROWS[0].tolist()})) == (404, "model_unknown")


def test_models_are_there_after_a_restart(ask_with: Callable[..., Asked], tmp_path: Path) -> None:
    before = ask_with()
    before.upload(model_id="m")
    before.upload(CLASSIFIER, model_id="c")
    listed, values = before("GET", "/models").json(), before.predict({"features": ROWS[0].tolist(), "model_id": "c"})
    before.serving.close()
    after = ask_with(model_store=str(tmp_path / "store-0"))
    assert after("GET", "/models").json() == listed
    assert after.predict({"features": ROWS[0].tolist(), "model_id": "c"}).json() == values.json()


def test_sealed_files_of_another_enclave_are_left_alone(
    ask_with: Callable[..., Asked], tmp_path: Path, enclave_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store-0").mkdir()
    theirs = tmp_path / "store-0" / "m@1.sealed"
    cml.seal(REGRESSION, theirs, model_id="m", version=1, enclave=enclave_of("rebuilt"))
    content = theirs.read_bytes()
    ask = ask_with()
    assert ask("GET", "/models").json() == {"models": []}
    assert "m@1.sealed is not served" in caplog.text
    assert ask.upload(model_id="m").json()["version"] == 2
    assert theirs.read_bytes() == content


# ---- predictions in clear -------------------------------------------------------------------------------------------


def same_bits(told: Any, values: np.ndarray[Any, Any]) -> bool:
    return np.array(told, dtype=np.float64).astype(np.float32).tobytes() == values.tobytes()


@pytest.mark.parametrize("data", [REGRESSION, CLASSIFIER])
def test_predictions_have_the_bits_and_shape_of_the_model(ask: Asked, data: bytes) -> None:
    ask.upload(data, model_id="m")
    rows = ROWS.astype(np.float32)
    as_json = [[None if np.isnan(value) else float(value) for value in row] for row in rows]
    with ask.serving.lease("m", 1) as live:
        model = live.model
        expected = model.predict(rows)
        told = ask.predict({"features": as_json}).json()["predictions"]
        assert np.shape(told) == expected.shape
        assert same_bits(told, expected)
        for row, values in zip(as_json[:20], expected, strict=False):
            one = ask.predict({"features": row}).json()["predictions"]
            assert np.shape(one) == values.shape
            assert same_bits(one, values)
        margins = ask.predict({"features": as_json, "output_margin": True, "iteration_range": [0, 1], "version": 1})
        assert same_bits(margins.json()["predictions"], model.predict(rows, output_margin=True, iteration_range=(0, 1)))


def test_the_short_way_and_the_long_way_read_the_same(ask: Asked) -> None:
    """A row alone in its body is read by other code; numbers at every edge must come out alike."""
    ask.upload(model_id="m")
    seen: list[tuple[str, bytes]] = []
    long_way, short_way = ask.serving.predict, ask.serving.predict_row

    async def spy_on_long(rows: Any, **arguments: Any) -> Any:
        seen.append(("long", rows.tobytes()))
        return await long_way(rows, **arguments)

    def spy_on_short(live: Any, row: Any) -> Any:
        seen.append(("short", row.tobytes()))
        return short_way(live, row)

    ask.serving.predict, ask.serving.predict_row = spy_on_long, spy_on_short  # type: ignore[method-assign]
    edges = [
        "1",
        "0.1",
        "-0.0",
        "1e39",
        "-1e39",
        "1e-46",
        "16777217",
        "1.00000005960464477539",
        "3.4028235677973366e38",
    ]
    for start in range(len(edges) - 5):
        numbers = ", ".join(edges[start : start + 6])
        for body in (f'{{"features": [{numbers}]}}', f'{{"features": [{numbers}], "output_margin": false}}'):
            assert ask.predict(body.encode()).status_code == 200
        assert [way for way, _ in seen[-2:]] == ["short", "long"]
        assert seen[-1][1] == seen[-2][1]
    ask.predict({"features": [1.0, None, True, "NaN", "-Infinity", 2]})
    row = np.frombuffer(seen[-1][1], dtype=np.float32)
    assert row.tobytes() == np.array([1, np.nan, 1, np.nan, -np.inf, 2], dtype=np.float32).tobytes()


def test_what_json_has_no_number_for(ask: Asked) -> None:
    import dataclasses

    from confidential_ml.server.own_routes import _written

    ask.upload(model_id="m")
    entry = dataclasses.replace(ask.serving.models()[0], model_id="null")
    values = np.array([[np.nan, np.inf], [-np.inf, 1.5]], dtype=np.float32)
    told = json.loads(_written(values, entry, is_one_row=False))
    assert told["predictions"] == [[None, "Infinity"], ["-Infinity", 1.5]]
    assert json.loads(_written(values[1:], entry, is_one_row=True))["predictions"] == ["-Infinity", 1.5]


def test_inputs_that_are_refused(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(limits={"rows": 10, "body_bytes": 2000})
    ask.upload(model_id="m")
    row = [0.0] * 6
    bodies: list[Any] = [
        b"",
        b"{",
        b"[]",
        b'{"features": "x"}',
        {"features": row, "x": 1},
        {"features": {}},
        {"features": ["x"] * 6},
        b'{"features": [0,0,0,0,0,0], "features": [1,1,1,1,1,1]}',
    ]
    for body in bodies:
        assert error_of(ask.predict(body)) == (400, "body_malformed")
    inputs: list[Any] = [[], [[]], row[:5], [row[:5]], [row, row[:5]], [row, 0.0], [0.0, row]]
    for features in inputs:
        assert error_of(ask.predict({"features": features})) == (400, "input_invalid")
    assert error_of(ask.predict({"features": row, "iteration_range": [0, 99]})) == (400, "parameter_invalid")
    assert error_of(ask.predict({"features": [row] * 11})) == (413, "too_many_rows")
    # Told by its brackets alone, before it is read.
    assert error_of(ask.predict(b'{"features": ' + b"[[]," * 13)) == (413, "too_many_rows")
    assert error_of(ask.predict({"features": [[0.125] * 6] * 60})) == (413, "body_too_large")
    assert error_of(ask.predict({"features": row, "model_id": "other"})) == (404, "model_unknown")
    assert error_of(ask.predict({"features": row, "version": 2})) == (404, "model_unknown")
    ask.upload(CLASSIFIER, model_id="c")
    assert error_of(ask.predict({"features": row})) == (400, "model_id_missing")
    assert ask.predict({"features": [row] * 10, "model_id": "c"}).status_code == 200
    secret = ask.predict(b'{"features": [123456.789, "hidden"]}')
    assert "123456" not in secret.text
    assert "hidden" not in secret.text


def test_media_types_and_encodings(ask: Asked) -> None:
    ask.upload(CLASSIFIER, model_id="m")
    content = json.dumps({"features": [0.0] * 6}).encode()

    def post(path: str = "/model/predict", **headers: str) -> httpx.Response:
        return ask("POST", path, content=content, headers={name.replace("_", "-"): v for name, v in headers.items()})

    for kind in ("application/json", "Application/JSON; charset=UTF-8"):
        assert post(content_type=kind).status_code == 200
    for kind in ("text/plain", "application/json; charset=latin-1", "application/json; x=1", ""):
        assert error_of(post(content_type=kind)) == (415, "media_type_wrong")
    assert error_of(post(content_type="application/json", content_encoding="gzip")) == (415, "media_type_wrong")
    assert error_of(post(content_type="application/json", transfer_encoding="gzip, chunked")) == (
        415,
        "media_type_wrong",
    )
    assert error_of(post("/confidential", content_type="application/json")) == (415, "media_type_wrong")
    assert error_of(post("/model/upload", content_type="text/plain")) == (415, "media_type_wrong")


def test_arrow(ask: Asked) -> None:
    pa = pytest.importorskip("pyarrow")
    ask.upload(model_id="m")
    table = pa.table({f"c{i}": ROWS[:5, i].astype(np.float32) for i in range(6)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    kind = {"Content-Type": "application/vnd.apache.arrow.stream"}
    answer = ask("POST", "/model/predict?model_id=m", content=sink.getvalue().to_pybytes(), headers=kind)
    told = pa.ipc.open_stream(answer.content).read_all()["prediction"].to_numpy()
    with ask.serving.lease("m", None) as live:
        assert told.tobytes() == live.model.predict(ROWS[:5].astype(np.float32)).tobytes()


# ---- access ---------------------------------------------------------------------------------------------------------

ROLE_OF = {
    ("GET", "/models"): "client",
    ("POST", "/confidential"): "client",
    ("POST", "/model/predict"): "client",
    ("POST", "/invocations"): "client",
    ("POST", "/v2/models/m/infer"): "client",
    ("POST", "/model/upload"): "owner",
    ("DELETE", "/models/m"): "owner",
    ("DELETE", "/models/m/versions/1"): "owner",
    ("GET", "/metrics"): "metrics",
}
OPEN = ["/health", "/", "/openapi.json", "/attestation/report", "/attestation/collateral", "/ping", "/version", "/v2"]


def test_tokens_and_roles(ask: Asked) -> None:
    for (method, path), needed in ROLE_OF.items():
        for role in TOKENS:
            code = ask(method, path, role).headers.get("Confidential-ML-Error")
            is_allowed = role == needed or (role, needed) == ("owner", "client")
            assert (code == "role_wrong") == (not is_allowed), (path, role)
            assert code != "token_wrong"
        for header in (
            None,
            "Bearer wrong",
            "Bearer",
            f"Basic {TOKENS[needed]}",
            f"Bearer {TOKENS[needed]}x",
            TOKENS[needed],
        ):
            refused = ask(method, path, None, headers={} if header is None else {"Authorization": header})
            assert refused.headers["Confidential-ML-Error"] == "token_wrong", (path, header)
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    for path in OPEN:
        assert ask("GET", path, None).status_code == 200, path
    # Two headers may mean different things to a proxy and to the server.
    twice = [("Authorization", f"Bearer {TOKENS['owner']}")] * 2
    assert ask.run(_ask_raw(ask, twice)).status_code == 401


async def _ask_raw(ask: Asked, headers: list[tuple[str, str]]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ask.app), base_url="http://localhost") as client:
        return await client.get("/models", headers=headers)


def test_anonymous_roles_need_no_token_and_the_others_do(ask_with: Callable[..., Asked], tmp_path: Path) -> None:
    tokens = {
        "owner": settings_for(tmp_path)["tokens"]["owner"],
        "metrics": settings_for(tmp_path)["tokens"]["metrics"],
    }
    ask = ask_with(tokens=tokens, unsafe={**UNSAFE, "anonymous": ["client"]})
    assert ask("GET", "/models", None).status_code == 200
    assert error_of(ask("DELETE", "/models/m", None)) == (401, "token_wrong")


def test_routes_in_clear_are_closed_unless_opened(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(unsafe={"simulation": True})
    for path, setting in (("/model/predict", "cleartext_predict"), ("/model/upload", "cleartext_upload")):
        refused = ask("POST", path)
        assert error_of(refused) == (403, "route_closed")
        assert setting in refused.text
    for path in ("/invocations", "/v2/models/m/infer"):
        assert ask("POST", path).headers["Confidential-ML-Error"] == "route_closed"
    assert ask("GET", "/health", None).json()["unsafe"] == ["simulation"]


def test_paths_and_methods_that_there_are_not(ask: Asked) -> None:
    for path in ("/nothing", "/models/", "/health/", "/model/predict/x"):
        assert error_of(ask("GET", path)) == (404, "path_unknown")
    refused = ask("GET", "/model/predict")
    assert error_of(refused) == (405, "method_wrong")
    assert refused.headers["Allow"] == "POST"
    assert ask("HEAD", "/health", None).status_code == 200
    assert set(ask("GET", "/v2/nothing").json()) == {"error"}
    assert set(ask("GET", "/invocations").json()) == {"error_code", "message"}


def test_pages_from_elsewhere(ask_with: Callable[..., Asked]) -> None:
    allowing, strict = ask_with(allowed_origins=["null"]), ask_with()
    for ask in (allowing, strict):
        for origin in ("null", "https://example.org"):
            is_allowed = ask is allowing and origin == "null"
            answer = ask("GET", "/models", None, headers={"Origin": origin})
            assert answer.status_code == 401
            assert answer.headers.get("Access-Control-Allow-Origin") == ("null" if is_allowed else None)
            assert answer.headers.get("Vary") == ("Origin" if ask is allowing else None)
            leave = ask("OPTIONS", "/confidential", None, headers={"Origin": origin})
            assert leave.status_code == (204 if is_allowed else 405)
            assert leave.headers.get("Access-Control-Allow-Methods") == ("GET, POST" if is_allowed else None)


def with_host(ask: Asked, *hosts: str) -> tuple[int, str]:
    """Status and error code of a request with these header lines, which a client of its own would not send."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", host.encode()) for host in hosts]
    scope = {"type": "http", "method": "GET", "path": "/health", "query_string": b"", "headers": headers}
    ask.run(ask.app(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]).get(b"confidential-ml-error", b"").decode()


@pytest.mark.parametrize("name", ["rebound.example", "localhost.example", "example@localhost", "", "127.0.0.1.nip.io"])
def test_a_server_on_loopback_is_asked_under_no_other_name(ask_with: Callable[..., Asked], name: str) -> None:
    ask = ask_with()
    for own in ("localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080"):
        assert with_host(ask, own) == (200, "")
    for other in (name, f"{name}:8080", f"localhost:{name}x"):
        assert with_host(ask, other) == (421, "host_unknown")
    assert with_host(ask) == (421, "host_unknown")
    assert with_host(ask, "localhost", "localhost") == (421, "host_unknown")
    # No name is so long, and what was found out of it would be kept.
    assert with_host(ask, f"localhost:{'1' * 300}") == (421, "host_unknown")


def test_names_can_be_allowed(ask_with: Callable[..., Asked]) -> None:
    behind_a_proxy = ask_with(allowed_hosts=["Models.example.org", "[2001:db8::1]"])
    for own in ("models.example.org", "MODELS.example.org:443", "[2001:db8::1]:80", "localhost:8080"):
        assert with_host(behind_a_proxy, own) == (200, "")
    assert with_host(behind_a_proxy, "example.org") == (421, "host_unknown")
    on_a_network = ask_with(host="192.0.2.1", unsafe={**UNSAFE, "plain_http": True})
    assert with_host(on_a_network, "any.example") == (200, "")
    restricted = ask_with(host="192.0.2.1", unsafe={**UNSAFE, "plain_http": True}, allowed_hosts=["models.example.org"])
    for own in ("models.example.org", "192.0.2.1:8080", "127.0.0.1"):
        assert with_host(restricted, own) == (200, "")
    assert with_host(restricted, "any.example") == (421, "host_unknown")


# ---- limits and defects ---------------------------------------------------------------------------------------------


def test_more_requests_than_places_are_told_to_come_again(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(limits={"requests": 2})
    ask.upload(model_id="m")
    row = json.dumps({"features": [0.0] * 6, "model_id": "m"}).encode()  # more than a row: not answered at once
    go_on = asyncio.Event()
    real = ask.serving.predict

    async def waiting(rows: Any, **arguments: Any) -> Any:
        await go_on.wait()
        return await real(rows, **arguments)

    ask.serving.predict = waiting  # type: ignore[method-assign]

    async def three() -> list[httpx.Response]:
        tasks = [asyncio.create_task(ask.ask("POST", "/model/predict", content=row, headers=JSON)) for _ in range(3)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # Who asks for nothing but health is answered, whoever else waits.
        assert (await ask.ask("GET", "/health", None)).status_code == 200
        go_on.set()
        return [*(task.result() for task in done), *(await asyncio.gather(*(set(tasks) - done)))]

    answers = ask.run(three())
    assert error_of(answers[0]) == (503, "busy")
    assert answers[0].headers["Retry-After"] == "1"
    assert [answer.status_code for answer in answers[1:]] == [200, 200]
    assert ask.predict(row).status_code == 200  # the places were given back
    assert (ask.serving.admission.requests, ask.serving.admission.bytes) == (0, 0)


def test_bodies_held_at_once_are_bounded(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(limits={"requests": 1, "body_bytes": 4096, "model_bytes": 8192})

    async def two() -> list[httpx.Response]:
        go_on = asyncio.Event()

        async def slow(size: int) -> Any:
            yield b"{" * size
            await go_on.wait()
            yield b"{"

        first = asyncio.create_task(ask.ask("POST", "/model/upload?model_id=m", content=slow(8000), headers=JSON))
        second = asyncio.create_task(ask.ask("POST", "/model/upload?model_id=m", content=slow(8000), headers=JSON))
        while ask.serving.admission.bytes < 16000:
            await asyncio.sleep(0)
        third = await ask.ask("POST", "/model/predict", content=b"{" * 2000, headers=JSON)
        go_on.set()
        return [third, await first, await second]

    third, *others = ask.run(two())
    assert error_of(third) == (503, "busy")
    assert {answer.status_code for answer in others} <= {400, 503}
    assert ask.serving.admission.bytes == 0


def test_a_body_that_does_not_come_in_time(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(limits={"request_seconds": 0.05})

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    answer = ask("POST", "/model/predict", content=slow(), headers=JSON)
    assert error_of(answer) == (408, "request_timeout")
    assert answer.headers["Connection"] == "close"


def test_a_full_store(ask_with: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ask_with()
    ask.upload(model_id="m")
    monkeypatch.setattr(ask.serving._store, "_max_models", 1)
    assert error_of(ask.upload(model_id="n")) == (507, "store_full")

    def full(path: str, sealed: bytes) -> None:
        try:
            raise OSError(28, "No space left on device", path)
        except OSError as error:
            raise cml.SealError(f"{path} cannot be written") from error

    monkeypatch.setattr(ask.serving._store, "_max_models", 2)
    monkeypatch.setattr("confidential_ml.model.write_sealed", full)
    monkeypatch.setattr("confidential_ml.server.serving.write_sealed", full)
    refused = ask.upload(model_id="n")
    assert error_of(refused) == (507, "store_full")
    assert "store-0" not in refused.text
    # Nor is a provisioned one to be sent again and again to a disk that stays full.
    with pytest.raises(cml.RemoteError, match="no room") as raised:
        ask.remote("owner").provision(REGRESSION, model_id="n")
    assert not isinstance(raised.value, cml.RemoteBusyError)


def test_a_defect_tells_its_number_and_nothing_else(ask: Asked, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    ask.upload(model_id="m")
    ask.serving.predict = fail  # type: ignore[method-assign]
    answer = ask.predict({"features": [0.0] * 6, "model_id": "m"})
    assert error_of(answer) == (500, "internal")
    assert "secret" not in answer.text
    identifier = answer.json()["error"]["message"].split()[-1]
    assert identifier in caplog.text
    assert "a secret of the inside" in caplog.text


def test_all_codes_of_the_documentation_are_tested_here() -> None:
    table = (Path(__file__).parent.parent / "docs" / "http.md").read_text().split("## 6. Errors")[1].split("##")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and line[2].isdigit()]
    codes = {
        word.strip("` ") for row in rows for word in row.replace(";", ",").replace(":", ",").split(",") if "`" in word
    }
    codes = {code.split("`")[0] for code in codes}
    assert len(codes) > 20
    text = Path(__file__).read_text() + (Path(__file__).parent / "test_server_process.py").read_text()
    assert {code for code in codes if f'"{code}"' not in text} == set()


# ---- confidential requests ------------------------------------------------------------------------------------------


def test_provision_predict_and_receipts(ask: Asked) -> None:
    key = Ed25519PrivateKey.generate()
    owner = cml.owner_id(key)
    receipt = ask.remote("owner").provision(REGRESSION, model_id="m", version=3, owner_key=key)
    (entry,) = ask("GET", "/models").json()["models"]
    assert (entry["model_id"], entry["version"], entry["owner"]) == ("m", 3, owner)
    assert entry["model_digest"] == receipt.model_digest
    remote = ask.remote(model_digest=receipt.model_digest, model_owner=owner, min_model_version=3)
    values, receipts = remote.predict(ROWS, receipt=True)
    with ask.serving.lease("m", 3) as live:
        assert values.tobytes() == live.model.predict(ROWS.astype(np.float32)).tobytes()
    assert [one.receipt.model_digest for one in receipts] == [receipt.model_digest]
    assert remote.predict(ROWS[:1]).tobytes() == values[:1].tobytes()


def test_refused_models_are_not_to_be_sent_again(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(limits={"provisioned_models": 2})
    one, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    remote = ask.remote("owner")
    remote.provision(REGRESSION, model_id="m", version=1, owner_key=one)
    ask.upload(model_id="nobodys")
    refused: list[dict[str, Any]] = [
        {"model_id": "m", "version": 1, "owner_key": one},
        {"model_id": "m", "version": 2, "owner_key": other},
        {"model_id": "nobodys", "version": 9, "owner_key": one},
    ]
    for arguments in refused:
        with pytest.raises(cml.RemoteError, match="does not take the model") as raised:
            remote.provision(REGRESSION, **arguments)
        assert not isinstance(raised.value, cml.RemoteBusyError)
    assert error_of(ask.upload(model_id="m")) == (409, "other_owner")
    remote.provision(REGRESSION, model_id="m", version=2, owner_key=one)
    with pytest.raises(cml.RemoteError, match="no room"):
        remote.provision(REGRESSION, model_id="m", version=3, owner_key=one)
    assert len(ask("GET", "/models").json()["models"]) == 3
    with pytest.raises(cml.RemoteError, match="takes none at all"):
        ask_with(limits={"provisioned_models": 0}).remote("owner").provision(REGRESSION, model_id="m")


def test_only_an_owner_provisions(ask: Asked) -> None:
    message = (1).to_bytes(2, "little") + (2).to_bytes(2, "little") + b"\1\0\1\0\2\0\0\0"
    refused = ask("POST", "/confidential", "client", content=message + bytes(200), headers=OCTETS)
    assert error_of(refused) == (403, "role_wrong")
    assert ask("POST", "/confidential", "owner", content=message + bytes(200), headers=OCTETS).status_code == 200
    short = ask("POST", "/confidential", "client", content=message[:8], headers=OCTETS)
    assert (short.status_code, short.content) == (200, b"\1\0\1\0")  # unreadable
    assert ask("POST", "/confidential", "client", content=b"", headers=OCTETS).content == b"\1\0\2\0"


def test_messages_have_the_limits_of_what_they_bring(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(limits={"body_bytes": 4096, "model_bytes": 20000})
    head = b"\1\0\2\0\1\0\1\0"
    for kind, limit in ((b"\1\0", 4096), (b"\2\0", 20000)):
        for size, status in ((limit + 124, 200), (limit + 125, 413)):
            content = (head + kind).ljust(size, b"\0")
            assert ask("POST", "/confidential", content=content, headers=OCTETS).status_code == status


def test_epochs_begin_without_being_asked(ask_with: Callable[..., Asked]) -> None:
    ask = ask_with(epoch={"seconds": 0.2, "grace_seconds": 0.05})

    async def wait_for_epoch(number: int) -> int:
        task = asyncio.create_task(ask.serving.keep_epochs())
        try:
            async with asyncio.timeout(20):
                while (epoch := await ask.serving.epoch()) < number:
                    await asyncio.sleep(0.05)
            return epoch
        finally:
            task.cancel()

    assert ask.run(wait_for_epoch(3)) >= 3


def test_a_leased_model_stays_usable_though_it_is_deleted(ask: Asked) -> None:
    ask.upload(model_id="m")
    with ask.serving.lease("m", None) as live:
        expected = live.model.predict(ROWS.astype(np.float32))
        with ask.serving.lease("m", 1):
            assert ask("DELETE", "/models/m").status_code == 204
        assert live.model.is_open
        assert live.model.predict(ROWS.astype(np.float32)).tobytes() == expected.tobytes()
        with pytest.raises(HttpError), ask.serving.lease("m", None):
            pass
    assert not live.model.is_open


def _arrow_rows() -> bytes:
    pa = pytest.importorskip("pyarrow")
    batch = pa.record_batch([pa.array(column) for column in ROWS.T], names=[f"f{index}" for index in range(6)])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _tensor() -> bytes:
    data = [None if value != value else value for value in ROWS.ravel().tolist()]
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": list(ROWS.shape), "data": data}]}).encode()


@pytest.mark.parametrize("moment", ["while the body comes", "while the body is read"])
@pytest.mark.parametrize(
    ("path", "media_type", "make"),
    [
        ("/v2/models/m/infer", "application/json", _tensor),
        ("/model/predict", "application/vnd.apache.arrow.stream", _arrow_rows),
        ("/invocations", "application/vnd.apache.arrow.stream", _arrow_rows),
        ("/invocations", "text/csv", lambda: b"a,b,c,d,e,f\n1,2,3,4,5,6\n"),
        ("/model/predict", "application/json", lambda: b'{"features": [[1, 2, 3, 4, 5, 6]]}'),
    ],
)
def test_a_swap_in_the_middle_of_a_request_fails_none_that_names_no_version(
    ask: Asked,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    media_type: str,
    make: Callable[[], bytes],
    moment: str,
) -> None:
    ask.upload(model_id="m")
    body = make()
    swaps: list[int] = []

    async def swap(now: str) -> None:
        if now == moment and not swaps:
            swaps.append((await ask.serving.upload(REGRESSION, model_id="m")).version)
            await ask.serving.delete("m", 1)

    async def parts() -> AsyncIterator[bytes]:
        yield body[:50]
        await swap("while the body comes")
        yield body[50:]

    async def run(_: int, work: Callable[[], Any]) -> Any:
        done = work()
        await swap("while the body is read")
        return done

    monkeypatch.setattr("confidential_ml.server.large_bodies.run", run)
    answer = ask("POST", path, "client", content=parts(), headers={"Content-Type": media_type})
    assert (answer.status_code, swaps) == (200, [2]), answer.text
    assert [model["version"] for model in ask("GET", "/models").json()["models"]] == [2]
