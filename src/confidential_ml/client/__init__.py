"""A client of the HTTP server: verify the enclave, then send it rows or a model that nobody else can read.

>>> from confidential_ml.client import ConfidentialClient
>>> with ConfidentialClient("https://host:8080", AttestationPolicy.load("policy.toml"), token=token) as client:
...     client.predict(rows)

Needs the extra `client`; no enclave and no extension module.
"""

from __future__ import annotations

try:
    import anyio  # noqa: F401
    import httpcore  # noqa: F401
    import httpx  # noqa: F401
except ImportError as error:
    raise ImportError(
        "confidential_ml.client needs packages that are not installed: pip install 'confidential_ml[client]'"
    ) from error

from confidential_ml.client.asynchronous import AsyncConfidentialClient
from confidential_ml.client.errors import HttpStatusError, ReplyLostError, ServerBusyError, UnreachableError
from confidential_ml.client.synchronous import ConfidentialClient

__all__ = [
    "AsyncConfidentialClient",
    "ConfidentialClient",
    "HttpStatusError",
    "ReplyLostError",
    "ServerBusyError",
    "UnreachableError",
]
