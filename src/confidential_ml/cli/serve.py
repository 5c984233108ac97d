"""`confidential-ml serve`: the HTTP server (docs/http.md)."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from confidential_ml.cli.exit_status import UsageError

__all__ = ["serve"]

_SWITCHES = ("simulation", "debug", "cleartext_predict", "cleartext_upload", "plain_http")
_ROLES = ("client", "owner", "metrics")
_ANONYMOUS = "anonymous:"


def serve(
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings (TOML).")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="N", help="8080; 0 takes a free one.")] = None,
    model_store: Annotated[
        Path | None, typer.Option("--model-store", metavar="DIR", help="Directory of sealed models.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="Enclave image.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option("--tls-certificate", metavar="FILE", help="PEM.")] = None,
    tls_private_key: Annotated[Path | None, typer.Option("--tls-private-key", metavar="FILE", help="PEM.")] = None,
    collateral: Annotated[
        str | None, typer.Option("--collateral", metavar="FILE|URL", help="A file, or a PCS or PCCS.")
    ] = None,
    no_console: Annotated[bool, typer.Option("--no-console", help="Without the page at /.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="NAME,...",
            help=f"What lowers the protection: {', '.join(_SWITCHES)}, {_ANONYMOUS}ROLE.",
        ),
    ] = None,
) -> None:
    """Serve sealed models over HTTP.

    Until SIGINT or SIGTERM. Flags win over the environment, and that wins over the file.
    """
    from confidential_ml.server import load_settings
    from confidential_ml.server import serve as run

    flags: dict[str, Any] = {"host": host, "port": port, "model_store": model_store, "image": image}
    flags["tls"] = _given(certificate=tls_certificate, private_key=tls_private_key)
    if collateral is not None:
        flags["collateral"] = {"service" if collateral.startswith(("http://", "https://")) else "file": collateral}
    if no_console:
        flags["console"] = False
    flags["unsafe"] = _unsafe(allow or [])
    settings = load_settings(config, **{name: value for name, value in flags.items() if value not in (None, {})})
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    run(settings)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _unsafe(allow: list[str]) -> dict[str, Any]:
    """The unsafe settings by name; none of them is ever on by another."""
    found: dict[str, Any] = {}
    for name in ",".join(allow).split(",") if allow else []:
        role = name.removeprefix(_ANONYMOUS)
        if name.startswith(_ANONYMOUS) and role in _ROLES:
            found.setdefault("anonymous", []).append(role)
        elif name in _SWITCHES:
            found[name] = True
        else:
            known = [*_SWITCHES, *(_ANONYMOUS + one for one in _ROLES)]
            raise UsageError(f"--allow {name!r} is no unsafe setting; there are {', '.join(known)}")
    return found
