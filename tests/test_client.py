"""The HTTP clients against hosts that are honest, busy, slow, cut off, huge, elsewhere and hostile."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_host import Handler, HttpHost, Misbehave, answers, cuts, drips, floods, hangs_up, says, serves_and_hangs_up
from reference_enclave import MRENCLAVE, ReferenceEnclave, ReferenceModel
from remote_host import POLICY, Host, exit_code_of_child

import confidential_ml as cml
from confidential_ml import remote_session
from confidential_ml.attestation import ANY, AttestationError, AttestationPolicy, Reason
from confidential_ml.client import (
    AsyncConfidentialClient,
    ConfidentialClient,
    HttpStatusError,
    ReplyLostError,
    ServerBusyError,
    UnreachableError,
)
from confidential_ml.client.retries import Retries
from confidential_ml.protocol import Operation
from confidential_ml.remote_session import Pause
from confidential_ml.simulated_platform import SimulatedPlatform

MODEL = ReferenceModel(features=3, groups=2, values=2)
MODEL_FILE = Path(__file__).parent / "fixtures" / "xgboost" / "xgb-3.4.1.reg.ubj"
ROWS = np.array([[1, 2, np.nan], [-4, np.inf, 0.25], [1e-40, 7, -0.0]], np.float32)
EXPECTED = MODEL.predict(ROWS, None, False, 0, 0)
PATIENT: dict[str, Any] = {"timeout": 20, "deadline": 20}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform(tmp_path_factory.mktemp("platform"))


@pytest.fixture
def http(platform: SimulatedPlatform, tmp_path: Path) -> Iterator[HttpHost]:
    store = tmp_path / "store"
    store.mkdir()
    with HttpHost(Host(platform, ReferenceEnclave(platform, MODEL), store=store)).running() as host:
        host.host.options["store"] = store
        yield host


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confidential_ml.client.retries._FIRST_WAIT", 0.01)


class Blocking:
    """The async client with the face of the other, so that both take the same tests."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._arguments, self._options = arguments, options

    def __enter__(self) -> Blocking:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncConfidentialClient(*self._arguments, **self._options)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        if not inspect.iscoroutinefunction(member):
            return member
        return lambda *arguments, **options: self._loop.run_until_complete(member(*arguments, **options))


Open = Callable[..., Any]


@pytest.fixture(params=["threads", "event loop"])
def connect(request: pytest.FixtureRequest, http: HttpHost) -> Open:
    kind = ConfidentialClient if request.param == "threads" else Blocking

    def connect(url: str = http.url, policy: AttestationPolicy = POLICY, **options: Any) -> Any:
        return kind(url, policy, **{"root": http.host.platform.root, "clock": http.host.clock, **PATIENT, **options})

    return connect


# ---- what is asked for ----------------------------------------------------------------------------------------------


def test_attest_predict_receipts_provision_and_the_servers_words(connect: Open, http: HttpHost, tmp_path: Path) -> None:
    with connect(token="tok-en.1") as client:
        assert client.attest().claims.platform == "simulation"
        assert client.attestation.models[0].model_digest == MODEL.digest.hex()
        np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)
        values, receipts = client.predict(ROWS, receipt=True, output_margin=True, iteration_range=(0, 4))
        np.testing.assert_array_equal(values, MODEL.predict(ROWS, None, True, 0, 4))
        assert [one.receipt.model_digest for one in receipts] == [MODEL.digest.hex()]
        key = Ed25519PrivateKey.generate()
        receipt = client.provision(MODEL_FILE, model_id="m", version=3, owner_key=key)
        assert (receipt.owner, receipt.model_version) == (cml.owner_id(key), 3)
        assert len(list((tmp_path / "store").glob("m-*.sealed"))) == 1
        assert client.health()["status"] == "ok"
        assert client.models() == [{"model_id": "reference", "version": 1}]
        assert client.attestation_count == 1
        evidence, nonce = client.report()
        assert cml.attestation.parse_claims(cml.attestation.parse_evidence(evidence).claims).nonce == nonce
        assert client.server_collateral() == http.host.collateral()
    assert {headers.get("authorization") for _, _, headers, _ in http.asked} == {"Bearer tok-en.1"}
    assert {headers.get("accept-encoding") for _, _, headers, _ in http.asked} == {"identity"}


def test_a_closed_client_says_so(connect: Open) -> None:
    with connect() as client:
        client.attest()
        client.close()
        with pytest.raises(cml.InvalidInputError, match="the client is closed"):
            client.predict(ROWS)


