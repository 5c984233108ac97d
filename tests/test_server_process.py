"""`serve` in a process of its own: models swapped under load, hostile clients, TLS, and how it ends."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from server_process import JSON, OCTETS, TOKENS, ServerProcess, server_process, settings_for

import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.attestation import ANY, AttestationPolicy

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
REGRESSION = (FIXTURES / "xgb-3.4.1.reg.ubj").read_bytes()
CLASSIFIER = (FIXTURES / "xgb-3.4.1.softprob.ubj").read_bytes()
ROWS = np.load(FIXTURES / "X.npy").astype(np.float32)
ROW = json.dumps({"features": [0.0] * 6, "model_id": "m"}).encode()
REQUEST_SECONDS = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the model ``m``, that has little patience."""
    store = tmp_path_factory.mktemp("store")
    settings = settings_for(store, limits={"request_seconds": REQUEST_SECONDS, "requests": 8})
    with server_process(settings) as server:
        with server.client() as client:
            assert client.post("/model/upload?model_id=m", content=REGRESSION, headers=OCTETS).status_code == 201
        yield server


@contextlib.contextmanager
def connected(server: ServerProcess) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=20) as connection:
        yield connection


def received(connection: socket.socket) -> bytes:
    """Everything until the server closes; a reset is an end as well."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def head(method: str = "POST", path: str = "/model/predict", role: str = "client", **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKENS[role]}"]
    lines += ["Content-Type: application/json"] if method == "POST" else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def is_answering(server: ServerProcess) -> bool:
    with server.client("client") as client:
        return client.post("/model/predict", content=ROW, headers=JSON).status_code == 200


# ---- hot swap -------------------------------------------------------------------------------------------------------


def test_models_are_swapped_under_load_without_a_failed_request(tmp_path: Path) -> None:
    """Four clients predict all the time while versions come and go: every answer is 200 and right for its version."""
    first = [float(value) for value in ROWS[0]]
    body = json.dumps({"features": [None if value != value else value for value in first], "model_id": "m"}).encode()
    with server_process(settings_for(tmp_path / "store")) as server, server.client() as owner:

        def upload(data: bytes) -> int:
            answer = owner.post("/model/upload?model_id=m", content=data, headers=OCTETS)
            assert answer.status_code == 201
            return int(answer.json()["version"])

        def predict(client: httpx.Client) -> tuple[int, str]:
            answer = client.post("/model/predict", content=body, headers=JSON)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            return told["version"], json.dumps(told["predictions"])

        expected: dict[int, str] = {}
        kinds = [REGRESSION, CLASSIFIER]
        for data in kinds:
            upload(data)
            with server.client() as client:
                expected[len(expected)] = predict(client)[1]
        failures: list[str] = []
        seen: list[tuple[int, str]] = []
        end = threading.Event()

        def load() -> None:
            try:
                with server.client("client") as client:
                    while not end.is_set():
                        seen.append(predict(client))
            except (AssertionError, httpx.HTTPError) as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(12):
            version = upload(kinds[number % 2])
            assert owner.delete(f"/models/m/versions/{version - 1}").status_code == 204
        end.set()
        for thread in threads:
            thread.join(20)
        assert failures == []
        assert len({version for version, _ in seen}) > 5
        # Versions 1, 3, 5 ... are the one model, 2, 4, 6 ... the other.
        assert all(predictions == expected[(version + 1) % 2] for version, predictions in seen)


# ---- remote clients -------------------------------------------------------------------------------------------------


def test_a_remote_model_over_http(server: ServerProcess) -> None:
    with server.client() as client:
        mrenclave = client.get("/health").json()["mrenclave"]

        def carry(message: bytes) -> bytes:
            return client.post("/confidential", content=message, headers=OCTETS).raise_for_status().content

        root = simulated_platform.of_this_installation().root
        policy = AttestationPolicy(mrenclave=mrenclave, model_digest=ANY, allow_debug=True)
        receipt = cml.RemoteModel(carry, policy, root=root).provision(CLASSIFIER, model_id="sent", version=4)
        policy = AttestationPolicy(mrenclave=mrenclave, model_digest=receipt.model_digest, allow_debug=True)
        values, receipts = cml.RemoteModel(carry, policy, root=root).predict(ROWS, receipt=True)
        told = client.post(
            "/model/predict", content=json.dumps({"features": [[0.0] * 6], "model_id": "sent"}), headers=JSON
        )
        remote = cml.RemoteModel(carry, policy, root=root).predict(np.zeros((1, 6), dtype=np.float32))
        assert np.array(told.json()["predictions"], dtype=np.float32).tobytes() == remote.tobytes()
        assert values.shape == (len(ROWS), 3)
        assert len(receipts) == 1
        assert client.delete("/models/sent").status_code == 204


# ---- clients that are slow, huge or mad -----------------------------------------------------------------------------


def test_slow_clients_are_sent_away_while_others_are_answered(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        silent, dribbling, without_body, blank = (stack.enter_context(connected(server)) for _ in range(4))
        # More than the server handles at once, all with half a body.
        crowd = [stack.enter_context(connected(server)) for _ in range(20)]
        start = time.monotonic()
        dribbling.sendall(b"GET /health HTTP/1.1\r\nHost:")
        without_body.sendall(head(Content_Length=10) + b"{")
        for connection in crowd:
            connection.sendall(head(Content_Length=100) + b'{"features"')
        end = start + REQUEST_SECONDS * 0.7
        while time.monotonic() < end:
            dribbling.sendall(b"x")
            blank.sendall(b"\r\n")
            assert is_answering(server)
        assert received(silent) == b""
        assert b"408 Request Timeout" in received(dribbling)
        answer = received(without_body)
        assert b"408 Request Timeout" in answer
        assert b'"code":"request_timeout"' in answer
        assert b"408 Request Timeout" in received(blank)
        assert all(b"408 Request Timeout" in received(connection) for connection in crowd)
        assert time.monotonic() - start < REQUEST_SECONDS + 6
    assert is_answering(server)


def test_a_client_that_takes_no_answers_is_cut_off(server: ServerProcess) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before connecting, or the window is large
        connection.settimeout(20)
        connection.connect(server.address)
        connection.sendall(head("GET", "/openapi.json") * 60)
        time.sleep(REQUEST_SECONDS * 2.5)
        answer = received(connection)
    # Closed without an answer to each, though nobody had asked for that.
    assert 1 <= answer.count(b"HTTP/1.1 200") < 60
    assert is_answering(server)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nX: " + b"y" * (1 << 20), b"431"),
        (b"GET /" + b"y" * (1 << 20), b"431"),
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET /health HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /health HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /health\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /model/predict HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST /model/predict HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nBad Header\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.0\r\nHost: localhost\r\nHost: other\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request(server: ServerProcess, sent: bytes, status: bytes) -> None:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(sent)
        answer = received(connection)
    assert answer.startswith((b"HTTP/1.1 " + status, b""))
    if answer:
        assert answer.split(b" ")[1] == status
        code = b"head_too_large" if status == b"431" else b"body_malformed"
        assert b"Confidential-ML-Error: " + code in answer
    assert is_answering(server)


def test_a_hundred_headers_are_taken(server: ServerProcess) -> None:
    with connected(server) as connection:
        connection.sendall(
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + b"X: y\r\n" * 98 + b"\r\n"
        )
        assert received(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "rest", [b"0\r\n" + b"X: y\r\n" * 50_000, b"0\r\nX: " + b"y" * 300_000, b"1;" + b"y" * 300_000]
)
@pytest.mark.parametrize("role", ["client", "owner"])
def test_trailers_and_chunk_extensions_are_as_short_as_heads(server: ServerProcess, rest: bytes, role: str) -> None:
    """Of a request that is read, and of one that was refused and is thrown away."""
    path = {"client": "/model/predict", "owner": "/nothing"}[role]
    with connected(server) as connection:
        connection.sendall(head(path=path, role=role, Transfer_Encoding="chunked") + b"2\r\n{}\r\n")
        start = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for begin in range(0, len(rest), 4096):
                connection.sendall(rest[begin : begin + 4096])
        answer = received(connection)
        # Not when the time for the request is over, which was time enough to fill the memory.
        assert time.monotonic() - start < REQUEST_SECONDS
    assert answer[9:12] in ({"client": b"431", "owner": b"404"}[role], b"")  # empty: it was reset
    assert is_answering(server)


def test_a_trailer_is_no_header(server: ServerProcess) -> None:
    """Not even of a request that comes in one piece."""
    plain = b"POST /model/predict HTTP/1.1\r\nHost: localhost\r\n"
    plain += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    body = b"%x\r\n%b\r\n0\r\n" % (len(ROW), ROW)
    authorization = f"Authorization: Bearer {TOKENS['client']}\r\n".encode()
    for head_lines, trailers, status in ((authorization, b"X: y\r\n", b"200"), (b"", authorization, b"401")):
        with connected(server) as connection:
            connection.sendall(plain + head_lines + b"\r\n" + body + trailers + b"\r\n")
            assert connection.recv(4096).split(b" ")[1] == status


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_no_request_is_said_after_the_answers_before_it(server: ServerProcess, count: int) -> None:
    request = head(Content_Length=len(ROW)) + ROW
    for garbage in (b"\0\0\0 HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n"):
        with connected(server) as connection:
            connection.sendall(request * count + garbage)
            answer = received(connection)
        statuses = re.findall(rb"HTTP/1\.1 ([0-9]{3})", answer)
        assert statuses == [b"200"] * count + [{0: b"400", 71: b"431"}[garbage[0]]]
    assert is_answering(server)


def test_a_broken_body_is_told(server: ServerProcess) -> None:
    broken = head(Transfer_Encoding="chunked") + b"zz\r\n"
    with connected(server) as connection:
        connection.sendall(head(Content_Length=len(ROW)) + ROW + broken)
        answer = received(connection)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()] == [b"200", b"400"]
    assert b"confidential-ml-error: body_malformed" in answer
    # One who has an answer already gets no second one, which would be taken for that of another request.
    with connected(server) as connection:
        connection.sendall(head(role="metrics", Transfer_Encoding="chunked") + b"2\r\n{}\r\n")
        answer = connection.recv(4096)
        connection.sendall(b"zz\r\n")
        answer += received(connection)
    assert answer.startswith(b"HTTP/1.1 403")
    assert answer.count(b"HTTP/1.1") == 1
    with connected(server) as connection:
        connection.sendall(head("GET", "/health", Transfer_Encoding="chunked") + b"zz\r\n")
        assert received(connection).count(b"HTTP/1.1") == 1
    assert is_answering(server)


def test_an_upgrade_is_passed_over_or_refused_but_never_loses_a_body(server: ServerProcess) -> None:
    """As Java's client asks for HTTP/2 of itself."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "h2c"}
    with connected(server) as connection:
        connection.sendall(head("GET", "/health", **upgrade))
        first = connection.recv(4096)
        connection.sendall(head("GET", "/health", Connection="close"))
        assert (first + received(connection)).count(b"HTTP/1.1 200") == 2
    with connected(server) as connection:
        connection.sendall(head(Content_Length=len(ROW), **upgrade) + ROW)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"send no Upgrade" in answer


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_what_follows_an_upgrade_is_the_next_request(server: ServerProcess, method: str) -> None:
    """Whole, or cut in two by the network: else the body would be taken for a request."""
    upgrade = head(method, "/health", Connection="Upgrade", Upgrade="h2c")
    body = head("GET", "/models")
    last = head(Content_Length=len(body), Connection="close")
    for rest in (b"", head("GET", "/nothing")):
        with connected(server) as connection:
            connection.sendall(upgrade + rest + last)
            time.sleep(0.1)
            connection.sendall(body)
            statuses = re.findall(rb"HTTP/1\.1 ([0-9]{3})", received(connection))
        assert statuses == [{"GET": b"200", "CONNECT": b"405"}[method], *([b"404"] if rest else []), b"400"]


