"""Requests that are answered at once (docs/http.md 8): as by the application, byte for byte; and when they are not."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

import uvicorn
from server_process import TOKENS, UNSAFE, settings_for
from uvicorn.server import ServerState

import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.attestation import AttestationPolicy
from confidential_ml.protocol import Result
from confidential_ml.server import Serving, create_app, load_settings
from confidential_ml.server.access import Access
from confidential_ml.server.admission import Usage
from confidential_ml.server.connection import ConnectionLimits, protocol_class
from confidential_ml.server.hosts import Hosts
from confidential_ml.server.immediate import ImmediateAnswers, ImmediateRoute

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
REGRESSION = (FIXTURES / "xgb-3.4.1.reg.ubj").read_bytes()
CLASSIFIER = (FIXTURES / "xgb-3.4.1.softprob.ubj").read_bytes()
DATE = b"date: Sun, 29 Nov 2026 17:14:25 GMT"
ORIGIN = "https://console.example"

ROW = b'{"features": [1, 0.5, -2, 3e-3, 4, 5]}'
TENSOR = b'{"inputs": [{"name": "x", "shape": [1, 6], "datatype": "FP32", "data": [1, 0.5, -2, 3e-3, 4, 5]}]}'
TENSOR_WITH_ID = TENSOR[:-1] + b', "id": "7"}'
GARBAGE = b"\x01\x00\x02\x00" + bytes(200)
PREDICT, INFER, CONFIDENTIAL = "/model/predict", "/v2/models/m/infer", "/confidential"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8080), "peername": ("127.0.0.1", 5)})
        self.written = b""
        self.is_closed = self.is_lost = False

    def write(self, data: Any) -> None:
        if self.is_lost:
            raise RuntimeError("the handler is closed")  # as uvloop has it
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Connection:
    """A connection without a socket. Made in the event loop."""

    def __init__(self, app: Any, immediate: ImmediateAnswers) -> None:
        protocol = protocol_class(ConnectionLimits(8, 30), immediate)
        config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", DATE.removeprefix(b"date: "))]
        make: Any = config.http_protocol_class
        self.protocol = make(config=config, server_state=self.state, app_state={})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)

    async def send(self, *pieces: bytes) -> bytes:
        """Send pieces of bytes, and wait until all that was asked is answered."""
        for piece in pieces:
            self.protocol.data_received(piece)
        async with asyncio.timeout(20):
            while self.state.tasks:
                await asyncio.wait(self.state.tasks)
        found, self.transport.written = self.transport.written, b""
        return found

    def end(self, error: Exception | None = None) -> None:
        self.transport.is_closed = self.transport.is_lost = True
        self.protocol.connection_lost(error)


class Ways:
    """An application, asked with immediate answers and without."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.app = create_app(load_settings(**settings))
        self.serving: Serving = self.app.state.serving
        self.immediate: ImmediateAnswers = self.app.state.immediate
        self.never_immediate = ImmediateAnswers(
            self.serving, Access(self.serving.settings), Hosts(self.serving.settings), [], []
        )
        self.given: list[bool] = []  # whether each request was answered at_once
        answer = self.immediate.answer

        def spy(*arguments: Any) -> Any:
            found = answer(*arguments)
            self.given.append(found is not None)
            return found

        self.immediate.answer = spy

    async def ask(self, *pieces: bytes, at_once: bool = True) -> bytes:
        connection = Connection(self.app, self.immediate if at_once else self.never_immediate)
        try:
            return await connection.send(*pieces)
        finally:
            connection.end()

    def counts(self) -> dict[str, float]:
        """What is counted of requests and rows, but for seconds."""
        text = self.serving.metrics.text().decode()
        found = re.findall(r"^(confidential_ml_\w+_(?:total|count)(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def ways_with(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Callable[..., Ways]]:
    """Makes applications with the model ``m``, of a client's token."""
    made: list[Ways] = []

    def make(**changes: Any) -> Ways:
        made.append(Ways(settings_for(tmp_path / f"store-{len(made)}", **changes)))
        runner.run(made[-1].serving.upload(REGRESSION, model_id="m"))
        return made[-1]

    yield make
    for one in made:
        one.serving.close()


@pytest.fixture
def ways(ways_with: Callable[..., Ways]) -> Ways:
    return ways_with(allowed_origins=[ORIGIN], limits={"body_bytes": 30_000})


@dataclass
class Request:
    """A request; in `headers` None takes one away that every request has."""

    path: str = PREDICT
    body: bytes = ROW
    headers: Mapping[str, str | list[str] | None] = field(default_factory=dict)
    method: str = "POST"
    version: str = "1.1"

    @property
    def headers_sent(self) -> list[tuple[str, str]]:
        usual: dict[str, Any] = {
            "Host": "localhost:8080",
            "Authorization": f"Bearer {TOKENS['client']}",
            "Content-Type": "application/octet-stream" if self.path == CONFIDENTIAL else "application/json",
            "Content-Length": str(len(self.body)),
        }
        sent: list[tuple[str, str]] = []
        for name, value in {**usual, **self.headers}.items():
            values = value if isinstance(value, list) else [] if value is None else [value]
            sent += [(name, one) for one in values]
        return sent

    @property
    def bytes(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/{self.version}", *(f"{n}: {v}" for n, v in self.headers_sent)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


PLAIN = [
    Request(),
    Request(INFER, TENSOR),
    Request(INFER, TENSOR_WITH_ID),
    Request("/v2/models/m/versions/1/infer", TENSOR),
    Request(INFER, TENSOR, {"Content-Type": None}),
    Request(INFER, TENSOR, {"Content-Type": "application/octet-stream"}),
    Request(headers={"Content-Type": 'Application/JSON ; charset="utf-8"'}),
    Request(headers={"Host": "127.0.0.1"}),
    Request(headers={"Authorization": f"bEARER  {TOKENS['owner']}"}),
    Request(headers={"Accept": "*/*", "User-Agent": "x", "Accept-Encoding": "gzip", "X-Forwarded-For": "1.2.3.4"}),
    Request(headers={"Connection": "keep-alive"}),
    # RFC 9110, 5.5: what stands around a value is not of it.
    Request(headers={name: f"  {value}\t " for name, value in Request().headers_sent}),
    Request(CONFIDENTIAL, GARBAGE),
    Request(CONFIDENTIAL, b"\xff" * 20),
    Request(CONFIDENTIAL, b""),
]

ODD = [
    # Heads that Starlette, the application or the protocol answers otherwise.
    *[Request(method=method) for method in ("GET", "PUT", "OPTIONS", "DELETE", "PATCH")],
    Request(method="HEAD", body=b""),
    *[Request(version="1.0", headers={"Connection": value}) for value in (None, "keep-alive")],
    *[Request(headers={"Connection": value}) for value in ("close", "Upgrade", "keep-alive, close")],
    Request(headers={"Connection": "Upgrade", "Upgrade": "h2c"}),
    Request(CONFIDENTIAL, b"", headers={"Connection": "Upgrade", "Upgrade": "h2c"}),
    *[
        Request(f"{path}{rest}", body)
        for path, body in ((PREDICT, ROW), (INFER, TENSOR), (CONFIDENTIAL, GARBAGE))
        for rest in ("/", "?", "?a=b", "#a", "%20", "/x", ";a", "//")
    ],
    Request("/model/%70redict"),
    Request("//model/predict"),
    Request("http://localhost/model/predict"),
    Request("/v2/models/a?b/infer", TENSOR),
    Request("/v2/models/%6d/infer", TENSOR),
    Request("/v2/models/other/infer", TENSOR),
    Request("/v2/models//infer", TENSOR),
    Request("/v2/models/m/versions/2/infer", TENSOR),
    Request("/v2/models/m/versions/x/infer", TENSOR),
    Request("/v2/models/m/versions/01/infer", TENSOR),
    Request("/v2/models/" + "m" * 300 + "/infer", TENSOR),
    *[
        Request(path, body, {"Authorization": value})
        for path, body in ((PREDICT, ROW), (INFER, TENSOR), (CONFIDENTIAL, GARBAGE))
        for value in (
            None,
            "Bearer wrong",
            "Basic " + TOKENS["client"],
            "Bearer " + TOKENS["metrics"],
            ["Bearer " + TOKENS["client"], "Bearer " + TOKENS["client"]],
        )
    ],
    Request(CONFIDENTIAL, GARBAGE[:8] + b"\x02\x00" + GARBAGE[10:]),  # brings a model: only owners may
    Request(CONFIDENTIAL, b"\x01\x00\x01\x00" + b"n" * 65),  # asks for evidence with too long a nonce
    *[Request(headers={"Host": value}) for value in ("example.org", "localhost.example.org", "localhost:x", "")],
    Request(headers={"Host": None}),
    Request(headers={"Host": ["localhost", "localhost"]}),
    *[
        Request(path, body, {"Content-Type": value})
        for path, body in ((PREDICT, ROW), (INFER, TENSOR), (CONFIDENTIAL, GARBAGE))
        for value in (
            None,
            "text/plain",
            "application/json; charset=latin-1",
            "application/vnd.apache.arrow.stream",
            ["application/json", "text/plain"],
            ["text/plain", "application/json"],
        )
    ],
    *[Request(headers={"Content-Encoding": value}) for value in ("identity", "gzip", "IDENTITY", "")],
    *[Request(headers={"Origin": value}) for value in (ORIGIN, "https://other.example", "null")],
    Request(headers={"Expect": "100-continue"}),
    Request(headers={"Expect": "200-ok"}),
    *[
        Request(headers={"Content-Length": value})
        for value in (f"{len(ROW):025}", f"{len(ROW):06}", f"{len(ROW)} ", "+38")
    ],
    Request(headers={"Content-Length": [str(len(ROW)), str(len(ROW))]}),
    Request(
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(ROW), ROW),
        headers={"Content-Length": None, "Transfer-Encoding": "chunked"},
    ),
    Request(
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(ROW), ROW),
        headers={"Content-Length": None, "Transfer-Encoding": "gzip, chunked"},
    ),
    *[
        Request(body=body, headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
        for body in (b"zz\r\n", b"2\r\n{}\r\nzz\r\n", b"2\r\n{}zz\r\n")
    ],
    *[Request(INFER, TENSOR, {"Inference-Header-Content-Length": value}) for value in ("0", str(len(TENSOR)), "x")],
    Request(INFER, bytes(24), {"Inference-Header-Content-Length": "0"}),
    # Bodies.
    *[
        Request(PREDICT, body)
        for body in (
            b"",
            b"{}",
            ROW[:-1],
            ROW + b" ",
            ROW + b"x",
            b"\xff" + ROW,
            ROW.replace(b"features", b"model_id"),
            ROW.replace(b"}", b', "features": [1, 2, 3, 4, 5, 6]}'),
            ROW.replace(b"}", b', "model_id": "m"}'),
            ROW.replace(b"}", b', "version": 1}'),
            ROW.replace(b"}", b', "version": 9}'),
            ROW.replace(b"}", b', "output_margin": true}'),
            b'{"features": []}',
            b'{"features": [1, 2]}',
            b'{"features": [1, 2, 3, 4, 5, null]}',
            b'{"features": [1, 2, 3, 4, 5, "NaN"]}',
            b'{"features": [1, 2, 3, 4, 5, NaN]}',
            b'{"features": [1, 2, 3, 4, 5, 1e39]}',
            b'{"features": [1, 2, 3, 4, 5, 1e400]}',
            b'{"features": [1, 2, 3, 4, 5, true]}',
            b'{"features": [[1, 2, 3, 4, 5, 6]]}',
            b'{"features": [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]}',
            b'{"features": [' + b"1, " * 5 + b" " * 5000 + b"6]}",
            b'{"features": [' + b"1, " * 9000 + b"6]}",
            b'{"features": [' + b"1, " * 20_000 + b"6]}",
        )
    ],
    *[
        Request(INFER, body)
        for body in (
            b"",
            TENSOR[:-1],
            TENSOR.replace(b"FP32", b"FP64"),
            TENSOR.replace(b"[1, 6]", b"[6]"),
            TENSOR.replace(b"[1, 6]", b"[2, 3]"),
            TENSOR.replace(b"0.5", b"1.00000005960464477539"),
            TENSOR.replace(b"0.5", b"null"),
            TENSOR.replace(b"0.5", b"1e-46"),
            TENSOR.replace(b'"name"', b'"name": "y", "name"'),
            TENSOR[:-1] + b', "parameters": {"output_margin": true}}',
            TENSOR[:-1] + b', "outputs": [{"name": "predict", "parameters": {"binary_data": true}}]}',
            TENSOR[:-1] + b', "id": null}',
            TENSOR + b" " * 70_000,
        )
    ],
    Request(CONFIDENTIAL, GARBAGE * 200),
]


def counted(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


async def compare(ways: Ways, request: Request) -> bytes:
    """Ask in both ways, and in two pieces; the answer, which is always the same, as is what is counted."""
    sent = request.bytes
    cut = sent.find(b"\r\n\r\n") + 4
    found: list[tuple[bytes, dict[str, float]]] = []
    for pieces, at_once in (((sent,), False), ((sent,), True), ((sent[:cut], sent[cut:]), True)):
        before = ways.counts()
        answer = await ways.ask(*filter(None, pieces), at_once=at_once)
        found.append((answer, counted(before, ways.counts())))
    assert found[1] == found[0], request
    assert found[2] == found[0], request
    return found[0][0]


@pytest.mark.parametrize("request_", PLAIN, ids=str)
def test_a_plain_request_is_answered_at_once_as_it_would_be_otherwise(
    ways: Ways, runner: asyncio.Runner, request_: Request
) -> None:
    answer = runner.run(compare(ways, request_))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n" + DATE)
    assert answer.lower().count(b"x-content-type-options: nosniff") == 1
    assert b"vary: Origin" in answer
    assert ways.counts()["confidential_ml_rows_total"] == (0 if request_.path == CONFIDENTIAL else 3)
    # In one piece, and in two only if the second has no byte.
    assert ways.given == ([True] if request_.body else [True, True])


def test_what_is_not_plain_is_answered_as_ever(ways: Ways, runner: asyncio.Runner) -> None:
    statuses = {runner.run(compare(ways, request)).split(b" ", 2)[1] for request in ODD if request.bytes}
    assert statuses == {b"100", b"200", b"400", b"401", b"403", b"404", b"405", b"413", b"415", b"421"}


def test_anonymous_and_closed_routes(ways_with: Callable[..., Ways], runner: asyncio.Runner) -> None:
    ways = ways_with(tokens={}, unsafe={**UNSAFE, "anonymous": ["client", "owner", "metrics"]})
    for request in (*PLAIN, *ODD[:40]):
        runner.run(compare(ways, request))
    assert ways.given.count(True) > len(PLAIN)
    closed = ways_with(unsafe={"simulation": True, "cleartext_upload": True})
    for request in PLAIN:
        answer = runner.run(compare(closed, request))
        assert answer[9:12] == (b"200" if request.path == CONFIDENTIAL else b"403")


def test_models_come_and_go(ways: Ways, runner: asyncio.Runner) -> None:
    def asked() -> list[bytes]:
        return [runner.run(compare(ways, request)) for request in (PLAIN[0], PLAIN[1], PLAIN[3])]

    first = asked()
    runner.run(ways.serving.upload(REGRESSION, model_id="m"))
    second = asked()
    assert b'"version":2' in second[0]
    assert b'"model_version":"2"' in second[1]
    assert second[2] == first[2]
    runner.run(ways.serving.upload(CLASSIFIER, model_id="other"))
    assert [answer[9:12] for answer in asked()] == [b"400", b"200", b"200"]  # predict names none of the two
    runner.run(ways.serving.delete("m", 1))
    assert [answer[9:12] for answer in asked()] == [b"400", b"200", b"404"]
    runner.run(ways.serving.delete("m"))
    assert [answer[9:12] for answer in asked()] == [b"200", b"404", b"404"]
    runner.run(ways.serving.delete("other"))
    assert [answer[9:12] for answer in asked()] == [b"404", b"404", b"404"]


def test_what_has_no_room_or_comes_at_the_end_is_refused(
    ways_with: Callable[..., Ways], runner: asyncio.Runner
) -> None:
    ways = ways_with(limits={"requests": 1})
    usage = Usage()
    ways.serving.admission.admit(usage)
    for request in PLAIN:
        assert b"\r\nConfidential-ML-Error: busy\r\n".lower() in runner.run(compare(ways, request)).lower()
    ways.serving.admission.leave(usage)
    ways.serving.admission.hold(usage, ways.serving.admission._max_bytes)
    for request in PLAIN:
        assert runner.run(compare(ways, request))[9:12] == (b"503" if request.body else b"200")
    ways.serving.admission.leave(usage)
    ways.serving.is_ending = True
    for request in PLAIN:
        answer = runner.run(compare(ways, request))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in answer


def test_large_models_do_not_keep_the_event_loop(
    ways: Ways, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("confidential_ml.server.serving._INLINE_WORK", 0)
    for request in PLAIN:
        assert runner.run(compare(ways, request))[9:12] == b"200"
    assert not any(ways.given[:-2])  # of the last, which is empty, nobody can say that it is much


def test_a_defect_is_told_once(
    ways: Ways, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(ways.serving, "predict_row", fail)
    answer = runner.run(ways.ask(PLAIN[0].bytes))
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret" not in answer
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_remote_model_is_answered_at_once_and_each_message_once(ways: Ways, runner: asyncio.Runner) -> None:
    sent: list[bytes] = []

    def carry(message: bytes) -> bytes:
        sent.append(Request(CONFIDENTIAL, message).bytes)
        head, _, body = runner.run(ways.ask(sent[-1])).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        return body

    mrenclave = ways.serving.enclave.identity.mrenclave
    root = simulated_platform.of_this_installation().root
    digest = ways.serving.models()[0].model_digest
    policy = AttestationPolicy(mrenclave=mrenclave, model_digest=digest, allow_debug=True)
    remote = cml.RemoteModel(carry, policy, root=root)
    told = runner.run(ways.ask(PLAIN[0].bytes)).partition(b"\r\n\r\n")[2]
    ways.given.clear()
    assert remote.predict([[1, 0.5, -2, 3e-3, 4, 5]]).tolist() == [json.loads(told)["predictions"]]
    assert ways.given == [False, True]  # evidence, and the row
    again = runner.run(ways.ask(sent[-1])).partition(b"\r\n\r\n")[2]
    assert again == b"\x01\x00" + Result.UNREADABLE.to_bytes(2, "little")


# ---- the connection -------------------------------------------------------------------------------------------------


def test_of_requests_in_one_piece_the_first_is_answered_at_once(ways: Ways, runner: asyncio.Runner) -> None:
    async def pipelined() -> None:
        connection = Connection(ways.app, ways.immediate)
        other = Request("/nothing").bytes
        plain = [PLAIN[0].bytes, PLAIN[1].bytes]
        connection.protocol.data_received(plain[0] + plain[1] + other + plain[0])
        # While others are under way the connection is not idle, though one was answered.
        assert connection.transport.written.count(b"HTTP/1.1") == 1
        assert connection.protocol.timeout_keep_alive_task is None
        answers = (await connection.send()).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"200", b"200", b"404", b"200"]
        assert [b"model_version" in answer for answer in answers] == [False, True, False, False]
        assert connection.protocol.timeout_keep_alive_task is not None
        assert ways.given == [True]
        # Then the next is again, of which the last bytes of a former one are no part.
        cut = len(plain[0]) - 5
        connection.protocol.data_received(plain[0][:cut])
        assert connection.protocol.cycle is not None
        assert not connection.protocol.cycle.response_complete
        answers = (await connection.send(plain[0][cut:] + plain[1])).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"200", b"200"]
        assert ways.given == [True]
        assert (await connection.send(plain[1])).startswith(b"HTTP/1.1 200")
        assert ways.given == [True, True]
        assert connection.state.total_requests == 7
        connection.end()

    runner.run(pipelined())


def test_nobody_writes_lines_of_the_log(ways: Ways, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
    """With requests that are none, or that ask for another protocol."""
    caplog.set_level("INFO")
    for sent in (b"\0\r\n\r\n", PLAIN[0].bytes + b"\0", ODD[-1].bytes, Request(version="9.9").bytes):
        assert b"HTTP/1.1" in runner.run(ways.ask(sent))
    upgrade = Request(CONFIDENTIAL, b"", {"Connection": "Upgrade", "Upgrade": "websocket"})
    assert runner.run(ways.ask(upgrade.bytes)).startswith(b"HTTP/1.1 200")
    assert [record.getMessage() for record in caplog.records] == []


def test_a_client_that_goes_away_is_no_defect(
    ways: Ways, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the request under way is the newest, or others wait for its answer."""

    async def gone(count: int, ticks: int) -> None:
        connection = Connection(ways.app, ways.immediate)
        connection.protocol.data_received(ODD[0].bytes + PLAIN[1].bytes * count)
        for _ in range(ticks):
            await asyncio.sleep(0)
        written = connection.transport.written
        connection.end()
        assert await connection.send() == written
        assert ways.serving.admission.requests == 0

    for count in (0, 1, 3):
        for ticks in range(count + 2):
            runner.run(gone(count, ticks))
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("request_", [PLAIN[0], ODD[0]], ids=["immediate", "other"])
@pytest.mark.parametrize("error", [None, ConnectionResetError()], ids=["closed", "reset"])
def test_nothing_is_kept_of_a_connection_that_is_gone(
    ways: Ways, runner: asyncio.Runner, request_: Request, error: Exception | None
) -> None:
    """Not even by a timer."""

    async def gone() -> weakref.ref[Any]:
        connection = Connection(ways.app, ways.immediate)
        assert await connection.send(request_.bytes)
        connection.end(error)
        return weakref.ref(connection.protocol)

    kept = runner.run(gone())
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(
    ("url", "is_found"),
    [
        (b"/v2/models/m/infer", True),
        (b"/v2/models/M-._9/versions/12/infer", True),
        (b"/v2/models/a%2fb/infer", False),
        (b"/v2/models/m?x/infer", False),
        (b"/v2/models/m#x/infer", False),
        (b"/v2/models/m\xe9/infer", False),
        (b"/v2/models/%b/infer" % (b"m" * 300), False),
        (b"/model/predict\n", False),
        (b"/model/upload", False),
    ],
)
def test_only_plain_urls_are_found(ways: Ways, url: bytes, is_found: bool) -> None:
    assert (ways.immediate.find(url, []) is not None) == is_found


def test_a_client_that_takes_no_answers_is_waited_for(ways: Ways, runner: asyncio.Runner) -> None:
    async def paused() -> None:
        connection = Connection(ways.app, ways.immediate)
        connection.protocol.pause_writing()
        connection.protocol.data_received(PLAIN[0].bytes)
        for _ in range(100):
            await asyncio.sleep(0)
        assert (connection.transport.written, ways.given) == (b"", [])
        connection.protocol.resume_writing()
        assert (await connection.send()).startswith(b"HTTP/1.1 200")
        connection.end()

    runner.run(paused())


def test_a_connection_with_immediate_answers_ends_when_it_is_told_to(ways: Ways, runner: asyncio.Runner) -> None:
    async def ended() -> None:
        connection = Connection(ways.app, ways.immediate)
        await connection.send(PLAIN[0].bytes)
        assert ways.given == [True]
        connection.protocol.shutdown()
        assert connection.transport.is_closed
        connection.end()

    runner.run(ended())


def test_the_routes_that_take_rows_most_often_are_immediate(ways: Ways) -> None:
    paths = {route.path for route in ways.app.routes if isinstance(route, ImmediateRoute)}
    infer = "/v2/models/{model_id}"
    assert paths == {PREDICT, CONFIDENTIAL, f"{infer}/infer", f"{infer}/versions/{{version}}/infer"}