def test_both_clients_know_the_same_of_the_enclave(connect: Open, http: HttpHost) -> None:
    with connect() as client:
        client.attest()
        verified = cml.attestation.verify(
            client.evidence, client.collateral, root=http.host.platform.root, now=http.host.clock()
        )
        assert verified.claims == client.attestation.claims


def test_both_clients_take_the_same_arguments() -> None:
    for name in ("__init__", "attest", "predict", "provision", "provision_with_evidence", "models", "health", "report"):
        one, other = (inspect.signature(getattr(kind, name)) for kind in (ConfidentialClient, AsyncConfidentialClient))
        assert list(map(str, one.parameters.values())) == list(map(str, other.parameters.values())), name


def test_large_calls_are_cut(connect: Open, http: HttpHost) -> None:
    rows = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    with connect(request_size=1200) as client:
        np.testing.assert_array_equal(client.predict(rows), MODEL.predict(rows, None, False, 0, 0))
    assert len(http.messages(Operation.REQUEST)) == 5


def test_a_new_key_is_noticed(connect: Open, http: HttpHost) -> None:
    with connect() as client:
        client.predict(ROWS)
        http.host.restart()
        np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)
        assert client.attestation_count == 2


def test_an_enclave_that_the_policy_refuses_is_sent_nothing(connect: Open, http: HttpHost) -> None:
    policy = AttestationPolicy(mrenclave="00" * 32, allow_debug=True, model_digest=cml.attestation.ANY)
    with connect(policy=policy) as client, pytest.raises(AttestationError) as refusal:
        client.predict(ROWS)
    assert refusal.value.reason is Reason.MRENCLAVE
    with connect(root=cml.attestation.INTEL_ROOT) as client, pytest.raises(AttestationError):
        client.predict(ROWS)
    assert http.messages(Operation.REQUEST) == []
    assert len(http.messages(Operation.EVIDENCE)) == 2  # a refusal is not tried again


def test_threads_that_come_first_attest_once(http: HttpHost) -> None:
    results: list[object] = []
    with ConfidentialClient(http.url, POLICY, root=http.host.platform.root, clock=http.host.clock) as client:
        threads = [threading.Thread(target=lambda: results.append(client.predict(ROWS))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (len(results), client.attestation_count) == (8, 1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_lock_and_connections_of_its_own(http: HttpHost) -> None:
    asked, go_on = threading.Event(), threading.Event()
    peers: list[Any] = []

    def note(handler: Handler) -> bool:
        peers.append(handler.client_address)
        return False

    def wait(handler: Handler) -> bool:
        asked.set()
        go_on.wait(30)
        return note(handler)

    http.always = note
    options: dict[str, Any] = {"root": http.host.platform.root, "clock": http.host.clock, **PATIENT}
    with ConfidentialClient(http.url, POLICY, **options) as client:
        http.plan = [wait]
        thread = threading.Thread(target=client.attest, daemon=True)
        thread.start()
        assert asked.wait(20)
        # A thread of the parent holds the lock now, and its connection.
        assert exit_code_of_child(lambda: np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)) == 0
        of_child = set(peers)
        go_on.set()
        thread.join(20)
        np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)
        client.predict(ROWS)
        assert exit_code_of_child(lambda: client.predict(ROWS)) == 0  # beside an idle connection of the parent
        of_parent = set(peers) - of_child
        np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)
        assert len(of_child) == 1
        assert len(of_parent) == 2, "the parent's and the second child's"


# ---- event loops ----------------------------------------------------------------------------------------------------


def test_tasks_share_a_client_and_the_event_loop_goes_on(http: HttpHost) -> None:
    """Eight tasks at once, one attestation, and a ticker that is never kept waiting."""

    def slowly(handler: Handler) -> bool:
        time.sleep(0.2)
        return False

    http.always = slowly

    async def main() -> tuple[list[Any], int, float]:
        longest, last, is_ending = 0.0, time.perf_counter(), False

        async def tick() -> None:
            nonlocal longest, last
            while not is_ending:
                await asyncio.sleep(0.005)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now

        ticker = asyncio.create_task(tick())
        rows = np.zeros((200_000, 3), np.float32)
        options: dict[str, Any] = {"root": http.host.platform.root, "clock": http.host.clock}
        async with AsyncConfidentialClient(http.url, POLICY, **options) as client:
            found = await asyncio.gather(*[client.predict(ROWS) for _ in range(8)], client.predict(rows))
            is_ending = True
            await ticker
            return found, client.attestation_count, longest

    found, count, longest = asyncio.run(main())
    for values in found[:8]:
        np.testing.assert_array_equal(values, EXPECTED)
    assert (len(found[8]), count) == (200_000, 1)
    assert longest < 0.2  # each response takes as long


