"""What both clients have in common: the session, HTTP requests for its messages, what responses mean."""

from __future__ import annotations

import datetime
import json
import re
import secrets
import ssl
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confidential_ml.attestation import AttestationPolicy, Collateral, TrustRoot
from confidential_ml.attestation.files import StrPath
from confidential_ml.client.address import checked_address, checked_token
from confidential_ml.client.errors import HttpStatusError, ReplyLostError, ServerBusyError
from confidential_ml.client.exchange import HttpRequest, HttpResponse, tls_context
from confidential_ml.client.retries import Retries, checked_seconds
from confidential_ml.errors import InvalidInputError, RemoteError
from confidential_ml.json_depth import is_too_deep
from confidential_ml.protocol import Kind
from confidential_ml.receipt import Receipt
from confidential_ml.remote_session import Attested, RemoteSession, Send, Step, Steps
from confidential_ml.sealed_file import SealingPolicy

__all__ = ["Calls", "Get", "Options"]

_MAX_JSON = 1 << 20
_MAX_COLLATERAL = 4 << 20
_MAX_SHOWN = 300
_CODE = re.compile(r"[a-z][a-z_]{0,63}")
_SECONDS = re.compile(r"[0-9]{1,4}")
_GATEWAY_FAILURES = {502, 504}


