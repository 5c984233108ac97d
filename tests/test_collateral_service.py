"""Collateral from a service that speaks as Intel's PCS and as a PCCS do, and from one that misbehaves."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import hashlib
import http.server
import ipaddress
import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from confidential_ml.attestation import Collateral, verify_quote
from confidential_ml.attestation import collateral_service as module
from confidential_ml.attestation.collateral_cache import default_directory, earliest_expiry
from confidential_ml.attestation.collateral_service import INTEL_PCS_URL, INTEL_ROOT_CA_CRL_URL, CollateralService
from confidential_ml.attestation.http_get import _TimedReader
from confidential_ml.attestation.trust_root import INTEL_ROOT, TrustRoot
from confidential_ml.errors import AttestationError, CollateralError, InvalidInputError
from confidential_ml.simulated_platform import SimulatedPlatform

ROOT = Path(__file__).parent.parent
VECTORS = Path(os.environ.get("CONFIDENTIAL_ML_VECTORS", ROOT.parent / "shared" / "vectors")) / "sgx"
API = "/sgx/certification/v4"
DOCUMENTS = [f"{API}/tcb", f"{API}/qe/identity", f"{API}/pckcrl", f"{API}/rootcacrl"]
TCB, QE_IDENTITY, PCK_CRL, ROOT_CRL = DOCUMENTS
SECOND = datetime.timedelta(seconds=1)
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Machine:
    """A quote, what it is verified with, and when."""

    quote: bytes
    collateral: Collateral
    root: TrustRoot
    now: datetime.datetime
    ca: str
    fmspc: str


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    platform = SimulatedPlatform(tmp_path_factory.mktemp("platform"))
    report = bytearray(384)
    report[48] = 0x7  # INIT, DEBUG, MODE64
    now = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)
    quote = platform.quote(bytes(report))
    return Machine(quote, platform.collateral(now), platform.root, now, "platform", b"SIM\0\0\0".hex().upper())


@pytest.fixture(scope="module")
def intel() -> Machine:
    if not (VECTORS / "phala_sgx.quote").exists():
        pytest.skip(f"needs the public SGX vectors in {VECTORS}; CONFIDENTIAL_ML_VECTORS names another place")
    return Machine(
        (VECTORS / "phala_sgx.quote").read_bytes(),
        Collateral.load(VECTORS / "phala_sgx.collateral.json"),
        INTEL_ROOT,
        datetime.datetime(2025, 6, 19, 12, tzinfo=datetime.UTC),
        "processor",
        "00A067110000",
    )


@pytest.fixture(params=["simulated", "intel"])
def machine(request: pytest.FixtureRequest) -> Machine:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Machine)
    return found


# ---- the service ----------------------------------------------------------------------------------------------------


@dataclass
class Reply:
    """What the service sends, or does."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    act: Callable[[http.server.BaseHTTPRequestHandler, Reply], None] | None = None


Asked = tuple[str, dict[str, list[str]]]