def test_nothing_is_computed_in_the_thread_of_the_event_loop(http: HttpHost, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[threading.Thread] = set()
    real = remote_session.advance

    def advance(*arguments: Any) -> Any:
        threads.add(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr("confidential_ml.client.asynchronous.advance", advance)

    async def main() -> None:
        options: dict[str, Any] = {"root": http.host.platform.root, "clock": http.host.clock}
        async with AsyncConfidentialClient(http.url, POLICY, **options) as client:
            await client.predict(ROWS)
            await client.provision(MODEL_FILE, model_id="m")

    asyncio.run(main())
    assert threads
    assert threading.main_thread() not in threads


def test_a_task_that_is_cancelled_leaves_the_client_usable(http: HttpHost) -> None:
    async def main() -> Any:
        options: dict[str, Any] = {"root": http.host.platform.root, "clock": http.host.clock}
        async with AsyncConfidentialClient(http.url, POLICY, **options) as client:
            http.plan = [drips]
            task = asyncio.create_task(client.predict(ROWS))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.predict(ROWS)

    np.testing.assert_array_equal(asyncio.run(main()), EXPECTED)


@pytest.mark.parametrize("how", ["cancel", "wait_for"])
def test_a_task_that_is_cancelled_while_it_computes(http: HttpHost, how: str) -> None:
    """asyncio does not wait for the thread, in which the generator is still running."""
    goes_on = threading.Event()

    class Slow(list[Any]):
        def __array__(self, *_: Any, **__: Any) -> Any:
            assert goes_on.wait(20)
            return ROWS.copy()

    async def main() -> Any:
        options: dict[str, Any] = {"root": http.host.platform.root, "clock": http.host.clock}
        async with AsyncConfidentialClient(http.url, POLICY, **options) as client:
            await client.attest()
            if how == "cancel":
                task = asyncio.create_task(client.predict(Slow()))
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.predict(Slow()), 0.1)
            goes_on.set()
            return await client.predict(ROWS)

    np.testing.assert_array_equal(asyncio.run(main()), EXPECTED)
    assert len(http.messages(Operation.REQUEST)) == 1


def test_the_async_client_says_that_nothing_is_verified_yet(http: HttpHost) -> None:
    async def main() -> None:
        async with AsyncConfidentialClient(http.url, POLICY) as client:
            assert "not attested yet" in repr(client)
            with pytest.raises(cml.RemoteError, match="await attest"):
                _ = client.attestation

    asyncio.run(main())


# ---- what fails, and what is sent again -----------------------------------------------------------------------------

BUSY = says(503, "busy", Retry_After="0")


@pytest.mark.parametrize("call", ["predict", "provision"])
def test_there_are_as_many_attempts_as_asked_for(connect: Open, http: HttpHost, call: str) -> None:
    http.always = BUSY
    with connect(retries=2) as client, pytest.raises(ServerBusyError):
        client.predict(ROWS) if call == "predict" else client.provision(MODEL_FILE, model_id="m")
    assert len(http.asked) == 3


def test_what_expires_before_another_attempt_is_attested_again(connect: Open, http: HttpHost) -> None:
    policy = AttestationPolicy(mrenclave=MRENCLAVE.hex(), allow_debug=True, model_digest=ANY, max_age=60)
    with connect(policy=policy) as client:
        client.predict(ROWS)

        def busy_for_a_minute(handler: Handler) -> bool:
            http.host.clock.advance(61)
            return BUSY(handler)

        http.plan = [busy_for_a_minute]
        np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)
        assert client.attestation_count == 2


def test_neither_token_nor_password_is_shown(http: HttpHost) -> None:
    for proxy in ("http://u:pass-word@h:99999", "http://u:pass-word@[::1", "http://u:pass-word@h:x", "socks://h"):
        with pytest.raises(cml.InvalidInputError, match="proxy must be like") as raised:
            ConfidentialClient(http.url, POLICY, token="to-ken", proxy=proxy)
        assert "pass-word" not in str(raised.value)
        assert raised.value.__cause__ is None
    with pytest.raises(cml.InvalidInputError) as raised:
        ConfidentialClient(http.url, POLICY, token="to-ken", retries=-1)
    found = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert any("Options(" in value for frame in found.stack for value in (frame.locals or {}).values())
    assert "to-ken" not in "".join(
        value for frame in found.stack for name, value in (frame.locals or {}).items() if name == "options"
    )
    http.plan = [says(400, "wrong", "you sent Bearer to-ken")]
    with ConfidentialClient(http.url, POLICY, token="to-ken") as client, pytest.raises(HttpStatusError) as told:
        client.health()
    assert "you sent Bearer (token)" in str(told.value)


