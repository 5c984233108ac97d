"""The console's own modules under node, asked one question after the other."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from confidential_ml.server.console.page import script

DRIVER = Path(__file__).parent / "console_driver.js"
_HAS_CRYPTO = (
    "Promise.all(['X25519', 'Ed25519'].map((name) => crypto.subtle.generateKey({ name }, true, "
    "[name === 'X25519' ? 'deriveBits' : 'sign']))).then(() => process.exit(0), () => process.exit(1))"
)


class Node:
    """A node process that runs the modules as they are linked into the page."""

    def __init__(self) -> None:
        code = script("driver.js", {"driver.js": DRIVER.read_text(encoding="utf-8")})
        self._process = subprocess.Popen(
            ["node", "--input-type=module", "--eval", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"question": question, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "node ended"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    if shutil.which("node") is None:
        pytest.skip("needs node: scripts/system_packages.sh test installs nodejs")
    if subprocess.run(["node", "--input-type=module", "--eval", _HAS_CRYPTO], check=False).returncode != 0:
        pytest.skip("needs a node whose WebCrypto has X25519 and Ed25519: node 20 or later")
    one = Node()
    yield one
    one.close()
