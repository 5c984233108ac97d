"""Serve over HTTP until a signal says to stop; requests under way are finished first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from confidential_ml.server.app import create_app
from confidential_ml.server.banner import banner
from confidential_ml.server.connection import ConnectionLimits, protocol_class
from confidential_ml.server.serving import Serving
from confidential_ml.server.settings import ServerSettings, SettingsError
from confidential_ml.server.tls_listener import TlsListener

__all__ = ["serve"]

_CONNECTIONS_PER_REQUEST = 16
_SPARE_FILES = 64
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 1024


def serve(settings: ServerSettings, *, started: Callable[[str], object] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish requests under way for up to ``limits.shutdown_seconds``.

    Parameters
    ----------
    settings
        How; see :func:`load_settings`.
    started
        Called with the server's URL when it can be reached, in the event loop.

    Raises
    ------
    SettingsError
        If the enclave protects less than the settings say, or the address cannot be used.
    SealError
        If the model store cannot be used.
    EnclaveError
        If there is no enclave.
    """
    serving = Serving(settings)
    try:
        with _listening(settings) as listener:
            url = _url(settings, listener)
            print(banner(serving, url), file=sys.stderr, flush=True)
            limits = _connection_limits(settings)
            server = _Server(_config(settings, create_app(serving=serving), limits), serving, limits)
            server.announce = (lambda: started(url)) if started is not None else None
            server.run(sockets=[listener])
    finally:
        serving.close()


class _Server(uvicorn.Server):
    """uvicorn's server, that refuses new requests from the signal on and then returns instead of killing itself."""

    def __init__(self, config: uvicorn.Config, serving: Serving, limits: ConnectionLimits) -> None:
        super().__init__(config)
        self._serving = serving
        self._limits = limits
        self.announce: Callable[[], object] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        context = self.config.ssl
        await super().startup(sockets if context is None else [])
        if context is not None:
            # uvicorn closes them and waits for that; it knows no more of them.
            self.servers += [TlsListener(one, self._protocol, context, self._limits) for one in sockets or ()]  # type: ignore[misc]
        if self.announce is not None:
            self.announce()

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes them."""
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._serving.is_ending = True
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Unlike uvicorn's, which raises the signal again at the end: to be stopped is no failure.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _connection_limits(settings: ServerSettings) -> ConnectionLimits:
    limits = settings.limits
    # With TLS there are as many more whose handshake is not over.
    files = 1 if settings.tls.certificate is None else 2
    return ConnectionLimits(_connections(limits.requests, files), limits.request_seconds)


def _config(settings: ServerSettings, app: Starlette, limits: ConnectionLimits) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=protocol_class(limits, app.state.immediate),
        loop="auto",
        ws="none",
        lifespan="on",
        # The target of a request can hold what nobody should keep; so there is no log of them.
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.limits.shutdown_seconds)),
    )
    if settings.tls.certificate is not None:
        config.load()
        config.ssl = _tls(settings)
    return config


def _tls(settings: ServerSettings) -> ssl.SSLContext:
    assert settings.tls.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls.certificate, settings.tls.private_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextlib.contextmanager
def _listening(settings: ServerSettings) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(
            [f"host: {settings.host} is no address of this machine: {error.strerror or error}"]
        ) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise SettingsError(
                [f"port: {settings.host}:{settings.port} cannot be used: {error.strerror or error}"]
            ) from error
        yield listener


def _url(settings: ServerSettings, listener: socket.socket) -> str:
    scheme = "http" if settings.tls.certificate is None else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


def _connections(requests: int, files: int) -> int:
    """As many as there are files for, which is 1,024 on many systems unless one asks for more; each takes `files`."""
    wanted = _CONNECTIONS_PER_REQUEST * requests
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files * wanted + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wanted = max(1, min(wanted, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES) // files))
    return wanted