TRANSIENT = {
    "busy": BUSY,
    "shutting down": says(503, "shutting_down"),
    "a gateway": says(502, ""),
    "no server behind": says(504, ""),
    "a proxy's 503": says(503, ""),
    "hung up": hangs_up,
    "answer lost": serves_and_hangs_up,
    "cut": cuts,
}


@pytest.mark.parametrize("misbehave", TRANSIENT.values(), ids=TRANSIENT)
def test_a_prediction_is_sent_again_encrypted_anew(connect: Open, http: HttpHost, misbehave: Misbehave) -> None:
    with connect() as client:
        client.attest()
        http.plan = [misbehave, misbehave]
        np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)
        assert client.attestation_count == 1
    sent = http.messages(Operation.REQUEST)
    assert len(sent) == len({message[60:] for message in sent}) == 3


def test_try_later_of_the_endpoint_is_tried_again(connect: Open, http: HttpHost) -> None:
    with connect() as client:
        client.attest()
        http.plan = [answers(200, b"\1\0\3\0")]
        np.testing.assert_array_equal(client.predict(ROWS), EXPECTED)
    assert len(set(http.messages(Operation.REQUEST))) == 2


@pytest.mark.parametrize("misbehave", TRANSIENT.values(), ids=TRANSIENT)
def test_evidence_and_documents_are_asked_for_again(connect: Open, http: HttpHost, misbehave: Misbehave) -> None:
    with connect() as client:
        http.plan = [misbehave]
        client.attest()
        http.plan = [misbehave]
        assert client.health()["status"] == "ok"
    assert len(http.asked) == 4


@pytest.mark.parametrize("misbehave", TRANSIENT.values(), ids=TRANSIENT)
def test_a_model_is_not_sent_again_once_it_may_be_there(
    connect: Open, http: HttpHost, misbehave: Misbehave, tmp_path: Path
) -> None:
    was_refused = misbehave in (TRANSIENT["busy"], TRANSIENT["shutting down"])
    with connect() as client:
        client.attest()
        http.plan = [misbehave]
        if was_refused:
            client.provision(MODEL_FILE, model_id="m")
        else:
            with pytest.raises(ReplyLostError):
                client.provision(MODEL_FILE, model_id="m")
    assert len(http.messages(Operation.REQUEST)) == (2 if was_refused else 1)
    stored = was_refused or misbehave is serves_and_hangs_up
    assert len(list((tmp_path / "store").iterdir())) == stored