@dataclass(frozen=True)
class Get:
    """Fetch a document; the outcome is its bytes. A step of a client, besides those of `remote_session`."""

    path: str
    max_size: int


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of a client; :class:`ConfidentialClient` says what they mean."""

    root: TrustRoot
    collateral: Collateral | None
    model_digest: str | None
    token: str | None = field(repr=False)
    ca_file: StrPath | None
    ssl_context: ssl.SSLContext | None
    proxy: str | None = field(repr=False)
    timeout: float
    deadline: float
    retries: int
    request_size: int
    unlinkable: bool
    allow_plain_http: bool
    clock: Callable[[], datetime.datetime] | None


class Calls:
    """The calls of a client as steps, and the HTTP requests that those need."""

    def __init__(self, url: str, policy: AttestationPolicy, options: Options) -> None:
        token = checked_token(options.token)
        self.address = checked_address(
            url, has_token=token is not None, allow_plain_http=options.allow_plain_http is True
        )
        self.timeout = checked_seconds(options.timeout, "timeout")
        self.context = tls_context(options.ca_file, options.ssl_context) if self.address.startswith("https") else None
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._retries = Retries(options.retries, options.deadline)
        self.session = RemoteSession(
            policy,
            root=options.root,
            collateral=options.collateral,
            model_digest=options.model_digest,
            request_size=options.request_size,
            unlinkable=options.unlinkable,
            clock=options.clock,
            again=self._retries.again,
        )

    def provision(
        self,
        model: Any,
        *,
        model_id: str,
        policy: SealingPolicy,
        version: int,
        owner_key: Ed25519PrivateKey | None,
        repeat: bool,
    ) -> Steps[tuple[Receipt, Attested]]:
        """As `RemoteSession.provision`, repeated after a reply was lost if asked to."""
        return self.session.provision(
            model,
            model_id=model_id,
            policy=policy,
            version=version,
            owner_key=owner_key,
            again=self._again_and_repeat if repeat else None,
        )

    def _again_and_repeat(self, attempt: Callable[[], Steps[Any]], kind: Kind | None) -> Steps[Any]:
        return self._retries.again(attempt, kind, repeat=True)

    def health(self) -> Steps[dict[str, Any]]:
        """GET /health; the server's own words."""
        return (yield from self._json("/health"))

    def models(self) -> Steps[list[dict[str, Any]]]:
        """GET /models; the server's own words."""
        found = (yield from self._json("/models")).get("models")
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise RemoteError(f"{self.address}/models gave no list of models; check that the address is the server's")
        return found

    def report(self, nonce: bytes | None) -> Steps[tuple[bytes, bytes]]:
        """Evidence of GET /attestation/report, which needs no token, and the nonce that was sent."""
        from base64 import b64decode

        sent = secrets.token_bytes(32) if nonce is None else nonce
        if not isinstance(sent, bytes) or len(sent) > 64:
            found = f"has {len(sent)}" if isinstance(sent, bytes) else f"is a {type(sent).__name__}"
            raise InvalidInputError(f"nonce must be at most 64 bytes; it {found}")
        query = urllib.parse.urlencode({"nonce": sent.hex()})
        document = yield from self._json(f"/attestation/report?{query}")
        try:
            return b64decode(document["evidence"], validate=True), sent
        except (KeyError, TypeError, ValueError):
            raise RemoteError(f"{self.address}/attestation/report gave no evidence; check the address") from None

    def server_collateral(self) -> Steps[Collateral]:
        """GET /attestation/collateral, which need not be trusted."""
        return Collateral.from_json((yield from self._get("/attestation/collateral", _MAX_COLLATERAL)))

    def _json(self, path: str) -> Steps[dict[str, Any]]:
        body = yield from self._get(path, _MAX_JSON)
        document = _parsed(body)
        if not isinstance(document, dict):
            raise RemoteError(f"{self.address} gave no JSON object; check that the address is that of the server")
        return document

    def _get(self, path: str, max_size: int) -> Steps[bytes]:
        def attempt() -> Steps[bytes]:
            body: bytes = yield Get(path, max_size)  # type: ignore[misc] # a step of ours
            return body

        found: bytes = yield from self._retries.again(attempt, None)
        return found

    # ---- HTTP -------------------------------------------------------------------------------------------------------

    def request(self, step: Step | Get) -> HttpRequest:
        """The HTTP request for a step."""
        if isinstance(step, Get):
            return HttpRequest("GET", self.address + step.path, self._headers, b"", step.max_size)
        assert isinstance(step, Send)
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        # An error's body may be longer than the reply to a small request.
        return HttpRequest(
            "POST", f"{self.address}/confidential", headers, step.message, max(step.max_reply_size, _MAX_JSON)
        )

    def outcome(self, request: HttpRequest, response: HttpResponse) -> bytes:
        """The body of a response with status 200.

        Raises
        ------
        HttpStatusError
            For any other; `ServerBusyError` if the server did not take the request.
        ReplyLostError
            If something between did not get the server's reply.
        """
        status = response.status
        if status == 200:
            return response.body
        code, told = _error_of(response, self._headers.get("Authorization", "").removeprefix("Bearer "))
        sentence = f"{request.place} answers HTTP {status}{f' {code}' if code else ''}{f': {told}' if told else ''}"
        if 300 <= status < 400:
            sentence += ": redirects are not followed, give the final address"
        asked = response.headers.get("retry-after", "")
        retry_after = float(asked) if _SECONDS.fullmatch(asked) else 0.0
        # A gateway says 503 too when it lost the server in the middle; only the server's code says that it did nothing.
        if status == 503 and (code or request.method == "GET"):
            raise ServerBusyError(sentence, status=status, code=code, retry_after=retry_after)
        if status in _GATEWAY_FAILURES or status == 503:
            raise ReplyLostError(f"{sentence}: something between here and the server has no reply of it")
        raise HttpStatusError(sentence, status=status, code=code, retry_after=retry_after)


def _error_of(response: HttpResponse, token: str) -> tuple[str, str]:
    """The server's code and message; both are shown, neither is trusted, nor may it repeat the token there."""
    code = response.headers.get("confidential-ml-error", "")
    code = code if _CODE.fullmatch(code) else ""
    try:
        told = str(_parsed(response.body)["error"]["message"])
        told = told.replace(token, "(token)") if token else told
    except (RemoteError, KeyError, TypeError):
        told = ""
    return code, "".join(one for one in told[:_MAX_SHOWN] if one.isprintable())


def _parsed(body: bytes) -> Any:
    try:
        if not is_too_deep(body):
            return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        pass
    raise RemoteError("the server's answer is not JSON, or nested too deeply; check that the address is the server's")
