"""Servers for the tests: settings for one, an application in this process, and `serve` in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

TOKENS = {role: f"the token of a {role}" for role in ("owner", "client", "metrics")}
UNSAFE = {"simulation": True, "cleartext_predict": True, "cleartext_upload": True}
JSON = {"Content-Type": "application/json"}
OCTETS = {"Content-Type": "application/octet-stream"}

_SERVE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from confidential_ml.server import load_settings, serve
serve(load_settings(**json.loads(sys.argv[1])), started=lambda url: print(url, flush=True))
"""


def token_hash(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def bearer(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def settings_for(store: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of load_settings: a port of the system's choice, routes in clear open, a token for each role."""
    tokens = {role: [token_hash(token)] for role, token in TOKENS.items()}
    return {"model_store": str(store), "port": 0, "unsafe": UNSAFE, "tokens": tokens, **changes}


@dataclass
class ServerProcess:
    """`serve` in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        assert url.port is not None
        return url.host, url.port

    def client(self, role: str = "owner", **arguments: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=bearer(role), timeout=30, trust_env=False, **arguments)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)


@contextlib.contextmanager
def server_process(settings: dict[str, Any]) -> Iterator[ServerProcess]:
    command = [sys.executable, "-c", _SERVE, json.dumps(settings)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                process.wait(20)
                log.seek(0)
                raise AssertionError(log.read())
            yield ServerProcess(process, url)
        finally:
            process.kill()
            process.communicate()