def test_a_model_is_sent_again_if_the_caller_says_so_and_is_there_twice(
    connect: Open, http: HttpHost, tmp_path: Path
) -> None:
    with connect() as client:
        client.attest()
        http.plan = [serves_and_hangs_up]
        client.provision(MODEL_FILE, model_id="m", repeat=True)
    sent = http.messages(Operation.REQUEST)
    assert len(set(sent)) == len(sent) == 2
    assert len(list((tmp_path / "store").iterdir())) == 2


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "body_malformed"),
        (401, "token_wrong"),
        (403, "role_wrong"),
        (404, "path_unknown"),
        (408, "request_timeout"),
        (413, "body_too_large"),
        (429, ""),
        (500, "internal"),
        (507, "store_full"),
        (204, ""),
    ],
)
def test_other_statuses_are_told_and_never_tried_again(connect: Open, http: HttpHost, status: int, code: str) -> None:
    with connect() as client:
        client.attest()
        http.plan = [says(status, code, "what the server says\x1b[31m")]
        with pytest.raises(HttpStatusError) as raised:
            client.predict(ROWS)
    assert (raised.value.status, raised.value.code) == (status, code)
    assert f"HTTP {status}" in str(raised.value)
    assert status == 204 or "what the server says" in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert len(http.messages(Operation.REQUEST)) == 1
    assert isinstance(raised.value, cml.RemoteError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(connect: Open, http: HttpHost, platform: SimulatedPlatform, status: int) -> None:
    with HttpHost(Host(platform, ReferenceEnclave(platform, MODEL))).running() as elsewhere:
        http.always = says(status, "", Location=f"{elsewhere.url}/confidential")
        with connect(token="secret") as client, pytest.raises(HttpStatusError, match="redirects are not followed"):
            client.predict(ROWS)
        assert (len(http.asked), elsewhere.asked) == (1, [])


def test_a_server_that_stays_busy_is_given_up(connect: Open, http: HttpHost) -> None:
    http.always = BUSY
    with connect(retries=2) as client, pytest.raises(ServerBusyError) as raised:
        client.predict(ROWS)
    assert isinstance(raised.value, cml.RemoteBusyError)
    assert len(http.asked) == 3
    with connect(retries=0) as client, pytest.raises(ServerBusyError):
        client.health()
    assert len(http.asked) == 4


def test_the_deadline_ends_the_attempts(connect: Open, http: HttpHost) -> None:
    http.always = says(503, "busy", Retry_After="1")
    start = time.monotonic()
    with connect(retries=50, deadline=1.5) as client, pytest.raises(ServerBusyError):
        client.health()
    assert time.monotonic() - start < 1.5
    assert len(http.asked) == 2  # the third would begin after two seconds


def test_waits_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confidential_ml.client.retries._FIRST_WAIT", 0.25)

    def attempt() -> Any:
        raise UnreachableError("nobody there")
        yield

    steps = Retries(9, 3600).again(attempt, None)
    waits = [step.seconds for step in itertools.islice(steps, 9) if isinstance(step, Pause)]
    assert len(waits) == 9
    with pytest.raises(UnreachableError):
        next(steps)
    assert all(0.125 * 2**n <= wait <= 0.25 * 2**n for n, wait in enumerate(waits[:5]))
    assert all(4 <= wait <= 8 for wait in waits[6:])


def test_nobody_there(connect: Open) -> None:
    with connect("http://127.0.0.1:1", retries=1) as client, pytest.raises(UnreachableError, match="no connection to"):
        client.predict(ROWS)


# ---- hostile servers ------------------------------------------------------------------------------------------------


def test_a_response_that_drips_ends_in_time(connect: Open, http: HttpHost) -> None:
    http.always = drips
    start = time.monotonic()
    with connect(timeout=0.4, retries=0) as client, pytest.raises(ReplyLostError, match=r"within 0.4 seconds"):
        client.health()
    assert 0.3 < time.monotonic() - start < 2


@pytest.mark.parametrize("call", ["health", "attest", "predict"])
def test_a_response_without_end_is_not_read_to_its_end(connect: Open, http: HttpHost, call: str) -> None:
    with connect() as client:
        if call == "predict":
            client.attest()
        http.always = floods
        with pytest.raises(cml.RemoteError, match=r"has more than \d+ bytes, which no reply has"):
            client.predict(ROWS) if call == "predict" else getattr(client, call)()
    assert len(http.asked) == (2 if call == "predict" else 1)


def test_a_length_that_is_too_large_is_not_waited_for(connect: Open, http: HttpHost) -> None:
    def promises(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "9" * 18)
        handler.end_headers()
        handler.http_host.ended.wait(20)
        return True

    http.always = promises
    start = time.monotonic()
    with connect() as client, pytest.raises(cml.RemoteError, match="has more than"):
        client.predict(ROWS)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b'{"models": 1}', b'{"models": [1]}', b"[" * 100_000, b"\xff"], ids=repr
)
def test_what_is_no_answer_of_the_server(connect: Open, http: HttpHost, body: bytes) -> None:
    http.always = answers(200, body)
    with connect() as client:
        for call in (client.models, client.report, lambda: client.predict(ROWS)):
            with pytest.raises(cml.RemoteError):
                call()


def test_a_response_is_never_unpacked(connect: Open, http: HttpHost) -> None:
    import gzip

    packed = gzip.compress(b'{"status": "ok"}')
    http.always = answers(200, packed, Content_Encoding="gzip")
    with connect() as client, pytest.raises(cml.RemoteError, match="not JSON"):
        client.health()


def test_cookies_are_not_kept(connect: Open, http: HttpHost) -> None:
    http.always = answers(200, b"{}", Set_Cookie="tracked=1")
    with connect() as client:
        client.health(), client.health()
    assert [headers.get("cookie") for _, _, headers, _ in http.asked] == [None, None]


