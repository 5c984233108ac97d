#!/usr/bin/env python3
"""Exit status 0 if the server that runs with this configuration says that it is healthy; else 1 and one sentence.

For a container's HEALTHCHECK: standard library alone, and only ever to this very machine. Usage: healthcheck.py CONFIG
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
import tomllib

TIMEOUT = 4.0  # seconds, less than HEALTHCHECK's own


def connection(config: str) -> http.client.HTTPConnection:
    """A connection to the port that the configuration names, with TLS if it has a certificate."""
    with open(config, "rb") as file:
        settings = tomllib.load(file)
    # The environment wins over the file, as in the server (docs/http.md 4).
    port = int(os.environ.get("CONFIDENTIAL_ML_PORT") or settings.get("port", 8080))
    certificate = os.environ.get("CONFIDENTIAL_ML_TLS__CERTIFICATE") or settings.get("tls", {}).get("certificate")
    if not certificate:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    # The certificate names the service, not 127.0.0.1. Nothing secret is sent; the answer decides about a restart only.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)


def problem(config: str) -> str | None:
    """Why the server is not healthy, None if it is."""
    try:
        server = connection(config)
        server.request("GET", "/health")
        status = server.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer from the server: {error}"
    return None if status == 200 else f"GET /health answered {status}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: healthcheck.py CONFIG")
    sys.exit(problem(sys.argv[1]))
