"""A server with the routes of docs/http.md that the console asks, around a real enclave, that can be made to lie."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.server.console import page

CORS_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}


class Host:
    """The server's state: what it serves, what it lies about, and everything that crossed the wire."""

    def __init__(self, enclave: cml.Enclave, model: cml.ConfidentialModel) -> None:
        self.enclave = enclave
        self.model = model
        self.platform = simulated_platform.of_this_installation()
        self.collateral = self.platform.collateral()
        self.endpoint = cml.ConfidentialEndpoint(enclave, collateral=self.collateral)
        self.base = ""
        self.token = ""
        self.metrics = ""
        self.allowed_origins: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Honest again, and nothing seen."""
        self.change_evidence: Callable[[bytes], bytes] = lambda evidence: evidence
        self.change_collateral: Callable[[str], str] = lambda document: document
        self.change_reply: Callable[[bytes], bytes] = lambda reply: reply
        self.change_nonce: Callable[[bytes], bytes] = lambda nonce: nonce
        self.token, self.metrics, self.allowed_origins = "", "", []
        self.unsafe = ["simulation"]
        self.wire: list[bytes] = []
        self.authorizations: list[str | None] = []

    # ---- routes

    def page(self, _: Request) -> Response:
        made = page()
        headers = {"Content-Security-Policy": made.content_security_policy, "X-Content-Type-Options": "nosniff"}
        return Response(made.html, media_type="text/html", headers=headers)

    def health(self, _: Request) -> Response:
        identity = self.enclave.identity
        return JSONResponse(
            {
                "status": "ok",
                "version": cml.__version__,
                "platform": identity.platform,
                "mrenclave": identity.mrenclave,
                "debug": identity.debug,
                "unsafe": self.unsafe,
                "models": 1,
                "protects": False,
            }
        )

    def report(self, request: Request) -> Response:
        nonce = self.change_nonce(bytes.fromhex(request.query_params.get("nonce", "")))
        evidence = self.change_evidence(self.enclave.evidence(nonce))
        return JSONResponse({"evidence": base64.b64encode(evidence).decode(), "nonce": nonce.hex()})

    def collateral_document(self, _: Request) -> Response:
        return Response(self.change_collateral(self.collateral.to_json()), media_type="application/json")

    def models(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"models": [self._entry()]})

    async def confidential(self, request: Request) -> Response:
        body = await request.body()
        self.wire.append(body)
        self.authorizations.append(request.headers.get("Authorization"))
        refused = self._refused(request)
        if refused:
            return refused
        reply = self.change_reply(self.endpoint.handle(body))
        self.wire.append(reply)
        return Response(reply, media_type="application/octet-stream")

    def prometheus(self, _: Request) -> Response:
        if not self.metrics:
            return JSONResponse({"error": {"code": "token_wrong", "message": "no"}}, status_code=401)
        return Response(self.metrics, media_type="text/plain")

    def _entry(self) -> dict[str, Any]:
        info = self.model.info
        return {
            "model_id": info.model_id,
            "version": 0,
            "model_digest": info.model_digest,
            "owner": None,
            "objective": info.objective,
            "booster": info.booster,
            "n_features": info.n_features,
            "n_groups": info.n_groups,
            "n_trees": info.n_trees,
            "policy": "mrenclave",
            "current": True,
        }

    def _refused(self, request: Request) -> Response | None:
        if not self.token or request.headers.get("Authorization") == f"Bearer {self.token}":
            return None
        error = {"code": "token_wrong", "message": "the bearer token is missing or wrong"}
        return JSONResponse({"error": error}, status_code=401, headers={"WWW-Authenticate": "Bearer"})

    # ---- running

    def application(self) -> Any:
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/attestation/report", self.report),
            Route("/attestation/collateral", self.collateral_document),
            Route("/models", self.models),
            Route("/confidential", self.confidential, methods=["POST"]),
            Route("/metrics", self.prometheus),
        ]
        application = Starlette(routes=routes)

        async def with_cors(scope: Any, receive: Any, send: Any) -> None:
            """docs/http.md 7."""
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            request = Request(scope)
            origin = request.headers.get("Origin")
            extra = {"Vary": "Origin"}
            if origin in self.allowed_origins:
                extra |= {"Access-Control-Allow-Origin": origin}
            if request.method == "OPTIONS":
                await Response(status_code=204, headers=extra | CORS_HEADERS)(scope, receive, send)
                return

            async def send_more(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] += [(name.lower().encode(), value.encode()) for name, value in extra.items()]
                await send(message)

            await application(scope, receive, send_more)

        return with_cors


@contextlib.contextmanager
def running(host: Host) -> Iterator[Host]:
    """Serve it on a free port of this machine."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(host.application(), log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    host.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield host
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()


def made_by_another(host: Host, directory: Any) -> tuple[Callable[[bytes], bytes], str]:
    """What signs evidence under another root, and that platform's collateral."""
    other = simulated_platform.SimulatedPlatform(directory)

    def signed_anew(evidence: bytes) -> bytes:
        size = 436 + int.from_bytes(evidence[432:436], "little")
        return other.quote(evidence[48:432]) + evidence[size:]

    return signed_anew, other.collateral().to_json()


def replaced(host: Host, **fields: Any) -> str:
    """Collateral with parts exchanged."""
    return dataclasses.replace(host.collateral, **fields).to_json()