class Service(http.server.ThreadingHTTPServer):
    """Replies from `script`, one after the other, and when that is used up from `replies`; keeps what it was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, replies: dict[str, Reply], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies, self.script = replies, {path: list[Reply]() for path in replies}
        self.asked: list[Asked] = []
        self.ended = threading.Event()
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}{API}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def reply(self, path: str) -> Reply:
        return self.script[path].pop(0) if self.script.get(path) else self.replies.get(path, Reply(404))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients that hang up are what is tested."""

    def close(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        self.server.asked.append((parts.path, urllib.parse.parse_qs(parts.query)))
        reply = self.server.reply(parts.path)
        if reply.act is not None:
            reply.act(self, reply)
        else:
            send(self, reply)

    def log_message(self, *_: object) -> None:
        pass


def send(handler: http.server.BaseHTTPRequestHandler, reply: Reply) -> None:
    handler.send_response(reply.status)
    for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(reply.body)


def quoted(chain: str) -> str:
    return urllib.parse.quote(chain, safe="")


def speaking(collateral: Collateral, *, tcb_chain: str, hexadecimal: bool) -> dict[str, Reply]:
    """The replies of a service: bodies and headers as Intel's PCS and PCCS give them."""

    def encoded(crl: bytes) -> bytes:
        return crl.hex().encode() if hexadecimal else crl

    def signed(name: str, text: str, signature: bytes) -> bytes:
        return f'{{"{name}":{text},"signature":"{signature.hex()}"}}'.encode()

    return {
        TCB: Reply(
            headers={tcb_chain: quoted(collateral.tcb_info_issuer_chain), "Content-Type": "application/json"},
            body=signed("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
        ),
        QE_IDENTITY: Reply(
            headers={"SGX-Enclave-Identity-Issuer-Chain": quoted(collateral.qe_identity_issuer_chain)},
            body=signed("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
        ),
        PCK_CRL: Reply(
            headers={"SGX-PCK-CRL-Issuer-Chain": quoted(collateral.pck_crl_issuer_chain)},
            body=encoded(collateral.pck_crl),
        ),
        ROOT_CRL: Reply(body=collateral.root_ca_crl.hex().encode()),  # PCCS: hexadecimal in every version
    }


@dataclass
class Clock:
    """A clock that stands still, and moves when somebody sleeps."""

    now: datetime.datetime
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> datetime.datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += datetime.timedelta(seconds=seconds)


@pytest.fixture
def clock(simulated: Machine) -> Clock:
    return Clock(simulated.now)


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def serve(collateral: Collateral, **options: Any) -> Service:
        tls = options.pop("tls", None)
        made.append(
            Service(
                speaking(collateral, **{"tcb_chain": "TCB-Info-Issuer-Chain", "hexadecimal": False, **options}), tls
            )
        )
        return made[-1]

    yield serve
    for one in made:
        one.close()


@pytest.fixture
def service(serve: Callable[..., Service], simulated: Machine) -> Service:
    return serve(simulated.collateral)


@pytest.fixture
def client(service: Service, clock: Clock, tmp_path: Path) -> Callable[..., CollateralService]:
    def client(**options: Any) -> CollateralService:
        defaults = {"cache_directory": tmp_path / "cache", "clock": clock, "sleep": clock.sleep, "timeout": 20.0}
        return CollateralService(service.url, **{**defaults, **options})

    return client


Client = Callable[..., CollateralService]


# ---- what is fetched ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hexadecimal", [False, True], ids=["der", "hex"])
@pytest.mark.parametrize("tcb_chain", ["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"])
def test_what_the_service_has_is_what_one_gets(
    machine: Machine, serve: Callable[..., Service], tmp_path: Path, tcb_chain: str, hexadecimal: bool
) -> None:
    service = serve(machine.collateral, tcb_chain=tcb_chain, hexadecimal=hexadecimal)
    fetched = CollateralService(service.url, cache_directory=tmp_path).collateral(machine.quote)
    assert fetched == machine.collateral
    assert (
        verify_quote(machine.quote, fetched, root=machine.root, now=machine.now, allow_debug=True).root == machine.root
    )
    assert service.asked == [
        (TCB, {"fmspc": [machine.fmspc]}),
        (QE_IDENTITY, {}),
        (PCK_CRL, {"ca": [machine.ca], "encoding": ["der"]}),
        (ROOT_CRL, {}),
    ]


def test_evidence_does_as_well_as_a_quote(client: Client, simulated: Machine) -> None:
    assert client().collateral(simulated.quote + b"claims") == simulated.collateral


def test_pem_crls_become_der(service: Service, client: Client, simulated: Machine) -> None:
    crl = x509.load_der_x509_crl(simulated.collateral.pck_crl)
    service.replies[PCK_CRL].body = crl.public_bytes(serialization.Encoding.PEM)
    assert client().collateral(simulated.quote).pck_crl == simulated.collateral.pck_crl


def test_a_plus_sign_in_a_chain_is_base64(service: Service, client: Client, simulated: Machine) -> None:
    chain = simulated.collateral.tcb_info_issuer_chain
    assert "+" in chain
    service.replies[TCB].headers["TCB-Info-Issuer-Chain"] = urllib.parse.quote(chain, safe="+/=")
    assert client().collateral(simulated.quote) == simulated.collateral


def test_the_signed_text_is_cut_out_as_it_stands(service: Service, client: Client, simulated: Machine) -> None:
    """Whatever spaces and order the signer chose: nothing is written anew."""
    text = json.dumps(json.loads(simulated.collateral.tcb_info), indent=1)
    signature = bytes(range(64)).hex()
    service.replies[TCB].body = f' {{ "signature" : "{signature}",\r\n\t"tcbInfo" : {text} }} '.encode()
    fetched = client().collateral(simulated.quote)
    assert (fetched.tcb_info, fetched.tcb_info_signature.hex()) == (text, signature)


def test_early_updates_are_asked_for_and_kept_apart(service: Service, client: Client, simulated: Machine) -> None:
    client().collateral(simulated.quote)
    service.asked.clear()
    client(update="early").collateral(simulated.quote)
    assert [(path, query.get("update")) for path, query in service.asked] == [
        (TCB, ["early"]),
        (QE_IDENTITY, ["early"]),
        (PCK_CRL, None),
        (ROOT_CRL, None),
    ]


def test_the_root_crl_may_come_from_elsewhere(
    service: Service, serve: Callable[..., Service], client: Client, simulated: Machine
) -> None:
    elsewhere = serve(simulated.collateral)
    client(root_ca_crl_url=elsewhere.url + "/rootcacrl").collateral(simulated.quote)
    assert (service.paths, elsewhere.paths) == (DOCUMENTS[:3], [ROOT_CRL])


@pytest.mark.parametrize(
    ("url", "root_ca_crl_url"),
    [
        (INTEL_PCS_URL, INTEL_ROOT_CA_CRL_URL),
        ("https://API.trustedservices.intel.com/sgx/certification/v4/", INTEL_ROOT_CA_CRL_URL),
        ("https://pccs.example:8081/sgx/certification/v4", "https://pccs.example:8081/sgx/certification/v4/rootcacrl"),
        ("http://localhost:8081/x/sgx/certification/v4/", "http://localhost:8081/x/sgx/certification/v4/rootcacrl"),
    ],
)
def test_where_the_root_crl_is(url: str, root_ca_crl_url: str) -> None:
    assert CollateralService(url)._root_ca_crl_url == root_ca_crl_url


def test_the_default_is_intel() -> None:
    assert CollateralService()._url == INTEL_PCS_URL
    assert INTEL_PCS_URL == "https://api.trustedservices.intel.com/sgx/certification/v4"


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_what_is_on_disk_is_not_asked_for(service: Service, client: Client, simulated: Machine) -> None:
    fetched = client().collateral(simulated.quote)
    assert len(service.asked) == 4
    assert client().collateral(simulated.quote) == fetched
    assert len(service.asked) == 4


def test_it_is_fetched_anew_when_it_is_too_old(
    service: Service, client: Client, clock: Clock, simulated: Machine
) -> None:
    client().collateral(simulated.quote)
    clock.now += DAY - SECOND
    client().collateral(simulated.quote)
    assert len(service.asked) == 4
    clock.now += SECOND
    client().collateral(simulated.quote)
    assert len(service.asked) == 8
    client(max_age=10 * SECOND).collateral(simulated.quote)  # the age is the reader's
    clock.now += 10 * SECOND
    client(max_age=10 * SECOND).collateral(simulated.quote)
    assert len(service.asked) == 12


def test_it_is_fetched_anew_when_a_part_has_expired(
    service: Service, client: Client, clock: Clock, simulated: Machine
) -> None:
    long = client(max_age=1000 * DAY)
    long.collateral(simulated.quote)
    clock.now = earliest_expiry(simulated.collateral)
    long.collateral(simulated.quote)
    assert len(service.asked) == 4
    clock.now += SECOND
    long.collateral(simulated.quote)
    assert len(service.asked) == 8


def test_what_has_expired_when_it_comes_is_not_kept_in_use(
    service: Service, client: Client, clock: Clock, simulated: Machine
) -> None:
    clock.now = earliest_expiry(simulated.collateral) + SECOND
    for count in (4, 8):
        client().collateral(simulated.quote)
        assert len(service.asked) == count


def test_a_clock_put_back_makes_it_fetch_anew(
    service: Service, client: Client, clock: Clock, simulated: Machine
) -> None:
    client().collateral(simulated.quote)
    clock.now -= SECOND
    client().collateral(simulated.quote)
    assert len(service.asked) == 8


def test_refresh_asks_and_replaces(service: Service, client: Client, simulated: Machine) -> None:
    client().collateral(simulated.quote)
    signature = bytes(64)
    tcb_info = simulated.collateral.tcb_info
    service.replies[TCB].body = f'{{"tcbInfo":{tcb_info},"signature":"{signature.hex()}"}}'.encode()
    assert client().collateral(simulated.quote).tcb_info_signature != signature
    assert client().collateral(simulated.quote, refresh=True).tcb_info_signature == signature
    assert client().collateral(simulated.quote).tcb_info_signature == signature
    assert len(service.asked) == 8


def test_any_part_may_be_the_first_to_expire(tmp_path: Path) -> None:
    platform = SimulatedPlatform(tmp_path)
    now = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)
    earlier, usual = platform.collateral(now - 3 * DAY), platform.collateral(now)
    first, later = earliest_expiry(earlier), earliest_expiry(usual)
    assert (first, later) == (now + 4 * DAY, now + 7 * DAY)
    for part in ("root_ca_crl", "pck_crl", "tcb_info", "qe_identity"):
        assert earliest_expiry(replace(usual, **{part: getattr(earlier, part)})) == first
    # The certificates are of 2049: documents that last longer do not matter.
    far = platform.collateral(datetime.datetime(2049, 12, 30, tzinfo=datetime.UTC))
    chains = [getattr(far, name).encode() for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain")]
    ends = [one.not_valid_after_utc for chain in chains for one in x509.load_pem_x509_certificates(chain)]
    assert earliest_expiry(far) == min(ends) < datetime.datetime(2050, 1, 6, tzinfo=datetime.UTC)


def test_zero_age_keeps_nothing(service: Service, client: Client, simulated: Machine, tmp_path: Path) -> None:
    for count in (4, 8):
        client(max_age=datetime.timedelta(0)).collateral(simulated.quote)
        assert len(service.asked) == count
    assert not (tmp_path / "cache").exists()


def test_services_do_not_share_what_they_fetched(
    service: Service, serve: Callable[..., Service], client: Client, simulated: Machine, tmp_path: Path, clock: Clock
) -> None:
    client().collateral(simulated.quote)
    other = serve(simulated.collateral)
    client(root_ca_crl_url=other.url + "/rootcacrl").collateral(simulated.quote)
    assert len(service.asked) == 4 + 3
    options: dict[str, Any] = {"cache_directory": tmp_path / "cache", "clock": clock, "sleep": clock.sleep}
    CollateralService(other.url, root_ca_crl_url=other.url + "/rootcacrl", **options).collateral(simulated.quote)
    assert len(other.asked) == 1 + 4


def test_machines_do_not_share_collateral(
    service: Service, client: Client, simulated: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client().collateral(simulated.quote)
    for fmspc, ca in (("0123456789AB", "Platform"), (simulated.fmspc, "Processor")):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_machine_of", lambda _quote, found=(fmspc, ca): found)
            with pytest.raises(CollateralError, match=r"another FMSPC|not a CRL of the SGX PCK Processor CA"):
                client().collateral(simulated.quote)


def with_right_digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode("ascii") + b"\n" + content


def cached(directory: Path) -> Path:
    (found,) = directory.iterdir()
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b" ",
        lambda data: bytes(len(data)),
        lambda data: data.replace(b"SGX", b"SGY", 1),
        lambda data: data.replace(b"MII", b"MIJ", 1),  # inside a certificate: still JSON
        lambda data: data.replace(b"\n", b"", 1),
        lambda data: b"\xff" * 100,
        lambda data: with_right_digest(data.partition(b"\n")[2].replace(b"+00:00\n", b"\n", 1)),  # a time of no zone
    ],
)
def test_a_damaged_file_is_replaced(
    service: Service, client: Client, simulated: Machine, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    client().collateral(simulated.quote)
    path = cached(tmp_path / "cache")
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    assert client().collateral(simulated.quote) == simulated.collateral
    assert len(service.asked) == 8
    assert path.read_bytes() == whole


def test_a_directory_in_the_place_of_the_file_is_a_warning(
    service: Service, client: Client, simulated: Machine, tmp_path: Path
) -> None:
    client().collateral(simulated.quote)
    path = cached(tmp_path / "cache")
    path.unlink()
    path.mkdir()
    (path / "file").touch()
    with pytest.warns(RuntimeWarning, match="cannot be kept in .*cache.*cache_directory") as caught:
        assert client().collateral(simulated.quote) == simulated.collateral
    assert caught[0].filename == __file__
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_a_warning(
    service: Service, client: Client, simulated: Machine, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(RuntimeWarning, match="Not a directory"):
        assert client(cache_directory=tmp_path / "file" / "cache").collateral(simulated.quote) == simulated.collateral


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_the_directory_is_of_its_user_alone(client: Client, simulated: Machine, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        client(cache_directory=tmp_path / "a" / "b").collateral(simulated.quote)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_directory() == tmp_path / ".cache" / "confidential_ml" / "collateral"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert default_directory() == tmp_path / ".cache" / "confidential_ml" / "collateral"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_directory() == tmp_path / "caches" / "confidential_ml" / "collateral"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_directory() == tmp_path / "Library" / "Caches" / "confidential_ml" / "collateral"


def test_without_a_home_nothing_is_kept(service: Service, simulated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    for count in (4, 8):
        CollateralService(service.url).collateral(simulated.quote)
        assert len(service.asked) == count


ONE_OF_MANY = """
import sys, pathlib, time
from confidential_ml.attestation.collateral_service import CollateralService
url, directory, quote, start, expected = sys.argv[1:]
service = CollateralService(url, cache_directory=directory)
print("ready", flush=True)
while not pathlib.Path(start).exists():
    time.sleep(0.005)
found = {service.collateral(pathlib.Path(quote).read_bytes(), refresh=turn % 3 == 0).to_json() for turn in range(30)}
assert found == {pathlib.Path(expected).read_text()}
"""


def test_processes_at_once_find_whole_files(serve: Callable[..., Service], tmp_path: Path) -> None:
    platform = SimulatedPlatform(tmp_path)
    report = bytearray(384)
    report[48] = 0x7
    collateral = platform.collateral()  # valid by the clock, which these programs use
    service = serve(collateral)
    (tmp_path / "quote").write_bytes(platform.quote(bytes(report)))
    (tmp_path / "expected").write_text(collateral.to_json(), encoding="ascii")
    arguments = [service.url, *(str(tmp_path / name) for name in ("cache", "quote", "start", "expected"))]
    command = [sys.executable, "-W", "error", "-c", ONE_OF_MANY, *arguments]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    (tmp_path / "start").touch()
    for one in running:
        _, errors = one.communicate(timeout=60)
        assert (one.returncode, errors) == (0, "")
    assert 4 * 2 * 10 <= len(service.asked) <= 4 * 2 * 11  # from disk where no refresh was asked for
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_threads_may_share_one(client: Client, simulated: Machine) -> None:
    shared, found = client(), list[Collateral]()
    threads = [
        threading.Thread(target=lambda: found.append(shared.collateral(simulated.quote, refresh=True)))
        for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [simulated.collateral] * 8


# ---- retries --------------------------------------------------------------------------------------------------------


def hang_up(handler: http.server.BaseHTTPRequestHandler, _reply: Reply) -> None:
    handler.close_connection = True


def truncate(handler: http.server.BaseHTTPRequestHandler, reply: Reply) -> None:
    send(handler, replace(reply, headers={"Content-Length": str(len(reply.body) + 1)}))
    handler.close_connection = True


def truncate_chunked(handler: http.server.BaseHTTPRequestHandler, _reply: Reply) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nabc")
    handler.close_connection = True


PASSING = {
    "429": Reply(429),
    "500": Reply(500),
    "502": Reply(502),
    "503": Reply(503),
    "599": Reply(599),
    "hang up": Reply(act=hang_up),
    "cut short": Reply(body=b"abc", act=truncate),
    "chunks cut short": Reply(act=truncate_chunked),
}


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("failure", PASSING)
def test_what_may_pass_is_tried_again(
    service: Service, client: Client, clock: Clock, simulated: Machine, path: str, failure: str
) -> None:
    service.script[path] = [PASSING[failure]] * 3
    assert client(retries=3).collateral(simulated.quote) == simulated.collateral
    assert service.paths.count(path) == 4
    assert len(service.asked) == 4 + 3
    assert len(clock.slept) == 3
    assert all(0.5 * 2**n <= seconds <= 2**n for n, seconds in enumerate(clock.slept))


@pytest.mark.parametrize("retries", [0, 1, 5])
@pytest.mark.parametrize("failure", PASSING)
def test_and_no_more_often_than_was_said(
    service: Service, client: Client, clock: Clock, simulated: Machine, failure: str, retries: int
) -> None:
    service.replies[QE_IDENTITY] = PASSING[failure]
    with pytest.raises(CollateralError, match=r"the QE identity could not be fetched from http://127.0.0.1"):
        client(retries=retries).collateral(simulated.quote)
    assert service.paths == [TCB] + [QE_IDENTITY] * (retries + 1)
    assert len(clock.slept) == retries


def test_waits_do_not_grow_without_end(service: Service, client: Client, clock: Clock, simulated: Machine) -> None:
    service.replies[TCB] = Reply(503)
    with pytest.raises(CollateralError, match="HTTP 503, at the last of 11 attempts; check the network"):
        client(retries=10).collateral(simulated.quote)
    assert max(clock.slept) <= 60
    assert len({round(seconds, 6) for seconds in clock.slept}) == 10  # by chance


def test_clients_that_fail_together_do_not_come_back_together(
    service: Service, client: Client, clock: Clock, simulated: Machine
) -> None:
    for _ in range(10):
        service.script[TCB] = [Reply(503)]
        client(max_age=datetime.timedelta(0)).collateral(simulated.quote)
    assert len(clock.slept) == 10
    assert max(clock.slept) - min(clock.slept) > 0.05  # ten numbers from half a second: fails once in 10**9 runs


def test_retry_after_is_kept_to(service: Service, client: Client, clock: Clock, simulated: Machine) -> None:
    date = email.utils.format_datetime(clock.now + 45 * SECOND, usegmt=True)
    past = email.utils.format_datetime(clock.now - 45 * SECOND, usegmt=True)
    service.script[TCB] = [Reply(429, {"Retry-After": "30"})]
    service.script[QE_IDENTITY] = [Reply(503, {"Retry-After": date})]
    service.script[PCK_CRL] = [Reply(503, {"Retry-After": past})]
    service.script[ROOT_CRL] = [Reply(503, {"Retry-After": "soon"})]
    clock.now -= 30 * SECOND  # so that the date is 45 seconds off when it is read
    client().collateral(simulated.quote)
    assert clock.slept[:2] == [30.0, 45.0]
    assert all(0.5 <= seconds <= 1 for seconds in clock.slept[2:])


def test_nobody_waits_longer_than_a_minute(service: Service, client: Client, clock: Clock, simulated: Machine) -> None:
    for asked in ("61", "999999999"):
        service.replies[TCB] = Reply(429, {"Retry-After": asked})
        with pytest.raises(CollateralError, match=f"HTTP 429 and asks to wait {asked} seconds; try again then"):
            client().collateral(simulated.quote)
    assert service.paths == [TCB] * 2
    assert clock.slept == []


def test_a_connection_that_is_refused_is_tried_again(clock: Clock, simulated: Machine) -> None:
    with Service({}) as gone:
        url = gone.url
        gone.close()
    with pytest.raises(CollateralError, match="connection failed: Connection refused, at the last of 3 attempts"):
        CollateralService(url, retries=2, clock=clock, sleep=clock.sleep, max_age=0 * DAY).collateral(simulated.quote)
    assert len(clock.slept) == 2


def test_a_host_without_address(clock: Clock, simulated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    service = CollateralService(
        f"https://pccs.example{API}", retries=1, clock=clock, sleep=clock.sleep, max_age=0 * DAY
    )
    with pytest.raises(CollateralError, match=r"from https://pccs.example/\S+: the connection failed: Name or service"):
        service.collateral(simulated.quote)
    assert len(clock.slept) == 1


# ---- time -----------------------------------------------------------------------------------------------------------


def wait(handler: http.server.BaseHTTPRequestHandler, _reply: Reply) -> None:
    assert isinstance(handler.server, Service)
    handler.server.ended.wait(20)
    handler.close_connection = True


def drip(handler: http.server.BaseHTTPRequestHandler, reply: Reply) -> None:
    """A byte at a time, each well before a timeout that begins anew with it."""
    assert isinstance(handler.server, Service)
    for byte in reply.body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.ended.wait(0.02):
            break
    handler.close_connection = True


SLOW = {
    "silence": Reply(act=wait),
    "status": Reply(body=b"HTTP/1.1 200 " + b"O" * 5000, act=drip),
    "headers": Reply(body=b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 2000, act=drip),
    "continue": Reply(body=b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, act=drip),
    "body": Reply(body=b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000, act=drip),
    "chunks": Reply(body=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 2000, act=drip),
}


@pytest.mark.parametrize("slow", SLOW)
def test_a_slow_service_is_left_in_time(service: Service, client: Client, simulated: Machine, slow: str) -> None:
    service.replies[TCB] = SLOW[slow]
    start = time.monotonic()
    with pytest.raises(CollateralError, match="no whole response came in time"):
        client(retries=1, timeout=0.2).collateral(simulated.quote)
    assert service.paths == [TCB] * 2
    assert 0.4 <= time.monotonic() - start < 5


def test_the_time_for_a_byte_is_what_is_left_for_all() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"ab")
        ours.settimeout(100)
        with _TimedReader(ours, time.monotonic() + 5) as reader:
            assert reader.read(1) == b"a"
        timeout = ours.gettimeout()
        assert timeout is not None
        assert 0 < timeout <= 5
        with _TimedReader(ours, time.monotonic()) as reader, pytest.raises(TimeoutError):
            reader.read(1)  # though there is one


def test_a_slow_handshake_is_left_in_time(simulated: Machine, clock: Clock) -> None:
    """A port that accepts, and never says a word of TLS."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as silent:  # not served: the backlog accepts
        url = f"https://127.0.0.1:{silent.server_port}{API}"
        start = time.monotonic()
        with pytest.raises(CollateralError, match="no whole response came in time"):
            CollateralService(url, timeout=0.2, retries=0, clock=clock, max_age=0 * DAY).collateral(simulated.quote)
        assert time.monotonic() - start < 5


# ---- what is refused at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 410, 460, 461, 600, 999])
def test_other_statuses_are_not_tried_again(
    service: Service, client: Client, clock: Clock, simulated: Machine, path: str, status: int
) -> None:
    service.replies[path] = Reply(status)
    with pytest.raises(CollateralError, match=f"the server answers HTTP {status}; "):
        client().collateral(simulated.quote)
    assert service.paths == DOCUMENTS[: DOCUMENTS.index(path) + 1]
    assert clock.slept == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(
    service: Service, serve: Callable[..., Service], client: Client, simulated: Machine, status: int
) -> None:
    other = serve(simulated.collateral)
    for target in (f"{other.url}/tcb?secret=1", f"{API}/tcb", "//[", "file:///etc/passwd"):
        service.replies[TCB] = Reply(status, {"Location": target})
        with pytest.raises(CollateralError, match=f"redirects.*{status}.*not followed") as caught:
            client().collateral(simulated.quote)
        assert "secret" not in str(caught.value)
    assert (other.asked, service.paths) == ([], [TCB] * 4)


def test_what_does_not_exist_says_what_and_where(service: Service, client: Client, simulated: Machine) -> None:
    service.replies[TCB] = Reply(404)
    with pytest.raises(CollateralError) as caught:
        client().collateral(simulated.quote)
    assert str(caught.value) == (
        f"the TCB info of FMSPC {simulated.fmspc} could not be fetched from {service.url}/tcb: the server answers "
        "HTTP 404; the service does not have it: check the address, or ask another service"
    )


def oversize(handler: http.server.BaseHTTPRequestHandler, _reply: Reply) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(100):
        handler.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize("path", DOCUMENTS)
def test_no_more_is_read_than_collateral_can_have(
    service: Service, client: Client, clock: Clock, simulated: Machine, path: str
) -> None:
    for reply in (Reply(body=bytes((2 << 20) + 1)), Reply(act=oversize)):
        service.replies[path] = reply
        with pytest.raises(CollateralError, match=r"has more than 2097152 bytes; check the address"):
            client().collateral(simulated.quote)
    assert clock.slept == []


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
        bytes(100) + b"\r\n",
    ],
)
def test_what_is_not_http_is_not_tried_again(
    service: Service, client: Client, clock: Clock, simulated: Machine, response: bytes
) -> None:
    def garbage(handler: http.server.BaseHTTPRequestHandler, _reply: Reply) -> None:
        handler.wfile.write(response)
        handler.close_connection = True

    service.replies[TCB] = Reply(act=garbage)
    with pytest.raises(CollateralError, match=r"the response is not HTTP: .*; check host and port"):
        client().collateral(simulated.quote)
    assert (service.paths, clock.slept) == ([TCB], [])


GARBAGE = [
    b"",
    b"<html>Log in</html>",
    b"{",
    b"[]",
    b"null",
    b'{"signature":"00"}',
    b"\xff\xfe",
    b"{" * 5000,
    b"\x30",
    b"3082zz",
    b"-----BEGIN X509 CRL-----",
    b"0",
]


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:12]))
def test_garbage_is_told_apart_and_not_kept(
    service: Service, client: Client, clock: Clock, simulated: Machine, tmp_path: Path, path: str, body: bytes
) -> None:
    service.replies[path] = replace(service.replies[path], body=body)
    with pytest.raises(CollateralError, match=r"cannot be used: .*; check that the address is that of a PCS or PCCS"):
        client().collateral(simulated.quote)
    assert service.paths == DOCUMENTS[: DOCUMENTS.index(path) + 1]
    assert clock.slept == []
    assert not (tmp_path / "cache").exists()


def changed(text: str, **fields: object) -> str:
    return json.dumps({**json.loads(text), **fields})


def test_what_belongs_to_another_is_told_apart(service: Service, client: Client, simulated: Machine) -> None:
    collateral = simulated.collateral
    signature = collateral.tcb_info_signature.hex()
    for path, body, problem in (
        (TCB, f'{{"tcbInfo":{changed(collateral.tcb_info, fmspc="00A067110000")},"signature":"{signature}"}}', "FMSPC"),
        (TCB, f'{{"tcbInfo":{changed(collateral.tcb_info, fmspc=7)},"signature":"{signature}"}}', "FMSPC"),
        (TCB, f'{{"tcbInfo":{collateral.tcb_info},"signature":"{signature[2:]}"}}', "64 bytes"),
        (
            TCB,
            f'{{"tcbInfo":{collateral.tcb_info},"tcbInfo":{collateral.tcb_info},"signature":"{signature}"}}',
            "twice",
        ),
        (TCB, f'{{"enclaveIdentity":{collateral.qe_identity},"signature":"{signature}"}}', "tcbInfo"),
        (TCB, f'{{"tcbInfo":"text","signature":"{signature}"}}', "not a JSON object"),
        (
            QE_IDENTITY,
            f'{{"enclaveIdentity":{changed(collateral.qe_identity, id="QVE")},"signature":"{signature}"}}',
            "another enclave",
        ),
        (PCK_CRL, collateral.root_ca_crl.hex(), "not a CRL of the SGX PCK Platform CA"),
        (ROOT_CRL, collateral.pck_crl.hex(), "not a CRL of the SGX Root CA"),
    ):
        usual = service.replies[path]
        service.replies[path] = replace(usual, body=body.encode())
        with pytest.raises(CollateralError, match=problem):
            client().collateral(simulated.quote)
        service.replies[path] = usual
    assert client().collateral(simulated.quote) == collateral


@pytest.mark.parametrize("path", DOCUMENTS[:3])
@pytest.mark.parametrize(
    "chain", [None, "", "abc", quoted("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
)
def test_a_chain_that_is_missing_or_none(
    service: Service, client: Client, clock: Clock, simulated: Machine, path: str, chain: str | None
) -> None:
    (name,) = (name for name in service.replies[path].headers if name.endswith("Issuer-Chain"))
    headers = {} if chain is None else {name: chain}
    service.replies[path] = replace(service.replies[path], headers=headers)
    with pytest.raises(CollateralError, match=f"header {name}"):
        client().collateral(simulated.quote)
    assert clock.slept == []


def test_parts_larger_than_genuine_ones(service: Service, client: Client, simulated: Machine) -> None:
    long = simulated.collateral.tcb_info_issuer_chain * 30
    service.replies[TCB].headers["TCB-Info-Issuer-Chain"] = quoted(long)
    with pytest.raises(CollateralError, match=f"what {service.url} responds cannot be used: .*tcb_info_issuer_chain"):
        client().collateral(simulated.quote)


# ---- TLS ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A server's certificate, its key, and who is to be believed for it."""

    server: ssl.SSLContext
    ca_file: Path
    own_file: Path


def _name_of(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)


def certificate(place: Path, name: str, *, own_ca: bool, host: str = "127.0.0.1", days: int = 7) -> Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key, ca_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {name}")]) if own_ca else subject

    def builder(of: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(of).issuer_name(issuer).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - 30 * DAY)
        return made.not_valid_after(now + days * DAY)

    # As PCCS's instructions make it: no extension but the name.
    leaf = builder(subject, key.public_key()).add_extension(
        x509.SubjectAlternativeName([_name_of(host)]), critical=False
    )
    signed = leaf.sign(ca_key if own_ca else key, hashes.SHA256())
    ca = builder(issuer, ca_key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    trusted = ca.sign(ca_key, hashes.SHA256()) if own_ca else signed
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (place / f"{name}.key").write_bytes(private + signed.public_bytes(pem))
    (place / f"{name}.ca").write_bytes(trusted.public_bytes(pem))
    (place / f"{name}.pem").write_bytes(signed.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / f"{name}.key")
    return Certificate(context, place / f"{name}.ca", place / f"{name}.pem")


@pytest.mark.parametrize("own_ca", [False, True], ids=["self-signed", "CA"])
def test_a_certificate_is_believed_by_its_own_ca_alone(
    serve: Callable[..., Service], simulated: Machine, clock: Clock, tmp_path: Path, own_ca: bool
) -> None:
    ours = certificate(tmp_path, "ours", own_ca=own_ca)
    theirs = certificate(tmp_path, "theirs", own_ca=own_ca)
    service = serve(simulated.collateral, tls=ours.server)
    options: dict[str, Any] = {"max_age": 0 * DAY, "clock": clock, "sleep": clock.sleep}
    for right in (ours.ca_file, ours.own_file):
        believed = CollateralService(service.url, ca_file=right, **options)
        assert believed.collateral(simulated.quote) == simulated.collateral
    asked = len(service.asked)
    for ca_file in (None, theirs.ca_file):
        with pytest.raises(
            CollateralError, match=r"its certificate is not trusted: .*give its certificate.*as ca_file"
        ):
            CollateralService(service.url, ca_file=ca_file, **options).collateral(simulated.quote)
    assert (len(service.asked), clock.slept) == (asked, [])


def test_the_default_that_programs_change_is_not_used(
    serve: Callable[..., Service], simulated: Machine, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    service = serve(simulated.collateral, tls=certificate(tmp_path, "ours", own_ca=True).server)
    with pytest.raises(CollateralError, match="its certificate is not trusted"):
        CollateralService(service.url, clock=clock, max_age=0 * DAY).collateral(simulated.quote)


def test_a_certificate_of_another_host_or_time(
    serve: Callable[..., Service], simulated: Machine, clock: Clock, tmp_path: Path
) -> None:
    for made, problem in (
        (certificate(tmp_path, "host", own_ca=True, host="127.0.0.2"), "IP address mismatch"),
        (certificate(tmp_path, "time", own_ca=False, days=-1), "expired"),
    ):
        service = serve(simulated.collateral, tls=made.server)
        with pytest.raises(CollateralError, match=f"not trusted: .*{problem}"):
            CollateralService(service.url, ca_file=made.ca_file, max_age=0 * DAY).collateral(simulated.quote)
        assert service.asked == []


def test_a_ca_file_is_not_for_other_hosts(
    serve: Callable[..., Service], simulated: Machine, clock: Clock, tmp_path: Path
) -> None:
    ours = certificate(tmp_path, "ours", own_ca=True)
    service, elsewhere = serve(simulated.collateral, tls=ours.server), serve(simulated.collateral, tls=ours.server)
    with pytest.raises(CollateralError, match=r"the CRL of the root CA could not be fetched .* not trusted"):
        CollateralService(
            service.url, ca_file=ours.ca_file, root_ca_crl_url=elsewhere.url + "/rootcacrl", max_age=0 * DAY
        ).collateral(simulated.quote)
    assert (len(service.asked), elsewhere.asked) == (3, [])


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate", encoding="ascii")
    for name in ("none.pem", "missing.pem"):
        with pytest.raises(InvalidInputError, match=f"ca_file .*{name} cannot be read: .*; give PEM certificates"):
            CollateralService(ca_file=tmp_path / name)


def test_plain_http_behind_https_is_an_error(service: Service, simulated: Machine, clock: Clock) -> None:
    url = service.url.replace("http://", "https://")
    with pytest.raises(CollateralError, match="connection failed"):
        CollateralService(url, retries=1, clock=clock, sleep=clock.sleep, max_age=0 * DAY).collateral(simulated.quote)
    assert service.asked == []


def test_proxies_are_used_but_not_to_this_machine(
    service: Service, client: Client, simulated: Machine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connects: list[str] = []

    class Proxy(_Handler):
        def do_CONNECT(self) -> None:
            connects.append(self.path)
            self.send_error(403)

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{proxy.server_port}")
        assert client().collateral(simulated.quote) == simulated.collateral
        assert connects == []
        outside = CollateralService(
            f"https://pccs.example{API}", retries=1, clock=clock, sleep=clock.sleep, max_age=0 * DAY
        )
        with pytest.raises(CollateralError, match="Tunnel connection failed: 403") as caught:
            outside.collateral(simulated.quote)
        proxy.shutdown()
    assert connects == ["pccs.example:443"] * 2
    assert "secret" not in str(caught.value)


def test_what_comes_through_a_proxy_is_checked_as_ever(
    serve: Callable[..., Service], simulated: Machine, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = certificate(tmp_path, "ours", own_ca=True, host="pccs.example")
    service = serve(simulated.collateral, tls=ours.server)

    class Proxy(_Handler):
        def do_CONNECT(self) -> None:
            with socket.create_connection(("127.0.0.1", service.server_port)) as there:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=relay, args=(there, self.connection), daemon=True)
                back.start()
                relay(self.connection, there)
                back.join()
            self.close_connection = True

    def relay(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 16):
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        options: dict[str, Any] = {"max_age": 0 * DAY, "clock": clock, "sleep": clock.sleep}
        through = CollateralService(f"https://pccs.example{API}", ca_file=ours.ca_file, **options)
        assert through.collateral(simulated.quote) == simulated.collateral
        with pytest.raises(CollateralError, match=r"not trusted: .*Hostname mismatch"):
            CollateralService(f"https://other.example{API}", ca_file=ours.ca_file, **options).collateral(
                simulated.quote
            )
        proxy.shutdown()
    assert service.paths == DOCUMENTS


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"http://pccs.example{API}",
        f"http://192.168.0.1{API}",
        f"http://localhost.example{API}",
        f"http://[::2]{API}",
        f"ftp://localhost{API}",
        f"file://{API}",
        f"https://user:secret@pccs.example{API}",
        f"https://secret@localhost{API}",
        f"https://pccs.example{API}?token=secret",
        f"https://pccs.example{API}#secret",
        f"https://pccs.example:99999{API}",
        f"https://pccs.example:0{API}",
        f"https://pccs.example\n{API}",
        f"https://pccs.exämple{API}",
        f"https://{API}",
        f"https://127.1{API}",
        f"https://a..b{API}",
        f"https://{'a' * 64}.example{API}",
        f"https://[::1{API}",
        f"https://[::zz]{API}",
        "https://pccs.example",
        "https://pccs.example/sgx/certification/v3",
        "",
        None,
        b"https://pccs.example",
    ],
)
def test_addresses_that_are_not_asked(url: Any) -> None:
    with pytest.raises(InvalidInputError, match="url") as caught:
        CollateralService(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [f"http://localhost:1{API}", f"http://127.3.2.1{API}/", f"http://[::1]:8081{API}", f"https://[2001:db8::1]{API}"],
)
def test_addresses_that_are(url: str) -> None:
    assert CollateralService(url)._url == url.rstrip("/")


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "1"},
        {"timeout": True},
        {"timeout": 10**400},
        {"retries": -1},
        {"retries": 21},
        {"retries": 1.0},
        {"retries": True},
        {"max_age": -SECOND},
        {"max_age": 1},
        {"update": "late"},
        {"cache_directory": "\0"},
        {"cache_directory": 5},
        {"ca_file": "\0"},
        {"root_ca_crl_url": "http://pccs.example/rootcacrl"},
    ],
    ids=str,
)
def test_arguments_that_cannot_be(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidInputError, match=name):
        CollateralService(**options)


def test_a_clock_without_time_zone(client: Client, simulated: Machine) -> None:
    with pytest.raises(InvalidInputError, match="time zone"):
        client(clock=lambda: datetime.datetime(2026, 1, 1)).collateral(simulated.quote)


def test_a_quote_that_does_not_say_which_machine(service: Service, client: Client, simulated: Machine) -> None:
    quote = simulated.quote
    start = quote.index(b"-----BEGIN CERTIFICATE-----")
    second = quote.index(b"-----BEGIN CERTIFICATE-----", start + 1)
    first_line = quote.index(b"\n", start) + 1
    for changed_quote in (
        b"",
        quote[:-1],
        quote[:first_line] + b"AAAA" + quote[first_line + 4 :],  # the leaf is no certificate
        quote[:start] + b"x" * (len(quote) - start),
        # The PCK CA's certificate in the place of the leaf: no SGX extension. Padded to the length that was said.
        quote[:start] + quote[second:] + b"\n" * (second - start),
    ):
        with pytest.raises(AttestationError):
            client().collateral(changed_quote)
    with pytest.raises(InvalidInputError):
        client().collateral("quote")  # type: ignore[arg-type]
    assert service.asked == []


def test_a_pck_of_a_ca_that_is_neither(
    service: Service, client: Client, simulated: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PCK_CA", re.compile("nobody"))
    with pytest.raises(AttestationError, match="neither a Platform nor a Processor CA"):
        client().collateral(simulated.quote)
    assert service.asked == []
