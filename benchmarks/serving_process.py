"""A server in a process of its own; or an empty Starlette application under the same uvicorn, to compare it with.

Usage: python -m benchmarks.serving_process DIRECTORY PORT   (DIRECTORY "-" is the empty application)
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60.0
OPEN_TO_ALL = {
    "simulation": True,
    "cleartext_predict": True,
    "cleartext_upload": True,
    "anonymous": ["client", "owner", "metrics"],
}


@dataclass
class ServingProcess:
    """A server that listens on this machine.

    Attributes
    ----------
    process
        The server.
    port
        Where it listens, on 127.0.0.1.
    """

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        """Beginning of its URLs."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def resident_bytes(self) -> int:
        """Memory that it has."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(directory: Path | None, scratch: Path) -> Iterator[ServingProcess]:
    """Start a server with the model store `directory`, or the empty application, and stop it at the end."""
    log = scratch / f"{'empty' if directory is None else directory.name}.log"
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.serving_process", str(directory or "-"), str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    server = ServingProcess(process, port)
    try:
        _wait_for(server, log)
        yield server
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for(server: ServingProcess, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _serve_empty(port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def empty(_request: Request) -> Response:
        return Response(b"{}", media_type="application/json")

    routes = [Route("/health", empty), Route("/empty", empty, methods=["POST"])]
    uvicorn.run(
        Starlette(routes=routes),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


def main() -> None:
    directory, port = sys.argv[1], int(sys.argv[2])
    if directory == "-":
        _serve_empty(port)
        return
    import confidential_ml as cml
    from confidential_ml.server import load_settings, serve

    warnings.simplefilter("ignore", cml.SimulationWarning)
    serve(load_settings(model_store=directory, port=port, unsafe=OPEN_TO_ALL))


if __name__ == "__main__":
    main()
