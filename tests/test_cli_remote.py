"""The commands that talk to a server, against the real one, started by the command `serve`; and what it refuses."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command_line import Done, Run, run_here, run_process
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from http_host import HttpHost, drips, says
from reference_enclave import ReferenceEnclave
from remote_host import Host

import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.attestation import AttestationPolicy

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
MODEL = FIXTURES / "xgb-3.4.1.softprob.ubj"
X = np.load(FIXTURES / "X.npy")
OWNER_TOKEN, CLIENT_TOKEN = "owner-token", "client-token"


@dataclass
class Server:
    """The server, and the files of somebody who uses it."""

    url: str
    place: Path
    process: subprocess.Popen[str]

    @property
    def trust(self) -> list[object]:
        return ["--policy", self.place / "policy.toml", "--root", self.place / "root.pem"]

    @property
    def as_owner(self) -> list[object]:
        return [*self.trust, "--token-file", self.place / "owner"]

    @property
    def as_client(self) -> list[object]:
        return [*self.trust, "--token-file", self.place / "client"]


def started(arguments: list[object]) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "confidential_ml.cli", "serve", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"at (https?://\S+)", line):
            url = found[1]
        if "startup complete" in line:
            return process, url
    raise AssertionError("the server ended")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, enclave: cml.Enclave) -> Iterator[Server]:
    if enclave.identity.platform == "openenclave":
        pytest.skip("needs the root of a simulated platform")
    place = tmp_path_factory.mktemp("server")
    for name, token in (("owner", OWNER_TOKEN), ("client", CLIENT_TOKEN)):
        (place / name).write_text(token + "\n")
    digests = {
        name: f'["sha256:{hashlib.sha256(t.encode()).hexdigest()}"]'
        for name, t in (("owner", OWNER_TOKEN), ("client", CLIENT_TOKEN))
    }
    config = place / "server.toml"
    config.write_text(f"port = 1\n[tokens]\nowner = {digests['owner']}\nclient = {digests['client']}\n")
    assert (
        run_here(
            "policy", "init", place / "policy.toml", "--this-image", "--allow-debug", "--model-digest", "ANY"
        ).status
        == 0
    )
    assert run_here("simulation", "root", place / "root.pem").status == 0
    options = ["--config", config, "--port", 0, "--model-store", place / "store", "--no-console"]
    process, url = started([*options, "--allow", "simulation", "--allow", "anonymous:metrics,debug"])
    with process:
        yield Server(url, place, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def provisioned(server: Server) -> Done:
    """A model at the server, from its owner, and how that went."""
    key = Ed25519PrivateKey.generate()
    (server.place / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    options = ["--version", 4, "--owner-key", server.place / "key.pem", "--receipt", server.place / "receipt.json"]
    return run_here("provision", server.url, MODEL, "--model-id", "iris", *options, *server.as_owner, "--json")


# ---- attest ---------------------------------------------------------------------------------------------------------


def test_attest_accepts(server: Server, provisioned: Done, run: Run, enclave: cml.Enclave) -> None:
    done = run("attest", server.url, *server.trust)
    assert (done.status, done.err) == (0, "")
    assert "ACCEPTED, and PROTECTS NOTHING" in done.out
    assert enclave.identity.mrenclave in done.out
    document = run("attest", server.url, *server.trust, "--json").json()
    assert (document["accepted"], document["protects"]) == (True, False)
    assert document["platform"] == enclave.identity.platform
    assert document["mrenclave"] == enclave.identity.mrenclave
    assert [one["model_id"] for one in document["models"]] == ["iris"]
    assert len(document["steps"]) > 10


def test_attest_refuses(server: Server, run: Run, tmp_path: Path) -> None:
    done = run("attest", server.url, "--policy", server.place / "policy.toml")
    assert done.status == 1
    assert "REFUSED  root-untrusted" in done.out
    assert done.err == ""
    assert (
        run(
            "policy", "init", tmp_path / "p.toml", "--mrenclave", "00" * 32, "--model-digest", "ANY", "--allow-debug"
        ).status
        == 0
    )
    done = run("attest", server.url, "--policy", tmp_path / "p.toml", "--root", server.place / "root.pem", "--json")
    assert (done.status, done.err) == (1, "")
    document = json.loads(done.out)
    assert (document["accepted"], document["reason"]) == (False, "mrenclave")


def test_a_refused_debug_enclave_is_told_with_the_option_that_accepts_it(
    server: Server, run: Run, tmp_path: Path
) -> None:
    policy = tmp_path / "p.toml"
    assert run("policy", "init", policy, "--this-image", "--model-digest", "ANY").status == 0
    trust = ["--policy", policy, "--root", server.place / "root.pem"]
    done = run("attest", server.url, *trust)
    assert (done.status, "REFUSED  debug-enclave" in done.out) == (1, True)
    assert "--allow-debug" in done.out
    done = run("provision", server.url, MODEL, "--model-id", "other", *trust, "--token-file", server.place / "owner")
    assert (done.status, "--allow-debug" in done.err) == (1, True)


def test_attest_of_a_file(server: Server, run: Run, tmp_path: Path) -> None:
    evidence, collateral = tmp_path / "evidence", tmp_path / "collateral.json"
    nonce = "ab" * 16
    assert run("attest", server.url, *server.trust, "--nonce", nonce, "--save", evidence).status == 0
    with urllib.request.urlopen(f"{server.url}/attestation/collateral", timeout=30) as answer:
        collateral.write_bytes(answer.read())
    offline = ["attest", evidence, *server.trust, "--collateral", collateral]
    assert run(*offline).status == 0
    assert run(*offline, "--nonce", nonce).status == 0
    done = run(*offline, "--nonce", "cd" * 16)
    assert (done.status, "REFUSED  nonce" in done.out) == (1, True)
    evidence.write_bytes(evidence.read_bytes()[:-1])
    assert run(*offline).status == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Missing argument"),
        (["URL"], "--policy FILE"),
        (["URL", "--policy", "none.toml"], "cannot be read"),
        (["127.0.0.1:8080", "--policy", "POLICY"], "begins with https:// or http://"),
        (["ftp://host", "--policy", "POLICY"], "begins with https:// or http://"),
        (["URL", "--policy", "POLICY", "--root", "POLICY"], "certificate"),
        (["URL", "--policy", "POLICY", "--nonce", "xyz"], "hexadecimal"),
        (["URL", "--policy", "POLICY", "--nonce", "00" * 65], "at most 64 bytes"),
        (["POLICY", "--policy", "POLICY"], "--collateral-service"),
        (["http://user:pw@host", "--policy", "POLICY"], "without user"),
        (["URL", "--policy", "POLICY", "--collateral", "x", "--collateral-service", "intel"], "exclude each other"),
    ],
)
def test_attest_needs_to_know(server: Server, run: Run, arguments: list[str], problem: str) -> None:
    given = {"URL": server.url, "POLICY": str(server.place / "policy.toml")}
    done = run("attest", *(given.get(one, one) for one in arguments))
    assert (done.status, done.out) == (2, ""), done
    assert problem in done.err
    assert len(done.err.splitlines()) == 1


def test_attest_could_not_find_out(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confidential_ml.client.retries._FIRST_WAIT", 0.01)
    done = run("attest", "http://127.0.0.1:1", *server.trust)
    assert (done.status, done.out) == (3, "")
    assert "no connection to http://127.0.0.1:1/attestation/report:" in done.err
    platform = simulated_platform.of_this_installation()
    with HttpHost(Host(platform, ReferenceEnclave(platform))).running() as host:
        for misbehave in (drips, says(404, "path_unknown"), says(302, "", Location="http://127.0.0.1:1/")):
            host.always = misbehave
            done = run("attest", host.url, *server.trust, "--timeout", "0.2")
            assert (done.status, done.out, len(done.err.splitlines())) == (3, "", 1)


def test_evidence_of_another_enclave_is_refused(server: Server, run: Run) -> None:
    platform = simulated_platform.of_this_installation()
    with HttpHost(Host(platform, ReferenceEnclave(platform))).running() as host:
        done = run("attest", host.url, *server.trust)
        assert (done.status, "REFUSED  mrenclave" in done.out) == (1, True)
        assert {headers.get("authorization") for _, _, headers, _ in host.asked} == {None}


# ---- provision, predict, receipts -----------------------------------------------------------------------------------


def test_provision_and_its_receipt(server: Server, provisioned: Done, run: Run, tmp_path: Path) -> None:
    document = provisioned.json()
    assert (document["kind"], document["model_version"], document["sealing_policy"]) == ("provision", 4, "mrenclave")
    receipt = server.place / "receipt.json"
    (sealed,) = (server.place / "store").glob("*.sealed")
    done = run("verify-receipt", receipt, *server.trust, "--sealed", sealed, "--json")
    found = done.json()
    assert (found["verified"], found["policy_accepts"], found["model_digest"]) == (True, True, document["model_digest"])
    done = run("verify-receipt", receipt, "--root", server.place / "root.pem")
    assert (done.status, "--policy FILE" in done.err) == (2, True)
    done = run("verify-receipt", receipt, "--policy", server.place / "policy.toml")
    assert (done.status, "root-untrusted" in done.err) == (1, True)
    other = tmp_path / "other.sealed"
    other.write_bytes(sealed.read_bytes() + b"x")
    assert run("verify-receipt", receipt, *server.trust, "--sealed", other).status == 1
    assert run("verify-receipt", receipt, *server.trust, "--predictions", other).status == 2


def test_a_receipt_past_its_collateral_says_how_to_verify_it(
    server: Server, provisioned: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provisioned.status == 0
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=60)
    module = sys.modules["confidential_ml.attestation.appraise"]
    monkeypatch.setattr(module, "checked_now", lambda now: later if now is None else now)
    done = run_here("verify-receipt", server.place / "receipt.json", *server.trust)
    assert (done.status, "expired" in done.err, "--at asked" in done.err) == (1, True, True)
    assert run_here("verify-receipt", server.place / "receipt.json", *server.trust, "--at", "asked").status == 0


def test_a_second_model_of_that_version_is_refused(server: Server, provisioned: Done, run: Run) -> None:
    assert provisioned.status == 0
    options = ["--version", 4, "--owner-key", server.place / "key.pem"]
    done = run("provision", server.url, MODEL, "--model-id", "iris", *options, *server.as_owner)
    assert (done.status, "this version of it exists" in done.err) == (3, True)


def test_tokens(server: Server, provisioned: Done, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert provisioned.status == 0
    np.save(tmp_path / "x.npy", X)
    predict = ["predict", server.url, tmp_path / "x.npy", tmp_path / "p.npy"]
    done = run(*predict, *server.trust)
    assert (done.status, "HTTP 401 token_wrong" in done.err) == (3, True)
    done = run("provision", server.url, MODEL, "--model-id", "other", *server.trust)
    assert (done.status, "HTTP 401 token_wrong" in done.err) == (3, True)
    assert "a role client, or owner to provision a model" in done.err
    assert "--token-file" in done.err
    assert "CONFIDENTIAL_ML_TOKEN" in done.err
    monkeypatch.setenv("CONFIDENTIAL_ML_TOKEN", CLIENT_TOKEN)
    assert run(*predict, *server.trust).status == 0
    done = run("provision", server.url, MODEL, "--model-id", "other", *server.as_client)
    assert (done.status, "HTTP 403 role_wrong" in done.err) == (3, True)
    (tmp_path / "wrong").write_text("not a\x00token")
    done = run(*predict, *server.trust, "--token-file", tmp_path / "wrong")
    assert (done.status, "not a" in done.err) == (2, False)


def test_predict_with_receipts(server: Server, provisioned: Done, run: Run, tmp_path: Path) -> None:
    assert provisioned.status == 0
    np.save(tmp_path / "x.npy", X)
    predictions, receipts = tmp_path / "p.csv", tmp_path / "receipts"
    arguments = ["predict", server.url, tmp_path / "x.npy", predictions, "--receipts", receipts, "--batch-rows", "100"]
    assert run(*arguments, *server.as_client).status == 0
    assert sorted(path.name for path in receipts.iterdir()) == [f"receipt-{n:012d}.json" for n in (0, 100, 200)]
    values = np.array([line.split(",") for line in predictions.read_text().splitlines()[1:]]).astype(np.float32)
    cml.seal(MODEL, tmp_path / "model.sealed")
    with cml.ConfidentialModel.load_sealed(tmp_path / "model.sealed") as model:
        assert values.tobytes() == model.predict(X).tobytes()
    offline = [*server.trust, "--predictions", predictions]
    for receipt in receipts.iterdir():
        assert run("verify-receipt", receipt, *offline).status == 0
        assert run("verify-receipt", receipt, *offline, "--at", "asked").status == 0
        done = run("verify-receipt", receipt, *offline, "--at", "2030-01-01T00:00:00Z")
        assert (done.status, "expired" in done.err, "--at asked" in done.err) == (1, True, False)
        for wrong in ("yesterday", "2026-01-01T00:00:00"):
            assert run("verify-receipt", receipt, *offline, "--at", wrong).status == 2
    predictions.write_text(predictions.read_text().replace("0.", "0.1", 1))
    done = run("verify-receipt", receipts / "receipt-000000000000.json", *offline)
    assert (done.status, "of other predictions" in done.err) == (1, True)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        '{"format": 1}',
        '{"format": "confidential_ml receipt 1"}',
        '{"format": "confidential_ml receipt 1", "rows": [1e999, 1]}',
    ],
)
def test_what_is_no_receipt(run: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "receipt").write_text(content)
    done = run("verify-receipt", tmp_path / "receipt")
    assert (done.status, "is no receipt" in done.err) == (1, True)
    assert run("verify-receipt", tmp_path / "none").status == 2


def test_of_several_models_one_is_named(server: Server, provisioned: Done, run: Run, tmp_path: Path) -> None:
    assert provisioned.status == 0
    other = run(
        "provision", server.url, FIXTURES / "xgb-3.4.1.reg.ubj", "--model-id", "reg", *server.as_owner, "--json"
    )
    digest = other.json()["model_digest"]
    np.save(tmp_path / "x.npy", X)
    arguments = ["predict", server.url, tmp_path / "x.npy", tmp_path / "p.npy", *server.as_client]
    done = run(*arguments)
    assert (done.status, "--model-digest" in done.err) == (2, True)
    assert run(*arguments, "--model-digest", digest).status == 0
    assert np.load(tmp_path / "p.npy").shape == (256,)
    assert run(*arguments, "--model-digest", "00" * 32).status == 3
    # A receipt of the one is none for who wants the other, though the same enclave signed it and has both.
    receipts = tmp_path / "receipts"
    assert run(*arguments, "--model-digest", digest, "--receipts", receipts).status == 0
    receipt = receipts / "receipt-000000000000.json"
    for wanted, status in ((digest, 0), (provisioned.json()["model_digest"], 1)):
        policy = AttestationPolicy.load(server.place / "policy.toml")
        dataclasses.replace(policy, model_digest=wanted).save(tmp_path / "policy.toml")
        offline = ["--policy", tmp_path / "policy.toml", "--root", server.place / "root.pem"]
        done = run("verify-receipt", receipt, *offline)
        assert (done.status, "which the policy does not accept" in done.err) == (status, status == 1)


def test_what_belongs_to_servers_is_refused_for_files(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    done = run("predict", "model.sealed", tmp_path / "x.npy", tmp_path / "p.npy", "--receipts", tmp_path / "r")
    assert (done.status, "are for servers" in done.err) == (2, True)


def test_a_token_stays_here_unless_it_may_go_in_clear(server: Server, run: Run) -> None:
    url = "http://host.invalid"
    done = run("provision", url, MODEL, "--model-id", "m", *server.as_owner)
    assert (done.status, "readable" in done.err) == (2, True)
    assert OWNER_TOKEN not in done.err


# ---- serve ----------------------------------------------------------------------------------------------------------


def test_serve_says_everything_that_is_wrong(run: Run, tmp_path: Path, enclave: cml.Enclave) -> None:
    done = run("serve", "--model-store", tmp_path, "--tls-certificate", tmp_path / "none.pem", "--port", "0")
    assert (done.status, done.out) == (2, "")
    for problem in ("tls.private_key", "the role owner has no tokens"):
        assert problem in done.err
    assert ("unsafe.simulation" in done.err) == (enclave.identity.platform != "openenclave")
    done = run("serve", "--allow", "simulation,everything")
    assert (done.status, "'everything' is no unsafe setting" in done.err) == (2, True)
    done = run("serve", "--allow", "anonymous:everybody")
    assert done.status == 2


def test_no_unsafe_setting_comes_with_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> None:
    """What reaches the settings is what was said, by name, and nothing else."""
    seen: list[dict[str, object]] = []

    def load_settings(config: object, **flags: object) -> None:
        seen.append({"config": config, **flags})

    monkeypatch.setattr("confidential_ml.server.load_settings", load_settings, raising=False)
    monkeypatch.setattr("confidential_ml.server.serve", lambda settings: None, raising=False)
    assert run("serve").status == 0
    assert run("serve", "--allow", "simulation,anonymous:client", "--allow", "anonymous:owner").status == 0
    assert run("serve", "--collateral", "https://pccs:8081/v4", "--no-console", "--host", "::1").status == 0
    assert (
        run(
            "serve", "--collateral", "c.json", "--config", "s.toml", "--tls-certificate", "a", "--tls-private-key", "b"
        ).status
        == 0
    )
    assert seen == [
        {"config": None},
        {"config": None, "unsafe": {"simulation": True, "anonymous": ["client", "owner"]}},
        {"config": None, "host": "::1", "collateral": {"service": "https://pccs:8081/v4"}, "console": False},
        {
            "config": Path("s.toml"),
            "collateral": {"file": "c.json"},
            "tls": {"certificate": Path("a"), "private_key": Path("b")},
        },
    ]


def test_serve_ends_at_once_when_interrupted(tmp_path: Path, enclave: cml.Enclave) -> None:
    allowed = "simulation,debug,anonymous:client,anonymous:owner,anonymous:metrics"
    process, _ = started(["--port", 0, "--model-store", tmp_path, "--allow", allowed])
    with process:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_the_attesting_client_runs_against_it(server: Server) -> None:
    pytest.importorskip("xgboost")
    env = {**os.environ, "CONFIDENTIAL_ML_TOKEN": OWNER_TOKEN}
    command = [sys.executable, str(ROOT / "examples" / "attesting_client.py"), server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("operator sees:") == 6
    assert "its signature is right" in done.stdout
    assert "refused: the PCK certificate chain" in done.stdout
    done = subprocess.run(
        [*command[:2], "http://127.0.0.1:1"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, "Is the server running?" in done.stderr) == (1, True)


def test_predict_in_a_process_of_its_own(server: Server, provisioned: Done, tmp_path: Path) -> None:
    assert provisioned.status == 0
    np.save(tmp_path / "x.npy", X)
    digest = provisioned.json()["model_digest"]
    arguments = ["predict", server.url, tmp_path / "x.npy", tmp_path / "p.npy", *server.as_client]
    done = run_process(*arguments, "--model-digest", digest)
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith("confidential-ml: 256 rows predicted")
