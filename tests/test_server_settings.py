"""The server's settings: where each comes from, what is refused, and that all faults are told at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_settings")

from server_process import TOKENS, UNSAFE, token_hash

from confidential_ml.identity import EnclaveIdentity
from confidential_ml.server import ServerSettings, SettingsError, load_settings
from confidential_ml.server.settings import UNSAFE_MEANINGS, Unsafe, check_enclave

ANONYMOUS = {**UNSAFE, "anonymous": ["owner", "client", "metrics"]}
ALL_TOKENS = {role: [token_hash(token)] for role, token in TOKENS.items()}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CONFIDENTIAL_ML_") and name != "CONFIDENTIAL_ML_TEST_IMAGES":
            monkeypatch.delenv(name)


def faults(**flags: Any) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load_settings(**flags)
    assert all(fault in str(refused.value) for fault in refused.value.faults)
    return list(refused.value.faults)


def good(store: Path, **changes: Any) -> dict[str, Any]:
    return {"model_store": store, "unsafe": ANONYMOUS, **changes}


def test_the_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    settings = load_settings(**good(tmp_path))
    limits = settings.limits
    assert (settings.host, settings.port, settings.policy, settings.console) == ("127.0.0.1", 8080, "mrenclave", True)
    assert (limits.body_bytes, limits.model_bytes, limits.rows) == (16 << 20, 144 << 20, 100_000)
    assert (limits.requests, limits.request_seconds, limits.shutdown_seconds) == (64, 30, 30)
    assert (limits.provisioned_models, settings.epoch.seconds, settings.epoch.grace_seconds) == (64, 3600, 300)
    assert (settings.image, settings.tls.certificate) == (None, None)
    assert (settings.allowed_hosts, settings.allowed_origins) == ([], [])
    unsafe = ServerSettings(model_store=tmp_path).unsafe
    assert unsafe.in_force() == []
    assert set(UNSAFE_MEANINGS) == set(type(unsafe).model_fields)


def test_flags_come_before_environment_before_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        'port = 1\nmodel_store = "."\nconsole = false\n[limits]\nrows = 1\nrequests = 1\n[unsafe]\nsimulation = true\n'
        'anonymous = ["owner", "client", "metrics"]\n'
    )
    monkeypatch.setenv("CONFIDENTIAL_ML_PORT", "2")
    monkeypatch.setenv("CONFIDENTIAL_ML_LIMITS__ROWS", "2")
    monkeypatch.setenv("CONFIDENTIAL_ML_ALLOWED_ORIGINS", '["null", "HTTPS://Example.org"]')
    settings = load_settings(config, limits={"rows": 3})
    assert (settings.port, settings.console) == (2, False)
    assert (settings.limits.rows, settings.limits.requests, settings.limits.request_seconds) == (3, 1, 30)
    assert settings.allowed_origins == ["null", "https://example.org"]
    monkeypatch.setenv("CONFIDENTIAL_ML_CONFIG", str(config))
    assert load_settings(port=3).port == 3
    assert load_settings().port == 2


def test_unknown_names_are_refused_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.toml"
    config.write_text("prot = 1\n[limits]\nrow = 1\n")
    monkeypatch.setenv("CONFIDENTIAL_ML_HOTS", "x")
    monkeypatch.setenv("CONFIDENTIAL_ML_TLS__CERT", "x")
    found = faults(config=config, **good(tmp_path, consol=True))
    for name in ("CONFIDENTIAL_ML_HOTS", "prot", "limits.row", "tls.cert", "consol"):
        assert any(name in fault and "is no setting" in fault for fault in found), name
    assert len(found) == 5
    for name in ("PORT__TCP", "UNSAFE__ANONYMOUS__0"):
        monkeypatch.setenv(f"CONFIDENTIAL_ML_{name}", "1")
        assert any(f"CONFIDENTIAL_ML_{name} is no setting" in fault for fault in faults(**good(tmp_path)))


def test_the_variables_of_others_are_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIMULATION_FUSE_KEY", "VECTORS", "TEST_IMAGES", "SIGNING_KEY"):
        monkeypatch.setenv(f"CONFIDENTIAL_ML_{name}", "5a" * 32)
    assert load_settings(**good(tmp_path)).port == 8080


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    found = faults(
        port=-1,
        policy="none",
        tokens={"owner": ["my secret token"]},
        limits={"rows": 0},
        epoch={"seconds": 10},
        collateral={"file": tmp_path / "absent", "service": "https://pccs.example"},
        tls={"certificate": tmp_path / "absent.pem"},
        image=tmp_path / "absent.signed",
    )
    starts: tuple[str, ...] = (
        "port",
        "policy",
        "model_store is missing",
        "tokens.owner.0",
        "limits.rows",
        "this installation is a ",
    )
    starts += ("epoch.grace_seconds", "collateral.file and", "tls.certificate and")
    for start in starts:
        assert any(fault.startswith(start) for fault in found), start
    assert len(found) == len(starts)  # and no more: what follows from a fault is not told as another
    assert "my secret token" not in str(found)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"unsafe": {**ANONYMOUS, "simulation": False}}, "which protects nothing"),
        ({"unsafe": {**ANONYMOUS, "anonymous": ["owner", "client"]}}, "the role metrics has no tokens"),
        ({"unsafe": {**ANONYMOUS, "anonymous": ["everybody"]}}, "unsafe.anonymous.0"),
        ({"unsafe": ANONYMOUS, "tokens": {"client": [f"sha256:{'1' * 64}"]}}, "the role client has tokens"),
        ({"host": "0.0.0.0", "tokens": ALL_TOKENS, "unsafe": UNSAFE}, "unencrypted"),
        (
            {
                "host": "example.org",
                "tokens": {"client": ALL_TOKENS["client"]},
                "unsafe": {**UNSAFE, "anonymous": ["owner", "metrics"]},
            },
            "unencrypted",
        ),
        ({"tls": {"certificate": "absent.pem", "private_key": "absent.pem"}}, "tls: No such file"),
        ({"tls": {"private_key": "key.pem"}}, "belong together"),
        ({"epoch": {"seconds": 300}}, "grace_seconds must be less"),
        ({"epoch": {"seconds": 1e-300, "grace_seconds": 0}}, "epoch.seconds"),
        ({"image": "absent.signed"}, "absent.signed is no file"),
        ({"model_store": "/proc/version"}, "is no directory"),
        ({"model_store": "/nowhere/at/all"}, "/nowhere/at does not exist"),
        ({"collateral": {"file": "absent.json"}}, "collateral"),
        ({"collateral": {"service": "http://pccs.example"}}, "collateral"),
        ({"allowed_origins": ["*"]}, "never *"),
        ({"allowed_origins": ["https://example.org/page"]}, "never *"),
        ({"allowed_hosts": ["https://example.org"]}, "allowed_hosts.0 must be a name or an address without scheme"),
        ({"allowed_hosts": ["example.org:8080"]}, "without scheme and port"),
        ({"allowed_hosts": ["*"]}, "allowed_hosts.0 must"),
        ({"limits": {"request_seconds": float("nan")}}, "limits.request_seconds"),
        ({"limits": {"provisioned_models": 257}}, "limits.provisioned_models"),
        ({"limits": {"rows": True}}, "limits.rows: must be a number"),
        ({"limits": {"request_seconds": True}}, "limits.request_seconds: must be a number"),
        ({"port": True}, "port: must be a number"),
        ({"model_store": ""}, "model_store: is empty"),
        ({"model_store": "a\0b"}, "model_store: it cannot be the path"),
        ({"model_store": "a" * 300}, "model_store: it cannot be the path"),
        ({"image": ""}, "image: is empty"),
        ({"tokens": {"owner": [token_hash("")]}}, "tokens.owner.0: this is the SHA-256 of no token"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    (fault,) = faults(**good(tmp_path, **changes))
    assert problem in fault


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "0.0.0.0", "tokens": ALL_TOKENS, "unsafe": {**UNSAFE, "plain_http": True}},
        {"host": "0.0.0.0"},  # no tokens that could be read
        {"host": "::1", "tokens": ALL_TOKENS, "unsafe": UNSAFE},
        {"host": "localhost", "tokens": ALL_TOKENS, "unsafe": UNSAFE},
    ],
)
def test_what_is_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert load_settings(**good(tmp_path, **changes)).host == changes["host"]


def test_files_and_environment_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.toml"
    assert "cannot be read" in faults(config=config, **good(tmp_path))[0]
    for content in (b"port = = 1", b"a = " + b"[" * 100_000, b"port = " + b"9" * 10_000, b"\xff"):
        config.write_bytes(content)
        assert "is not TOML" in faults(config=config, **good(tmp_path))[0]
    config.write_text("")
    monkeypatch.setenv("CONFIDENTIAL_ML_ALLOWED_ORIGINS", "null, https://example.org")
    assert "lists are written as JSON" in faults(config=config, **good(tmp_path))[0]


def test_the_enclave_must_protect_what_the_settings_promise(tmp_path: Path) -> None:
    def identity(platform: str, *, debug: bool) -> EnclaveIdentity:
        return EnclaveIdentity(platform, "00" * 32, "00" * 32, 1, 1, debug)

    safe = ServerSettings(model_store=tmp_path)
    check_enclave(safe, identity("openenclave", debug=False))
    for platform in ("simulation", "openenclave-simulation"):
        with pytest.raises(SettingsError, match=platform):
            check_enclave(safe, identity(platform, debug=False))
    with pytest.raises(SettingsError, match="debug attribute"):
        check_enclave(safe, identity("openenclave", debug=True))
    for name in ("debug", "simulation"):  # the second says the first
        check_enclave(
            ServerSettings(model_store=tmp_path, unsafe=Unsafe.model_validate({name: True})),
            identity("openenclave", debug=True),
        )
