"""Evidence and collateral for those who verify by other means than messages (docs/http.md 2.2, docs/attestation.md)."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from confidential_ml.attestation import Collateral
from confidential_ml.errors import CollateralError
from confidential_ml.protocol import MAX_NONCE_SIZE
from confidential_ml.server.admission import Usage, busy
from confidential_ml.server.body import USAGE
from confidential_ml.server.errors import ErrorBody, HttpError
from confidential_ml.server.openapi import BINARY, JSON, Parameter, RouteDescription
from confidential_ml.simulation import WARNING_TEXT

if TYPE_CHECKING:
    from confidential_ml.server.serving import Serving

__all__ = ["descriptions", "routes"]

_NONCE = re.compile(f"(?:[0-9a-fA-F]{{2}}){{0,{MAX_NONCE_SIZE}}}")


class Report(msgspec.Struct, omit_defaults=True):
    """Answer of ``GET /attestation/report``: only `evidence`, verified, says anything."""

    evidence: str
    platform: str
    mrenclave: str
    mrsigner: str
    isv_prod_id: int
    isv_svn: int
    debug: bool
    nonce: str
    warning: str | None = None


def routes(serving: Serving) -> list[Route]:
    """The routes; anybody may ask."""

    async def report(request: Request) -> Response:
        nonce = _nonce(request)
        _admit(serving, request)
        identity = serving.enclave.identity
        body = Report(
            evidence=base64.b64encode(await serving.evidence(nonce)).decode("ascii"),
            platform=identity.platform,
            mrenclave=identity.mrenclave,
            mrsigner=identity.mrsigner,
            isv_prod_id=identity.isv_prod_id,
            isv_svn=identity.isv_svn,
            debug=not identity.protects,  # as its evidence says: a simulation can be read as well
            nonce=nonce.hex(),
            warning=None if identity.platform == "openenclave" else WARNING_TEXT,
        )
        return Response(msgspec.json.encode(body), headers={"Cache-Control": "no-store"}, media_type=JSON)

    async def collateral(request: Request) -> Response:
        _admit(serving, request)
        try:
            found: Collateral | None = await serving.collateral()
        except CollateralError as error:
            # The service is away, not this server.
            raise busy() from error
        if found is None:
            raise HttpError(404, "path_unknown", "this server has no collateral; get it from Intel's PCS or a PCCS")
        return Response(found.to_json(), media_type=JSON)

    return [
        Route("/attestation/report", report, methods=["GET"]),
        Route("/attestation/collateral", collateral, methods=["GET"]),
    ]


def _nonce(request: Request) -> bytes:
    given = request.query_params.multi_items()
    if [name for name, _ in given] not in ([], ["nonce"]):
        raise HttpError(400, "parameter_invalid", "the query takes nonce once and nothing else")
    text = given[0][1] if given else ""
    if not _NONCE.fullmatch(text):
        raise HttpError(400, "nonce_invalid", f"a nonce is 0 to {MAX_NONCE_SIZE} bytes in hexadecimal")
    return bytes.fromhex(text)


def _admit(serving: Serving, request: Request) -> None:
    usage: Usage | None = request.scope.get(USAGE)
    if usage is not None:
        serving.admission.admit(usage)


def descriptions() -> list[RouteDescription]:
    """What /openapi.json says of these routes."""
    return [
        RouteDescription(
            "/attestation/report",
            "get",
            "Evidence of the enclave",
            "open",
            {200: {JSON: Report}},
            ErrorBody,
            parameters=(
                Parameter("nonce", "query", str, "0 to 64 bytes, hexadecimal; they come back in the evidence"),
            ),
            codes=("nonce_invalid", "parameter_invalid"),
        ),
        RouteDescription(
            "/attestation/collateral",
            "get",
            "What the evidence can be verified with",
            "open",
            {200: {JSON: BINARY}},
            ErrorBody,
            codes=("path_unknown",),
        ),
    ]