def test_bodies_that_are_too_large_are_refused_before_they_are_sent(server: ServerProcess) -> None:
    with connected(server) as connection:
        connection.sendall(head(Content_Length=1 << 40, Expect="100-continue"))
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"100 Continue" not in answer
    with connected(server) as connection:
        connection.sendall(head(Transfer_Encoding="chunked"))
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(17):
                connection.sendall(chunk)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    assert is_answering(server)


def test_an_attacker_without_a_token_has_no_body_read(server: ServerProcess) -> None:
    with connected(server) as connection:
        connection.sendall(b"POST /model/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
        # The rest is thrown away for as long as a request may take, then the connection is closed.
        start = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while (
                connection.recv(4096) if time.monotonic() - start > REQUEST_SECONDS * 2 else connection.send(b"x" * 100)
            ):
                time.sleep(0.05)
        assert time.monotonic() - start < REQUEST_SECONDS * 2 + 5


def test_half_closed_and_broken_connections(server: ServerProcess) -> None:
    for sent in (b"", b"GET /hea", head(Content_Length=10), head(Content_Length=10) + b"{"):
        with connected(server) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received(connection)  # ends
    for _ in range(30):
        with connected(server) as connection:
            connection.sendall(head(Content_Length=10) + b"{")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    assert is_answering(server)
    with server.client("metrics") as client:
        assert "confidential_ml_requests_in_progress 0.0" in client.get("/metrics").text


def test_requests_that_pile_up_on_one_connection_end_it(server: ServerProcess) -> None:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(100):
                connection.sendall(head("GET", "/health") * 100)
        answered = received(connection).count(b"HTTP/1.1 200")
    assert answered < 1000
    assert is_answering(server)


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    with connected(server) as connection:
        one = head(Content_Length=len(ROW)) + ROW
        connection.sendall(one + head("GET", "/nothing") + one + head("GET", "/health", Connection="close"))
        answer = received(connection)
    statuses = [part.split(b" ")[1] for part in answer.split(b"HTTP/")[1:]]
    assert statuses == [b"200", b"404", b"200", b"200"]


# ---- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_under_way_are_finished_when_the_server_ends(tmp_path: Path, number: signal.Signals) -> None:
    with server_process(settings_for(tmp_path / "store")) as server:
        with server.client() as client:
            assert client.post("/model/upload?model_id=m", content=REGRESSION, headers=OCTETS).status_code == 201
        with connected(server) as connection, connected(server) as idle:
            connection.sendall(head(Content_Length=len(ROW)) + ROW[:5])
            idle.sendall(head("GET", "/health"))
            answer = idle.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")
            while not answer.endswith(b"}"):
                answer += idle.recv(4096)
            server.process.send_signal(number)
            assert received(idle) == b""  # closed at once
            deadline = time.monotonic() + 20
            while True:
                try:
                    connected_again = socket.create_connection(server.address, timeout=5)
                except ConnectionRefusedError:
                    break
                connected_again.close()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            connection.sendall(ROW[5:])
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer
        assert server.process.wait(20) == 0
        # And the store is free again.
        with server_process(settings_for(tmp_path / "store")) as again, again.client() as client:
            assert len(client.get("/models").json()["models"]) == 1


def test_the_end_does_not_wait_for_ever(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "store", limits={"shutdown_seconds": 1, "request_seconds": 60})
    with server_process(settings) as server, connected(server) as connection:
        connection.sendall(head(Content_Length=10) + b"{")
        time.sleep(0.2)
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 10


# ---- TLS ------------------------------------------------------------------------------------------------------------


def certificate(directory: Path) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    (directory / "certificate.pem").write_bytes(
        built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {"certificate": str(directory / "certificate.pem"), "private_key": str(directory / "key.pem")}


def test_tls(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    with server_process(settings_for(tmp_path / "store", host="localhost", tls=tls)) as server:
        assert server.url.startswith("https://localhost:")
        context = ssl.create_default_context(cafile=tls["certificate"])
        with server.client(verify=context) as client:
            assert client.get("/models").json() == {"models": []}
            with client.stream("GET", "/health") as answer:
                stream: Any = answer.extensions["network_stream"]
                assert stream.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False) as client:
            client.get(server.url.replace("https", "http") + "/health")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(tls["certificate"])
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with server.client(verify=old) as client:
            assert client.get("/health").status_code == 200


def test_tls_handshakes_that_never_end_are_few_and_short(tmp_path: Path) -> None:
    """Who connects and says nothing takes neither all files of the server nor its time."""
    tls = certificate(tmp_path)
    limits = {"request_seconds": REQUEST_SECONDS, "requests": 2}
    with (
        server_process(settings_for(tmp_path / "store", host="localhost", tls=tls, limits=limits)) as server,
        contextlib.ExitStack() as stack,
    ):
        context = ssl.create_default_context(cafile=tls["certificate"])
        with server.client(verify=context) as client:
            assert client.get("/health").status_code == 200
            start = time.monotonic()
            crowd = [stack.enter_context(connected(server)) for _ in range(100)]
            # One that has shaken hands is answered all the time.
            assert client.get("/health").status_code == 200
            early = sum(received(connection) == b"" for connection in crowd[40:])
            assert early == 60
            assert time.monotonic() - start < REQUEST_SECONDS * 0.9  # 16 for each request; the rest was sent away
            assert all(received(connection) == b"" for connection in crowd)
            assert time.monotonic() - start < REQUEST_SECONDS + 5
        with server.client(verify=context) as client:
            assert client.get("/health").status_code == 200
        stack.enter_context(connected(server))  # a handshake under way does not hold up the end
        assert server.stop() == 0