def test_the_environment_names_no_proxy(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with connect() as client:
        assert client.health()["status"] == "ok"


def test_a_proxy_that_is_named_is_used(connect: Open, http: HttpHost, platform: SimulatedPlatform) -> None:
    with HttpHost(Host(platform, ReferenceEnclave(platform, MODEL))).running() as proxy:
        proxy.always = answers(200, b'{"by": "the proxy"}')
        with connect(proxy=proxy.url) as client:
            assert client.health() == {"by": "the proxy"}
        assert [path for _, path, _, _ in proxy.asked] == [f"{http.url}/health"]
    assert http.asked == []


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://host/confidential",
        "https://host/base/confidential/",
        "",
        "host",
        "ftp://host",
        "http://user:secret@host",
        "http://host?x=1",
        "http://host#x",
        "http://h:99999",
        "http://",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(cml.InvalidInputError, match="url") as raised:
        ConfidentialClient(url, POLICY)
    assert "secret" not in str(raised.value)


def test_a_token_is_not_sent_in_clear_to_another_machine() -> None:
    with pytest.raises(cml.InvalidInputError, match="readable") as raised:
        ConfidentialClient("http://host.example", POLICY, token="s3cret")
    assert "s3cret" not in str(raised.value)
    for url, options in (
        ("http://host.example", {"allow_plain_http": True, "token": "s3cret"}),
        ("http://host.example", {}),
        ("https://host.example", {"token": "s3cret"}),
        ("http://localhost:1", {"token": "s3cret"}),
        ("http://[::1]:1", {"token": "s3cret"}),
    ):
        with ConfidentialClient(url, POLICY, **options) as client:
            assert "s3cret" not in repr(client)


@pytest.mark.parametrize(
    "options",
    [
        {"token": "two words"},
        {"token": "line\nbreak"},
        {"token": b"x"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"deadline": -1},
        {"retries": -1},
        {"retries": True},
        {"proxy": "socks5://host"},
        {"ca_file": "/nowhere.pem"},
        {"ssl_context": 1},
        {"policy": None},
    ],
    ids=repr,
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(cml.InvalidInputError, match=next(iter(options))) as raised:
        ConfidentialClient(**{"url": "https://host", "policy": POLICY, **options})
    assert "words" not in str(raised.value)


def test_only_the_certificates_that_are_given_are_believed(http: HttpHost, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    http._server.socket = context.wrap_socket(http._server.socket, server_side=True)
    url = http.url.replace("http://127.0.0.1", "https://localhost")
    with ConfidentialClient(url, POLICY, ca_file=certificate, token="t") as client:
        assert client.health()["status"] == "ok"
    with ConfidentialClient(url, POLICY, retries=3) as client:
        start = time.monotonic()
        with pytest.raises(cml.RemoteError, match=r"is not trusted: self.signed certificate"):
            client.health()
        assert time.monotonic() - start < 5
    with pytest.raises(cml.RemoteError, match="is not trusted"):
        ConfidentialClient(url.replace("localhost", "127.0.0.1"), POLICY, ca_file=certificate).health()


def self_signed(directory: Path) -> Path:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    return path


# ---- installations --------------------------------------------------------------------------------------------------

BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r} or name in {blocked!r}:
            raise ImportError("blocked by the test")
sys.meta_path.insert(0, Refuse())
"""


def test_without_the_extra_one_sentence_says_so() -> None:
    code = BLOCKED.format(blocked={"httpcore"}) + "import confidential_ml\nimport confidential_ml.client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: confidential_ml.client needs packages that are not installed: "
        "pip install 'confidential_ml[client]'"
    )


def test_a_relying_party_without_the_extension_predicts(http: HttpHost, tmp_path: Path) -> None:
    """From the wheel of every platform: without the extension, and without the server's, or anybody's, extras."""
    key = http.host.platform.root.public_key.hex()
    extras = {
        "confidential_ml._core",
        "starlette",
        "uvicorn",
        "pydantic",
        "msgspec",
        "typer",
        "rich",
        "pyarrow",
    }
    code = f"""
{BLOCKED.format(blocked=extras)}
import numpy
from confidential_ml.attestation import AttestationPolicy, TrustRoot
from confidential_ml.client import ConfidentialClient
policy = AttestationPolicy.from_toml({POLICY.to_toml()!r})
with ConfidentialClient({http.url!r}, policy, root=TrustRoot("test", bytes.fromhex({key!r}))) as client:
    print(client.predict(numpy.ones((1, 3), numpy.float32)).tobytes().hex())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == MODEL.predict(np.ones((1, 3), np.float32), None, False, 0, 0).tobytes().hex()
