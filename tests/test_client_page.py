"""docs/client.md: its lines of Python run as they stand, against a server like the one that they name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_host import HttpHost
from reference_enclave import MRENCLAVE, ReferenceEnclave, ReferenceModel
from remote_host import Host

from confidential_ml import RemoteModel, client, simulated_platform
from confidential_ml.attestation import AttestationPolicy
from confidential_ml.simulated_platform import SimulatedPlatform

PAGE = (Path(__file__).parent.parent / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MODEL = ReferenceModel(features=30, groups=1, values=1)
MODEL_FILE = Path(__file__).parent / "fixtures" / "xgboost" / "xgb-3.4.1.reg.ubj"
ROWS = np.zeros((5, 30), np.float32)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpHost]:
    platform = SimulatedPlatform(tmp_path / "platform")
    (tmp_path / "store").mkdir()
    with HttpHost(Host(platform, ReferenceEnclave(platform, MODEL), store=tmp_path / "store")).running() as host:
        yield host


def test_its_lines_run(http: HttpHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = http.host.platform
    # Debug, and with a root of its own, as every simulation; the page's server is none.
    policy = AttestationPolicy(mrenclave=MRENCLAVE.hex(), model_digest=MODEL.digest.hex(), allow_debug=True)
    policy.save(tmp_path / "policy.toml")
    monkeypatch.chdir(tmp_path)
    for name in ("ConfidentialClient", "AsyncConfidentialClient"):
        monkeypatch.setattr(client, name, functools.partial(getattr(client, name), root=platform.root))
    monkeypatch.setattr(simulated_platform, "of_this_installation", lambda: platform)
    names: dict[str, Any] = {
        "enclave": http.host.enclave,
        "collateral": platform.collateral(),
        "rows": ROWS,
        "booster": MODEL_FILE,
        "key": Ed25519PrivateKey.generate(),
    }
    expected = MODEL.predict(np.zeros((1000, 30), np.float32), None, False, 0, 0).reshape(-1)
    for number, block in enumerate(BLOCKS):
        here = re.sub(r"https://scores\.example:8080|http://127\.0\.0\.1:8080", http.url, block)
        here = here.replace("model_digest=ANY)", "model_digest=ANY, allow_debug=True)")
        exec(compile(here, f"client.md, block {number}", "exec"), names)
        if "np.zeros" in block:
            np.testing.assert_array_equal(names.pop("predictions"), expected)
    names["client"].close()
    assert isinstance(names["remote"], RemoteModel)
    assert names["one"].receipt.asked_at is not None
    assert names["receipt"].model_version == 3
    assert len(list((tmp_path / "store").glob("credit-*.sealed"))) == 1


def test_its_errors_are_those_there_are() -> None:
    named = {
        name
        for row in re.findall(r"^\| (`\w+Error`.*?) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"\w+Error", row)
    }
    from confidential_ml import errors

    offered = {name for name in client.__all__ if name.endswith("Error")}
    remote = {name for name in errors.__all__ if issubclass(getattr(errors, name), errors.RemoteError)}
    assert offered | remote <= named
    assert all(hasattr(client, name) or hasattr(errors, name) for name in named)
