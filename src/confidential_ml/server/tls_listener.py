"""Accept connections for TLS: so many handshakes at once, so many seconds for each.

The event loop's own servers have any number of them for a minute each, before the first line of `connection.py` is
reached: whoever connects and says nothing would take every file that the process may open.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from confidential_ml.server.connection import ConnectionLimits

__all__ = ["TlsListener"]

_PAUSE_SECONDS = 0.1
_logger = logging.getLogger("confidential_ml")


class TlsListener:
    """Takes the place of an :class:`asyncio.Server`, as far as uvicorn knows it. Made in the event loop.

    Parameters
    ----------
    listener
        The socket, which listens.
    protocol
        Makes the protocol of a connection.
    context
        With the certificate.
    limits
        As many handshakes as `connections`, each for `request_seconds`.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        limits: ConnectionLimits,
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._context = context
        self._limits = limits
        self._handshakes: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept_all())

    def close(self) -> None:
        """Accept no more, and end the handshakes; connections that stand stay."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until that is done."""
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # of the client, who is gone already; or there are no files left
                _logger.debug("a connection could not be accepted: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if len(self._handshakes) >= self._limits.connections:
                # Nothing can be said before the handshake.
                connection.close()
                continue
            task = loop.create_task(self._shake_hands(connection))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        seconds = self._limits.request_seconds
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except (OSError, ValueError) as error:  # ssl.SSLError and time-outs among them
            _logger.debug("a TLS handshake failed: %s", error)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
